"""Full runs over several processes: two gloo ranks equal one process, resume bit for bit, and leave nobody behind."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid5

import pytest
import torch
import yaml

from bus.fleet.file import load_fleet
from tests.training.conftest import CPU, SPACE, color_rows, write_rows
from training_service.adapters import Registry
from training_service.agent import new_worker
from training_service.bench import Bench
from training_service.checkpoint import STATE, restore_checkpoint
from training_service.data import Example
from training_service.desk import Desk
from training_service.errors import ArtifactDamaged, Lost, NanLoss, RequestInvalid
from training_service.event import (
    Checkpoint,
    Evaluated,
    Failed,
    Paused,
    Prepared,
    Progress,
    Refused,
    Report,
    RunEvent,
    Started,
    Trained,
)
from training_service.group import dealt, layers_of
from training_service.model import Base
from training_service.rank import fault_of
from training_service.ranks import Hosting, Ranks
from training_service.request import Artifact, TrainingRequest, load_training, parse_request
from training_service.run import Places
from training_service.slots import Slots
from training_service.tensors import read_tensors
from training_service.worker import Worker

ROOT = Path(__file__).parents[2]
LIMIT = 200.0
pytestmark = pytest.mark.timeout(450)  # several starts of PyTorch, on machines that do other things too
ORDER = {
    "method": "full", "max_steps": 30, "checkpoint_every": 3, "batch_rows": 5, "micro_rows": 2, "learning_rate": 1e-3,
}  # fmt: skip

EVERY_WAY = {"packing": True, "gradient_checkpointing": True, "dtype": "bfloat16"}


@dataclass
class Scene:
    """A desk in this process whose ranks are real, and all that it has reported."""

    folder: Path
    base: Path
    data: Path
    hosting: Hosting
    places: Places
    slots: Slots
    heard: list[Report] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.desk = Desk(self.slots, self.places, device=CPU, report=self.hear, hosting=self.hosting)

    def hear(self, report: Report) -> None:
        if isinstance(report, RunEvent):
            self.heard.append(report)

    def order(self, name: str, **changes: object) -> TrainingRequest:
        dataset = Artifact.from_file(self.data).model_dump()
        body = {"task_id": str(uuid5(SPACE, name)), "base": str(self.base), "dataset": dataset, "processes": 2}
        return parse_request(body | ORDER | changes)

    def prepare(self, request: TrainingRequest) -> None:
        prepared = self.desk.prepare(request, None)
        assert isinstance(prepared, Prepared), prepared

    def work(self, request: TrainingRequest, stop: Callable[[Report], bool]) -> list[Report]:
        """Start the run and work until *stop* says so of a report; return what came."""
        begin = len(self.heard)
        self.desk.runs.start(request.task_id)
        give_up_at = time.monotonic() + LIMIT
        while not any(stop(one) for one in self.heard[begin:]):
            assert time.monotonic() < give_up_at, self.heard[begin:]
            self.desk.work()
        return self.heard[begin:]

    def carry_out(self, request: TrainingRequest) -> list[Report]:
        return self.work(request, lambda one: isinstance(one, Trained | Failed))

    def ranks(self, request: TrainingRequest) -> Ranks:
        found = self.desk.runs._runs[request.task_id]
        assert isinstance(found, Ranks)
        return found


def new_scene(
    folder: Path, models_dir: Path, tiny: Path, *, threads: int = 2, n_hosts: int = 1, rendezvous: str | None = None
) -> Scene:
    state = folder / "state"
    roots = (folder, models_dir, state)
    arguments = ["--models", str(models_dir), "--state", str(state), "--root", str(folder), "--root", str(models_dir)]
    return Scene(
        folder,
        tiny,
        write_rows(folder / "colors.jsonl", color_rows()),
        Hosting(tuple(arguments), threads, n_hosts, rendezvous),
        Places(state / "runs", state / "artifacts", Registry(state / "adapters"), roots),
        Slots(models_dir=models_dir, allow_hub=False, roots=roots, device=CPU),
    )


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, models_dir: Path, tiny: Path) -> Iterator[Scene]:
    made = new_scene(tmp_path_factory.mktemp("ranks"), models_dir, tiny)
    yield made
    made.desk.close()


def blocks(language: str) -> list[str]:
    """Return what docs/training.md shows of several processes."""
    section = (ROOT / "docs" / "training.md").read_text().partition("## Over several processes")[2]
    return re.findall(rf"```{language}\n(.*?)```", re.split(r"^## ", section, flags=re.MULTILINE)[0], re.DOTALL)


def losses(reports: list[Report]) -> list[float]:
    return [one.metrics.loss for one in reports if isinstance(one, Progress)]


def trained(reports: list[Report]) -> Trained:
    end = reports[-1]
    assert isinstance(end, Trained), end
    return end


def weights(end: Trained) -> dict[str, torch.Tensor]:
    return read_tensors(end.artifact.path / "model.safetensors")


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_gone(*pids: int) -> None:
    give_up_at = time.monotonic() + LIMIT
    for pid in pids:
        while not is_gone(pid):
            assert time.monotonic() < give_up_at, f"process {pid} lives on"
            os.sched_yield()


def listening(pid: int) -> set[str]:
    """Return the addresses (hex, as in proc_net(5)) on which *pid* listens."""
    held = {os.readlink(one) for one in Path(f"/proc/{pid}/fd").iterdir() if one.is_symlink()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            parts = line.split()
            if parts[3] == "0A" and f"socket:[{parts[9]}]" in held:
                found.add(parts[1].rpartition(":")[0])
    return found


@pytest.fixture(scope="module")
def alone(scene: Scene) -> list[Report]:
    """The run that one process takes."""
    request = scene.order(
        "alone", processes=1, evaluation=Artifact.from_file(scene.data).model_dump(), accept_warnings=True
    )
    scene.prepare(request)
    return scene.carry_out(request)


@dataclass
class Pair:
    """Of one order: a run to its end, and one that was broken off in the middle and gone on with."""

    whole: list[Report]
    broken: list[Report]
    resumed: list[Report]
    addresses: set[str]


@pytest.fixture(scope="module")
def ddp(scene: Scene) -> Pair:
    """The second run loses rank 1 after its first checkpoint."""
    evaluation = Artifact.from_file(scene.data).model_dump()
    whole, broken = (scene.order(name, evaluation=evaluation, accept_warnings=True) for name in ("ddp", "ddp broken"))
    scene.prepare(whole)
    scene.prepare(broken)
    begin = len(scene.heard)
    scene.work(whole, lambda one: isinstance(one, Progress))
    ranks = scene.ranks(whole)
    addresses = {one for pid in (*ranks.pids.values(), ranks.launcher_pid) for one in listening(pid)}
    scene.carry_out(whole)
    first = scene.heard[begin:]
    begin = len(scene.heard)
    scene.work(broken, lambda one: isinstance(one, Checkpoint))
    os.kill(scene.ranks(broken).pids[1], signal.SIGKILL)
    scene.carry_out(broken)
    second = scene.heard[begin:]
    return Pair(first, second, scene.carry_out(broken), addresses)


@pytest.fixture(scope="module")
def fsdp(scene: Scene) -> Pair:
    """The run is paused after its first step; of this order the two hosts of ``hosts`` carry out the whole."""
    request = scene.order("fsdp broken", sharding="fsdp")
    scene.prepare(request)
    begin = len(scene.heard)
    scene.work(request, lambda one: isinstance(one, Progress))
    pids = scene.ranks(request).pids.values()
    scene.desk.runs.pause(request.task_id, by_owner=False)
    wait_until_gone(*pids)
    return Pair([], scene.heard[begin:], scene.carry_out(request), set())


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory, models_dir: Path, tiny: Path) -> list[Report]:
    """A run that two launchers carry out over a port of the loopback address, one rank each."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    made = new_scene(
        tmp_path_factory.mktemp("hosts"), models_dir, tiny, threads=1, n_hosts=2, rendezvous=f"127.0.0.1:{port}"
    )
    request = made.order("hosts", sharding="fsdp")
    made.prepare(request)
    (command,) = blocks("sh")
    for shown, real in (
        ("python ", f"{sys.executable} "),
        ("10.0.0.1", "127.0.0.1"),
        ("29500", str(port)),
        ("TASK", request.task_id),
        ("--models .palaver/models --state .palaver/training --root .", " ".join(made.hosting.arguments)),
    ):
        assert shown in command
        command = command.replace(shown, real)
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        other = subprocess.Popen(command.split(), env=environment)
        try:
            reports = made.carry_out(request)
            assert other.wait(LIMIT) == 0
        finally:
            other.kill()
            made.desk.close()
    return reports


