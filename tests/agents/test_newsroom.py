"""The newsroom's agents together on a bus in memory, with a trainer that answers by a script."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import pytest
from pydantic import BaseModel

from bus import Agent, load_protocol
from bus.testing import MemoryBus, play
from bus.wire.codec import decode_body
from training_service.sections import SECTIONS, write_archive

pytestmark = pytest.mark.slow

newsroom = load_protocol("newsroom")
training = load_protocol("training")
generation = load_protocol("generation")

PAGE = """# The disk

The journal is on disk. Every commit is a record of the journal, and a crash loses no record. The database
keeps each transaction for the time of its retention, and sync means that the disk has it.
"""


Desk: TypeAlias = dict[str, tuple[Agent, dict[str, object]]]


def limited(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test on a loop of its own, for half a minute at most."""

    @wraps(test)
    def run(**fixtures: Any) -> None:
        async def body() -> None:
            async with asyncio.timeout(30):
                await test(**fixtures)

        asyncio.run(body())

    return run


@pytest.fixture
def desk(program: Callable[[str], ModuleType], tmp_path: Path) -> Desk:
    """Return the shipped agents with settings for a desk of their own, by name."""
    corpus = tmp_path / "docs"
    corpus.mkdir()
    (corpus / "disk.md").write_text(PAGE)
    digests, held_out = write_archive(tmp_path, 0)
    archive: dict[str, object] = {"digests": str(digests), "archive": str(tmp_path / "corrections")}
    settings: dict[str, dict[str, object]] = {
        "researcher": {"corpus": str(corpus)},
        "summarizer": {},
        "writer": {**archive, "held_out": str(held_out)},
        "editor": archive,
    }
    return {name: (program(name).agent, settings[name]) for name in settings}


def generator() -> Agent:
    """A model that knows no section until it has an adapter."""

    def write(order: Any) -> BaseModel:
        text = "storage" if order.adapter == "sections@1" else "brr"
        return generation.Generated(
            request_id=order.request_id, text=text, n_prompt_tokens=9, n_tokens=1, finish_reason="stop"
        )

    return play(generation.role("generator"), {generation.Generate: write}, name="generator")


def trainer(orders: list[Any], *, quotes: bool = True, fails: bool = False) -> Agent:
    """A trainer that notes its orders and refuses, fails or is done at once."""

    def answer(order: Any) -> BaseModel:
        orders.append(order)
        if quotes:
            audit = training.Audit(
                rows=1, tokens=9, trained_tokens=2, rows_masked=0, rows_truncated=0, rows_duplicated=0,
                rows_shared_with_evaluation=0, double_bos=False, pad_is_eos=False, stop_token_trained=True,
                first_example="", notes=[], warnings=[],
            )  # fmt: skip
            return training.Quote(
                task_id=order.task_id,
                audit=audit,
                peak_memory_bytes=1,
                disk_bytes=1,
                steps=2,
                seconds=0.1,
                device="cpu",
            )
        return training.Refused(task_id=order.task_id, code="no-memory", detail="too large")

    def carry_out(order: Any) -> list[BaseModel]:
        task_id = order.task_id
        begun = [training.Queued(task_id=task_id, position=0), training.Started(task_id=task_id, run_id="run")]
        if fails:
            return [*begun, training.TrainFailed(task_id=task_id, code="lost", detail="no child", retryable=True)]
        done = training.Trained(
            task_id=task_id,
            artifact=training.Artifact(uri="file:///nowhere", sha256="0" * 64, size=0),
            adapter="sections@1",
            metrics=training.Metrics(step=2, loss=0.1, learning_rate=0.1),
            used=training.Usage(peak_memory_bytes=1, seconds=0.1, quoted_peak_memory_bytes=1, quoted_seconds=0.1),
        )
        return [*begun, done]

    return play(training.role("trainer"), {training.TrainRequest: answer, training.Accept: carry_out})


async def tell(bus: MemoryBus, brief: BaseModel) -> tuple[str | None, list[tuple[str, str | None]], Any]:
    """Send *brief* and return the outcome, (type, section) of what editor and writer said, and the last message."""
    async with bus.client("desk") as client, client.open(newsroom) as conversation:
        await conversation.send(brief)
        messages = [message async for message in conversation]
        said = []
        for entry in await client.transcript(conversation.id):
            if entry["kind"] == "message" and entry["sender"] in ("writer", "editor"):
                said.append((entry["type"], decode_body(entry["body"]).get("section")))
        return conversation.outcome, said, messages[-1]


def n_rows(order: Any) -> int:
    return len(Path(order.dataset.uri.removeprefix("file://")).read_text().splitlines())


