"""Turns of an agent over a bus in memory: the real broker, the real frames."""

import asyncio
import threading
from typing import Any

import pytest
from work_protocol import bodies, on_loop, work

from bus.errors import (
    BodyInvalid,
    CommitFirst,
    Failure,
    MissingHandler,
    NotAllowed,
    Refused,
    TooLarge,
    TurnEnded,
)
from bus.sdk.agent import Agent
from bus.sdk.notice import Ended
from bus.settings import Settings
from bus.spec.compile import load_protocol
from bus.testing import MemoryBus, play

echo = load_protocol("echo")
newsroom = load_protocol("newsroom")

ASK = work.Ask(job="j", n=3)


def worker(**named: Any) -> Agent:
    """Return an agent for the worker's role with the handler that it must have besides Ask's."""
    agent = Agent(plays=work.role("worker"), **named)

    @agent.on(work.Stop)
    async def stop(message, conversation):
        return work.Stopped(n=conversation.state.get("n", -1))

    return agent


async def dead_letters(client: Any) -> list[tuple[str, str]]:
    return [(letter["code"], letter["detail"]) for letter in await client.query("dead")]


@on_loop
async def test_returned_message_is_sent() -> None:
    agent = Agent(plays=echo.role("echo"))

    @agent.on(echo.Say)
    async def answer(said, conversation):
        return echo.Said(text=said.text.upper())

    async with MemoryBus() as bus:
        await bus.start(agent)
        async with bus.client() as client, client.open(echo) as conversation:
            assert await conversation.request(echo.Say(text="hi")) == echo.Said(text="HI")
            await conversation.send(echo.Bye())
            assert await conversation.wait_ended() == "done"


@on_loop
async def test_newsroom_gets_to_published() -> None:
    async with MemoryBus() as bus:
        for role in ("researcher", "summarizer", "writer"):
            await bus.start(play(newsroom.role(role)))
        revise, approve = newsroom.Revise(comments="shorter"), newsroom.Approve()
        judge = play(newsroom.role("editor"), {newsroom.Draft: lambda draft: revise if first.pop() else approve})
        first = [False, True]
        await bus.start(judge)
        async with bus.client() as client, client.open(newsroom) as desk:
            await desk.send(newsroom.Brief(topic="tides"))
            messages = [type(message).__name__ async for message in desk]
            said = bodies(await client.transcript(desk.id))

    assert (desk.outcome, messages) == ("published", ["Published"])
    assert said == [
        ("desk", "Brief"),
        ("researcher", "FindingsDone"),
        ("summarizer", "Digest"),
        ("writer", "Draft"),
        ("editor", "Revise"),
        ("writer", "Draft"),
        ("editor", "Approve"),
        ("writer", "Published"),
    ]


@on_loop
async def test_state_is_kept_and_handed_to_whoever_takes_over() -> None:
    def summing() -> Agent:
        agent = worker(name="summer")

        @agent.on(work.Ask)
        async def add(ask, conversation):
            conversation.state["n"] = conversation.state.get("n", 0) + ask.n
            return work.Done(job=ask.job, n=conversation.state["n"])

        return agent

    async with MemoryBus() as bus:
        one = await bus.start(summing())
        async with bus.client() as client, client.open(work) as conversation:
            assert await conversation.request(ASK) == work.Done(job="j", n=3)
            await bus.settle()
            await one.stop()
            await bus.start(summing(), instance=1)
            await conversation.send(work.Again())
            assert await conversation.request(ASK) == work.Done(job="j", n=6)


@on_loop
async def test_killed_handlers_message_is_delivered_again_and_its_sends_never_happened() -> None:
    attempts: list[int] = []
    begun = asyncio.Event()

    def fragile(*, hangs: bool) -> Agent:
        agent = worker(name="fragile")

        @agent.on(work.Ask)
        async def work_on(ask, conversation):
            attempts.append(conversation.attempt)
            conversation.state["n"] = conversation.state.get("n", 0) + 1
            await conversation.send(work.Part(n=len(attempts)))
            begun.set()
            if hangs:
                await asyncio.Event().wait()
            return work.Done(job=ask.job, n=conversation.state["n"])

        return agent

    async with MemoryBus() as bus:
        first = await bus.start(fragile(hangs=True))
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(ASK)
            await begun.wait()
            await first.kill()
            await bus.start(fragile(hangs=False))
            assert [await conversation.receive(), await conversation.receive()] == [
                work.Part(n=2),
                work.Done(job="j", n=1),
            ]

    assert attempts == [1, 2]


