"""The loop: resumable, honest about gradients and numbers. Bit for bit unless said otherwise."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from training_service.checkpoint import restore_checkpoint, write_checkpoint
from training_service.data import Dataset, Example
from training_service.errors import ArtifactDamaged, ExactnessBroken, NanLoss, RequestInvalid
from training_service.lora import AdapterHost
from training_service.loss import collate, loss_sum
from training_service.model import Base, free_all, hash_tensors, load_base
from training_service.plan import Plan
from training_service.request import Lora
from training_service.steps import Steps

CPU = torch.device("cpu")
PLAN = Plan(steps=20, batch_rows=8, learning_rate=3e-3, weight_decay=0.01, seed=4, schedule="constant")
DROPOUT = Lora(rank=4, alpha=8, dropout=0.2)


def full_steps(base: Base, dataset: Dataset, plan: Plan = PLAN) -> Steps:
    return Steps(base.model, free_all(base), dataset.usable, plan, pad_id=base.pad_id)


def lora_steps(base: Base, dataset: Dataset, lora: Lora = DROPOUT, plan: Plan = PLAN) -> Steps:
    host = AdapterHost(base)
    parameters = host.attach("a1", lora, seed=plan.seed)
    host.activate("a1")
    return Steps(base.model, parameters, dataset.usable, plan, pad_id=base.pad_id)


def take(steps: Steps, count: int) -> list[float]:
    losses = []
    for metrics in steps:
        losses.append(metrics.loss)
        if len(losses) == count:
            break
    return losses


def fresh(tiny: Path) -> Base:
    return load_base(tiny, name="tiny", device=CPU)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("cut", [1, 5])
def test_resumed_run_equals_an_uninterrupted_one(
    kind: str, cut: int, tiny: Path, dataset: Dataset, tmp_path: Path
) -> None:
    make = full_steps if kind == "full" else lora_steps
    whole, first, second = (make(fresh(tiny), dataset) for _ in range(3))
    facts = {"base_sha256": "b", "dataset_sha256": dataset.sha256}
    expected = take(whole, 9)
    before = take(first, cut)
    saved = write_checkpoint(tmp_path, first, task_id="t", seconds=0.0, metrics=None, **facts)
    torch.rand(7)  # whatever happens to the process's own random state in between

    restored = restore_checkpoint(saved, second, **facts)
    after = take(second, 9 - cut)

    assert restored.step == cut
    assert restored.threads == torch.get_num_threads()
    assert before + after == expected
    assert hash_tensors(second.parameters) == hash_tensors(whole.parameters)


@pytest.mark.parametrize("wrong", ["base", "dataset", "rank"])
def test_checkpoint_of_another_run_is_refused_and_nothing_changed(
    wrong: str, tiny: Path, base: Base, dataset: Dataset, tmp_path: Path
) -> None:
    one = lora_steps(base, dataset)
    take(one, 1)
    saved = write_checkpoint(tmp_path, one, task_id="t", base_sha256="b", dataset_sha256="d", seconds=0.0, metrics=None)
    other = lora_steps(fresh(tiny), dataset, Lora(rank=4 if wrong != "rank" else 8))
    before = hash_tensors(other.parameters)

    with pytest.raises(ArtifactDamaged, match="expected"):
        restore_checkpoint(
            saved,
            other,
            base_sha256="x" if wrong == "base" else "b",
            dataset_sha256="x" if wrong == "dataset" else "d",
        )

    if wrong != "rank":
        assert hash_tensors(other.parameters) == before
    assert other.step == 0


@pytest.mark.slow
def test_eight_micro_batches_of_one_row_equal_one_of_eight(tiny: Path, dataset: Dataset) -> None:
    plan = Plan(steps=5, batch_rows=8, learning_rate=1e-3, weight_decay=0.0, seed=0)
    pieces = Plan(steps=5, batch_rows=8, learning_rate=1e-3, weight_decay=0.0, seed=0, micro_rows=1)

    whole = take(full_steps(fresh(tiny), dataset, plan), 5)
    parts = take(full_steps(fresh(tiny), dataset, pieces), 5)

    assert parts == pytest.approx(whole, abs=1e-6)


def test_masked_tokens_give_no_loss_and_no_gradient(base: Base) -> None:
    tokens = (2, 7, 8, 9, 10, 11)
    row = Example(tokens, (False, False, True, True, False, False))
    other_end = Example((*tokens[:4], 20, 21), row.trained)
    free_all(base)

    def gradients(example: Example) -> dict[str, torch.Tensor]:
        base.model.zero_grad()
        torch.autograd.backward(loss_sum(base.model, collate([example], pad_id=0, device=CPU)))
        return {name: one.grad.clone() for name, one in base.model.named_parameters() if one.grad is not None}

    first, second = gradients(row), gradients(other_end)

    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=1e-7) for name in first)
    assert any(one.abs().sum() > 0 for one in first.values())


def test_padding_changes_no_loss(base: Base, dataset: Dataset) -> None:
    rows = dataset.usable[:4]

    together = loss_sum(base.model, collate(rows, pad_id=base.pad_id, device=CPU)).item()
    alone = sum(loss_sum(base.model, collate([row], pad_id=base.pad_id, device=CPU)).item() for row in rows)

    assert together == pytest.approx(alone, rel=1e-5)


def test_loss_that_is_no_number_ends_the_run_with_the_weights_of_the_step_before(base: Base, dataset: Dataset) -> None:
    steps = lora_steps(base, dataset)
    take(steps, 1)
    with torch.no_grad():
        next(iter(steps.parameters.values())).fill_(float("nan"))
    before = hash_tensors(steps.parameters)

    with pytest.raises(NanLoss, match="step 2"):
        take(steps, 1)

    assert hash_tensors(steps.parameters) == before
    assert steps.step == 1


def test_parameter_without_a_gradient_is_found_in_the_first_step(base: Base, dataset: Dataset) -> None:
    parameters: Mapping[str, torch.nn.Parameter] = {
        **free_all(base), "lost": torch.nn.Parameter(torch.zeros(2))
    }  # fmt: skip

    with pytest.raises(ExactnessBroken, match="none for lost"):
        take(Steps(base.model, parameters, dataset.usable, PLAN, pad_id=0), 1)


def test_weights_that_are_not_float32_are_refused(base: Base, dataset: Dataset) -> None:
    base.model.bfloat16()

    with pytest.raises(RequestInvalid, match="expected float32"):
        full_steps(base, dataset)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447]),
    ],
)
def test_rate_follows_its_schedule(schedule: str, rates: list[float]) -> None:
    plan = Plan(6, 1, 1.0, 0.0, 0, schedule=schedule, warmup_steps=2)  # type: ignore[arg-type]  # one of the three

    assert [plan.rate(step) for step in range(6)] == pytest.approx(rates, abs=1e-6)
