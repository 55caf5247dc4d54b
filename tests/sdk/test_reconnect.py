"""Broker outages as agents and clients live through them."""

import asyncio

import pytest
from work_protocol import bodies, on_loop, work

from bus.sdk.agent import Agent
from bus.settings import Settings
from bus.spec.compile import load_protocol
from bus.testing import MemoryBus

echo = load_protocol("echo")
ASK = work.Ask(job="j", n=3)


def echoing() -> Agent:
    agent = Agent(plays=echo.role("echo"))

    @agent.on(echo.Say)
    async def answer(said, conversation):
        return echo.Said(text=said.text)

    return agent


@on_loop
async def test_conversation_goes_on_over_a_restart_of_the_broker() -> None:
    async with MemoryBus() as bus:
        await bus.start(echoing())
        async with bus.client() as client, client.open(echo) as conversation:
            await conversation.request(echo.Say(text="one"))
            await bus.settle()
            bus.crash_broker()
            await bus.restart_broker()
            assert await conversation.request(echo.Say(text="two")) == echo.Said(text="two")
            said = bodies(await client.transcript(conversation.id))

    assert said == [("client", "Say"), ("echo", "Said")] * 2


@on_loop
async def test_what_is_sent_while_the_broker_is_away_is_delivered_when_it_is_back() -> None:
    async with MemoryBus() as bus:
        await bus.start(echoing())
        async with bus.client() as client, client.open(echo) as conversation:
            await conversation.request(echo.Say(text="one"))
            await bus.settle()
            bus.crash_broker()
            asking = asyncio.create_task(conversation.request(echo.Say(text="two")))
            await bus.settle()
            await bus.restart_broker()
            assert await asking == echo.Said(text="two")


@on_loop
async def test_unsynced_messages_that_the_crash_took_are_sent_again() -> None:
    async with MemoryBus() as bus:
        await bus.start(echoing())
        async with bus.client() as client, client.open(echo) as conversation:
            await conversation.flush()
            await bus.settle()
            bus.engine.journal.holds_back = True
            await conversation.send(echo.Say(text="hi"))
            await bus.settle()
            bus.crash_broker()
            bus.engine.journal.holds_back = False
            await bus.restart_broker()
            await conversation.flush()
            assert await conversation.receive() == echo.Said(text="hi")
            said = bodies(await client.transcript(conversation.id))

    assert said == [("client", "Say"), ("echo", "Said")]


@pytest.mark.parametrize("n_settled", range(7))
@on_loop
async def test_crash_at_any_moment_of_a_turn_gives_the_transcript_of_a_run_without(n_settled: int) -> None:
    agent = Agent(plays=work.role("worker"))
    agent.on(work.Stop)(lambda stop, conversation: work.Stopped(n=0))
    steps = asyncio.Semaphore(0)

    @agent.on(work.Ask)
    async def answer(ask, conversation):
        for n in range(conversation.state.get("n", 0), ask.n):
            await steps.acquire()
            conversation.state["n"] = n + 1
            await conversation.send(work.Part(n=n))
            await conversation.commit()
        await steps.acquire()
        return work.Done(job=ask.job, n=ask.n)

    async with MemoryBus() as bus:
        await bus.start(agent)
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(ASK)
            for _ in range(n_settled):
                await asyncio.sleep(0)
                steps.release()
            if n_settled % 2:
                await bus.settle()
            bus.crash_broker()
            for _ in range(20):
                steps.release()
            await bus.restart_broker()
            heard = [await conversation.receive() for _ in range(4)]
            await conversation.send(work.Bye())
            await conversation.wait_ended()
            said = bodies(await client.transcript(conversation.id))

    assert heard == [work.Part(n=0), work.Part(n=1), work.Part(n=2), work.Done(job="j", n=3)]
    assert said == [("client", "Ask"), *[("worker", "Part")] * 3, ("worker", "Done"), ("client", "Bye")]


@on_loop
async def test_open_turn_keeps_its_lease_over_a_restart() -> None:
    agent = Agent(plays=work.role("worker"))
    agent.on(work.Stop)(lambda stop, conversation: work.Stopped(n=0))
    begun, go_on = asyncio.Event(), asyncio.Event()
    attempts: list[int] = []

    @agent.on(work.Ask)
    async def answer(ask, conversation):
        attempts.append(conversation.attempt)
        begun.set()
        await go_on.wait()
        return work.Done(job=ask.job, n=0)

    async with MemoryBus() as bus:
        await bus.start(agent)
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(ASK)
            await begun.wait()
            await bus.settle()
            bus.crash_broker()
            await bus.restart_broker()
            go_on.set()
            assert await conversation.receive() == work.Done(job="j", n=0)

    assert attempts == [1]


@on_loop
async def test_agent_that_the_broker_gave_up_on_comes_back() -> None:
    async with MemoryBus(Settings(lease=5.0)) as bus:
        await bus.start(echoing())
        bus.clock.advance(20.0)
        bus.engine.step()
        await bus.advance(1.0)
        async with bus.client() as client, client.open(echo) as conversation:
            assert await conversation.request(echo.Say(text="hi")) == echo.Said(text="hi")


@on_loop
async def test_question_asked_while_the_broker_is_away_is_answered_when_it_is_back() -> None:
    async with MemoryBus() as bus, bus.client() as client:
        bus.crash_broker()
        asking = asyncio.create_task(client.status())
        await bus.settle()
        await bus.restart_broker()

        assert (await asking)["term"] == 2
