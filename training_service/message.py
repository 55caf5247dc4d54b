"""The service's reports as messages of the bus. Knows the protocols only as what it is given; imports no bus."""

from dataclasses import asdict
from typing import Any, TypeAlias
from uuid import UUID

from pydantic import BaseModel

from training_service.event import (
    Audit,
    Canceled,
    Checkpoint,
    Evaluated,
    Failed,
    Metrics,
    Piece,
    Prepared,
    Progress,
    Queued,
    Refused,
    RunEvent,
    Speech,
    Started,
    Suspended,
    Trained,
)
from training_service.request import Artifact

Spec: TypeAlias = Any  # a compiled protocol: its classes are made from a spec at run time


def run_message(training: Spec, task_id: UUID, event: RunEvent) -> BaseModel | None:
    """Return *event* as the message of protocol *training* that tells the client of it, or None where none does."""
    match event:
        case Queued():
            return _built(training.Queued, task_id, position=event.position)
        case Started():
            return _built(training.Started, task_id, run_id=event.run_id)
        case Progress():
            return _built(
                training.Progress,
                task_id,
                metrics=metrics_message(training, event.metrics),
                of_steps=event.of_steps,
                seconds_left=event.seconds_left,
                resumed_from_step=event.resumed_from_step,
            )
        case Checkpoint():
            metrics = metrics_message(training, event.metrics)
            return _built(
                training.Checkpoint, task_id, artifact=artifact_message(training, event.artifact), metrics=metrics
            )
        case Evaluated():
            scores = [
                training.Score(variant=str(one.variant), loss=one.loss, metrics=one.metrics) for one in event.scores
            ]
            return _built(training.Evaluated, task_id, step=event.step, scores=scores)
        case Suspended():
            return _built(
                training.Suspended,
                task_id,
                reason=event.reason,
                checkpoint=artifact_message(training, event.checkpoint),
            )
        case Trained():
            return _built(
                training.Trained,
                task_id,
                artifact=artifact_message(training, event.artifact),
                adapter=event.adapter,
                metrics=metrics_message(training, event.metrics),
                used=training.Usage(**asdict(event.used)),
            )
        case Failed():
            return _built(
                training.TrainFailed,
                task_id,
                code=event.code,
                detail=event.detail,
                last_checkpoint=_maybe_artifact(training, event.last_checkpoint),
                retryable=event.retryable,
            )
        case Canceled():
            return _built(training.Canceled, task_id, last_checkpoint=_maybe_artifact(training, event.last_checkpoint))
        case _:
            return None  # Paused answers the client's own message, which has a handler of its own


def quote_message(training: Spec, task_id: UUID, prepared: Prepared) -> BaseModel:
    """Return the offer that *prepared* makes."""
    return _built(training.Quote, task_id, audit=audit_message(training, prepared.audit), **asdict(prepared.quote))


def refused_message(training: Spec, task_id: UUID, refused: Refused) -> BaseModel:
    """Return the answer that *refused* is."""
    audit = None if refused.audit is None else audit_message(training, refused.audit)
    return _built(training.Refused, task_id, code=refused.code, detail=refused.detail, audit=audit)


def audit_message(training: Spec, audit: Audit) -> BaseModel:
    """Return *audit* as the protocol has it."""
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(audit).items()}
    message: BaseModel = training.Audit(**plain)
    return message


def artifact_message(training: Spec, artifact: Artifact) -> BaseModel:
    """Return *artifact* as the protocol has it."""
    message: BaseModel = training.Artifact(**artifact.model_dump())
    return message


def metrics_message(training: Spec, metrics: Metrics) -> BaseModel:
    """Return *metrics* as the protocol has them."""
    message: BaseModel = training.Metrics(**asdict(metrics))
    return message


def speech_message(generation: Spec, request_id: UUID, speech: Speech) -> BaseModel:
    """Return *speech* as the message of protocol *generation* that tells the client of it."""
    logprobs = [
        generation.TokenLogprob(
            token=one.token,
            logprob=one.logprob,
            top=[generation.Alternative(token=other.token, logprob=other.logprob) for other in one.top],
        )
        for one in speech.logprobs
    ]
    message: BaseModel
    if isinstance(speech, Piece):
        message = generation.Token(request_id=request_id, text=speech.text, logprobs=logprobs)
    else:
        message = generation.Generated(
            request_id=request_id,
            text=speech.text,
            n_prompt_tokens=speech.n_prompt_tokens,
            n_tokens=speech.n_tokens,
            finish_reason=speech.finish_reason,
            adapter=speech.adapter,
            logprobs=logprobs,
        )
    return message


def _maybe_artifact(training: Spec, artifact: Artifact | None) -> BaseModel | None:
    return None if artifact is None else artifact_message(training, artifact)


def _built(message_type: Any, task_id: UUID, **fields: object) -> BaseModel:
    message: BaseModel = message_type(task_id=task_id, **fields)
    return message
