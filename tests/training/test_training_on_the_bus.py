"""The training service's conversations, with its real child: only sockets are left out."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from bus.sdk.opened import OpenConversation
from bus.testing import MemoryBus
from training_service import agent as program
from training_service.agent import generation, training
from training_service.event import Canceled

pytestmark = [pytest.mark.slow, pytest.mark.integration]

TASK = UUID(int=1)
ANSWERS = {"red": "stop", "green": "go"}


def limited(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test on a loop of its own, for a bounded time."""

    @wraps(test)
    def run(**fixtures: Any) -> None:
        async def body() -> None:
            async with asyncio.timeout(100):
                await test(**fixtures)

        asyncio.run(body())

    return run


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of the tiny model for the whole module."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def settings(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    return {"models": str(models), "state": str(tmp_path / "state"), "roots": [str(tmp_path)]}


def artifact(path: Path) -> BaseModel:
    rows = [
        {"messages": [{"role": "user", "content": light}, {"role": "assistant", "content": answer}]}
        for light, answer in ANSWERS.items()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return training.Artifact(**program.Artifact.from_file(path).model_dump())


def order(tmp_path: Path, **changes: object) -> Any:
    facts: dict[str, object] = {
        "task_id": TASK,
        "base": "tiny-gemma3",
        "method": "lora",
        "lora": training.Lora(rank=4),
        "dataset": artifact(tmp_path / "lights.jsonl"),
        "max_steps": 40,
        "batch_rows": 2,
        "learning_rate": 5e-3,
        "adapter": "lights",
        "checkpoint_every": 5,
    }
    return training.TrainRequest(**{**facts, **changes})


async def delegate(conversation: OpenConversation, request: Any, *, until: str = "") -> list[str]:
    """Order a run, take the quote, and return the names of the messages up to the first *until* or the end."""
    await conversation.send(request)
    names: list[str] = []
    async for message in conversation:
        names.append(type(message).__name__)
        if names[-1] == "Quote":
            await conversation.send(training.Accept(task_id=request.task_id))
        if names[-1] == until:
            break
    return names


async def ask(bus: MemoryBus, text: str, adapter: str) -> Any:
    """Let an adapter answer on its own base, and see that every token of the answer is told."""
    request = generation.Generate(
        request_id=UUID(int=2),
        adapter=adapter,
        messages=[generation.ChatTurn(role="user", content=text)],
        max_tokens=8,
        logprobs=2,
    )
    async with bus.client() as client, client.open(generation) as conversation:
        await conversation.send(request)
        messages = [message async for message in conversation]
    last: Any = messages[-1]
    if isinstance(last, generation.Generated):
        pieces: list[Any] = messages[:-1]
        told = [entry for one in messages for entry in one.logprobs]  # type: ignore[attr-defined]
        assert "".join(one.text for one in pieces) == last.text
        assert "".join(entry.token for entry in told) == last.text
        assert all(len(entry.top) == 2 and entry.top[0].logprob <= 0 for entry in told)
    return last


@limited
async def test_a_delegated_run_ends_with_an_adapter_that_answers(settings: dict[str, object], tmp_path: Path) -> None:
    async with MemoryBus() as bus:
        running = await bus.start(program.agent, settings=settings)
        async with bus.client() as client, client.open(training) as conversation:
            request = order(tmp_path)
            names = await delegate(conversation, order(tmp_path, evaluation=request.dataset, accept_warnings=True))
            outcome = conversation.outcome
        answers = [(await ask(bus, light, "lights")).text for light in ANSWERS]
        await running.stop()

    durable = [name for name in names if name != "Progress"]
    assert outcome == "trained"
    assert durable[:4] == ["Quote", "Queued", "Started", "Evaluated"]
    assert durable[4:] == ["Checkpoint"] * 7 + ["Evaluated", "Checkpoint", "Trained"]
    assert answers == list(ANSWERS.values())


@limited
async def test_a_base_that_does_not_exist_is_refused_by_name(settings: dict[str, object], tmp_path: Path) -> None:
    async with MemoryBus() as bus:
        running = await bus.start(program.agent, settings=settings)
        async with bus.client() as client, client.open(training) as conversation:
            refused: Any = await conversation.request(order(tmp_path, base="no-such-model"))
            outcome = await conversation.wait_ended()
        unknown = await ask(bus, "red", "nothing")
        await running.stop()

    assert (outcome, refused.code) == ("refused", "no-such-base")
    assert "no-such-model" in refused.detail
    assert unknown.code == "no-such-adapter"


@limited
async def test_a_run_is_paused_resumed_and_canceled_by_its_client(settings: dict[str, object], tmp_path: Path) -> None:
    async with MemoryBus() as bus:
        running = await bus.start(program.agent, settings=settings)
        async with bus.client() as client, client.open(training) as conversation:
            await delegate(conversation, order(tmp_path, max_steps=5000), until="Checkpoint")
            await conversation.send(training.Pause(task_id=TASK))
            paused = [type(message).__name__ async for message in until(conversation, "Paused")][-1]
            await conversation.send(training.Resume(task_id=TASK))
            resumed = [type(message).__name__ async for message in until(conversation, "Checkpoint")]
            await conversation.send(training.Cancel(task_id=TASK))
            last = [message async for message in until(conversation, "Canceled")][-1]
            outcome = await conversation.wait_ended()
        await running.stop()

    assert paused == "Paused"
    assert [name for name in resumed if name != "Progress"] == ["Started", "Checkpoint"]
    assert last.last_checkpoint is not None
    assert outcome == "canceled"


async def until(conversation: OpenConversation, name: str) -> Any:
    async for message in conversation:
        yield message
        if type(message).__name__ == name:
            return


@limited
async def test_another_instance_goes_on_with_a_run_and_tells_nothing_twice(
    settings: dict[str, object], tmp_path: Path
) -> None:
    async with MemoryBus() as bus:
        first = await bus.start(program.agent, settings=settings)
        async with bus.client() as client, client.open(training) as conversation:
            await delegate(conversation, order(tmp_path), until="Checkpoint")
            await first.kill()
            await program.service.stop()
            await bus.advance(bus.settings.lease + 1)
            second = await bus.start(program.agent, settings=settings)
            async for _ in conversation:
                pass
            outcome = conversation.outcome
            entries = await client.transcript(conversation.id)
        await second.stop()

    told = [entry["type"] for entry in entries if entry["kind"] == "message"]
    assert outcome == "trained"
    assert told == ["TrainRequest", "Quote", "Accept", "Queued", "Started", *["Checkpoint"] * 8, "Trained"]


@limited
async def test_a_run_whose_conversation_is_canceled_is_stopped(settings: dict[str, object], tmp_path: Path) -> None:
    async with MemoryBus() as bus:
        running = await bus.start(program.agent, settings=settings)
        async with bus.client() as client, client.open(training) as conversation:
            await delegate(conversation, order(tmp_path, max_steps=5000), until="Checkpoint")
            (run,) = program.service.worker.runs()
            with program.service.worker.listen(run.task_id) as reports:
                await client.cancel(conversation.id)
                await conversation.wait_ended()
                while not isinstance(await reports.get(), Canceled):
                    pass
        states = [one.state for one in program.service.worker.runs()]
        await running.stop()

    assert states == ["canceled"]
