"""Preferences: the loss of a step, and from a file of them to an adapter that has them."""

import asyncio
import math
from pathlib import Path

import pytest
import torch
from colors import COLORS, CPU, NewRequest, color_pairs, write_rows
from peft import PeftModel

from training_service.bench import Bench
from training_service.data import Encoder, Pair, load_dataset
from training_service.errors import DataError
from training_service.event import Generated, GenerateRequest, Prepared, Refused, RunEvent, Speech, Trained
from training_service.history import read_history
from training_service.lora import AdapterHost
from training_service.model import Base, free_all, load_base
from training_service.plan import Plan
from training_service.preference import dpo_loss
from training_service.request import Artifact, Dpo, TrainingRequest
from training_service.slots import Slots
from training_service.steps import Steps
from training_service.worker import Worker


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


def load_ordered_pairs(request: TrainingRequest, base: Base) -> tuple[Pair, ...]:
    """Return the pairs of the order's file, as the service reads them."""
    encoder = Encoder(base.tokenizer, stop_ids=base.stop_ids, max_tokens=base.max_tokens)
    return load_dataset(request.dataset.path, encoder, objective="dpo").pairs


@torch.no_grad()
def preference(model: torch.nn.Module, pair: Pair) -> float:
    """Return by how much the chosen answer is likelier to *model* than the rejected one, as a logarithm."""
    chances = []
    for example in (pair.chosen, pair.rejected):
        tokens = torch.tensor([example.tokens])  # (1, T)
        logits = model(input_ids=tokens).logits.log_softmax(-1)[0, :-1]  # (T - 1, V)
        found = logits.gather(1, tokens[0, 1:, None])[:, 0]
        chances.append(found[torch.tensor(example.trained[1:])].sum().item())
    return chances[0] - chances[1]


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT asks transformers for an attribute under its old name
def test_preferences_in_a_file_become_an_adapter_that_has_them(
    tiny: Path, models_dir: Path, tmp_path: Path, new_request: NewRequest
) -> None:
    """Through the service and its child; the adapter is then asked, as PEFT loads it, for what it prefers."""
    rows = [
        {"prompt": f"What color has the {thing}?", "chosen": color, "rejected": "black"}
        for thing, color in COLORS.items()
    ]
    dataset = Artifact.from_file(write_rows(tmp_path / "preferences.jsonl", rows)).model_dump()
    request = new_request(
        adapter="preferences", dataset=dataset, objective="dpo", dpo={"beta": 0.5}, max_steps=30, schedule="constant"
    )
    ask = GenerateRequest("g", str(tiny), ({"role": "user", "content": rows[0]["prompt"]},), "preferences", 8)

    async def work() -> tuple[Prepared | Refused, RunEvent, Speech]:
        worker = Worker(models_dir=models_dir, state_dir=tmp_path / "state", roots=(tmp_path,), threads=2)
        await worker.start()
        try:
            prepared = await worker.prepare(request)
            reports = [one async for one in worker.run(request.task_id)]
            texts = [one async for one in worker.generate(ask)]
        finally:
            await worker.stop()
        return prepared, reports[-1], texts[-1]

    prepared, trained, text = asyncio.run(asyncio.wait_for(work(), 100))
    assert isinstance(prepared, Prepared)
    assert isinstance(trained, Trained)
    losses = [one.loss for one in read_history(tmp_path / "state" / "runs" / request.task_id, points=99)]
    base = load_base(tiny, name="tiny", device=CPU)
    pairs = load_ordered_pairs(request, base)
    before = [preference(base.model, pair) for pair in pairs]
    loaded = PeftModel.from_pretrained(base.model, trained.artifact.path)
    after = [preference(loaded, pair) for pair in pairs]

    assert prepared.audit.rows == len(rows)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)  # it begins as the reference
    assert losses[-1] < losses[0] / 4
    assert all(second > first + 1 for first, second in zip(before, after, strict=True))
    assert isinstance(text, Generated)
    assert (text.adapter, text.n_tokens > 0) == ("preferences@1", True)