@on_loop
async def test_silent_agent_loses_its_lease_to_another_instance() -> None:
    begun = asyncio.Event()

    def slow(*, hangs: bool) -> Agent:
        agent = worker(name="slow")

        @agent.on(work.Ask)
        async def work_on(ask, conversation):
            begun.set()
            if hangs:
                await asyncio.Event().wait()
            return work.Done(job=ask.job, n=1)

        return agent

    async with MemoryBus() as bus:
        first = await bus.start(slow(hangs=True))
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(ASK)
            await begun.wait()
            await bus.start(slow(hangs=False), instance=1)
            await first.kill()
            await bus.advance(bus.settings.lease + 1)
            await bus.advance(bus.settings.lease)
            assert await conversation.receive() == work.Done(job="j", n=1)


@on_loop
async def test_commit_publishes_at_once_and_a_redelivery_begins_with_its_state() -> None:
    seen: list[dict[str, object]] = []
    committed = asyncio.Event()

    def stepping(*, hangs: bool) -> Agent:
        agent = worker(name="stepping")

        @agent.on(work.Ask)
        async def step(ask, conversation):
            seen.append(dict(conversation.state))
            for n in range(conversation.state.get("n", 0), ask.n):
                conversation.state["n"] = n + 1
                await conversation.send(work.Part(n=n))
                await conversation.commit()
                if hangs and n == 1:
                    conversation.state["n"] = 99
                    committed.set()
                    await asyncio.Event().wait()
            return work.Done(job=ask.job, n=ask.n)

        return agent

    async with MemoryBus() as bus:
        first = await bus.start(stepping(hangs=True))
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(ASK)
            await committed.wait()
            parts = [await conversation.receive(), await conversation.receive()]
            await first.kill()
            await bus.start(stepping(hangs=False))
            rest = [await conversation.receive(), await conversation.receive()]

    assert parts == [work.Part(n=0), work.Part(n=1)]
    assert rest == [work.Part(n=2), work.Done(job="j", n=3)]
    assert seen == [{}, {"n": 2}]


@on_loop
async def test_stream_that_was_cut_goes_on_where_it_was_committed() -> None:
    begun: list[int] = []
    far = asyncio.Event()

    def streaming(*, hangs: bool) -> Agent:
        agent = worker(name="streaming")

        @agent.on(work.Ask)
        async def stream(ask, conversation):
            begun.append(conversation.attempt)
            conversation.state["n"] = 1
            for n in range(ask.n):
                yield work.Part(n=n)
                if hangs and n == 1:
                    far.set()
                    await asyncio.Event().wait()
            yield work.Done(job=ask.job, n=ask.n)

        return agent

    async with MemoryBus() as bus:
        first = await bus.start(streaming(hangs=True))
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(work.Ask(job="j", n=4))
            await far.wait()
            early = [await conversation.receive(), await conversation.receive()]
            await bus.settle()
            await first.kill()
            await bus.start(streaming(hangs=False))
            late = [await conversation.receive() for _ in range(3)]
            await conversation.send(work.Stop())
            stopped = await conversation.receive()

    assert early == [work.Part(n=0), work.Part(n=1)]
    assert late == [work.Part(n=2), work.Part(n=3), work.Done(job="j", n=4)]
    assert stopped == work.Stopped(n=1)
    assert begun == [1, 2]


