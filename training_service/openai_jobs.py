"""Fine-tuning jobs of the OpenAI face: what is kept of each, and what the bus's messages make of it. Knows no bus."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from uuid import uuid4

from training_service.artifact import write_json
from training_service.openai_shapes import ApiError, JobRequest, Json, not_found

JOB_ID = re.compile(r"ftjob-[0-9a-f]{24}")


class Status(StrEnum):
    """Where a job stands, in OpenAI's words."""

    VALIDATING = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


OVER = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})

# Message of the trainer → the status behind it; a message that is not here changes none.
STATUS_AFTER: Mapping[str, Status] = {
    "Queued": Status.QUEUED,
    "Started": Status.RUNNING,
    "Suspended": Status.PAUSED,
    "Paused": Status.PAUSED,
    "Trained": Status.SUCCEEDED,
    "TrainFailed": Status.FAILED,
    "Refused": Status.FAILED,
    "Canceled": Status.CANCELLED,
}

# Outcome of the conversation → the status of a job that no message has ended.
STATUS_OF_OUTCOME: Mapping[str, Status] = {
    "declined": Status.CANCELLED,
    "canceled": Status.CANCELLED,
    "refused": Status.FAILED,
    "failed": Status.FAILED,
}


@dataclass(frozen=True, slots=True)
class Job:
    """One job as it stands.

    Attributes:
        task_id: Of the run that carries it out; the same one after a restart of the face.
        order: The fields of ``TrainRequest``, the data as file ids.
        said: Names of the messages by which the client has steered it, in order: said again, in this order, by
            a face that begins anew, so that the bus recognizes them.
        wants_cancel: It is to end; remembered where it cannot be said yet.
    """

    job_id: str
    task_id: str
    created_at: int
    model: str
    training_file: str
    validation_file: str | None
    order: dict[str, object]
    method: str
    hyperparameters: dict[str, object]
    metadata: dict[str, str] | None = None
    status: Status = Status.VALIDATING
    finished_at: int | None = None
    fine_tuned_model: str | None = None
    trained_tokens: int | None = None
    seconds: float | None = None
    error: dict[str, str] | None = None
    said: tuple[str, ...] = ()
    wants_cancel: bool = False

    def as_object(self) -> Json:
        """Return it as OpenAI's clients read it."""
        shown = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"} | self.hyperparameters
        left = None if self.status in OVER or self.seconds is None else int(self.created_at + self.seconds)
        return {
            "id": self.job_id, "object": "fine_tuning.job", "created_at": self.created_at, "model": self.model,
            "status": str(self.status), "training_file": self.training_file, "validation_file": self.validation_file,
            "fine_tuned_model": self.fine_tuned_model, "finished_at": self.finished_at, "estimated_finish": left,
            "trained_tokens": self.trained_tokens, "error": self.error, "seed": int(str(self.order.get("seed", 0))),
            "hyperparameters": shown, "result_files": [], "organization_id": "palaver", "integrations": [],
            "metadata": self.metadata, "method": {"type": self.method, self.method: {"hyperparameters": shown}},
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job; *key* is the same when a face that began anew hears of it again."""

    key: str
    created_at: int
    message: str
    level: str = "info"
    type: str = "message"
    data: dict[str, object] = field(default_factory=dict)

    def as_object(self) -> Json:
        """Return it as OpenAI's clients read it."""
        return {
            "id": f"ftevent-{self.key}", "object": "fine_tuning.job.event", "created_at": self.created_at,
            "level": self.level, "message": self.message, "type": self.type, "data": self.data,
        }  # fmt: skip


def new_job(request: JobRequest, *, now: float) -> Job:
    """Return the job that *request* orders."""
    method = request.method.type if request.method is not None else "supervised"
    chosen = request.chosen.model_dump(exclude=set() if method == "dpo" else {"beta"})
    return Job(
        job_id=f"ftjob-{secrets.token_hex(12)}",
        task_id=str(uuid4()),
        created_at=int(now),
        model=request.model,
        training_file=request.training_file,
        validation_file=request.validation_file,
        order=request.order(),
        method=method,
        hyperparameters=chosen,
        metadata=request.metadata,
    )


def after(job: Job, name: str, fields: Mapping[str, object], *, now: float) -> Job:
    """Return *job* once message *name* of the trainer has come; one that is over stays as it is. Pure."""
    if job.status in OVER:
        return job
    changes: dict[str, object] = {"status": STATUS_AFTER.get(name, job.status)}
    if name == "Quote":
        audit = _mapping(fields["audit"])
        changes |= {"trained_tokens": audit["trained_tokens"], "seconds": fields["seconds"]}
    elif name == "Trained":
        changes["fine_tuned_model"] = fields.get("adapter")
    elif name in ("Refused", "TrainFailed"):
        changes["error"] = {"code": str(fields["code"]), "message": str(fields["detail"]), "param": "training_file"}
    if changes["status"] in OVER:
        changes["finished_at"] = int(now)
    return replace(job, **changes)  # type: ignore[arg-type]  # names of its fields


def ended(job: Job, outcome: str, reason: str, *, now: float) -> Job:
    """Return *job* once its conversation has ended; one that a message has ended stays as it is. Pure."""
    if job.status in OVER:
        return job
    status = STATUS_OF_OUTCOME.get(outcome, Status.FAILED)
    detail = reason or f"the conversation ended as {outcome!r}"
    error = {"code": outcome, "message": detail, "param": ""} if status is Status.FAILED else None
    return replace(job, status=status, error=error, finished_at=int(now))


def event_of(name: str, fields: Mapping[str, object], *, count: int, now: float) -> Event | None:
    """Return what message *name*, the *count*-th of its name, is to a reader; None where it is nothing. Pure."""
    at = int(now)
    match name:
        case "Quote":
            steps, seconds, audit = fields["steps"], float(str(fields["seconds"])), _mapping(fields["audit"])
            text = f"files validated: {audit['rows']} rows, {audit['trained_tokens']} trained tokens; {steps} steps"
            return Event("quote", at, f"{text}, about {seconds:.0f} s", data={"audit": dict(audit)})
        case "Queued":
            return Event("queued", at, f"queued, {fields['position']} runs before it")
        case "Started":
            return Event(f"started-{count}", at, "run started" if count == 1 else "run goes on")
        case "Progress":
            metrics = _mapping(fields["metrics"])
            data = {"step": metrics["step"], "train_loss": metrics["loss"], "total_steps": fields["of_steps"]}
            text = f"step {metrics['step']}/{fields['of_steps']}: training loss={metrics['loss']:.4f}"
            return Event(f"step-{metrics['step']}", at, text, type="metrics", data=data)
        case "Checkpoint":
            metrics, artifact = _mapping(fields["metrics"]), _mapping(fields["artifact"])
            data = {"step": metrics["step"], "train_loss": metrics["loss"], "checkpoint": artifact["sha256"]}
            return Event(
                f"checkpoint-{metrics['step']}", at, f"checkpoint at step {metrics['step']} written", data=data
            )
        case "Evaluated":
            scores = {str(one["variant"]): one["loss"] for one in _list(fields["scores"])}
            said = ", ".join(f"{variant} {loss:.4f}" for variant, loss in scores.items())
            data = {"step": fields["step"], "losses": scores}
            return Event(
                f"evaluated-{fields['step']}", at, f"held-out loss at step {fields['step']}: {said}", data=data
            )
        case "Suspended" | "Paused":
            return Event(f"{name.lower()}-{count}", at, "the run is paused")
        case "Trained":
            return Event("trained", at, f"the job is done; new model: {fields.get('adapter')}")
        case "Refused" | "TrainFailed":
            return Event("failed", at, f"{fields['code']}: {fields['detail']}", level="error")
        case "Canceled":
            return Event("canceled", at, "the job is canceled")
    return None


def checkpoint_object(job: Job, event: Event) -> Json:
    """Return a checkpoint as OpenAI's clients read it."""
    data = event.data
    return {
        "id": f"ftckpt-{str(data['checkpoint'])[:24]}", "object": "fine_tuning.job.checkpoint",
        "created_at": event.created_at, "fine_tuning_job_id": job.job_id, "step_number": data["step"],
        "fine_tuned_model_checkpoint": f"{job.model}:{data['checkpoint']}",
        "metrics": {"step": data["step"], "train_loss": data["train_loss"]},
    }  # fmt: skip


class JobStore:
    """All jobs under one folder: a JSON file each, and their events line by line."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self.clock = clock
        folder.mkdir(parents=True, exist_ok=True)
        self._jobs = {job.job_id: job for job in map(_read, sorted(folder.glob("ftjob-*.json")))}
        self._events = {job_id: self._read_events(job_id) for job_id in self._jobs}

    def all(self) -> list[Job]:
        """Return every job, the newest first."""
        return sorted(self._jobs.values(), key=lambda job: (-job.created_at, job.job_id))

    def find(self, job_id: str) -> Job:
        """Return one job.

        Raises:
            ApiError: There is none; 404.
        """
        if not JOB_ID.fullmatch(job_id) or job_id not in self._jobs:
            raise not_found("job", job_id)
        return self._jobs[job_id]

    def keep(self, job: Job) -> Job:
        """Put *job* on disk in place of what was there, and return it."""
        if self._jobs.get(job.job_id) != job:
            write_json(self._folder / f"{job.job_id}.json", asdict(job))
            self._jobs[job.job_id] = job
            self._events.setdefault(job.job_id, {})
        return job

    def events(self, job_id: str) -> list[Event]:
        """Return what has happened to a job, in order."""
        return list(self._events[self.find(job_id).job_id].values())

    def tell(self, job_id: str, event: Event | None) -> None:
        """Note *event*, unless it is known already."""
        known = self._events[job_id]
        if event is None or event.key in known:
            return
        known[event.key] = event
        with (self._folder / f"{job_id}.events.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps(asdict(event), ensure_ascii=False) + "\n")

    def _read_events(self, job_id: str) -> dict[str, Event]:
        path = self._folder / f"{job_id}.events.jsonl"
        found: dict[str, Event] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                event = Event(**json.loads(line))
            except (ValueError, TypeError):
                continue  # the last line of a face that was killed while it wrote
            found[event.key] = event
        return found


def check_steerable(job: Job, name: str) -> None:
    """See that *job* may still be steered by message *name*.

    Raises:
        ApiError: It is over; 400, as OpenAI answers.
    """
    if job.status in OVER:
        raise ApiError(
            400, f"expected a job that is not over, got one that is {job.status}", code=f"cannot_{name.lower()}"
        )


def _read(path: Path) -> Job:
    data = json.loads(path.read_bytes())
    return Job(**{**data, "status": Status(data["status"]), "said": tuple(data["said"])})


def _mapping(value: object) -> Mapping[str, object]:
    assert isinstance(value, Mapping)  # the protocol says so
    return value


def _list(value: object) -> list[dict[str, float]]:
    assert isinstance(value, list)  # the protocol says so
    return value
