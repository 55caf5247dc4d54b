"""The service and its child as two processes: what survives, what is typed, what resumes."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from training_service.errors import NoSuchAdapter, NoSuchRun, TrainingError
from training_service.event import (
    Canceled,
    Checkpoint,
    Failed,
    Generated,
    GenerateRequest,
    Paused,
    Piece,
    Prepared,
    Progress,
    Queued,
    Refused,
    RunEvent,
    Started,
    Trained,
)
from training_service.follow import MOST_DEATHS, carry_out
from training_service.request import TrainingRequest
from training_service.worker import STANDS_STILL, Worker

pytestmark = [pytest.mark.slow, pytest.mark.integration]
NewRequest = Callable[..., TrainingRequest]
CHAT = ({"role": "user", "content": "What color has the sky?"},)
LIMIT = 60.0


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(work(), LIMIT)

    asyncio.run(limited())


@asynccontextmanager
async def started_worker(models_dir: Path, folder: Path) -> AsyncIterator[Worker]:
    worker = Worker(models_dir=models_dir, state_dir=folder / "state", roots=(folder,), threads=2)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()
    assert worker.child_pid is None


async def follow(worker: Worker, task_id: str) -> list[RunEvent]:
    return [report async for report in worker.run(task_id)]


async def ready(worker: Worker, request: TrainingRequest) -> Prepared:
    prepared = await worker.prepare(request, conversation_id="c-1")
    assert isinstance(prepared, Prepared), prepared
    return prepared


def kinds(reports: list[RunEvent]) -> list[str]:
    names = [type(report).__name__ for report in reports]
    return [name for at, name in enumerate(names) if at == 0 or names[at - 1] != name]


def test_run_is_followed_to_its_adapter_and_the_adapter_writes(
    models_dir: Path, tmp_path: Path, tiny: Path, new_request: NewRequest
) -> None:
    async def work() -> None:
        request = new_request(
            adapter="colors", evaluation=new_request().dataset.model_dump(), checkpoint_every=3, accept_warnings=True
        )
        async with started_worker(models_dir, tmp_path) as worker:
            prepared = await ready(worker, request)
            reports = await follow(worker, request.task_id)
            pieces = [one async for one in worker.generate(GenerateRequest("g", str(tiny), CHAT, "colors", 8))]
            again = await follow(worker, request.task_id)

        assert prepared.audit.rows_shared_with_evaluation == prepared.audit.rows
        assert kinds(reports)[:3] == ["Queued", "Started", "Evaluated"]
        assert isinstance(reports[-1], Trained)
        assert again == [reports[-1]]
        assert "".join(one.text for one in pieces if isinstance(one, Piece)) == pieces[-1].text
        assert isinstance(pieces[-1], Generated)
        assert pieces[-1].adapter == "colors@1"
        assert worker.adapters.find("colors").provenance.conversation_id == "c-1"
        assert [one.state for one in worker.runs()] == ["trained"]

    run(work)


def test_killed_child_is_a_typed_failure_and_the_same_task_resumes_to_the_same_weights(
    models_dir: Path, tmp_path: Path, new_request: NewRequest
) -> None:
    async def work() -> None:
        order = {"max_steps": 40, "checkpoint_every": 4, "lora": {"rank": 4, "dropout": 0.2}}
        whole, broken = new_request("whole", **order), new_request("broken", **order)
        async with started_worker(models_dir, tmp_path) as worker:
            await ready(worker, whole)
            expected = (await follow(worker, whole.task_id))[-1]
            await ready(worker, broken)
            reports = []
            async for report in worker.run(broken.task_id):
                reports.append(report)
                if isinstance(report, Checkpoint) and worker.child_pid is not None:
                    os.kill(worker.child_pid, signal.SIGKILL)
            resumed = await follow(worker, broken.task_id)

        failed = reports[-1]
        assert isinstance(failed, Failed)
        assert (failed.code, failed.retryable) == ("lost", True)
        assert failed.last_checkpoint is not None
        started = next(one for one in resumed if isinstance(one, Started))
        assert started.resumed_from_step
        assert all(one.resumed_from_step for one in resumed if isinstance(one, Progress))
        assert isinstance(expected, Trained)
        assert isinstance(resumed[-1], Trained)
        assert resumed[-1].artifact.sha256 == expected.artifact.sha256

    run(work)


def test_two_readers_of_one_run_see_one_run_and_leaving_does_not_stop_it(
    models_dir: Path, tmp_path: Path, new_request: NewRequest
) -> None:
    async def work() -> None:
        request = new_request(max_steps=30)
        async with started_worker(models_dir, tmp_path) as worker:
            await ready(worker, request)
            async for report in worker.run(request.task_id):
                if isinstance(report, Progress):
                    break
            first, second = await asyncio.gather(*(follow(worker, request.task_id) for _ in range(2)))

        assert kinds(first)[:2] == kinds(second)[:2] == ["Queued", "Started"]
        assert isinstance(first[-1], Trained)
        assert first[-1] == second[-1]
        starts = {one for one in (*first, *second) if isinstance(one, Started)}
        assert [one.resumed_from_step for one in starts] == [None]

    run(work)


def test_run_is_paused_resumed_and_canceled(models_dir: Path, tmp_path: Path, new_request: NewRequest) -> None:
    async def work() -> None:
        request = new_request(max_steps=2000, checkpoint_every=2000)
        async with started_worker(models_dir, tmp_path) as worker:
            await ready(worker, request)
            reports = []
            async for report in worker.run(request.task_id):
                reports.append(report)
                if isinstance(report, Progress) and report.metrics.step == 2:
                    await worker.pause(request.task_id)
            paused_state = worker.runs()[0].state
            await worker.resume(request.task_id)
            later = []
            async for report in worker.run(request.task_id):
                later.append(report)
                if isinstance(report, Progress):
                    await worker.cancel(request.task_id)

        assert isinstance(reports[-1], Paused)
        assert paused_state == "paused"
        assert isinstance(later[0], Queued)
        assert isinstance(later[-1], Canceled)
        assert later[-1].last_checkpoint is not None
        assert worker.runs()[0].state == "canceled"

    run(work)


def test_run_that_the_child_dies_under_again_and_again_fails_for_good(
    models_dir: Path, tmp_path: Path, new_request: NewRequest
) -> None:
    async def work() -> None:
        request = new_request(max_steps=5000, checkpoint_every=5000)
        n_started = 0
        async with started_worker(models_dir, tmp_path) as worker:
            await ready(worker, request)
            async for report in carry_out(worker, request.task_id):
                if isinstance(report, Started) and worker.child_pid is not None:
                    n_started += 1
                    os.kill(worker.child_pid, signal.SIGKILL)
            state = worker.runs()[0]

        assert isinstance(report, Failed)
        assert (report.code, n_started) == ("lost", MOST_DEATHS)
        assert (state.state, state.detail) == ("failed", report.detail)

    run(work)


def test_run_that_nobody_waits_for_stands_still_until_it_is_resumed(
    models_dir: Path, tmp_path: Path, new_request: NewRequest
) -> None:
    async def work() -> None:
        alone, request = new_request("alone", max_steps=30), new_request(max_steps=30, checkpoint_every=5)
        async with started_worker(models_dir, tmp_path) as worker:
            await ready(worker, alone)
            expected = (await follow(worker, alone.task_id))[-1]
            await ready(worker, request)
            async for report in worker.run(request.task_id):
                if isinstance(report, Checkpoint):
                    break
        async with started_worker(models_dir, tmp_path) as worker:
            await ready(worker, request)  # its child is warm, and has had the time to begin
            stopped = next(one for one in worker.runs() if one.task_id == request.task_id)
            with worker.listen(request.task_id) as reports:
                await worker.resume(request.task_id)
                told = [await reports.get()]
                while not isinstance(told[-1], Trained):
                    told.append(await reports.get())

        assert (stopped.state, stopped.detail) == ("paused", STANDS_STILL)
        assert isinstance(told[0], Started)
        assert told[0].resumed_from_step
        assert isinstance(expected, Trained)
        assert isinstance(told[-1], Trained)
        assert told[-1].artifact.sha256 == expected.artifact.sha256

    run(work)


def test_wrong_orders_are_refused_and_the_child_lives_on(
    models_dir: Path, tmp_path: Path, tiny: Path, new_request: NewRequest
) -> None:
    async def work() -> None:
        async with started_worker(models_dir, tmp_path) as worker:
            refused = await worker.prepare(new_request("a", base="no/such-model"))
            pid = worker.child_pid
            with pytest.raises(NoSuchRun):
                await follow(worker, new_request("b").task_id)
            with pytest.raises(NoSuchAdapter):
                await anext(worker.generate(GenerateRequest("g", str(tiny), CHAT, adapter="none")))
            with pytest.raises(TrainingError) as caught:
                await anext(worker.generate(GenerateRequest("h", "no/such-model", CHAT)))
            text = [one async for one in worker.generate(GenerateRequest("i", str(tiny), CHAT, max_tokens=2))]

        assert isinstance(refused, Refused)
        assert refused.code == caught.value.code == "no-such-base"
        assert isinstance(text[-1], Generated)
        assert worker.child_pid is None
        assert pid is not None

    run(work)


def test_text_that_nobody_reads_any_more_is_stopped(models_dir: Path, tmp_path: Path, tiny: Path) -> None:
    async def work() -> None:
        async with started_worker(models_dir, tmp_path) as worker:
            reading = worker.generate(GenerateRequest("g", str(tiny), CHAT, max_tokens=1900, temperature=1.0))
            await anext(reading)
            await reading.aclose()
            text = [one async for one in worker.generate(GenerateRequest("g", str(tiny), CHAT, max_tokens=2))]

        assert isinstance(text[-1], Generated)
        assert text[-1].n_tokens <= 2

    run(work)


def test_child_ends_with_the_service(models_dir: Path, tmp_path: Path) -> None:
    program = (
        "import asyncio, os, sys\n"
        "from pathlib import Path\n"
        "from training_service.worker import Worker\n"
        "async def main():\n"
        f"    worker = Worker(models_dir=Path({str(models_dir)!r}), state_dir=Path({str(tmp_path)!r}))\n"
        "    await worker.start()\n"
        "    await worker._child.connected()\n"
        "    print(worker.child_pid, file=sys.stderr, flush=True)\n"
        "    sys.stdin.readline()\n"
        "    os._exit(9)\n"
        "asyncio.run(main())\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], text=True, **pipes) as service:
        assert service.stderr is not None
        child = os.pidfd_open(int(service.stderr.readline()))
        service.communicate("\n", timeout=LIMIT)

    async def ended() -> None:
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(child, event.set)
        await event.wait()
        loop.remove_reader(child)

    run(ended)
    os.close(child)
    assert service.returncode == 9


def test_service_side_loads_no_model_library() -> None:
    program = (
        "import sys\n"
        "from training_service import adapters, artifact, record, request, worker\n"
        "print(sorted({'torch', 'transformers', 'peft', 'tokenizers'} & sys.modules.keys()))\n"
    )

    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT, check=True)

    assert found.stdout == "[]\n"
