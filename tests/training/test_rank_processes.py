"""Runs over several processes that cannot be: orders that are refused, ranks that fail, and nobody left behind."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from uuid import uuid5

import pytest
import yaml
from colors import CPU, SPACE, color_rows, write_rows
from ranks_scene import LIMIT, ROOT, Scene, new_scene, wait_until_gone
from training_page import blocks

from bus.fleet.file import load_fleet
from training_service.agent import new_worker
from training_service.data import Example
from training_service.desk import Desk
from training_service.errors import Lost, NanLoss, RequestInvalid
from training_service.event import (
    Failed,
    Prepared,
    Progress,
    Refused,
)
from training_service.group import dealt, layers_of
from training_service.model import Base
from training_service.rank import fault_of
from training_service.ranks import Hosting
from training_service.request import Artifact, load_training
from training_service.worker import Worker

pytestmark = pytest.mark.timeout(450)  # several starts of PyTorch, on machines that do other things too

SECTION = "Over several processes"


# -- ranks that fail ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.integration
def test_what_a_rank_finds_wrong_is_the_failure_of_the_run(scene: Scene) -> None:
    data = write_rows(scene.folder / "changed.jsonl", color_rows())
    request = scene.order("changed", dataset=Artifact.from_file(data).model_dump())
    scene.prepare(request)
    write_rows(data, color_rows(8))

    failed = scene.carry_out(request)[-1]

    assert isinstance(failed, Failed)
    assert failed.code == "bad-data"
    assert "rank" in failed.detail
    assert str(data) in failed.detail


def children(pid: int) -> list[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(one) for text in lists for one in text.read_text().split()]


@pytest.mark.slow
@pytest.mark.integration
def test_no_rank_outlives_its_launcher_or_the_child(models_dir: Path, scene: Scene, tmp_path: Path) -> None:
    request = scene.order("orphans", max_steps=100_000)
    worker = Worker(models_dir=models_dir, state_dir=tmp_path / "state", roots=(scene.folder, models_dir), threads=2)

    async def until_progress(kill: Callable[[int, int], int]) -> tuple[list[int], list[str]]:
        """Kill at the first step; return the processes that there were and how the run ended."""
        ours, kinds = [], []
        async for report in worker.run(request.task_id):
            kinds.append(type(report).__name__)
            if isinstance(report, Progress) and not ours:
                child = worker.child_pid
                assert child is not None
                (launcher,) = children(child)
                ours = [launcher, *children(launcher)]
                os.kill(kill(child, launcher), signal.SIGKILL)
        return ours, kinds

    async def work() -> tuple[list[int], list[str], list[int], list[str]]:
        await worker.start()
        try:
            prepared = await worker.prepare(request)
            assert isinstance(prepared, Prepared), prepared
            return *await until_progress(lambda _, launcher: launcher), *await until_progress(lambda child, _: child)
        finally:
            await worker.stop()

    first, first_kinds, second, second_kinds = asyncio.run(asyncio.wait_for(work(), LIMIT))
    wait_until_gone(*first, *second)

    assert len(first) == len(second) == 3
    assert first_kinds[-1] == second_kinds[-1] == "Failed"


# -- orders that cannot be carried out --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "hosting", "text"),
    [
        ({"processes": 64, "batch_rows": 64}, {}, "at most"),
        ({"batch_rows": 1}, {}, "at least one row"),
        ({"processes": 3}, {"n_hosts": 2, "rendezvous": "127.0.0.1:1"}, "share equally"),
        ({}, {"n_hosts": 2}, "rendezvous"),
    ],
)
def test_order_that_the_hosts_cannot_carry_out_is_refused(
    changes: dict[str, object], hosting: dict[str, object], text: str, tmp_path: Path, models_dir: Path, tiny: Path
) -> None:
    made = new_scene(tmp_path, models_dir, tiny, **hosting)

    refused = made.desk.prepare(made.order("refused", **changes), None)

    assert isinstance(refused, Refused)
    assert refused.code == "bad-request"
    assert text in refused.detail


def test_service_without_distributed_pytorch_refuses_several_processes(scene: Scene) -> None:
    desk = Desk(scene.slots, scene.places, device=CPU, report=scene.heard.append)

    refused = desk.prepare(scene.order("no gloo"), None)

    assert isinstance(refused, Refused)
    assert "processes: 1" in refused.detail


def test_taken_port_is_a_failure_that_may_be_tried_again(tmp_path: Path, models_dir: Path, tiny: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}"
        made = new_scene(tmp_path, models_dir, tiny, rendezvous=place)
        request = made.order("taken")
        made.prepare(request)

        failed = made.carry_out(request)[-1]

    assert isinstance(failed, Failed)
    assert (failed.code, failed.retryable) == ("lost", True)
    assert place in failed.detail


def test_base_without_known_layers_cannot_be_shared_out(base: Base) -> None:
    base.model._no_split_modules = None

    with pytest.raises(RequestInvalid, match="sharding: ddp"):
        layers_of(base.model)


def test_broken_connection_between_ranks_is_told_from_other_faults() -> None:
    lost = fault_of(RuntimeError("[third_party/gloo/pair.cc:537] Read error: Connection reset by peer"))

    assert isinstance(lost, Lost)
    assert isinstance(fault_of(NanLoss("step 1")), NanLoss)
    assert not isinstance(fault_of(RuntimeError("anything else")), Lost)


def test_order_that_the_docs_show_can_be_read_and_carried_out_here() -> None:
    order, _ = blocks(SECTION, "yaml")
    request = load_training(yaml.safe_load(order), folder=ROOT / "specs", task_id=str(uuid5(SPACE, "docs")))

    Hosting((), 2).check(request, n_devices=2)

    assert (request.processes, request.sharding) == (2, "fsdp")


def test_settings_that_the_docs_show_reach_the_child(tmp_path: Path) -> None:
    (tmp_path / "hosts.fleet.yaml").write_text(blocks(SECTION, "yaml")[1])
    (trainer,) = load_fleet(tmp_path / "hosts.fleet.yaml", root=tmp_path).agents
    worker = new_worker(dict(trainer.settings))

    arguments = worker._arguments()

    assert arguments[-4:] == ["--hosts", "2", "--rendezvous", "10.0.0.1:29500"]


# -- shares -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("n_rows", [1, 5, 8])
def test_every_row_is_dealt_to_one_rank_and_all_ranks_compute_equally_often(n_rows: int, size: int) -> None:
    rows = [Example((1, at), (False, True)) for at in range(n_rows)]

    hands = [
        dealt(rows, lambda some: [some[at : at + 2] for at in range(0, len(some), 2)], rank=rank, size=size)
        for rank in range(size)
    ]

    counted = [row for hand in hands for part, weight in hand if weight for row in part]
    assert sorted(counted, key=lambda row: row.tokens) == rows
    assert len({len(hand) for hand in hands}) == 1
