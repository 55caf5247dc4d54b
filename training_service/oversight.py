"""Runs as their owner sees and steers them beside the conversation that ordered them: protocol ``runs``.

Knows the protocol only as what it is given; imports no bus. A run of another owner looks like no run at all.
"""

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any, TypeAlias

from pydantic import BaseModel

from training_service.errors import Lost, NoSuchRun, TrainingError
from training_service.event import (
    Canceled,
    Checkpoint,
    Evaluated,
    Failed,
    Metrics,
    Progress,
    RunSummary,
    Trained,
)
from training_service.follow import is_news
from training_service.history import read_history
from training_service.owner import is_open_to
from training_service.record import RunRecord, RunState, all_records, find_record, record_path
from training_service.worker import Worker

Spec: TypeAlias = Any  # a compiled protocol: its classes are made from a spec at run time
Order: TypeAlias = Any  # a message of it

OVER = (RunState.TRAINED, RunState.FAILED, RunState.CANCELED)


def find_run(worker: Worker, order: Order) -> RunRecord:
    """Return the run that *order* names, if whoever sent it may see it.

    Raises:
        NoSuchRun: There is none, or it is somebody else's: the words are the same.
    """
    task_id = str(order.task_id)
    record = find_record(worker.runs_folder, task_id)
    if record is None or not is_open_to(record.owner_sha256, order.owner_key):
        raise NoSuchRun(f"expected the id of a run that is open to you, got {task_id}: say its owner's key")
    return record


def list_message(runs: Spec, worker: Worker, order: Order) -> BaseModel:
    """Return the answer to ``List``: the runs under the key that was said, and those without an owner."""
    records = [one for one in all_records(worker.runs_folder) if is_open_to(one.owner_sha256, order.owner_key)]
    message: BaseModel = runs.Runs(runs=[run_value(runs, worker.summary(one)) for one in records])
    return message


def history_message(runs: Spec, worker: Worker, order: Order) -> BaseModel:
    """Return the answer to ``Show``."""
    try:
        record = find_run(worker, order)
    except TrainingError as error:
        return refused_message(runs, error)
    folder = record_path(worker.runs_folder, record.task_id).parent
    message: BaseModel = runs.History(
        run=run_value(runs, worker.summary(record)),
        metrics=[metrics_value(runs, one) for one in read_history(folder, points=order.points)],
        evaluations=[evaluation_value(runs, one) for one in record.evaluations],
        request=record.request.model_dump_json(exclude_none=True),
    )
    return message


async def steer_message(runs: Spec, worker: Worker, order: Order) -> BaseModel:
    """Pause, resume or cancel, as the class of *order* says, and return the answer."""
    try:
        task_id = find_run(worker, order).task_id
        match type(order).__name__:
            case "PauseRun":
                await worker.pause(task_id, by_owner=True)
            case "ResumeRun":
                await worker.resume(task_id)
            case _:
                await worker.cancel(task_id)
        message: BaseModel = runs.Done(run=run_value(runs, worker.summary(find_run(worker, order))))
        return message
    except TrainingError as error:
        return refused_message(runs, error)


async def follow_messages(runs: Spec, worker: Worker, order: Order) -> AsyncIterator[BaseModel]:
    """Give what is to be told of a run from now on, the last ``Over``; a pause is not the end."""
    task_id, told = str(order.task_id), dict[str, Any]()
    with worker.listen(task_id) as reports:
        try:
            record = find_run(worker, order)
        except TrainingError as error:
            yield refused_message(runs, error)
            return
        if record.state not in OVER:
            yield runs.Changed(run=run_value(runs, worker.summary(record)), what="state")
        while record.state not in OVER:
            report = await reports.get()
            record = find_run(worker, order)
            run = run_value(runs, worker.summary(record))
            if isinstance(report, Evaluated | Checkpoint) and not is_news(told, report):
                continue
            match report:
                case Progress():
                    yield runs.Progress(run=run, metrics=metrics_value(runs, report.metrics))
                case Evaluated():
                    yield runs.Changed(run=run, what="evaluation", evaluation=evaluation_value(runs, report))
                case Checkpoint():
                    yield runs.Changed(run=run, what="checkpoint")
                case Trained() | Canceled() | Failed() if record.state in OVER:
                    break
                case _:
                    yield runs.Changed(run=run, what="state")
        yield runs.Over(run=run_value(runs, worker.summary(record)))


def refused_message(runs: Spec, error: TrainingError) -> BaseModel:
    """Return the refusal that *error* is; a child that died is one to ask again."""
    code = "busy" if isinstance(error, Lost) else error.code
    message: BaseModel = runs.Refused(code=code, detail=str(error))
    return message


def run_value(runs: Spec, summary: RunSummary) -> BaseModel:
    """Return *summary* as the protocol has it."""
    value: BaseModel = runs.Run(**asdict(summary) | {"state": str(summary.state)})
    return value


def metrics_value(runs: Spec, metrics: Metrics) -> BaseModel:
    """Return *metrics* as the protocol has them."""
    value: BaseModel = runs.Metrics(**asdict(metrics))
    return value


def evaluation_value(runs: Spec, evaluated: Evaluated) -> BaseModel:
    """Return *evaluated* as the protocol has it."""
    scores = [runs.Score(variant=str(one.variant), loss=one.loss, metrics=one.metrics) for one in evaluated.scores]
    value: BaseModel = runs.Evaluation(step=evaluated.step, scores=scores)
    return value
