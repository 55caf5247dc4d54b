"""Datasets: a file of JSON lines → examples for the model, whole or with some rows held out.

Pure but for reading the file; what a row is stands in ``row``, how it becomes tokens in ``encoder``. The other
modules of the service take all of that from here. Loads no torch.
"""

import os
import random
import stat
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import file_digest
from io import BufferedReader
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from training_service.encoder import ChatTokenizer, Encoder, Example, Pair, TrainOn
from training_service.errors import DataError, RequestInvalid
from training_service.request import Artifact, TrainingRequest
from training_service.row import Row, parse_row

__all__ = [
    "ChatTokenizer", "Dataset", "Encoder", "Example", "Objective", "Pair", "Row", "TrainOn", "check_artifact",
    "encode_dataset", "hold_out", "load_dataset", "load_ordered", "make_anew",
    "read_rows",
]  # fmt: skip

MAX_FILE_BYTES = 1024**3
MAX_LINE_BYTES = 4 * 1024**2
MAX_ROWS = 2_000_000

Objective: TypeAlias = Literal["sft", "dpo"]
Make: TypeAlias = "Callable[[], tuple[Dataset, ...]]"
Recall: TypeAlias = Callable[[Hashable, Make], "tuple[Dataset, ...]"]
"""Gives what was made for this key before, or has it made; see ``encodings``."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Dataset:
    """All examples of one file, in the file's order.

    Attributes:
        examples: One for each row; of a preference the chosen one.
        sha256: Of the whole file, also where these are only some of its rows.
        rejected: One for each row where the rows are preferences, else none.
        rows: What the examples were made from.
    """

    examples: tuple[Example, ...]
    sha256: str
    rejected: tuple[Example, ...] = ()
    rows: tuple[Row, ...] = ()

    @property
    def usable(self) -> tuple[Example, ...]:
        """The examples that train something."""
        return tuple(example for example in self.examples if example.n_trained)

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The preferences that teach something; none where the rows are no preferences."""
        both = zip(self.examples, self.rejected, strict=True) if self.rejected else ()
        return tuple(pair for pair in (Pair(*one) for one in both) if pair.teaches)

    @property
    def answers(self) -> tuple[tuple[Example, ...], ...]:
        """The examples of each row: one, or the chosen and the rejected."""
        return tuple(zip(self.examples, self.rejected, strict=True) if self.rejected else zip(self.examples))

    @property
    def keys(self) -> tuple[Hashable, ...]:
        """What the model reads of each row: equal for rows that are the same to it."""
        return tuple(tuple(example.tokens for example in of_row) for of_row in self.answers)

    def filtered(self, keep: Callable[[int], bool]) -> "Dataset":
        """Return the rows whose place *keep* holds for."""

        def some(values: tuple[_T, ...]) -> tuple[_T, ...]:
            return tuple(value for place, value in enumerate(values) if keep(place))

        return replace(self, examples=some(self.examples), rejected=some(self.rejected), rows=some(self.rows))


def check_artifact(artifact: Artifact, roots: Sequence[Path]) -> Path:
    """Return the file of a dataset after place, kind, size and hash were compared; never waits for a writer.

    Raises:
        DataError: It lies under none of *roots* (links followed), is missing, no file, too large or changed.
    """
    given = artifact.path
    try:
        path = given.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:  # missing; a loop of links; a zero byte in the name
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{given}: expected a readable file, got {why}; give an existing path") from error
    if not any(path.is_relative_to(root.resolve()) for root in roots):
        under = ", ".join(str(root) for root in roots)
        raise DataError(f"{given}: expected a file under one of: {under}; put the data there")
    with open_dataset(path) as file:
        _check_hash(artifact, file_digest(file, "sha256").hexdigest())
    return path


def _check_hash(artifact: Artifact, got: str) -> None:
    if got != artifact.sha256:
        raise DataError(
            f"{artifact.path}: expected sha256 {artifact.sha256}, got {got}: the file was changed since; order anew"
        )


def open_dataset(path: Path) -> BufferedReader:
    """Open a file of rows; a folder, a pipe or a device is refused instead of waited for.

    Raises:
        DataError: It is missing, no regular file, or too large.
    """
    try:
        file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115  # the caller closes it
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: expected a readable file, got {why}; give an existing path") from error
    found = os.fstat(file.fileno())
    problem = None
    if not stat.S_ISREG(found.st_mode):
        problem = "expected a regular file, got a folder, pipe or device; give a file of JSON lines"
    elif found.st_size > MAX_FILE_BYTES:
        problem = f"expected at most {MAX_FILE_BYTES} bytes, got {found.st_size}: split the file"
    if problem is not None:
        file.close()
        raise DataError(f"{path}: {problem}")
    return file


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe without a writer would be waited for


def read_rows(path: Path, *, max_rows: int = MAX_ROWS) -> Iterator[Row]:
    """Give the rows of a JSONL file; blank lines are passed over.

    Args:
        path: The file.
        max_rows: Lines that it may have at most, blank ones included.

    Raises:
        DataError: The file cannot be read or holds nothing, or a line is too long or no row; the text names
            ``file:line``. No more than one line is held.
    """
    n_rows = 0
    with open_dataset(path) as file:
        for number in range(1, max_rows + 2):
            line = file.readline(MAX_LINE_BYTES + 1)
            if not line:
                break
            where = f"{path}:{number}"
            if len(line) > MAX_LINE_BYTES:
                raise DataError(f"{where}: expected at most {MAX_LINE_BYTES} bytes in a line; split the row")
            if number > max_rows:
                raise DataError(f"{where}: expected at most {max_rows} rows; split the file")
            if line.strip():
                n_rows += 1
                yield parse_row(line, number, where)
    if not n_rows:
        raise DataError(f"{path}: expected at least one row, got an empty file")


