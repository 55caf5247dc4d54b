"""What an order may ask of its steps: precision, freezing, the plan."""

from functools import partial
from pathlib import Path

import pytest
import torch
from colors import CPU, NewRequest
from transformers import (
    AutoModelForCausalLM,
)

from training_service.data import Dataset
from training_service.errors import RequestInvalid
from training_service.lora import AdapterHost
from training_service.model import Base, free_all, hash_tensors, load_base
from training_service.plan import Plan, plan_of
from training_service.request import Dpo, Lora, parse_request
from training_service.steps import Steps

# ── Precision ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_base_in_bfloat16_is_the_one_that_transformers_loads_and_has_the_name_of_its_float32_twin(
    tiny: Path, base: Base
) -> None:
    half = load_base(tiny, name="tiny", device=CPU, dtype=torch.bfloat16)
    theirs = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16).eval()
    tokens = torch.tensor([[2, 7, 8, 9, 20, 30]])

    with torch.no_grad():
        assert torch.equal(half.model(input_ids=tokens).logits, theirs(input_ids=tokens).logits)
    assert half.sha256 == base.sha256
    assert half.resident_sha256 != half.sha256
    assert half.is_unchanged
    half.weights["model.norm.weight"].data[0] += 1
    assert not half.is_unchanged


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_bfloat16_run_trains_float32_weights_and_comes_near_the_float32_loss(
    method: str, tiny: Path, dataset: Dataset
) -> None:
    losses = {}
    for name in ("float32", "bfloat16"):
        dtype = torch.bfloat16 if name == "bfloat16" and method == "lora" else torch.float32
        base = load_base(tiny, name="tiny", device=CPU, dtype=dtype)
        host = AdapterHost(base)
        parameters = free_all(base) if method == "full" else host.attach("a1", Lora(rank=4), seed=0)
        host.activate("a1")
        plan = Plan(6, 8, learning_rate=1e-3, weight_decay=0.0, seed=2, dtype=name)  # type: ignore[arg-type]
        steps = Steps(base.model, parameters, dataset.usable, plan, pad_id=0)
        before = {name: one.detach().clone() for name, one in parameters.items()}
        losses[name] = [one.loss for one in steps]

        assert all(one.dtype == torch.float32 for one in parameters.values())
        assert all(not torch.equal(one, before[key]) for key, one in parameters.items() if "lora_A" not in key)

    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["bfloat16"] != losses["float32"]


# ── What is trained ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_frozen_parameters_stay_and_the_others_all_move(base: Base, dataset: Dataset) -> None:
    before = {name: one.clone() for name, one in base.weights.items()}
    plan = Plan(2, 8, learning_rate=1e-3, weight_decay=0.0, seed=2)
    parameters = free_all(base, freeze=("*.layers.0.*", "model.norm.weight"))

    list(Steps(base.model, parameters, dataset.usable, plan, pad_id=0))

    same = {name for name, one in base.weights.items() if torch.equal(one, before[name])}
    assert same == {name for name in base.weights if ".layers.0." in name or name == "model.norm.weight"}
    assert same.isdisjoint(parameters)


def test_frozen_modules_get_no_part_of_the_adapter(base: Base) -> None:
    host = AdapterHost(base)

    parameters = host.attach("a1", Lora(rank=2), seed=0, freeze=("*.layers.0.*", "*.mlp.*"))

    parts = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in parameters}
    assert parts == {f"model.layers.1.self_attn.{part}_proj" for part in "qkvo"}
    assert host.config("a1")["target_modules"] == sorted(parts)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(("pattern", "told"), [("*.layer.*", "matches none"), ("*", "something left to train")])
def test_patterns_that_freeze_nothing_or_all_are_refused(method: str, pattern: str, told: str, base: Base) -> None:
    host = AdapterHost(base)
    prepare = partial(free_all, base) if method == "full" else partial(host.attach, "a1", Lora(rank=2), seed=0)

    with pytest.raises(RequestInvalid, match=f"freeze: .*{told}"):
        prepare(freeze=(pattern,))

    assert not host.parameters("a1")


# ── The plan ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_plan_takes_over_all_that_the_order_says_of_steps(new_request: NewRequest) -> None:
    order = {
        "schedule": "cosine", "warmup_steps": 3, "max_norm": 0.0, "micro_rows": 2, "packing": True,
        "gradient_checkpointing": True, "dtype": "bfloat16", "objective": "dpo", "dpo": {"beta": 0.3},
    }  # fmt: skip
    request = new_request(**order)

    plan = plan_of(request, 24)

    assert plan == Plan(6, 4, 1e-2, 0.0, 0, "cosine", 3, 0.0, 2, True, True, "bfloat16", Dpo(beta=0.3))
    assert plan_of(parse_request(request.model_dump() | {"max_steps": None, "epochs": 2.0}), 9).steps == 6


def test_norm_is_told_before_it_is_cut_and_zero_cuts_nothing(tiny: Path, dataset: Dataset) -> None:
    weights, norms = {}, {}
    for max_norm in (0.0, 1e9, 1e-3):
        base = load_base(tiny, name="tiny", device=CPU)
        plan = Plan(2, 8, 1e-3, 0.0, seed=2, max_norm=max_norm)
        norms[max_norm] = [
            one.gradient_norm for one in Steps(base.model, free_all(base), dataset.usable, plan, pad_id=0)
        ]
        weights[max_norm] = hash_tensors(base.weights)

    assert norms[0.0] == norms[1e9]
    assert norms[0.0][0] == norms[1e-3][0]
    assert weights[0.0] == weights[1e9] != weights[1e-3]