@on_loop
async def test_long_stream_arrives_whole_and_in_order() -> None:
    agent = worker()

    @agent.on(work.Ask)
    async def stream(ask, conversation):
        for n in range(ask.n):
            yield work.Part(n=n)
        yield work.Done(job=ask.job, n=ask.n)

    async with MemoryBus() as bus:
        await bus.start(agent)
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(work.Ask(job="j", n=1000))
            numbers = [(await conversation.receive()).n for _ in range(1000)]
            assert numbers == list(range(1000))
            assert await conversation.receive() == work.Done(job="j", n=1000)


@on_loop
async def test_def_handler_runs_in_a_thread_with_the_same_conversation() -> None:
    agent = worker()
    threads: list[str] = []

    @agent.on(work.Ask)
    def blocking(ask, conversation):
        threads.append(threading.current_thread().name)
        conversation.state["n"] = ask.n
        conversation.send(work.Part(n=1))
        conversation.commit()
        conversation.send(work.Note(n=2))
        return work.Done(job=ask.job, n=len(conversation.allowed()))

    async with MemoryBus() as bus:
        await bus.start(agent)
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(ASK)
            got = [await conversation.receive() for _ in range(3)]

    assert sorted(map(repr, got)) == sorted(map(repr, [work.Part(n=1), work.Note(n=2), work.Done(job="j", n=3)]))
    assert threads != [threading.current_thread().name]


@on_loop
async def test_generator_in_a_thread_streams() -> None:
    agent = worker()

    @agent.on(work.Ask)
    def stream(ask, conversation):
        for n in range(ask.n):
            yield work.Part(n=n)
        yield work.Done(job=ask.job, n=0)

    async with MemoryBus() as bus:
        await bus.start(agent)
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(ASK)
            got = [await conversation.receive() for _ in range(4)]

    assert got == [work.Part(n=0), work.Part(n=1), work.Part(n=2), work.Done(job="j", n=0)]


@on_loop
async def test_interrupt_revokes_the_open_turn_and_drops_what_was_not_committed() -> None:
    agent = worker()
    begun, canceled = asyncio.Event(), asyncio.Event()

    @agent.on(work.Ask)
    async def hang(ask, conversation):
        conversation.state["n"] = 7
        await conversation.commit()
        conversation.state["n"] = 8
        await conversation.send(work.Part(n=1))
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            canceled.set()

    async with MemoryBus() as bus:
        await bus.start(agent)
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(ASK)
            await begun.wait()
            await conversation.send(work.Stop())
            assert await conversation.receive() == work.Stopped(n=7)
            assert await conversation.wait_ended() == "stopped"

    assert canceled.is_set()


@on_loop
async def test_thread_is_told_that_its_turn_was_revoked_and_may_not_commit() -> None:
    agent = worker()
    begun, ended = threading.Event(), threading.Event()
    seen: list[object] = []

    @agent.on(work.Ask)
    def hang(ask, conversation):
        begun.set()
        while not conversation.canceled:
            ended.wait(0.001)
        try:
            conversation.commit()
        except TurnEnded as error:
            seen.append(error.code)
        ended.set()

    async with MemoryBus() as bus:
        await bus.start(agent)
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(ASK)
            await asyncio.to_thread(begun.wait)
            await conversation.send(work.Stop())
            assert await conversation.receive() == work.Stopped(n=-1)
            await asyncio.to_thread(ended.wait)

    assert seen == ["revoked"]


@on_loop
async def test_handler_that_raises_is_tried_again_after_a_pause() -> None:
    agent = worker()
    attempts: list[int] = []

    @agent.on(work.Ask)
    async def fail_once(ask, conversation):
        attempts.append(conversation.attempt)
        conversation.state["n"] = 5
        if len(attempts) == 1:
            raise RuntimeError("no luck")
        return work.Done(job=ask.job, n=0)

    async with MemoryBus() as bus:
        await bus.start(agent)
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(ASK)
            await bus.advance(bus.settings.back_off)
            assert await conversation.receive() == work.Done(job="j", n=0)

    assert attempts == [1, 2]


