"""TensorBoard's event files, for those who order them: ``runs/<task_id>/tensorboard``. Protobuf records, no pickle.

The writer is loaded when the first run wants one: it is an optional dependency.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from training_service.errors import RequestInvalid
from training_service.event import Metrics, Score
from training_service.request import TrainingRequest

FOLDER = "tensorboard"


class Writer(Protocol):
    """What is used of ``torch.utils.tensorboard.SummaryWriter``."""

    def add_scalar(self, tag: str, value: float, step: int) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


def check_event_files(request: TrainingRequest) -> None:
    """See that event files can be written where they are ordered.

    Raises:
        RequestInvalid: TensorBoard is not installed.
    """
    if request.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise RequestInvalid(
            "tensorboard: expected the package tensorboard beside the service, there is none: "
            "install palaver[plot] there, or leave tensorboard out"
        )


class EventFiles:
    """One run's event files from one start to the next; *step* is where it goes on, and what was after it is void."""

    def __init__(self, folder: Path, *, step: int) -> None:
        module = importlib.import_module("torch.utils.tensorboard")
        purged = step + 1 if step else None
        self._writer: Writer = module.SummaryWriter(str(folder / FOLDER), purge_step=purged)

    def add_step(self, metrics: Metrics) -> None:
        """Note one step."""
        self._writer.add_scalar("train/loss", metrics.loss, metrics.step)
        self._writer.add_scalar("train/learning_rate", metrics.learning_rate, metrics.step)
        if metrics.gradient_norm is not None:
            self._writer.add_scalar("train/gradient_norm", metrics.gradient_norm, metrics.step)

    def add_scores(self, step: int, scores: Sequence[Score]) -> None:
        """Note one evaluation: the loss of each variant."""
        for score in scores:
            self._writer.add_scalar(f"evaluation/loss/{score.variant}", score.loss, step)

    def flush(self) -> None:
        """Hand over what was noted; call with each checkpoint."""
        self._writer.flush()

    def close(self) -> None:
        """Write no more."""
        self._writer.close()
