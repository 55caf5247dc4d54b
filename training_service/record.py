"""What is kept of a run beside its checkpoints: ``runs/<task_id>/run.json``. Written by the child, read by both.

Loads no torch. A record says ``running`` after the child died too: running it again resumes it.
"""

import json
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import structlog
from pydantic import TypeAdapter, ValidationError

from training_service.artifact import write_json
from training_service.errors import ArtifactDamaged, ExactnessBroken, NoSuchRun, TrainingError
from training_service.event import (
    Canceled,
    Checkpoint,
    Evaluated,
    Failed,
    Metrics,
    Prepared,
    RunSummary,
    Trained,
)
from training_service.request import TrainingRequest, canonical_task_id

log = structlog.get_logger()


class RunState(StrEnum):
    """Where a run stands."""

    PREPARED = "prepared"
    RUNNING = "running"
    PAUSED = "paused"
    FAILED = "failed"
    TRAINED = "trained"
    CANCELED = "canceled"


TRANSITIONS: dict[RunState, frozenset[RunState]] = {
    RunState.PREPARED: frozenset({RunState.RUNNING, RunState.CANCELED}),
    RunState.RUNNING: frozenset(
        {RunState.RUNNING, RunState.PAUSED, RunState.FAILED, RunState.TRAINED, RunState.CANCELED}
    ),
    RunState.PAUSED: frozenset({RunState.RUNNING, RunState.CANCELED}),
    RunState.FAILED: frozenset({RunState.RUNNING, RunState.CANCELED}),  # running it again resumes
    RunState.TRAINED: frozenset(),
    RunState.CANCELED: frozenset(),
}
"""Which state may follow which."""

RECORD = "run.json"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run as it stands on disk.

    Attributes:
        request: The order, without its owner's key.
        checkpoint: The newest.
        best: Where the held-out loss was lowest, while early stopping looks for it.
        seconds: Spent in slices so far.
        peak_memory_bytes: The most that was held during one of its slices.
        owner_sha256: The hash of the owner's key; the key itself is kept nowhere.
        evaluations: All so far; what early stopping decides follows from them alone.
    """

    request: TrainingRequest
    state: RunState
    prepared: Prepared
    base_sha256: str
    checkpoint: Checkpoint | None = None
    metrics: Metrics | None = None
    seconds: float = 0.0
    conversation_id: str | None = None
    peak_memory_bytes: int = 0
    owner_sha256: str | None = None
    evaluations: tuple[Evaluated, ...] = ()
    best: Checkpoint | None = None
    ended: Trained | Failed | Canceled | None = None

    @property
    def task_id(self) -> str:
        """The task that the run carries out."""
        return self.request.task_id

    def moved(self, state: RunState, **changes: object) -> "RunRecord":
        """Return the record in *state*, with *changes* to its other fields.

        Raises:
            ExactnessBroken: ``TRANSITIONS`` has no such step.
        """
        if state not in TRANSITIONS[self.state]:
            allowed = ", ".join(sorted(TRANSITIONS[self.state])) or "none"
            raise ExactnessBroken(f"run {self.task_id}: expected one of: {allowed} after {self.state}, got {state}")
        return replace(self, state=state, **changes)  # type: ignore[arg-type]  # names are the caller's promise

    def summary(self) -> RunSummary:
        """Return the line that a listing shows."""
        request = self.request
        return RunSummary(
            task_id=self.task_id,
            state=str(self.state),
            method=request.method,
            base=request.base,
            adapter=self.ended.adapter if isinstance(self.ended, Trained) else request.adapter,
            step=self.metrics.step if self.metrics else 0,
            of_steps=self.prepared.quote.steps,
            loss=self.metrics.loss if self.metrics else None,
            priority=request.priority,
            seconds=self.seconds,
            detail=self.ended.detail if isinstance(self.ended, Failed) else None,
        )


_FILE = TypeAdapter(RunRecord)


def record_path(runs: Path, task_id: str) -> Path:
    """Return where the record of *task_id* lies.

    Raises:
        NoSuchRun: *task_id* is no UUID, so it names no run and no path.
    """
    try:
        return runs / canonical_task_id(task_id) / RECORD
    except ValueError as error:
        raise NoSuchRun(f"expected a task id (a UUID), got {task_id[:60]!r}") from error


def save_record(runs: Path, record: RunRecord) -> None:
    """Put *record* on disk, whole or not at all."""
    path = record_path(runs, record.task_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, _FILE.dump_python(record, mode="json"))


def find_record(runs: Path, task_id: str) -> RunRecord | None:
    """Return the record of *task_id*, or None where there is none.

    Raises:
        ArtifactDamaged: The file is not what ``save_record`` writes.
    """
    path = record_path(runs, task_id)
    try:
        return _FILE.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, ValidationError) as error:
        raise ArtifactDamaged(f"{path}: expected the record of a run, got: {error}") from error


def load_record(runs: Path, task_id: str) -> RunRecord:
    """Return the record of *task_id*.

    Raises:
        NoSuchRun: There is none.
    """
    record = find_record(runs, task_id)
    if record is None:
        raise NoSuchRun(f"expected the id of a prepared task, got {task_id!r}: ask for its quote first")
    return record


def all_records(runs: Path) -> tuple[RunRecord, ...]:
    """Return every record that can be read, sorted by task id; a damaged one is logged and hides no other."""
    found = []
    for path in sorted(runs.glob(f"*/{RECORD}")):
        try:
            found.append(load_record(runs, path.parent.name))
        except TrainingError as error:
            log.warning("run.failed", task_id=path.parent.name, code=error.code, detail=str(error))
    return tuple(found)
