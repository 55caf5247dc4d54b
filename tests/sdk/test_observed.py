"""Agents and clients where a protocol is not enforced: their sends leave, and their handlers see what comes."""

from __future__ import annotations

import pytest
from pydantic import BaseModel
from work_protocol import on_loop, work

from bus.errors import NotAllowed
from bus.sdk.agent import Agent
from bus.sdk.conversation import Conversation
from bus.testing import MemoryBus


def new_worker(seen: list[str]) -> Agent:
    agent = Agent(plays=work.role("worker"))

    @agent.on(work.Ask)
    async def ask(message: BaseModel, conversation: Conversation) -> BaseModel | None:
        seen.append(f"Ask {message.n}")  # type: ignore[attr-defined]  # an Ask
        return work.Done(job=message.job, n=message.n) if message.n < 3 else None  # type: ignore[attr-defined]

    @agent.on(work.Bye)
    async def bye(message: BaseModel, conversation: Conversation) -> None:
        seen.append("Bye")

    @agent.on(work.Stop)
    async def stop(message: BaseModel, conversation: Conversation) -> BaseModel:
        return work.Stopped(n=0)

    return agent


@on_loop
async def test_what_the_order_forbids_reaches_the_handler_where_it_is_observed() -> None:
    seen: list[str] = []
    async with MemoryBus(modes={"work": "observe"}) as bus:
        await bus.start(new_worker(seen))
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(work.Bye())
            await conversation.send(work.Ask(job="a", n=1))
            assert await conversation.receive() == work.Done(job="a", n=1)
            [facts] = await client.conversations()

    assert seen == ["Bye", "Ask 1"]
    assert facts["n_violations"] == 1


@on_loop
async def test_handler_may_answer_out_of_order_and_return_owing_a_message_where_it_is_observed() -> None:
    seen: list[str] = []
    async with MemoryBus(modes={"work": "observe"}) as bus:
        await bus.start(new_worker(seen))
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(work.Ask(job="a", n=3))
            await conversation.send(work.Ask(job="another key", n=2))
            assert await conversation.receive() == work.Done(job="another key", n=2)
            await bus.settle()
            [facts] = await client.conversations()
            assert await client.query("dead") == []

    assert seen == ["Ask 3", "Ask 2"]
    assert facts["n_violations"] == 2  # the second Ask, and the key of the Done that was owed to the first


@on_loop
async def test_the_same_is_refused_before_it_leaves_where_it_is_enforced() -> None:
    seen: list[str] = []
    async with MemoryBus() as bus:
        await bus.start(new_worker(seen))
        async with bus.client() as client, client.open(work) as conversation:
            with pytest.raises(NotAllowed) as refused:
                await conversation.send(work.Bye())

    assert seen == []
    assert refused.value.allowed == [
        {"type": "Ask", "to": ["worker"], "fields": {"job": "string", "n": "int"}},
        {"type": "Stop", "to": ["worker"], "fields": {}},
    ]


@on_loop
async def test_message_that_a_role_never_sends_is_refused_in_every_mode() -> None:
    async with MemoryBus(modes={"work": "off"}) as bus, bus.client() as client, client.open(work) as conversation:
        with pytest.raises(NotAllowed, match="client may not send 'Done'"):
            await conversation.send(work.Done(job="a", n=1))


@on_loop
async def test_client_checks_again_once_the_broker_comes_back_enforcing() -> None:
    async with MemoryBus(modes={"work": "observe"}) as bus:
        await bus.start(new_worker([]))
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(work.Bye())
            await bus.settle()
            bus.crash_broker()
            bus.engine.modes = {}
            await bus.restart_broker()
            with pytest.raises(NotAllowed):
                await conversation.send(work.Bye())
