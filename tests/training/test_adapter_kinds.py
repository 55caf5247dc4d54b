"""The shapes of adapters: each begins as no change, is its own, and answers alike where PEFT loads it."""

import math
from pathlib import Path

import pytest
import torch
from colors import CPU
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
)

from training_service.artifact import canonical_json
from training_service.data import Dataset
from training_service.errors import RequestInvalid
from training_service.lora import AdapterHost
from training_service.model import Base, hash_tensors, load_base
from training_service.plan import Plan
from training_service.request import Lora
from training_service.result import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_config
from training_service.steps import Steps
from training_service.tensors import write_tensors

KINDS = {
    "rslora": Lora(rank=4, alpha=8, rslora=True),
    "dora": Lora(rank=4, alpha=8, dora=True),
    "gaussian": Lora(rank=4, alpha=8, init="gaussian"),
    "orthogonal": Lora(rank=4, alpha=8, init="orthogonal"),
    "some targets": Lora(rank=4, alpha=8, targets=("q_proj", "mlp.down_proj"), dora=True, rslora=True),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_fresh_adapter_of_any_kind_changes_no_answer_and_leaves_nothing_behind(
    kind: str, dtype: torch.dtype, tiny: Path
) -> None:
    base = load_base(tiny, name="tiny", device=CPU, dtype=dtype)
    host, tokens = AdapterHost(base), torch.tensor([[2, 7, 8, 9, 20, 30]])
    with torch.no_grad():
        before = base.model(input_ids=tokens).logits
        host.attach("a1", KINDS[kind], seed=0)
        host.activate("a1")
        active = base.model(input_ids=tokens).logits
        host.detach("a1")
        after = base.model(input_ids=tokens).logits

    if KINDS[kind].init == "orthogonal":  # B · A is nought but for rounding
        assert torch.allclose(active.float(), before.float(), atol=1e-6 if dtype == torch.float32 else 5e-2)
    else:
        assert torch.equal(active, before)
    assert torch.equal(after, before)
    assert base.is_unchanged
    assert not host.parameters("a1")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks for it
@pytest.mark.parametrize("kind", KINDS)
def test_trained_adapter_of_any_kind_answers_alike_where_plain_peft_loads_it(
    kind: str, tiny: Path, base: Base, dataset: Dataset, tmp_path: Path
) -> None:
    host, lora = AdapterHost(base), KINDS[kind]
    host.attach("b2", Lora(rank=2, dora=True), seed=3)
    parameters = host.attach("a1", lora, seed=0)
    host.activate("a1")
    plan = Plan(2, 8, learning_rate=1e-2, weight_decay=0.0, seed=2)
    list(Steps(base.model, parameters, dataset.usable, plan, pad_id=0))
    write_tensors(tmp_path / ADAPTER_WEIGHTS, parameters, metadata={"format": "pt"})
    (tmp_path / ADAPTER_CONFIG).write_bytes(canonical_json(host.config("a1")))
    tokens = torch.tensor([[2, 7, 8, 9, 20, 30]])

    plain = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(plain, str(tmp_path)).eval()

    with torch.no_grad():
        ours = base.model.eval()(input_ids=tokens).logits
        assert torch.allclose(theirs(input_ids=tokens).logits, ours, atol=1e-6)
    restored = read_config(tmp_path)
    assert (restored.rslora, restored.dora, restored.rank) == (lora.rslora, lora.dora, lora.rank)
    twin = host.attach("c3", restored, seed=9)
    host.load("c3", {name: one.detach() for name, one in parameters.items()})
    assert hash_tensors(twin) == hash_tensors(parameters)
    assert any("lora_magnitude_vector" in name for name in twin) == lora.dora


def test_rank_stabilized_adapter_is_scaled_by_the_root_of_its_rank(base: Base) -> None:
    host = AdapterHost(base)
    host.attach("a1", Lora(rank=16, alpha=8, rslora=True), seed=0)

    scales = {layer.scaling["a1"] for _, layer in host._layers}

    assert scales == {8 / math.sqrt(16)}


@pytest.mark.parametrize("init", ["pissa", "olora", "corda", "loftq", "eva"])
def test_beginning_that_would_change_the_shared_base_is_refused(init: str, base: Base) -> None:
    host = AdapterHost(base)

    with pytest.raises(RequestInvalid, match=rf"lora\.init.*{init}.*leave it out"):
        host.attach("a1", Lora(rank=4, init=init), seed=0)  # type: ignore[arg-type]  # one of the literals

    assert base.is_unchanged
    assert not host.parameters("a1")


@pytest.mark.parametrize("lora", [Lora(rank=3, init="orthogonal"), Lora(targets=("lm_head",)), Lora(targets=("q",))])
def test_adapter_that_cannot_be_made_is_refused_with_what_can(lora: Lora, base: Base) -> None:
    host = AdapterHost(base)

    with pytest.raises(RequestInvalid, match=r"lora\.(init|targets): expected"):
        host.attach("a1", lora, seed=0)

    assert not host.parameters("a1")


def test_all_linear_leaves_out_a_head_of_its_own(tiny_llama: Path) -> None:
    host = AdapterHost(load_base(tiny_llama, name="llama", device=CPU))

    parameters = host.attach("a1", Lora(rank=2), seed=0)

    assert len(parameters) == 2 * 2 * 7  # layers, matrices, linear layers of each
    assert not any("lm_head" in name for name in parameters)
