"""Every error that the training service raises on purpose, as one tree.

::

    TrainingError
    ├── RequestInvalid     bad-request      the order itself is wrong; nothing was started
    ├── NoSuchBase         no-such-base     the base model cannot be found or loaded
    ├── DataError          bad-data         a dataset cannot be used; the text names file:line
    ├── WarningsFound      warnings         the audit found what usually means wrong labels
    ├── NoMemory           no-memory        the quote is above what the machine has
    ├── NoSuchAdapter      no-such-adapter  a name or version is not in the registry
    ├── InUse              in-use           something else still needs what is to be deleted
    ├── NoSuchRun          no-such-run      a task id was never prepared here
    ├── OutOfMemory        out-of-memory    a step could not get its memory
    ├── NanLoss            nan-loss         the loss is no number any more
    ├── DiskFull           disk-full        a checkpoint or artifact could not be written
    ├── Lost               lost             the child process died
    ├── ArtifactDamaged    internal         a stored file is not what its manifest says
    └── ExactnessBroken    internal         something that must hold does not: a bug, not the data

The ``code`` is what the bus carries. Arguments go to ``super().__init__``, so that every error survives
copying between processes.
"""


class TrainingError(Exception):
    """Raised when the training service refuses or fails; the root of the tree."""

    code = "internal"


class RequestInvalid(TrainingError):
    """Raised when an order breaks its form or asks for what the service does not do."""

    code = "bad-request"


class NoSuchBase(TrainingError):
    """Raised when a base model cannot be found or loaded; the text says what was tried."""

    code = "no-such-base"


class DataError(TrainingError):
    """Raised when a dataset cannot be used; the text names file and line."""

    code = "bad-data"


class WarningsFound(TrainingError):
    """Raised when the audit warns and the order does not accept warnings; the text lists them."""

    code = "warnings"


class NoMemory(TrainingError):
    """Raised when a run would need more memory than the machine has free."""

    code = "no-memory"


class NoSuchAdapter(TrainingError):
    """Raised when the registry has no such name or version."""

    code = "no-such-adapter"


class InUse(TrainingError):
    """Raised when a version is to be deleted that an alias, a run or a text still needs."""

    code = "in-use"


class NoSuchRun(TrainingError):
    """Raised when a task id is not known to this service."""

    code = "no-such-run"


class OutOfMemory(TrainingError):
    """Raised when a step could not get the memory it asked for."""

    code = "out-of-memory"


class NanLoss(TrainingError):
    """Raised when the loss or its gradient is not a finite number; the weights are those of the last step."""

    code = "nan-loss"


class DiskFull(TrainingError):
    """Raised when a file could not be written for lack of room; what stood before still stands."""

    code = "disk-full"


class Lost(TrainingError):
    """Raised when the child process died under a piece of work."""

    code = "lost"


class ArtifactDamaged(TrainingError):
    """Raised when a stored file is missing or differs from its manifest."""


class ExactnessBroken(TrainingError):
    """Raised when the service finds its own promise broken, e.g. a base that a LoRA run changed."""


BY_CODE: dict[str, type[TrainingError]] = {
    one.code: one
    for one in (
        TrainingError, RequestInvalid, NoSuchBase, DataError, WarningsFound, NoMemory, NoSuchAdapter, InUse, NoSuchRun,
        OutOfMemory, NanLoss, DiskFull, Lost,
    )
}  # fmt: skip
"""Which error a code on the pipe stands for."""


def error_from_code(code: str, detail: str) -> TrainingError:
    """Return the error that the other end of the pipe raised; an unknown code gives the root."""
    return BY_CODE.get(code, TrainingError)(detail)
