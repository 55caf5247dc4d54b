"""The model card: ``README.md`` of an artifact in Hub form, so that who finds the folder knows what it is.

The text follows from the run alone: no date, no task and no path stand in it, so equal runs give equal artifacts.
Pure; knows no torch.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from training_service.event import Score

CARD = "README.md"

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""What the Hub takes as ``base_model``; a folder of this machine is nobody else's business."""

OWN = {
    "task_id",
    "owner_key",
    "base",
    "dataset",
    "evaluation",
    "adapter",
    "priority",
    "accept_warnings",
    "tensorboard",
    "checkpoint_every",
}
"""Fields of the order that the card leaves out: who asked, where things lie, and what changes no weight."""


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card tells.

    Attributes:
        base: As it was ordered; a name of the Hub is linked, a folder not named.
        metrics: Of the last step and of the evaluation, by name.
        merged_from: The adapter that was folded into its base, or None.
        scores: Of the variants on the held-out rows at the end, side by side; empty where none were held out.
    """

    kind: Literal["adapter", "model"]
    base: str
    base_sha256: str
    dataset_sha256: str
    order: Mapping[str, object]
    metrics: Mapping[str, float]
    versions: Mapping[str, str]
    merged_from: str | None = None
    scores: tuple[Score, ...] = ()


def order_facts(request: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of an order, as plain JSON, that decide what was learned."""
    return {name: value for name, value in request.items() if name not in OWN and value is not None}


def model_card(facts: CardFacts) -> str:
    """Return the text of the card."""
    linked = HUB_NAME.fullmatch(facts.base) is not None
    library = "peft" if facts.kind == "adapter" else "transformers"
    front: dict[str, object] = {"library_name": library, "pipeline_tag": "text-generation", "license": "unknown"}
    if linked:
        front["base_model"] = facts.base
    front["tags"] = [
        "palaver",
        *(["lora"] if facts.kind == "adapter" else []),
        str(facts.order.get("objective", "sft")),
    ]
    front["dataset_sha256"] = facts.dataset_sha256
    front["metrics"] = sorted(facts.metrics)
    base = f"[{facts.base}](https://huggingface.co/{facts.base})" if linked else "a base model"
    what = "A LoRA adapter for" if facts.kind == "adapter" else "A full set of weights, trained from"
    sections = [
        f"# {'Adapter' if facts.kind == 'adapter' else 'Model'}",
        f"{what} {base} (SHA-256 of its weights `{facts.base_sha256}`)."
        + (f"\nMade by folding the adapter {facts.merged_from} into its base." if facts.merged_from else ""),
        "## Use",
        _fence("python", _usage(facts)),
        "## How it was made",
        f"Trained on a dataset with SHA-256 `{facts.dataset_sha256}` by this order:",
        _fence("json", json.dumps(facts.order, sort_keys=True, indent=2, ensure_ascii=False)),
        "## Figures",
        _table(("figure", "value"), sorted((name, f"{value:.6g}") for name, value in facts.metrics.items())),
        *(["## Side by side", _side_by_side(facts.scores)] if facts.scores else []),
        "## Versions",
        _table(("library", "version"), sorted(facts.versions.items())),
    ]
    # JSON is YAML: no name can break out of its line.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=True)}" for key, value in sorted(front.items())]
    return "---\n" + "\n".join(lines) + "\n---\n\n" + "\n\n".join(sections) + "\n"


def _usage(facts: CardFacts) -> str:
    if facts.kind == "model":
        return (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")\n'
            'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")'
        )
    name = facts.base if HUB_NAME.fullmatch(facts.base) else "path/to/the/base"
    return (
        "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        f'base = AutoModelForCausalLM.from_pretrained("{name}", dtype="float32")\n'
        'model = PeftModel.from_pretrained(base, "path/to/this/folder")'
    )


def _side_by_side(scores: Sequence[Score]) -> str:
    names = sorted({name for one in scores for name in one.metrics})
    rows = [
        (
            str(one.variant),
            f"{one.loss:.6g}",
            *(f"{one.metrics[name]:.6g}" if name in one.metrics else "–" for name in names),
        )
        for one in scores
    ]
    return _table(("variant", "loss", *names), rows)


def _fence(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)
