"""The loss in chunks and rows in lines: what saves memory and time changes no number."""

from pathlib import Path
from typing import Any

import pytest
import torch
from colors import CPU, NewRequest
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from training_service.data import Dataset, Example
from training_service.desk import Desk
from training_service.errors import RequestInvalid
from training_service.event import Prepared, Refused
from training_service.loss import Batch, check_head, collate, loss_sum, token_losses
from training_service.model import free_all, load_base
from training_service.packing import check_packing, put_together
from training_service.plan import Plan
from training_service.run import Places
from training_service.slots import Slots
from training_service.steps import Steps

SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def random_model(kind: str) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        match kind:
            case "gemma3":  # a window smaller than the rows, and a layer without one
                layers = ["sliding_attention", "full_attention"]
                config = Gemma3TextConfig(**SMALL, head_dim=16, sliding_window=5, layer_types=layers)
                return Gemma3ForCausalLM(config).float()
            case "capped":
                config = Gemma3TextConfig(**SMALL, head_dim=16, final_logit_softcapping=0.5)
                return Gemma3ForCausalLM(config).float()
            case "scaled":
                return CohereForCausalLM(CohereConfig(**SMALL, logit_scale=0.3)).float()
            case "bloom":  # ALiBi: positions mean nothing to it
                return BloomForCausalLM(BloomConfig(vocab_size=300, hidden_size=32, n_layer=2, n_head=2)).float()
            case "grouped":
                return LlamaForCausalLM(LlamaConfig(**SMALL | {"num_key_value_heads": 1})).float()
            case _:
                return LlamaForCausalLM(LlamaConfig(**SMALL)).float()


def random_rows(*lengths: int) -> list[Example]:
    chance = torch.Generator().manual_seed(0)
    rows = [torch.randint(6, 300, (length,), generator=chance).tolist() for length in lengths]
    return [Example(tuple(row), (False, False) + (True,) * (len(row) - 2)) for row in rows]


