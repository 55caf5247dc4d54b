"""Fold an adapter into a copy of its base: ``python -m training_service.merge``, a process of its own.

It takes one order as JSON on standard input and writes one answer on standard output, so that neither runs nor texts
wait for a model that is loaded and written. Nothing is registered before the merged weights have answered as base and
adapter together do.
"""

import json
import os
import sys
import warnings
from dataclasses import replace

import torch

from training_service.adapters import Adapter, Registry, internal_name
from training_service.artifact import MODEL_TYPE, publish
from training_service.card import CardFacts, model_card, order_facts
from training_service.checkpoint import library_versions
from training_service.errors import ExactnessBroken, RequestInvalid, TrainingError
from training_service.event import Json
from training_service.fault import typed
from training_service.lora import AdapterHost
from training_service.merge_order import MergeOrder, adapter_to_json, order_from_json
from training_service.model import Base, load_base, pick_device, resolve_base
from training_service.result import attach_adapter, write_model

TOLERANCE = 1e-4
"""Of the largest logit: the merged weights are rounded once where base and adapter are added up apart."""

PROMPTS, PROMPT_TOKENS = 4, 32
"""Random prompts that both must answer alike."""


def merge(order: MergeOrder) -> Adapter:
    """Fold *order*'s adapter into its base and register the model that comes of it.

    Raises:
        RequestInvalid: It is a model already, or its base has changed.
        ExactnessBroken: The merged model does not answer as base and adapter do. Nothing is registered.
    """
    registry = Registry(order.state / "adapters")
    adapter = registry.find(order.adapter)
    if adapter.kind != "adapter":
        raise RequestInvalid(f"expected an adapter, got {adapter.label}, which is a model: there is nothing to merge")
    folder = resolve_base(
        adapter.base, models_dir=order.models, allow_hub=order.allow_hub, roots=(*order.roots, order.state)
    )
    base = load_base(folder, name=adapter.base, device=pick_device())
    if base.sha256 != adapter.base_sha256:
        raise RequestInvalid(
            f"expected the base that {adapter.label} was trained on, {adapter.base!r} has changed since"
        )
    host, name = AdapterHost(base), internal_name("merge", adapter.artifact.sha256)
    attach_adapter(host, name, adapter.artifact)
    fold(host, name)
    source = adapter.provenance
    versions = library_versions()
    card = CardFacts(
        kind="model",
        base=adapter.base,
        base_sha256=adapter.base_sha256,
        dataset_sha256=source.dataset_sha256,
        order=order_facts(source.request),
        metrics=source.metrics,
        versions=versions,
        merged_from=adapter.label,
    )
    artifact = publish(order.state / "artifacts", MODEL_TYPE, lambda work: write_model(work, base, model_card(card)))
    return registry.register(
        order.name,
        kind="model",
        artifact=artifact,
        base=adapter.base,
        base_sha256=adapter.base_sha256,
        provenance=replace(source, versions=versions, merged_from=adapter.label),
    )


def fold(host: AdapterHost, name: str) -> None:
    """Add adapter *name* to the weights of its host's base, which must be a private copy, and take it off.

    Raises:
        ExactnessBroken: The logits are others than before.
    """
    base = host.base
    host.activate(name)
    before = _logits(base)
    host.merge(name)
    check_alike(before, _logits(base))


def check_alike(before: torch.Tensor, after: torch.Tensor) -> None:
    """See that two answers to the same prompts, logits of one shape, are alike.

    Raises:
        ExactnessBroken: They are more than ``TOLERANCE`` of the largest apart, or not finite.
    """
    apart = (after - before).abs().max().item() / before.abs().max().item()
    if not apart <= TOLERANCE:
        raise ExactnessBroken(f"expected the merged model to answer as its adapter does, got logits {apart:.1e} apart")


@torch.inference_mode()
def _logits(base: Base) -> torch.Tensor:
    chance = torch.Generator().manual_seed(0)
    vocabulary = base.model.get_input_embeddings().weight.shape[0]
    tokens = torch.randint(vocabulary, (PROMPTS, min(PROMPT_TOKENS, base.max_tokens)), generator=chance)  # (B, T)
    base.model.eval()
    logits: torch.Tensor = base.model(input_ids=tokens.to(base.device), use_cache=False).logits.float()  # (B, T, V)
    return logits


def answer(text: str) -> Json:
    """Carry out the order in *text* and return the adapter as plain data, or the error with its code."""
    try:
        return {"adapter": adapter_to_json(merge(order_from_json(text)))}
    except Exception as error:  # the border of the process
        fault = typed(error)
        if type(fault) is TrainingError:
            raise
        return {"error": {"code": fault.code, "detail": str(fault)}}


def main() -> None:
    """Answer one order."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is a log
    warnings.simplefilter("ignore")
    out.write(json.dumps(answer(sys.stdin.read())))
    out.close()


if __name__ == "__main__":
    main()
