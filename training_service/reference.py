"""What still needs a result or a name: nothing is deleted from under a run, and its name means nothing else."""

from pathlib import Path

from training_service.adapters import Adapter
from training_service.errors import InUse
from training_service.record import RunState, all_records

OVER = frozenset({RunState.TRAINED, RunState.CANCELED, RunState.FAILED})
"""A run in another state still needs its base."""


def check_unused(adapter: Adapter, runs: Path) -> None:
    """See that no run that is not over begins from *adapter*.

    Raises:
        InUse: One does.
    """
    for record in all_records(runs):
        if record.state not in OVER and record.request.base in (str(adapter.artifact.path), adapter.artifact.uri):
            raise InUse(
                f"expected a version that no run needs, got {adapter.label}: run {record.task_id} begins from it"
            )


def check_unclaimed(alias: str, runs: Path) -> None:
    """See that no run that is not over will give its result the name *alias*.

    Raises:
        InUse: One will.
    """
    for record in all_records(runs):
        if record.state not in OVER and record.request.adapter == alias:
            raise InUse(
                f"expected a word that no run needs, got {alias!r}: the result of run {record.task_id} will have it; "
                "take another"
            )
