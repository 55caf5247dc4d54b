"""How a conversation follows its run: through deaths of the child, and without telling its client anything twice."""

from collections.abc import AsyncIterator, MutableMapping
from dataclasses import replace
from typing import Any

from training_service.errors import Lost
from training_service.event import Checkpoint, Evaluated, Failed, RunEvent, Started, Suspended
from training_service.worker import Worker

MOST_DEATHS = 3
"""Deaths of the child without a new checkpoint between, after which a run fails: it may be what kills the child."""


async def carry_out(worker: Worker, task_id: str) -> AsyncIterator[RunEvent]:
    """Start or re-attach to the run of *task_id* and follow it to its end, however often the child is killed.

    A run that was paused is not woken. The last event is one of ``RUN_ENDS``.

    Raises:
        TrainingError: There is no such run, or the service is being stopped.
    """
    n_deaths = 0
    while True:
        async for event in worker.run(task_id, resumes=False):
            if isinstance(event, Failed) and event.code == Lost.code:
                n_deaths += 1
                if n_deaths < MOST_DEATHS:
                    break
                event = replace(event, detail=f"{event.detail}; it has died {n_deaths} times under this run")
                await worker.give_up(task_id, event.detail)
            if isinstance(event, Checkpoint):
                n_deaths = 0
            yield event
        else:
            return


def is_news(told: MutableMapping[str, Any], event: RunEvent) -> bool:
    """Return whether *event* is still to be told, and note in *told* that it was.

    A run that goes on from a checkpoint reports again what it did after it; a handler that is begun again attaches
    to a run that started long ago.

    Args:
        told: Kept with the conversation: JSON.
    """
    match event:
        case Checkpoint():
            return _is_later(told, "checkpoint", event.metrics.step)
        case Evaluated():
            return _is_later(told, "evaluated", event.step)
        case Started():
            is_first = told.get("stand") != "started"
            told["stand"] = "started"
            return is_first
        case Suspended():
            is_first = told.get("stand") != f"suspended by {event.reason}"
            told["stand"] = f"suspended by {event.reason}"
            return is_first
        case _:
            return True


def _is_later(told: MutableMapping[str, Any], what: str, step: int) -> bool:
    if step <= int(told.get(what, -1)):
        return False
    told[what] = step
    return True