def gradients(model: PreTrainedModel, batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    model.requires_grad_(True).zero_grad()
    loss = loss_sum(model, batch) / len(batch.targets)
    torch.autograd.backward(loss)
    return loss.item(), {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def far_apart(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


# ── The head ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["llama", "capped", "scaled"])
@pytest.mark.parametrize("has_bias", [False, True])
def test_loss_in_chunks_equals_plain_cross_entropy_with_its_gradients(
    kind: str, has_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(kind)
    if has_bias:
        model.get_output_embeddings().bias = torch.nn.Parameter(torch.linspace(-1, 1, 300))
    tokens = torch.tensor([row.tokens for row in random_rows(40, 40, 40)])
    batch = Batch(tokens, torch.ones_like(tokens), torch.ones((3, 39), dtype=torch.bool))
    model.requires_grad_(True)
    logits = model(input_ids=tokens).logits[:, :-1].flatten(0, 1)
    plain = cross_entropy(logits, batch.targets)
    torch.autograd.backward(plain)
    expected = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    monkeypatch.setattr("training_service.loss.LARGE", 1)
    monkeypatch.setattr("training_service.loss.CHUNK", 300 * 16)

    loss, found = gradients(model, batch)
    each = token_losses(model, batch)

    assert loss == pytest.approx(plain.item(), abs=1e-6)
    assert far_apart(found, expected) <= 1e-6
    assert each.mean().item() == pytest.approx(plain.item(), abs=1e-6)
    assert any(name.startswith("lm_head") or "embed" in name for name in found)


def test_frozen_head_gets_no_gradient_and_passes_the_same_one_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training_service.loss.LARGE", 1)
    batch = collate(random_rows(20, 12), pad_id=0, device=CPU)
    _, expected = gradients(random_model("llama"), batch)
    model = random_model("llama").requires_grad_(True)
    model.get_output_embeddings().requires_grad_(False)

    torch.autograd.backward(loss_sum(model, batch) / len(batch.targets))

    found = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    assert expected.keys() - found.keys() == {"lm_head.weight"}
    assert all(torch.allclose(found[name], expected[name], atol=1e-7) for name in found)


class Largest(TorchDispatchMode):
    """Notes the most logits in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.n_logits = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        found = function(*arguments, **(named or {}))
        is_logits = isinstance(found, torch.Tensor) and found.shape[1:] == (SMALL["vocab_size"],)
        if is_logits and found.shape[0] != SMALL["hidden_size"]:  # else the head's weights, turned
            self.n_logits = max(self.n_logits, found.numel())
        return found


@pytest.mark.parametrize("kind", ["llama", "capped"])
def test_no_more_logits_exist_at_once_than_a_chunk_holds(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training_service.loss.LARGE", 300 * 16)
    monkeypatch.setattr("training_service.loss.CHUNK", 300 * 4)
    model, batch = random_model(kind), collate(random_rows(40, 40), pad_id=0, device=CPU)
    with Largest() as largest:
        gradients(model, batch)
    with Largest() as with_recomputation:
        torch.autograd.backward(token_losses(model, batch).sum())

    assert largest.n_logits == 300 * 4
    assert with_recomputation.n_logits == 300 * 16


def test_head_that_does_more_than_is_known_is_refused() -> None:
    model, (row,) = random_model("llama"), random_rows(9)
    check_head(model, row)
    plain = model.get_output_embeddings()
    model.forward = lambda **inputs: _with_other_logits(type(model).forward(model, **inputs))

    with pytest.raises(RequestInvalid, match="take another base"):
        check_head(model, row)

    assert model.get_output_embeddings() is plain


def _with_other_logits(output: object) -> object:
    output.logits = output.logits * 2  # type: ignore[attr-defined]  # what a scale unknown to us would do
    return output


# ── Packing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["gemma3", "llama", "grouped"])
def test_packed_rows_give_the_loss_and_gradients_of_padded_ones(kind: str) -> None:
    rows = random_rows(24, 9, 7, 15, 3, 20, 4)
    padded = put_together(rows, packing=False, pad_id=0, device=CPU)
    packed = put_together(rows, packing=True, pad_id=0, device=CPU)

    expected, expected_gradients = gradients(random_model(kind), padded)
    loss, found = gradients(random_model(kind), packed)

    assert loss == pytest.approx(expected, abs=1e-6)
    assert far_apart(found, expected_gradients) <= 1e-6
    assert packed.tokens.shape == (1, sum(len(row.tokens) for row in rows))


def test_packed_run_takes_the_steps_of_a_padded_one(tiny: Path, dataset: Dataset) -> None:
    losses = []
    for packing in (False, True):
        base = load_base(tiny, name="tiny", device=CPU)
        plan = Plan(3, 6, learning_rate=1e-3, weight_decay=0.0, seed=2, packing=packing)
        losses.append([one.loss for one in Steps(base.model, free_all(base), dataset.usable, plan, pad_id=0)])

    assert losses[1] == pytest.approx(losses[0], abs=1e-6)


def test_packed_rows_that_are_computed_again_give_the_same_steps_to_the_bit(tiny: Path, dataset: Dataset) -> None:
    weights = []
    for again in (False, True):
        base = load_base(tiny, name="tiny", device=CPU)
        plan = Plan(2, 6, learning_rate=1e-3, weight_decay=0.0, seed=2, packing=True, gradient_checkpointing=again)
        list(Steps(base.model, free_all(base), dataset.usable, plan, pad_id=0))
        weights.append(base.weights)

    assert all(torch.equal(one, weights[1][name]) for name, one in weights[0].items())


@pytest.mark.parametrize("kind", ["gemma3", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_model_that_keeps_packed_rows_apart_is_found_to(kind: str, dtype: torch.dtype) -> None:
    check_packing(random_model(kind).to(dtype), random_rows(12, 30, 7), pad_id=0, device=CPU)


def test_base_attends_as_before_once_rows_are_done() -> None:
    model, rows = random_model("gemma3"), random_rows(9, 5)
    before = model.config._attn_implementation
    padded = token_losses(model, collate(rows, pad_id=0, device=CPU))

    token_losses(model, put_together(rows, packing=True, pad_id=0, device=CPU))

    assert model.config._attn_implementation == before
    assert torch.equal(token_losses(model, collate(rows, pad_id=0, device=CPU)), padded)


def test_window_that_the_attention_is_not_told_of_is_found_by_the_longest_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training_service.packing.TOKENS_CHECKED", 4)  # fewer than the window holds
    model = random_model("gemma3")
    check_packing(model, random_rows(12, 30), pad_id=0, device=CPU)
    for layer in model.model.layers:
        layer.self_attn.sliding_window = None

    with pytest.raises(RequestInvalid, match="off the one without packing"):
        check_packing(model, random_rows(12, 30), pad_id=0, device=CPU)


def test_packing_is_refused_where_rows_would_see_each_other() -> None:
    with pytest.raises(RequestInvalid, match="packing: false"):
        check_packing(random_model("bloom"), random_rows(12, 30, 7, 20), pad_id=0, device=CPU)


def test_order_for_packing_on_a_base_that_cannot_is_refused_before_it_starts(
    tiny: Path, new_request: NewRequest, slots: Slots, places: Places, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    config = BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=1, n_head=2)
    BloomForCausalLM(config).save_pretrained(tmp_path / "bloom")
    tokenizer.save_pretrained(tmp_path / "bloom")
    desk = Desk(slots, places, device=CPU, report=lambda report: None)
    base = str(tmp_path / "bloom")

    refused = desk.prepare(new_request("packed", base=base, packing=True), None)
    prepared = desk.prepare(new_request("padded", base=base), None)

    assert isinstance(refused, Refused)
    assert (refused.code, "write packing: false" in refused.detail) == ("bad-request", True)
    assert isinstance(prepared, Prepared)
