"""What training has left behind, as the bus has journaled it: runs and the adapters that came of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bus.sdk.client import Client
from bus.wire.codec import decode_body

_LIMIT = 10_000  # conversations; the broker keeps no more in memory


@dataclass(frozen=True, slots=True)
class Run:
    """One delegated training run, from its journaled messages; progress is not journaled.

    Attributes:
        state: ``quoted``, ``queued``, ``running`` or ``paused`` while it lives, then its outcome.
        step: Of the newest checkpoint, evaluation or result.
    """

    conversation: str
    task_id: str
    state: str
    base: str
    method: str
    client: str
    of_steps: int | None = None
    step: int | None = None
    loss: float | None = None
    adapter: str | None = None

    def as_json(self) -> dict[str, object]:
        """Return the run as plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter that a run has registered.

    Attributes:
        name: As ``generate`` takes it, with its version.
    """

    name: str
    base: str
    method: str
    uri: str
    sha256: str
    loss: float
    conversation: str

    def as_json(self) -> dict[str, object]:
        """Return the adapter as plain values."""
        return asdict(self)


# The newest of these tells where a run stands that has not ended.
_STATE_AFTER = {
    "TrainRequest": "requested",
    "Quote": "quoted",
    "Accept": "accepted",
    "Queued": "queued",
    "Started": "running",
    "Checkpoint": "running",
    "Evaluated": "running",
    "Pause": "pausing",
    "Paused": "paused",
    "Resume": "resuming",
    "Cancel": "canceling",
}


async def list_runs(client: Client) -> list[Run]:
    """Return every training run that the broker knows, the newest last."""
    found = [read_run(one, entries) for one, entries in await _transcripts(client)]
    return [run for run in found if run is not None]


async def list_adapters(client: Client) -> list[Adapter]:
    """Return every adapter of a run that the broker knows, the newest last."""
    found = [read_adapter(one, entries) for one, entries in await _transcripts(client)]
    return [adapter for adapter in found if adapter is not None]


async def _transcripts(client: Client) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    known = await client.conversations(limit=_LIMIT)
    return [
        (one, await client.transcript(one["conversation"])) for one in known if one["protocol"].startswith("training@")
    ]


def _bodies(entries: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [(one["type"], decode_body(one["body"])) for one in entries if one["kind"] == "message"]


def read_adapter(conversation: dict[str, Any], entries: Sequence[dict[str, Any]]) -> Adapter | None:
    """Return the adapter that a conversation's transcript tells of, or None where none came of it."""
    newest = dict(_bodies(entries))
    request, trained = newest.get("TrainRequest"), newest.get("Trained")
    if request is None or trained is None or not trained.get("adapter"):
        return None
    return Adapter(
        name=trained["adapter"],
        base=request["base"],
        method=request["method"],
        uri=trained["artifact"]["uri"],
        sha256=trained["artifact"]["sha256"],
        loss=trained["metrics"]["loss"],
        conversation=conversation["conversation"].hex(),
    )


def read_run(conversation: dict[str, Any], entries: Sequence[dict[str, Any]]) -> Run | None:
    """Return the run that a conversation's transcript tells of, or None where nothing was requested yet."""
    bodies = _bodies(entries)
    newest: dict[str, dict[str, Any]] = dict(bodies)
    request = newest.get("TrainRequest")
    if request is None:
        return None
    state = "requested"
    step: int | None = None
    loss: float | None = None
    for type, body in bodies:
        state = _STATE_AFTER.get(type, state)
        metrics = body.get("metrics") if type in ("Checkpoint", "Trained") else None
        if isinstance(metrics, dict):
            step, loss = metrics.get("step"), metrics.get("loss")
    return Run(
        conversation=conversation["conversation"].hex(),
        task_id=request["task_id"],
        state=conversation["outcome"] or state,
        base=request["base"],
        method=request["method"],
        client=conversation["opener"] or "",
        of_steps=newest.get("Quote", {}).get("steps"),
        step=step,
        loss=loss,
        adapter=newest.get("Trained", {}).get("adapter"),
    )
