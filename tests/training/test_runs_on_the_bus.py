"""Runs as their owner sees and steers them over the bus, with the service's real child: only sockets are left out."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from bus.sdk.client import Client
from bus.sdk.opened import OpenConversation
from bus.testing import MemoryBus
from training_service import agent as program
from training_service.agent import runs, training

pytestmark = [pytest.mark.slow, pytest.mark.integration]

TASK = UUID(int=1)
KEY = "correct horse battery"


def limited(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test on a loop of its own, for a bounded time."""

    @wraps(test)
    def run(**fixtures: Any) -> None:
        async def body() -> None:
            async with asyncio.timeout(100):
                await test(**fixtures)

        asyncio.run(body())

    return run


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    return {"models": str(tmp_path / "models"), "state": str(tmp_path / "state"), "roots": [str(tmp_path)]}


def order(tmp_path: Path, **changes: object) -> Any:
    path = tmp_path / "lights.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": a, "completion": b}) + "\n" for a, b in (("red", "stop"), ("green", "go")))
    )
    facts: dict[str, object] = {
        "task_id": TASK,
        "base": "tiny-gemma3",
        "method": "lora",
        "lora": training.Lora(rank=4),
        "dataset": training.Artifact(**program.Artifact.from_file(path).model_dump()),
        "max_steps": 100_000,
        "batch_rows": 2,
        "checkpoint_every": 5,
        "owner_key": KEY,
    }
    return training.TrainRequest(**{**facts, **changes})


async def ask(client: Client, message: Any) -> Any:
    async with client.open(runs, role="client") as conversation:
        return await conversation.request(message)


async def read_until(conversation: OpenConversation, name: str) -> Any:
    async for message in conversation:
        if type(message).__name__ == name:
            return message
    raise AssertionError(f"expected {name}, the conversation ended as {conversation.outcome}")


async def follow(client: Client, seen: list[Any]) -> None:
    async with client.open(runs, role="client") as conversation:
        await conversation.send(runs.Follow(task_id=TASK, owner_key=KEY))
        async for message in conversation:
            seen.append(message)


@limited
async def test_an_owner_sees_and_steers_a_run_beside_its_conversation_and_nobody_else_does(
    settings: dict[str, object], tmp_path: Path
) -> None:
    seen: list[Any] = []
    mine: dict[str, Any] = {"task_id": TASK, "owner_key": KEY}
    theirs: dict[str, Any] = {"task_id": TASK, "owner_key": KEY + "?"}
    async with MemoryBus() as bus:
        running = await bus.start(program.agent, settings=settings)
        async with bus.client() as client, bus.client() as owner, client.open(training) as conversation:
            await conversation.send(order(tmp_path))
            await read_until(conversation, "Quote")
            await conversation.send(training.Accept(task_id=TASK))
            await read_until(conversation, "Checkpoint")
            following = asyncio.create_task(follow(owner, seen))
            stranger = await ask(owner, runs.List())
            listed = await ask(owner, runs.List(owner_key=KEY))
            refused = [await ask(owner, kind(**theirs)) for kind in (runs.Show, runs.PauseRun, runs.CancelRun)]
            paused = await ask(owner, runs.PauseRun(**mine))
            suspended = await read_until(conversation, "Suspended")
            shown = await ask(owner, runs.Show(**mine, points=4))
            resumed = await ask(owner, runs.ResumeRun(**mine))
            await read_until(conversation, "Started")
            await read_until(conversation, "Checkpoint")
            canceled = await ask(owner, runs.CancelRun(**mine))
            told = await read_until(conversation, "Canceled")
            again = await ask(owner, runs.ResumeRun(**mine))
            outcome = await conversation.wait_ended()
            await following
        await running.stop()

    assert stranger.runs == []
    assert [(one.task_id, one.state, one.priority) for one in listed.runs] == [(TASK, "running", 5)]
    assert [one.code for one in refused] == ["no-such-run"] * 3
    assert (paused.run.state, suspended.reason) == ("paused", "owner")
    assert suspended.checkpoint.uri.startswith("file://")
    assert len(shown.metrics) == 4
    assert shown.metrics[-1].step == paused.run.step == shown.run.step
    assert KEY not in shown.request
    assert json.loads(shown.request)["base"] == "tiny-gemma3"
    assert resumed.run.state in ("queued", "running")
    assert canceled.run.state == "canceled"
    assert told.last_checkpoint is not None
    assert (again.code, outcome) == ("bad-request", "canceled")
    names = [type(one).__name__ for one in seen]
    assert (names[0], names[-1]) == ("Changed", "Over")
    assert {one.run.state for one in seen if type(one).__name__ == "Changed"} >= {"running", "paused"}
    assert seen[-1].run.state == "canceled"
    assert [one.run.state for one in seen if type(one).__name__ == "Progress"].count("running") > 1


@limited
async def test_a_run_that_its_owner_paused_stays_so_when_the_service_starts_again(
    settings: dict[str, object], tmp_path: Path
) -> None:
    mine: dict[str, Any] = {"task_id": TASK, "owner_key": KEY}
    async with MemoryBus() as bus:
        first = await bus.start(program.agent, settings=settings)
        async with bus.client() as client, client.open(training) as conversation:
            await conversation.send(order(tmp_path, max_steps=30))
            await read_until(conversation, "Quote")
            await conversation.send(training.Accept(task_id=TASK))
            await read_until(conversation, "Checkpoint")
            await ask(client, runs.PauseRun(**mine))
            await read_until(conversation, "Suspended")
            await first.kill()
            await program.service.stop()
            await bus.advance(bus.settings.lease + 1)
            second = await bus.start(program.agent, settings=settings)
            asked = await ask(client, runs.Show(**mine))
            await ask(client, runs.ResumeRun(**mine))
            outcome = await conversation.wait_ended()
            told = [entry["type"] for entry in await client.transcript(conversation.id) if entry["kind"] == "message"]
        await second.stop()

    assert asked.run.state == "paused"
    assert outcome == "trained"
    assert [name for name in told if name != "Checkpoint"] == [
        "TrainRequest", "Quote", "Accept", "Queued", "Started", "Suspended", "Started", "Trained",
    ]  # fmt: skip
