"""What the errors of the libraries mean to us; at the border of the child."""

import errno

import structlog
import torch

from training_service.artifact import why_full
from training_service.errors import DiskFull, OutOfMemory, TrainingError

log = structlog.get_logger()

NO_MEMORY_WORDS = ("not enough memory", "can't allocate memory", "cannot allocate memory", "std::bad_alloc")
"""What torch says where an allocation on the CPU fails; it has no class of its own for that."""


def typed(error: Exception) -> TrainingError:
    """Return *error* as one of ours: a full disk and a lack of memory have a code, the rest is ``internal``."""
    if isinstance(error, TrainingError):
        return error
    text = str(error)
    no_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    no_memory = no_memory or any(words in text.lower() for words in NO_MEMORY_WORDS)
    if no_memory or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return OutOfMemory("expected more free memory: take fewer rows a step, shorter rows, LoRA or a smaller base")
    if (why := why_full(error)) is not None:
        return DiskFull(f"{why}; free some room and run the task again")
    return TrainingError(f"{type(error).__name__}: {text or 'no detail'}")


def log_fault(event: str, error: Exception, name: str) -> TrainingError:
    """Log what went wrong with the task or text called *name*, and return it as one of ours."""
    fault = typed(error)
    unexpected = type(fault) is TrainingError
    log.warning(event, task_id=name, code=fault.code, detail=str(fault), exc_info=error if unexpected else None)
    return fault