@on_loop
async def test_handler_that_always_raises_ends_as_a_dead_letter_with_its_reason() -> None:
    agent = worker()

    @agent.on(work.Ask)
    async def fail(ask, conversation):
        raise RuntimeError("no luck")

    async with MemoryBus(Settings(max_attempts=2)) as bus:
        await bus.start(agent)
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(ASK)
            await bus.advance(bus.settings.back_off)
            assert await dead_letters(client) == [("raised", "RuntimeError: no luck")]


@on_loop
async def test_handler_that_returns_owing_a_message_is_a_dead_letter_at_once() -> None:
    agent = worker()

    @agent.on(work.Ask)
    async def forget(ask, conversation):
        await conversation.send(work.Part(n=1))

    async with MemoryBus() as bus:
        await bus.start(agent)
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(ASK)
            await bus.settle()
            [(code, detail)] = await dead_letters(client)

    assert code == "turn-unfinished"
    assert "worker must send Done or Note or Part" in detail


@on_loop
async def test_failure_is_final_unless_it_says_otherwise() -> None:
    agent = worker()

    @agent.on(work.Ask)
    async def fail(ask, conversation):
        raise Failure("no-such-job", "there is none")

    async with MemoryBus() as bus:
        await bus.start(agent)
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(ASK)
            await bus.settle()
            assert await dead_letters(client) == [("no-such-job", "there is none")]


@on_loop
async def test_handler_over_its_limit_is_stopped_and_tried_again() -> None:
    agent = worker()
    attempts: list[int] = []

    @agent.on(work.Ask, limit=0.01)
    async def hang_once(ask, conversation):
        attempts.append(conversation.attempt)
        if len(attempts) == 1:
            await asyncio.Event().wait()
        return work.Done(job=ask.job, n=0)

    async with MemoryBus() as bus:
        await bus.start(agent)
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(ASK)
            while (await client.status())["agents"][0]["open_deliveries"]:
                await bus.settle()
            await bus.advance(bus.settings.back_off)
            assert await conversation.receive() == work.Done(job="j", n=0)

    assert attempts == [1, 2]


async def caught_in_handler(handle: Any) -> list[Exception]:
    """Run *handle* as the body of a handler and return what it caught; the turn then ends well."""
    agent = worker()
    caught: list[Exception] = []

    @agent.on(work.Ask)
    async def run(ask, conversation):
        try:
            await handle(conversation)
        except Exception as error:
            caught.append(error)
        return work.Done(job="j", n=len(conversation.allowed()))

    async with MemoryBus() as bus:
        await bus.start(agent)
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(ASK)
            while not isinstance(await conversation.receive(), work.Done):
                pass
    return caught


@on_loop
async def test_message_out_of_turn_raises_in_the_handler_and_changes_nothing() -> None:
    async def handle(conversation):
        await conversation.send(work.Stopped(n=1))

    [error] = await caught_in_handler(handle)

    assert isinstance(error, NotAllowed)
    assert "Done to client; Note to client; Part to client" in str(error)


@on_loop
async def test_at_most_once_message_may_not_overtake_uncommitted_ones() -> None:
    async def handle(conversation):
        await conversation.send(work.Part(n=1))
        await conversation.send(work.Note(n=1))

    [error] = await caught_in_handler(handle)

    assert isinstance(error, CommitFirst)
    assert "commit()" in str(error)


@on_loop
async def test_more_of_a_type_than_its_window_in_one_commit_is_refused() -> None:
    async def handle(conversation):
        for n in range(101):
            await conversation.send(work.Part(n=n))

    [error] = await caught_in_handler(handle)

    assert isinstance(error, TooLarge)
    assert "commit sooner" in str(error)


@on_loop
async def test_broken_key_raises_in_the_handler() -> None:
    async def handle(conversation):
        await conversation.send(work.Done(job="another", n=1))

    [error] = await caught_in_handler(handle)

    assert isinstance(error, BodyInvalid)