# -- exactness ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("kind", ["ddp", "fsdp", "hosts"])
def test_two_ranks_equal_one_process(kind: str, alone: list[Report], request: pytest.FixtureRequest) -> None:
    found = request.getfixturevalue(kind)
    reports = found if kind == "hosts" else found.whole or [*found.broken, *found.resumed]
    one, two = weights(trained(alone)), weights(trained(reports))

    assert losses(reports) == pytest.approx(losses(alone), abs=2e-6)
    assert losses(alone)[-1] < losses(alone)[0] / 4
    assert two.keys() == one.keys()
    assert max((two[name] - one[name]).abs().max().item() for name in one) <= 2e-6


@pytest.mark.slow
@pytest.mark.integration
def test_run_that_lost_a_rank_resumes_to_the_same_weights(ddp: Pair) -> None:
    failed = ddp.broken[-1]
    started = next(one for one in ddp.resumed if isinstance(one, Started))

    assert isinstance(failed, Failed)
    assert (failed.code, failed.detail, failed.retryable) == ("lost", "rank 1 of 2 died", True)
    assert failed.last_checkpoint is not None
    assert started.resumed_from_step == 3
    assert losses(ddp.resumed) == losses(ddp.whole)[3:]
    assert trained(ddp.resumed).artifact == trained(ddp.whole).artifact


