"""Every way to train, bit for bit: beside three others, and resumed, as alone and uninterrupted; dropout on."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import torch
from colors import CPU, NewRequest, color_pairs

from training_service.checkpoint import restore_checkpoint, write_checkpoint
from training_service.data import Dataset
from training_service.event import Paused, Progress, RunEvent, Started, Trained
from training_service.lora import AdapterHost
from training_service.model import free_all, hash_tensors, load_base
from training_service.plan import Plan
from training_service.request import Dpo, Lora
from training_service.steps import Steps
from training_service.worker import Worker

pytestmark = pytest.mark.slow
STEPS = 5


@dataclass(frozen=True)
class Order:
    lora: Lora = Lora(rank=4, alpha=8, dropout=0.2)  # noqa: RUF009  # frozen
    dtype: torch.dtype = torch.float32
    plan: Mapping[str, object] = field(default_factory=dict)

    def on(self, host: AdapterHost, name: str, dataset: Dataset) -> Steps:
        """Attach it to *host* and return its steps."""
        parameters = host.attach(name, self.lora, seed=1)
        return self._steps(host, parameters, dataset, name, host)

    def alone(self, folder: Path, dataset: Dataset) -> Steps:
        """Train all weights of a copy of the base."""
        host = AdapterHost(load_base(folder, name="tiny", device=CPU))
        untouched = AdapterHost(load_base(folder, name="tiny", device=CPU))
        return self._steps(host, free_all(host.base), dataset, "none", untouched)

    def _steps(
        self,
        host: AdapterHost,
        parameters: Mapping[str, torch.nn.Parameter],
        dataset: Dataset,
        name: str,
        reference: AdapterHost,
    ) -> Steps:
        plan = Plan(STEPS, 4, learning_rate=1e-2, weight_decay=0.01, seed=1, **self.plan)  # type: ignore[arg-type]
        rows = dataset.usable if plan.dpo is None else color_pairs(host.base)
        untouched = partial(reference.untouched, then=name)
        return Steps(host.base.model, parameters, rows, plan, pad_id=host.base.pad_id, reference=untouched)


DORA = Lora(rank=4, alpha=8, dropout=0.2, dora=True)
HALF = {"dtype": "bfloat16"}
ORDERS = {
    "plain": Order(),
    "rslora": Order(Lora(rank=8, alpha=8, dropout=0.1, rslora=True, init="gaussian")),
    "dora": Order(DORA),
    "packed": Order(plan={"packing": True, "micro_rows": 3}),
    "recomputed": Order(plan={"gradient_checkpointing": True}),
    "bfloat16": Order(dtype=torch.bfloat16, plan=HALF),
    "pairs": Order(plan={"dpo": Dpo(), "packing": True}),
    "all at once": Order(DORA, torch.bfloat16, HALF | {"packing": True, "gradient_checkpointing": True, "dpo": Dpo()}),
}
FULL = ("recomputed", "bfloat16", "pairs")


def host_of(order: Order, tiny: Path) -> AdapterHost:
    return AdapterHost(load_base(tiny, name="tiny", device=CPU, dtype=order.dtype))


def take(host: AdapterHost, name: str, steps: Steps, count: int) -> list[float]:
    host.activate(name)
    return [metrics.loss for _, metrics in zip(range(count), steps, strict=False)]


@pytest.mark.parametrize("kind", ORDERS)
def test_run_beside_three_others_ends_with_the_weights_of_one_alone(kind: str, tiny: Path, dataset: Dataset) -> None:
    order, host = ORDERS[kind], host_of(ORDERS[kind], tiny)
    steps = order.on(host, "a0", dataset)
    alone = take(host, "a0", steps, STEPS), hash_tensors(steps.parameters)

    host = host_of(order, tiny)
    orders = [Order(plan=HALF), Order(DORA, plan={"gradient_checkpointing": True}), Order(plan={"dpo": Dpo()}), order]
    runs = [one.on(host, f"b{index}", dataset) for index, one in enumerate(orders)]
    losses: list[float] = []
    turns = [iter(run) for run in runs]
    for _ in range(STEPS):
        for index, turn in enumerate(turns):
            host.activate(f"b{index}")
            loss = next(turn).loss
        losses.append(loss)

    assert (losses, hash_tensors(runs[-1].parameters)) == alone
    assert host.base.is_unchanged


@pytest.mark.parametrize("kind", ORDERS)
def test_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    kind: str, tiny: Path, dataset: Dataset, tmp_path: Path
) -> None:
    order, facts = ORDERS[kind], {"base_sha256": "b", "dataset_sha256": dataset.sha256}
    host = host_of(order, tiny)
    steps = order.on(host, "a0", dataset)
    before = take(host, "a0", steps, 2)
    saved = write_checkpoint(tmp_path, steps, task_id="t", seconds=0.0, metrics=None, **facts)
    rest = take(host, "a0", steps, STEPS)

    other = host_of(order, tiny)
    other.attach("b9", Lora(rank=2, dora=True), seed=5)
    resumed = order.on(other, "b0", dataset)
    restore_checkpoint(saved, resumed, **facts)
    torch.rand(3)  # whatever happens to the process's own random state in between
    after = take(other, "b0", resumed, STEPS)

    assert (len(before), len(rest)) == (2, STEPS - 2)
    assert after == rest
    assert hash_tensors(resumed.parameters) == hash_tensors(steps.parameters)


@pytest.mark.parametrize("kind", FULL)
def test_resumed_full_run_ends_with_the_weights_of_an_uninterrupted_one(
    kind: str, tiny: Path, dataset: Dataset, tmp_path: Path
) -> None:
    facts = {"base_sha256": "b", "dataset_sha256": dataset.sha256}
    steps = ORDERS[kind].alone(tiny, dataset)
    next(iter(steps))
    saved = write_checkpoint(tmp_path, steps, task_id="t", seconds=0.0, metrics=None, **facts)
    rest = [metrics.loss for metrics in steps]

    resumed = ORDERS[kind].alone(tiny, dataset)
    restore_checkpoint(saved, resumed, **facts)

    assert [metrics.loss for metrics in resumed] == rest
    assert hash_tensors(resumed.parameters) == hash_tensors(steps.parameters)


def test_recomputed_activations_change_no_bit_and_fewer_are_kept(tiny: Path, dataset: Dataset) -> None:
    found = []
    for kind in ("plain", "recomputed"):
        host, kept = host_of(ORDERS[kind], tiny), 0

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        steps = ORDERS[kind].on(host, "a0", dataset)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            losses = take(host, "a0", steps, 3)
        found.append((kept, losses, hash_tensors(steps.parameters)))

    (kept, *plain), (fewer, *recomputed) = found
    assert recomputed == plain
    assert fewer < kept


async def follow(worker: Worker, task_id: str, *, pause_at: int | None = None) -> list[RunEvent]:
    reports: list[RunEvent] = []
    async for report in worker.run(task_id):
        reports.append(report)
        if isinstance(report, Progress) and report.metrics.step == pause_at:
            reports.append(await worker.pause(task_id))
    return reports


@pytest.mark.integration
def test_run_paused_beside_three_others_and_resumed_in_a_new_process_ends_as_alone(
    new_request: NewRequest, models_dir: Path, tmp_path: Path
) -> None:
    order = {"lora": {"rank": 4, "dropout": 0.2, "dora": True}, "max_steps": 12, "gradient_checkpointing": True}
    alone, paused = new_request("alone", **order), new_request("paused", **order)
    others = [new_request(f"other {rank}", lora={"rank": rank, "dropout": 0.1}, max_steps=12) for rank in (2, 8, 16)]

    @asynccontextmanager
    async def new_process() -> AsyncIterator[Worker]:
        worker = Worker(models_dir=models_dir, state_dir=tmp_path / "state", roots=(tmp_path,), threads=2)
        await worker.start()
        try:
            yield worker
        finally:
            await worker.stop()

    async def work() -> tuple[list[RunEvent], list[RunEvent], list[RunEvent]]:
        async with new_process() as worker:
            for request in (alone, paused, *others):
                await worker.prepare(request, conversation_id=None)
            whole = await follow(worker, alone.task_id)
            beside = [follow(worker, request.task_id) for request in others]
            first, *_ = await asyncio.gather(follow(worker, paused.task_id, pause_at=3), *beside)
        async with new_process() as worker:
            return whole, first, await follow(worker, paused.task_id)

    whole, first, second = asyncio.run(work())

    assert isinstance(first[-1], Paused)
    assert any(isinstance(one, Started) and one.resumed_from_step for one in second)
    assert isinstance(whole[-1], Trained)
    assert isinstance(second[-1], Trained)
    assert second[-1].artifact.sha256 == whole[-1].artifact.sha256