def load_dataset(path: Path, encoder: Encoder, *, objective: Objective = "sft") -> Dataset:
    """Return every row of *path* encoded.

    Raises:
        DataError: See ``read_rows`` and ``Encoder.encode_row``; also where a row's kind does not fit *objective*,
            and where no row trains anything.
    """
    with open_dataset(path) as file:
        digest = file_digest(file, "sha256").hexdigest()
    rows = tuple(_fitting(row, path, objective) for row in read_rows(path))
    dataset = encode_dataset(rows, encoder, sha256=digest, where=path)
    if objective == "dpo" and not dataset.pairs:
        raise DataError(
            f"{path}: expected at least one pair of different answers, got none: "
            "every pair is equal, or an answer is cut away whole; raise max_tokens, or look at the first rows"
        )
    if not dataset.usable:
        n_cut = sum(example.truncated for example in dataset.examples)
        raise DataError(
            f"{path}: expected at least one token to train, got none: every row is masked or cut away "
            f"({n_cut} of {len(rows)} are cut at {encoder.max_tokens} tokens); "
            "give rows with turns of the assistant, raise max_tokens, or order train_on: all"
        )
    return dataset


def encode_dataset(rows: Sequence[Row], encoder: Encoder, *, sha256: str, where: object) -> Dataset:
    """Return *rows*, which are all preferences or none is, as the model reads them.

    Raises:
        DataError: See ``Encoder.encode_row``.
    """
    examples = tuple(encoder.encode_rows(rows, where))
    worse = [row.rejected for row in rows if row.rejected is not None]
    return Dataset(examples, sha256, tuple(encoder.encode_rows(worse, where)), tuple(rows))


def _fitting(row: Row, path: Path, objective: Objective) -> Row:
    if objective == "dpo" and row.rejected is None:
        raise DataError(
            f"{path}:{row.line}: expected a preference with objective dpo, got another row: "
            "give 'chosen' and 'rejected', or order objective: sft"
        )
    if objective == "sft" and row.rejected is not None:
        raise DataError(
            f"{path}:{row.line}: expected a chat, a prompt with its completion or text with objective sft, "
            "got a preference: order objective: dpo, or give 'prompt' and 'completion'"
        )
    return row


def make_anew(_: Hashable, make: Make) -> tuple[Dataset, ...]:
    """Return what *make* gives: nothing is remembered."""
    return make()


def load_ordered(
    request: TrainingRequest, encoder: Encoder, roots: Sequence[Path], *, recall: Recall = make_anew
) -> tuple[Dataset, Dataset | None]:
    """Return what *request* trains on and what it is evaluated on, if anything.

    Args:
        request: The order.
        encoder: See there.
        roots: Folders that the files may lie under.
        recall: Asked for the rows of each file after its hash was compared, by hash and objective.

    Raises:
        DataError: See ``check_artifact``, ``load_dataset`` and ``hold_out``.
        RequestInvalid: Preferences with ``train_on: all``.
    """
    if request.objective == "dpo" and request.train_on == "all":
        raise RequestInvalid("expected train_on: assistant with objective: dpo, got 'all'; only answers are preferred")

    def read(artifact: Artifact) -> Dataset:
        path = check_artifact(artifact, roots)

        def make() -> tuple[Dataset, ...]:
            dataset = load_dataset(path, encoder, objective=request.objective)
            _check_hash(artifact, dataset.sha256)  # it may have changed between the two
            return (dataset,)

        return recall((artifact.sha256, request.objective), make)[0]

    dataset = read(request.dataset)
    if request.evaluation is not None:
        return dataset, read(request.evaluation)
    if request.evaluation_share:
        return hold_out(dataset, request.evaluation_share, seed=request.seed, where=request.dataset.path)
    return dataset, None


def hold_out(dataset: Dataset, share: float, *, seed: int, where: object = "dataset") -> tuple[Dataset, Dataset]:
    """Return the rows of *dataset* that are trained on and those that are held out: a pure function.

    Drawn from (seed, how many different rows there are); rows that are equal to the model stay on one side. Rows
    that train nothing are never held out.

    Args:
        dataset: All rows of a file.
        share: Of the different rows, how many are held out, rounded; at least one, and at least one stays.
        seed: Equal seeds hold out equal rows.
        where: Names the file in the error.

    Raises:
        DataError: There are not two different rows.
    """
    keys = dataset.keys
    # A row teaches when it trains something; a preference when both of its answers do, and differ.
    teaching = [len(of_row) == len({one.tokens for one in of_row if one.n_trained}) for of_row in dataset.answers]
    different = list(dict.fromkeys(key for key, counts in zip(keys, teaching, strict=True) if counts))
    if len(different) < 2:
        raise DataError(
            f"{where}: expected at least two different rows to hold some out, got {len(different)}; "
            "add rows, or leave evaluation_share out"
        )
    n_held_out = min(max(1, round(share * len(different))), len(different) - 1)
    held_out = set(random.Random(f"held-out:{seed}").sample(different, n_held_out))
    return (
        dataset.filtered(lambda place: keys[place] not in held_out),
        dataset.filtered(lambda place: keys[place] in held_out),
    )
