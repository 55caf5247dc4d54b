"""What training has left behind, as the bus has journaled it: the adapters that came of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bus.sdk.client import Client
from bus.wire.codec import decode_body

_LIMIT = 10_000  # conversations; the broker keeps no more in memory


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
