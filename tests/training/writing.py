"""Texts as the child writes them, and random adapters to write them with: what the tests of texts share."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from colors import CPU

from training_service.adapters import Provenance
from training_service.artifact import ADAPTER_TYPE, canonical_json, publish
from training_service.event import Generated, GenerateFailed, GenerateRequest, Piece, Report, TokenLogprob
from training_service.lora import AdapterHost
from training_service.model import load_base
from training_service.request import Lora
from training_service.result import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from training_service.run import Places
from training_service.slots import Slots
from training_service.tensors import write_tensors
from training_service.texts import Texts

CHAT = ({"role": "user", "content": "What color has the sky?"},)
HOT = 6.0
"""A temperature at which the tiny bases, who are sure of everything, write something else each time."""

LONG = ({"role": "user", "content": "What color has the sky? " * 12},)


class Writing:
    """Texts that are written side by side, and what they said."""

    def __init__(self, slots: Slots, places: Places) -> None:
        self.said: list[Report] = []
        self.texts = Texts(slots, places.registry, report=self.said.append)

    def begin(self, base: Path | None, request_id: str = "g", **changes: object) -> None:
        fields: dict[str, object] = {"messages": CHAT, "max_tokens": 24, **changes}
        self.texts.begin(GenerateRequest(request_id, None if base is None else str(base), **fields))  # type: ignore[arg-type]

    def work(self, n_passes: int = 10_000) -> "Writing":
        for _ in range(n_passes):
            if not self.texts.is_empty:
                self.texts.write()
        return self

    def pieces(self, request_id: str = "g") -> list[str]:
        return [one.text for one in self.said if isinstance(one, Piece) and one.request_id == request_id]

    def end(self, request_id: str = "g") -> Generated:
        (end,) = [one for one in self.said if isinstance(one, Generated) and one.request_id == request_id]
        return end

    def failures(self) -> list[str]:
        return [one.request_id for one in self.said if isinstance(one, GenerateFailed)]

    def logprobs(self, request_id: str = "g") -> list[TokenLogprob]:
        spoken = [one for one in self.said if isinstance(one, Piece | Generated) and one.request_id == request_id]
        return [entry for one in spoken for entry in one.logprobs]


def add_adapter(places: Places, base: Path, name: str, *, seed: int = 0, **order: object) -> str:
    """Register an adapter of random weights, strong enough to change what is written, and return its label."""
    loaded = load_base(base, name=str(base), device=CPU)
    host = AdapterHost(loaded)
    parameters = host.attach("a1", Lora(rank=4, **order), seed=seed)  # type: ignore[arg-type]
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, one in parameters.items():
            if "lora_B" in key:
                one.copy_(torch.randn(one.shape, generator=noise))

    def fill(folder: Path) -> None:
        write_tensors(folder / ADAPTER_WEIGHTS, host.parameters("a1"), metadata={"format": "pt"})
        (folder / ADAPTER_CONFIG).write_bytes(canonical_json(host.config("a1")))

    source = Provenance("task", {"method": "lora"}, "2" * 64, seed, {}, {})
    adapter = places.registry.register(
        name,
        kind="adapter",
        artifact=publish(places.artifacts, ADAPTER_TYPE, fill),
        base=str(base),
        base_sha256=loaded.sha256,
        provenance=source,
    )
    return adapter.label


def close_to(found: Iterable[TokenLogprob], expected: Iterable[TokenLogprob]) -> bool:
    """Whether both name the same tokens with log probabilities within 1e-4, those of the likeliest included."""
    return all(
        one.token == other.token and values_of(one) == pytest.approx(values_of(other), abs=1e-4, rel=0)
        for one, other in zip(found, expected, strict=True)
    )


def values_of(entry: TokenLogprob) -> list[float]:
    return [entry.logprob, *(one.logprob for one in entry.top)]
