"""How a run went, step by step: ``runs/<task_id>/history.jsonl``, one line a step. Loads no torch.

A line is written with its step and synced with the next checkpoint. A run that resumes cuts the file back to its
checkpoint first, so that each step has one line, whatever was lost.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from training_service.artifact import FILE_MODE, disk_errors
from training_service.event import Metrics

HISTORY = "history.jsonl"

T = TypeVar("T")
_LINE = TypeAdapter(Metrics)


class History:
    """The file while its run goes on.

    Args:
        path: Where it lies; its folder is there.
        until: The last step whose line is kept; 0 begins anew.

    Raises:
        DiskFull: There is no room.
    """

    def __init__(self, path: Path, *, until: int) -> None:
        self._path = path
        kept = _bytes_until(path, until)
        with disk_errors(str(path)):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, FILE_MODE)
            os.truncate(self._descriptor, kept)
            os.lseek(self._descriptor, kept, os.SEEK_SET)

    def add(self, metrics: Metrics) -> None:
        """Write the line of one step.

        Raises:
            DiskFull: There is no room.
        """
        line = json.dumps(asdict(metrics), separators=(",", ":")).encode() + b"\n"
        with disk_errors(str(self._path)):
            while line:
                line = line[os.write(self._descriptor, line) :]

    def sync(self) -> None:
        """See that what was written is on disk."""
        with disk_errors(str(self._path)):
            os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Write no more."""
        os.close(self._descriptor)


def _bytes_until(path: Path, until: int) -> int:
    """Return how many bytes the lines of the steps 1 to *until* take; a torn or foreign line ends them."""
    kept = 0
    if not until or not path.exists():
        return kept
    with path.open("rb") as file:
        for step, line in enumerate(file, start=1):
            metrics = _parse(line)
            if step > until or metrics is None or metrics.step != step:
                break
            kept += len(line)
    return kept


def _parse(line: bytes) -> Metrics | None:
    if not line.endswith(b"\n"):
        return None
    try:
        return _LINE.validate_python(json.loads(line))
    except (ValueError, ValidationError):
        return None


def read_history(folder: Path, *, points: int) -> list[Metrics]:
    """Return how the run in *folder* went, thinned to at most *points*; empty where no step was taken."""
    try:
        lines = (folder / HISTORY).read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [metrics for line in thin(lines, points) if (metrics := _parse(line)) is not None]


def thin(items: Sequence[T], points: int) -> list[T]:
    """Return at most *points* of *items*, evenly spread, the last always among them and the first from two on."""
    if len(items) <= points:
        return list(items)
    if points == 1:
        return [items[-1]]
    return [items[round(at * (len(items) - 1) / (points - 1))] for at in range(points)]