@on_loop
async def test_send_after_the_turn_is_refused() -> None:
    agent = worker()
    kept: list[Any] = []

    @agent.on(work.Ask)
    async def keep(ask, conversation):
        kept.append(conversation)
        return work.Done(job=ask.job, n=0)

    async with MemoryBus() as bus:
        await bus.start(agent)
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.request(ASK)
            with pytest.raises((TurnEnded, NotAllowed)):
                await kept[0].send(work.Part(n=1))
            with pytest.raises(TurnEnded, match="the turn is over"):
                await kept[0].commit()


@on_loop
async def test_notice_without_handler_is_settled_silently_and_one_with_handler_is_told() -> None:
    agent = worker()
    told: list[object] = []

    @agent.on(work.Ask)
    async def answer(ask, conversation):
        return work.Done(job=ask.job, n=0)

    @agent.on(Ended)
    async def end(ended, conversation):
        told.append((ended.outcome, conversation.allowed()))

    async with MemoryBus() as bus:
        await bus.start(agent)
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.request(ASK)
            await conversation.send(work.Bye())
            await conversation.wait_ended()
            await bus.settle()
            assert (await client.status())["n_live"] == 0

    assert told == [("done", [])]


@on_loop
async def test_turns_of_one_conversation_never_overlap_and_those_of_others_do() -> None:
    agent = worker(name="busy")
    gate = asyncio.Event()
    running: list[bytes] = []
    most: list[int] = []

    @agent.on(work.Ask)
    async def answer(ask, conversation):
        assert conversation.id not in running
        running.append(conversation.id)
        most.append(len(running))
        if len(running) == 3:
            gate.set()
        await gate.wait()
        running.remove(conversation.id)
        return work.Done(job=ask.job, n=0)

    async with MemoryBus() as bus:
        await bus.start(agent)
        async with bus.client() as client:

            async def lane() -> None:
                async with client.open(work) as conversation:
                    await conversation.request(ASK)

            await asyncio.gather(*[lane() for _ in range(3)])

    assert max(most) == 3


@on_loop
async def test_stopping_agent_finishes_its_open_turn() -> None:
    agent = worker()
    begun, go_on = asyncio.Event(), asyncio.Event()
    hooks: list[str] = []

    @agent.on_start
    async def start() -> None:
        hooks.append("start")

    @agent.on_stop
    def stop() -> None:
        hooks.append("stop")

    @agent.on(work.Ask)
    async def answer(ask, conversation):
        begun.set()
        await go_on.wait()
        return work.Done(job=ask.job, n=0)

    async with MemoryBus() as bus:
        running = await bus.start(agent)
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(ASK)
            await begun.wait()
            stopping = asyncio.create_task(running.stop())
            await bus.settle()
            go_on.set()
            await stopping
            assert await conversation.receive() == work.Done(job="j", n=0)

    assert hooks == ["start", "stop"]


@on_loop
async def test_agent_that_lacks_a_handler_is_not_started() -> None:
    async with MemoryBus() as bus:
        with pytest.raises(MissingHandler, match=r"work\.worker has no handler for"):
            await bus.start(Agent(plays=work.role("worker")))


@on_loop
async def test_what_on_start_raises_stops_the_start() -> None:
    agent = worker()
    agent.on(work.Ask)(lambda ask, conversation: work.Done(job="j", n=0))

    @agent.on_start
    def refuse() -> None:
        raise Failure("no-corpus")

    async with MemoryBus() as bus:
        with pytest.raises(Failure, match="no-corpus"):
            await bus.start(agent)


@on_loop
async def test_refused_commit_is_told_to_the_handler_that_waits_for_it() -> None:
    agent = worker()
    caught: list[Exception] = []

    @agent.on(work.Ask)
    async def cheat(ask, conversation):
        conversation._turn.seat.at = work.tables.machines[work.role_index("worker")].start
        conversation._turn._sends.append([b"i" * 16, work.message_index("Stopped"), 0, None, None, b"\x80"])
        try:
            await conversation.commit()
        except Refused as error:
            caught.append(error)
            raise

    async with MemoryBus() as bus:
        await bus.start(agent)
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(ASK)
            await bus.settle()
            [(code, _)] = await dead_letters(client)

    assert code == "not-allowed"
    assert [type(error) for error in caught] == [Refused]