@pytest.mark.slow
@pytest.mark.integration
def test_paused_sharded_run_resumes_to_the_weights_of_an_uninterrupted_one(fsdp: Pair, hosts: list[Report]) -> None:
    assert isinstance(fsdp.broken[-1], Paused)
    assert losses(fsdp.broken) + losses(fsdp.resumed) == losses(hosts)
    assert trained(fsdp.resumed).artifact.sha256 == trained(hosts).artifact.sha256


@pytest.mark.slow
@pytest.mark.integration
def test_held_out_rows_are_scored_by_rank_0_as_by_one_process(ddp: Pair, alone: list[Report]) -> None:
    before, after = ([one for one in reports if isinstance(one, Evaluated)] for reports in (ddp.whole, alone))

    assert [one.step for one in before] == [one.step for one in after] == [0, ORDER["max_steps"]]
    assert [one.scores[0].loss for one in before] == pytest.approx([one.scores[0].loss for one in after], abs=2e-6)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_checkpoint_holds_the_whole_state_and_every_ranks_randomness(
    sharding: str, scene: Scene, request: pytest.FixtureRequest
) -> None:
    pair: Pair = request.getfixturevalue(sharding)
    last = [one for one in pair.resumed if isinstance(one, Checkpoint)][-1]
    bench = Bench(scene.order("other", processes=1), scene.slots, scene.places.roots, use="run")
    facts = {"base_sha256": bench.base.sha256, "dataset_sha256": bench.dataset.sha256}

    state = read_tensors(last.artifact.path / STATE)
    with pytest.raises(ArtifactDamaged, match=r"random/cpu\.1"):  # made by two ranks: one may not go on with it
        restore_checkpoint(last.artifact, bench.steps, **facts)

    assert {name for name in state if name.startswith("random/")} == {"random/cpu", "random/cpu.1"}
    assert not torch.equal(state["random/cpu"], state["random/cpu.1"])
    for name, parameter in bench.steps.parameters.items():
        assert {state[f"{kind}/{name}"].shape for kind in ("weight", "exp_avg", "exp_avg_sq")} == {parameter.shape}
    assert bench.steps.step == 0


@pytest.mark.slow
@pytest.mark.integration
def test_sharded_run_that_stops_early_publishes_its_best_checkpoint(scene: Scene) -> None:
    changes = {"learning_rate": 0.1, "schedule": "constant", "evaluate_every": 1, "early_stopping": {"patience": 2}}
    request = scene.order(
        "best",
        sharding="fsdp",
        evaluation=Artifact.from_file(scene.data).model_dump(),
        accept_warnings=True,
        **(changes | EVERY_WAY),
    )
    scene.prepare(request)

    reports = scene.carry_out(request)

    end = trained(reports)
    best = next(one for one in reports if isinstance(one, Checkpoint) and one.metrics.step == end.metrics.step)
    state, published = read_tensors(best.artifact.path / STATE), weights(end)
    assert end.metrics.step < max(one.metrics.step for one in reports if isinstance(one, Progress))
    assert all(torch.equal(published[name], state[f"weight/{name}"]) for name in published)


# -- processes ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.integration
def test_ranks_of_one_host_listen_on_the_loopback_address_alone(ddp: Pair) -> None:
    assert ddp.addresses == {"0100007F"}


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
    order, _ = blocks("yaml")
    request = load_training(yaml.safe_load(order), folder=ROOT / "specs", task_id=str(uuid5(SPACE, "docs")))

    Hosting((), 2).check(request, n_devices=2)

    assert (request.processes, request.sharding) == (2, "fsdp")


def test_settings_that_the_docs_show_reach_the_child(tmp_path: Path) -> None:
    (tmp_path / "hosts.fleet.yaml").write_text(blocks("yaml")[1])
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
