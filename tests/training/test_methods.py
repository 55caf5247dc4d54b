"""What an order may ask of its steps: packing, precision, freezing, the shapes of adapters, preferences."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from colors import CPU, NewRequest, color_pairs
from peft import PeftModel
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
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

from training_service.artifact import canonical_json
from training_service.bench import Bench
from training_service.data import Dataset, Example
from training_service.desk import Desk
from training_service.errors import DataError, RequestInvalid
from training_service.event import Prepared, Refused
from training_service.lora import AdapterHost
from training_service.loss import Batch, check_head, collate, loss_sum, token_losses
from training_service.model import Base, free_all, hash_tensors, load_base
from training_service.packing import check_packing, fill_lines, put_together
from training_service.plan import Plan, plan_of
from training_service.preference import dpo_loss
from training_service.request import Dpo, Lora, parse_request
from training_service.result import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_config
from training_service.run import Places
from training_service.slots import Slots
from training_service.steps import Steps
from training_service.tensors import write_tensors

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


# ── The head ─────────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── Packing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["gemma3", "llama"])
def test_packed_rows_give_the_loss_and_gradients_of_padded_ones(kind: str) -> None:
    rows = random_rows(24, 9, 7, 15, 3, 20, 4)
    padded, in_order = put_together(rows, packing=False, pad_id=0, device=CPU)
    packed, order = put_together(rows, packing=True, pad_id=0, device=CPU)

    expected, expected_gradients = gradients(random_model(kind), padded)
    loss, found = gradients(random_model(kind), packed)

    assert loss == pytest.approx(expected, abs=1e-6)
    assert far_apart(found, expected_gradients) <= 1e-6
    assert packed.tokens.numel() < padded.tokens.numel() / 1.5
    assert sorted(order) == in_order


def test_packed_run_takes_the_steps_of_a_padded_one(tiny: Path, dataset: Dataset) -> None:
    losses = []
    for packing in (False, True):
        base = load_base(tiny, name="tiny", device=CPU)
        plan = Plan(3, 6, learning_rate=1e-3, weight_decay=0.0, seed=2, packing=packing)
        losses.append([one.loss for one in Steps(base.model, free_all(base), dataset.usable, plan, pad_id=0)])

    assert losses[1] == pytest.approx(losses[0], abs=1e-6)


def test_lines_hold_every_row_once_and_none_is_longer_than_the_longest_row() -> None:
    rows = random_rows(24, 9, 7, 15, 3, 20, 4)

    lines = fill_lines(rows)

    assert sorted(index for line in lines for index in line) == list(range(len(rows)))
    assert max(sum(len(rows[index].tokens) for index in line) for line in lines) == 24
    assert len(lines) == 4  # 82 tokens


@pytest.mark.parametrize("kind", ["gemma3", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_model_that_keeps_packed_rows_apart_is_found_to(kind: str, dtype: torch.dtype) -> None:
    check_packing(random_model(kind).to(dtype), random_rows(12, 30, 7), pad_id=0, device=CPU)


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


# ── Precision ────────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── What is trained ──────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── Adapters ─────────────────────────────────────────────────────────────────────────────────────────────────────────

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


# ── The plan ─────────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── Preferences ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_preference_loss_is_the_one_of_the_paper_with_smoothed_labels() -> None:
    gains, dpo = torch.tensor([1.0, -2.0, 0.5, 3.0]), Dpo(beta=0.5, label_smoothing=0.1)

    losses = dpo_loss(gains, dpo).tolist()

    margins = [0.5 * (1.0 - 0.5), 0.5 * (-2.0 - 3.0)]
    assert losses == pytest.approx(
        [0.9 * math.log1p(math.exp(-margin)) + 0.1 * math.log1p(math.exp(margin)) for margin in margins]
    )


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"micro_rows": 1}, {"packing": True}])
def test_preference_loss_of_a_step_does_not_depend_on_how_it_is_cut(
    options: dict[str, object], tiny: Path, base: Base
) -> None:
    found = []
    for more in ({}, options):
        model = load_base(tiny, name="tiny", device=CPU)
        host = AdapterHost(base)
        plan = Plan(3, 4, 1e-3, 0.0, seed=2, dpo=Dpo(), **more)  # type: ignore[arg-type]
        steps = Steps(
            model.model,
            free_all(model),
            color_pairs(base),
            plan,
            pad_id=0,
            reference=lambda host=host: host.untouched(then="none"),  # type: ignore[misc]
        )
        found.append([one.loss for one in steps])

    assert found[1] == pytest.approx(found[0], abs=1e-6)


def test_order_for_preferences_without_pairs_is_refused(new_request: NewRequest, slots: Slots, tmp_path: Path) -> None:
    request = new_request(objective="dpo")

    with pytest.raises(DataError, match="'chosen' and 'rejected'"):
        Bench(request, slots, (tmp_path,), use="quote")
