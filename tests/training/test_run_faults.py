"""What a fault costs: a typed failure with a hint and the last checkpoint; the others end as if alone."""

import asyncio
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from training_service.event import Checkpoint, Failed, Prepared, RunEvent, Trained
from training_service.request import Artifact, TrainingRequest
from training_service.worker import Worker

pytestmark = [pytest.mark.slow, pytest.mark.integration]
NewRequest = Callable[..., TrainingRequest]
LIMIT = 90.0
DRIVER = Path(__file__).parent / "checkpoint_stages.py"


def test_kill_at_each_stage_of_a_checkpoint_leaves_a_whole_one_and_the_same_weights(
    new_request: NewRequest, tmp_path: Path
) -> None:
    request = new_request(checkpoint_every=2, lora={"rank": 2, "dropout": 0.1})
    command = [sys.executable, str(DRIVER), str(tmp_path / "state"), request.model_dump_json()]
    driven = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)

    assert driven.returncode == 0, driven.stderr[-2000:]
    lines = [json.loads(line) for line in driven.stdout.splitlines() if line.startswith("{")]
    killed_before = [line["killed_before"] for line in lines if "killed_before" in line]
    steps = [line["step"] for line in lines if "step" in line]
    results = [line["result"] for line in lines if "result" in line]
    assert {"open", "write", "fsync", "rename", "replace", "unlink"} <= set(killed_before)
    assert len(steps) == len(killed_before) + 1 > 20
    assert len(results) >= 3  # before it, once it is sealed, once the record names it
    assert steps == sorted(steps)
    assert set(steps) == {2, 4}
    assert len(set(results)) == 1
    assert all(line["left"] == [] for line in lines if "left" in line)


async def follow(worker: Worker, request: TrainingRequest) -> RunEvent:
    """Carry out *request* and return how it ended."""
    reports = [report async for report in worker.run(request.task_id)]
    return reports[-1]


async def pause_early(worker: Worker, request: TrainingRequest) -> None:
    """Begin *request* and take it off its slot after its first checkpoint, so that the child is at rest."""
    async for report in worker.run(request.task_id):
        if isinstance(report, Checkpoint):
            await worker.pause(request.task_id)


def beside(
    models_dir: Path, folder: Path, alone: TrainingRequest, well: TrainingRequest, broken: TrainingRequest,
    *, strike: Callable[[int], None],
) -> tuple[str, str, Failed, bool]:  # fmt: skip
    """Run *alone*; then, the child being struck when *broken* has a checkpoint, *well* and *broken* together.

    Returns the results of the two that go well, how the third failed, and whether the child outlived it.
    """

    async def work() -> tuple[str, str, Failed, bool]:
        worker = Worker(models_dir=models_dir, state_dir=folder / "state", roots=(folder,), threads=1)
        await worker.start()
        try:
            for request in (alone, well, broken):
                prepared = await worker.prepare(request)
                assert isinstance(prepared, Prepared), prepared
            expected = await follow(worker, alone)
            await pause_early(worker, broken)
            pid = worker.child_pid
            assert pid is not None
            strike(pid)
            trained, failed = await asyncio.gather(follow(worker, well), follow(worker, broken))
            lives = worker.child_pid == pid
        finally:
            await worker.stop()
        assert isinstance(expected, Trained)
        assert isinstance(trained, Trained), trained
        assert isinstance(failed, Failed), failed
        return expected.artifact.sha256, trained.artifact.sha256, failed, lives

    async def limited() -> tuple[str, str, Failed, bool]:
        return await asyncio.wait_for(work(), LIMIT)

    return asyncio.run(limited())


def test_a_disk_that_is_full_in_a_checkpoint_fails_that_run_alone(
    models_dir: Path, tmp_path: Path, new_request: NewRequest
) -> None:
    """The limit of a file's size stands in for the disk: the large checkpoint does not fit, the small one does."""
    small = {"lora": {"rank": 1}, "max_steps": 20, "checkpoint_every": 5}
    large = new_request("large", lora={"rank": 64}, max_steps=50, checkpoint_every=1)

    def fill(pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (300_000, 300_000))

    expected, well, failed, lives = beside(
        models_dir, tmp_path, new_request("alone", **small), new_request("well", **small), large, strike=fill
    )

    assert (failed.code, failed.retryable) == ("disk-full", True)
    assert "free some room" in failed.detail
    assert failed.last_checkpoint is not None
    assert failed.last_checkpoint.path.is_dir()
    assert well == expected
    assert lives
    assert not list((tmp_path / "state" / "artifacts").glob(".new-*"))


def memory_of(pid: int) -> int:
    """Return the bytes of address space that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def test_a_run_that_gets_no_memory_fails_alone(
    models_dir: Path, tmp_path: Path, new_request: NewRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(1 << 16))  # what is freed goes back: the next step asks anew
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")  # and there is no other heap to ask
    small = {"lora": {"rank": 1}, "max_steps": 20, "checkpoint_every": 5}
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps({"text": f"{n} apple grass sky snow " * 120}) + "\n" for n in range(8)))
    rows = Artifact.from_file(path).model_dump()
    large = new_request("large", dataset=rows, batch_rows=8, max_steps=5, checkpoint_every=1)

    def starve(pid: int) -> None:
        limit = memory_of(pid) + 8_000_000
        resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))

    expected, well, failed, lives = beside(
        models_dir, tmp_path, new_request("alone", **small), new_request("well", **small), large, strike=starve
    )

    assert (failed.code, failed.retryable) == ("out-of-memory", True)
    assert "fewer rows" in failed.detail
    assert failed.last_checkpoint is not None
    assert well == expected
    assert lives
