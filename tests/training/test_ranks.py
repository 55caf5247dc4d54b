"""Full runs over several processes: two gloo ranks equal one process and resume bit for bit."""

import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from ranks_scene import LIMIT, ORDER, Scene, listening, losses, new_scene, trained, wait_until_gone, weights
from training_page import blocks

from training_service.bench import Bench
from training_service.checkpoint import STATE, restore_checkpoint
from training_service.errors import ArtifactDamaged
from training_service.event import (
    Checkpoint,
    Evaluated,
    Failed,
    Paused,
    Progress,
    Report,
    Started,
)
from training_service.request import Artifact
from training_service.tensors import read_tensors

pytestmark = pytest.mark.timeout(450)  # several starts of PyTorch, on machines that do other things too
EVERY_WAY = {"packing": True, "gradient_checkpointing": True, "dtype": "bfloat16"}

SECTION = "Over several processes"


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
    (command,) = blocks(SECTION, "sh")
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


@pytest.mark.slow
@pytest.mark.integration
def test_ranks_of_one_host_listen_on_the_loopback_address_alone(ddp: Pair) -> None:
    assert ddp.addresses == {"0100007F"}