async def start(bus: MemoryBus, desk: Desk, *others: Agent) -> None:
    for agent, settings in desk.values():
        await bus.start(agent, settings=settings)
    for agent in others:
        await bus.start(agent)


BRIEF = newsroom.Brief(topic="How the journal keeps every commit on disk", depth=2)


@limited
async def test_the_writer_learns_from_the_editor_and_files_the_next_draft_right(desk: Desk, tmp_path: Path) -> None:
    orders: list[Any] = []
    async with MemoryBus() as bus:
        await start(bus, desk, generator(), trainer(orders))

        outcome, said, published = await tell(bus, BRIEF)

    assert outcome == "published"
    assert said == [
        ("Draft", "brr"),
        ("Revise", "storage"),
        ("Draft", "storage"),
        ("Approve", None),
        ("Published", "storage"),
    ]
    (order,) = orders
    assert (order.method, order.adapter, order.lora.rank) == ("lora", "sections", 32)
    assert n_rows(order) == 401
    assert published.section in SECTIONS


@limited
async def test_the_next_story_begins_with_what_was_learned(desk: Desk) -> None:
    orders: list[Any] = []
    async with MemoryBus() as bus:
        await start(bus, desk, generator(), trainer(orders))
        await tell(bus, BRIEF)

        _, said, _ = await tell(bus, BRIEF)

    assert said == [("Draft", "storage"), ("Approve", None), ("Published", "storage")]
    assert len(orders) == 1


@pytest.mark.parametrize("way", [{"quotes": False}, {"fails": True}])
@limited
async def test_where_nothing_can_be_learned_the_writer_takes_the_editors_word(desk: Desk, way: dict[str, bool]) -> None:
    orders: list[Any] = []
    async with MemoryBus() as bus:
        await start(bus, desk, generator(), trainer(orders, **way))

        outcome, said, _ = await tell(bus, BRIEF)

    assert outcome == "published"
    assert said[2] == ("Draft", "storage")
    assert len(orders) == 1


@limited
async def test_a_killed_story_is_spiked_with_the_editors_reason(
    desk: Desk,
) -> None:
    desk.pop("editor")
    editor = play(newsroom.role("editor"), {newsroom.Draft: newsroom.Kill(reason="no news")})
    async with MemoryBus() as bus:
        await start(bus, desk, generator(), trainer([]), editor)

        outcome, _, spiked = await tell(bus, BRIEF)

    assert outcome == "spiked"
    assert spiked.reason == "no news"


@limited
async def test_an_editor_who_is_never_content_ends_the_story_after_three_revisions(
    desk: Desk,
) -> None:
    desk.pop("editor")
    editor = play(newsroom.role("editor"), {newsroom.Draft: newsroom.Revise(comments="shorter, please")})
    async with MemoryBus() as bus:
        await start(bus, desk, generator(), trainer([]), editor)

        outcome, said, spiked = await tell(bus, BRIEF)

    assert outcome == "spiked"
    assert [type for type, _ in said].count("Draft") == 3
    assert spiked.reason == "too many revisions"


@limited
async def test_a_writer_killed_while_it_learns_is_replaced_and_nothing_is_ordered_twice(
    desk: Desk, program: Callable[[str], ModuleType]
) -> None:
    orders: list[Any] = []
    held = trainer(orders)
    writer, settings = desk.pop("writer")
    async with MemoryBus() as bus:
        await start(bus, desk, generator())
        first = await bus.start(writer, settings=settings)
        async with bus.client("desk") as client, client.open(newsroom) as conversation:
            await conversation.send(BRIEF)
            await bus.settle()  # no trainer yet: the writer waits for its quote
            await first.kill()
            await bus.advance(bus.settings.lease + 1)
            await bus.start(program("writer").agent, settings=settings)
            await bus.start(held)

            published = await conversation.receive(timeout=20)

        listed = await started_runs(bus)

    assert type(published).__name__ == "Published"
    assert len(orders) == 1
    assert len(listed) == 1


async def started_runs(bus: MemoryBus) -> list[dict[str, Any]]:
    async with bus.client() as client:
        return [one for one in await client.conversations() if one["protocol"].startswith("training@")]


@limited
async def test_echo_says_back_what_was_said(program: Callable[[str], ModuleType]) -> None:
    echo = load_protocol("echo")
    async with MemoryBus() as bus:
        await bus.start(program("echo").agent)

        async with bus.client() as client, client.open(echo) as conversation:
            assert await conversation.request(echo.Say(text="hello")) == echo.Said(text="hello")
            await conversation.send(echo.Bye())
            assert await conversation.wait_ended() == "done"
