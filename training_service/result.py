"""What a run leaves: an adapter or a full model, as an artifact that PEFT and transformers load as it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from pydantic import TypeAdapter, ValidationError

from training_service.adapters import Provenance
from training_service.artifact import ADAPTER_TYPE, MODEL_TYPE, canonical_json, publish, synced_file, verify
from training_service.bench import Bench
from training_service.card import CARD, CardFacts, model_card, order_facts
from training_service.checkpoint import library_versions
from training_service.errors import ArtifactDamaged, ExactnessBroken
from training_service.lora import AdapterHost
from training_service.model import Base
from training_service.record import RunRecord
from training_service.request import Artifact, Lora
from training_service.tensors import read_tensors, write_tensors

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True, slots=True)
class _AdapterConfig:
    r: int
    lora_alpha: int
    lora_dropout: float
    target_modules: tuple[str, ...]
    use_rslora: bool = False
    use_dora: bool = False


_CONFIG = TypeAdapter(_AdapterConfig)


def kind_of(bench: Bench) -> Literal["adapter", "model"]:
    """Return what comes of *bench*."""
    return "model" if bench.slot is None else "adapter"


def describe(bench: Bench, record: RunRecord, figures: Mapping[str, float], *, step: int) -> str:
    """Return the model card of the weights after *step*, with the *figures* that they reached."""
    facts = CardFacts(
        kind=kind_of(bench),
        base=record.request.base,
        base_sha256=bench.base.sha256,
        dataset_sha256=bench.dataset.sha256,
        order=order_facts(_plain(record)),
        metrics=dict(figures),
        versions=library_versions(),
        scores=next((one.scores for one in record.evaluations if one.step == step), ()),
    )
    return model_card(facts)


def provenance_of(bench: Bench, record: RunRecord, figures: Mapping[str, float]) -> Provenance:
    """Return where the result of *bench* comes from."""
    return Provenance(
        task_id=record.task_id,
        request=_plain(record),
        dataset_sha256=bench.dataset.sha256,
        seed=record.request.seed,
        metrics=dict(figures),
        versions=library_versions(),
        conversation_id=record.conversation_id,
    )


def _plain(record: RunRecord) -> dict[str, object]:
    return record.request.model_dump(mode="json", exclude={"owner_key"})


def publish_result(artifacts: Path, bench: Bench, *, card: str) -> Callable[[], Artifact]:
    """Return what puts that which *bench* has trained on disk, with its model *card*, and returns where.

    It may be called in another thread, while other adapters come to the base and go: what is the run's own is
    gathered before. It raises:

    - ``DiskFull``: There is no room.
    - ``ExactnessBroken``: A LoRA run changed its base, or the file is not what was trained. Nothing is published.
    """
    if bench.slot is None:
        return partial(publish, artifacts, MODEL_TYPE, lambda folder: write_model(folder, bench.base, card))
    base, host = bench.base, bench.slot.host
    own, config = host.parameters(bench.name), host.config(bench.name)

    def work() -> Artifact:
        if not base.is_unchanged:
            raise ExactnessBroken(f"expected base {base.name!r} to stay as it was, its weights have changed")
        return publish(artifacts, ADAPTER_TYPE, lambda folder: _write_adapter(folder, own, config, card))

    return work


def _write_adapter(folder: Path, own: Mapping[str, torch.Tensor], config: Mapping[str, object], card: str) -> None:
    _write_card(folder, card)
    write_tensors(folder / ADAPTER_WEIGHTS, own, metadata={"format": "pt"})
    with synced_file(folder / ADAPTER_CONFIG) as file:
        file.write(canonical_json(config))
    written = read_tensors(folder / ADAPTER_WEIGHTS)
    if written.keys() != own.keys() or not all(torch.equal(written[key], own[key].cpu()) for key in own):
        raise ExactnessBroken("expected the adapter's file to hold exactly its own tensors, got others")


def write_model(folder: Path, base: Base, card: str) -> None:
    """Write a full set of weights in float32 with its tokenizer and *card*, as transformers loads it."""
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    _write_card(folder, card)


def _write_card(folder: Path, card: str) -> None:
    with synced_file(folder / CARD) as file:
        file.write(card.encode())


def attach_adapter(host: AdapterHost, name: str, artifact: Artifact) -> None:
    """Attach the adapter in *artifact* to its base under the internal *name*.

    Raises:
        ArtifactDamaged: The files are not whole, or not an adapter of this base. Nothing is attached.
    """
    folder = verify(artifact)
    config = read_config(folder)
    host.attach(name, config, seed=0)
    try:
        host.load(name, read_tensors(folder / ADAPTER_WEIGHTS))
    except ArtifactDamaged:
        host.detach(name)
        raise


def read_config(folder: Path) -> Lora:
    """Return how the adapter in *folder* was made.

    Raises:
        ArtifactDamaged: Its ``adapter_config.json`` says something that this service does not make.
    """
    path = folder / ADAPTER_CONFIG
    try:
        facts = _CONFIG.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ArtifactDamaged(f"{path}: expected the configuration of a LoRA adapter, got: {error}") from error
    return Lora(
        rank=facts.r,
        alpha=facts.lora_alpha,
        dropout=facts.lora_dropout,
        targets=tuple(facts.target_modules),
        rslora=facts.use_rslora,
        dora=facts.use_dora,
    )
