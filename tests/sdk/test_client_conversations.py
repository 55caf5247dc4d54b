"""The client's side: conversations that a script opens, reads, finds again; questions to the broker."""

import asyncio

import pytest
from work_protocol import bodies, on_loop

from bus.errors import (
    BrokerUnavailable,
    ConversationEnded,
    LocalProtocolError,
    NotAllowed,
    Refused,
)
from bus.ids import conversation_id
from bus.sdk.agent import Agent
from bus.sdk.notice import DeadlinePassed, NobodyPlays
from bus.spec.compile import load_protocol
from bus.testing import MemoryBus, play

echo = load_protocol("echo")
newsroom = load_protocol("newsroom")


def echoing() -> Agent:
    agent = Agent(plays=echo.role("echo"))

    @agent.on(echo.Say)
    async def answer(said, conversation):
        return echo.Said(text=said.text)

    return agent


@on_loop
async def test_flush_returns_when_everything_is_accepted() -> None:
    async with MemoryBus() as bus, bus.client() as client, client.open(echo) as conversation:
        await conversation.send(echo.Say(text="hi"))
        await conversation.flush()

        assert bodies(await client.transcript(conversation.id)) == [("client", "Say")]


@on_loop
async def test_durable_send_is_not_accepted_before_it_is_on_disk() -> None:
    async with MemoryBus() as bus, bus.client() as client, client.open(echo) as conversation:
        bus.engine.journal.holds_back = True
        await conversation.send(echo.Say(text="hi"))
        flushing = asyncio.create_task(conversation.flush())
        await bus.settle()
        early = flushing.done()
        bus.engine.journal.holds_back = False
        await bus.settle()
        await flushing

        assert not early


@on_loop
async def test_message_out_of_order_is_refused_before_it_leaves() -> None:
    async with MemoryBus() as bus, bus.client() as client, client.open(echo) as conversation:
        await conversation.send(echo.Say(text="hi"))
        with pytest.raises(NotAllowed, match="allowed here: nothing; wait for the next message"):
            await conversation.send(echo.Say(text="again"))
        await conversation.flush()

        assert bodies(await client.transcript(conversation.id)) == [("client", "Say")]


@on_loop
async def test_brokers_refusal_is_raised_by_whatever_is_asked_next() -> None:
    async with MemoryBus() as bus:
        await bus.start(echoing())
        async with bus.client() as client:
            opened = client.open(echo, bind={"echo": "nobody-of-that-kind", "no-such-role": "x"})
            async with opened as conversation:
                with pytest.raises(Refused, match="no-such-role"):
                    await conversation.flush()
                with pytest.raises(Refused, match="no-such-role"):
                    await conversation.send(echo.Say(text="hi"))
                with pytest.raises(Refused, match="no-such-role"):
                    await conversation.receive()
                opened._failure = None  # leave the block in peace


@on_loop
async def test_reading_past_the_end_raises_with_the_outcome() -> None:
    async with MemoryBus() as bus:
        await bus.start(echoing())
        async with bus.client() as client, client.open(echo) as conversation:
            await conversation.request(echo.Say(text="hi"))
            await conversation.send(echo.Bye())
            with pytest.raises(ConversationEnded) as raised:
                await conversation.receive()
            with pytest.raises(ConversationEnded, match="ended as 'done'"):
                await conversation.send(echo.Say(text="hi"))

    assert raised.value.outcome == conversation.outcome == "done"
    assert conversation.allowed() == []


@on_loop
async def test_receive_gives_up_after_its_timeout() -> None:
    async with MemoryBus() as bus, bus.client() as client, client.open(echo) as conversation:
        with pytest.raises(TimeoutError):
            await conversation.receive(timeout=0.01)


@on_loop
async def test_second_reader_is_refused() -> None:
    async with MemoryBus() as bus, bus.client() as client, client.open(echo) as conversation:
        first = asyncio.create_task(conversation.receive())
        await bus.settle()
        with pytest.raises(NotAllowed, match="one reader at a time"):
            await conversation.receive()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


@on_loop
async def test_conversation_is_found_again_by_its_request_id_and_repeated_sends_have_no_effect() -> None:
    async with MemoryBus() as bus:
        await bus.start(echoing())
        async with bus.client(name="script") as client:
            for _ in range(2):
                async with client.open(echo, request_id="r1") as conversation:
                    await conversation.send(echo.Say(text="hi"))
                    await conversation.flush()
            said = bodies(await client.transcript(conversation.id))

    assert conversation.id == conversation_id("script", "echo", "r1")
    assert said == [("client", "Say"), ("echo", "Said")]


@on_loop
async def test_ended_conversation_that_is_opened_again_tells_its_outcome() -> None:
    async with MemoryBus() as bus:
        await bus.start(echoing())
        async with bus.client(name="script") as client:
            async with client.open(echo, request_id="r1") as conversation:
                await conversation.request(echo.Say(text="hi"))
                await conversation.send(echo.Bye())
                await conversation.wait_ended()
            async with client.open(echo, request_id="r1") as again:
                assert await again.wait_ended() == "done"


@on_loop
async def test_many_conversations_share_one_connection() -> None:
    async with MemoryBus() as bus:
        await bus.start(echoing())
        async with bus.client() as client:

            async def talk(number: int) -> list[str]:
                async with client.open(echo) as conversation:
                    answers = [await conversation.request(echo.Say(text=f"{number}.{n}")) for n in range(5)]
                    await conversation.send(echo.Bye())
                    await conversation.wait_ended()
                    return [answer.text for answer in answers]

            heard = await asyncio.gather(*[talk(number) for number in range(20)])

    assert heard == [[f"{number}.{n}" for n in range(5)] for number in range(20)]


@on_loop
async def test_nobody_playing_is_told_where_notices_are_asked_for() -> None:
    async with MemoryBus() as bus, bus.client() as client, client.open(echo, notices=True) as conversation:
        await conversation.send(echo.Say(text="hi"))

        assert await conversation.receive() == NobodyPlays("echo")


@on_loop
async def test_bus_events_are_read_where_notices_are_asked_for() -> None:
    async with MemoryBus() as bus:
        for role in ("researcher", "summarizer", "writer"):
            await bus.start(play(newsroom.role(role)))
        async with bus.client() as client, client.open(newsroom, notices=True) as desk:
            await desk.send(newsroom.Brief(topic="tides"))
            await bus.advance(86_400 + 1)
            heard = [message async for message in desk]

    assert desk.outcome == "spiked"
    assert DeadlinePassed(step="choice editor", role="editor") in heard


@on_loop
async def test_role_that_may_not_be_guessed_must_be_named() -> None:
    async with MemoryBus() as bus, bus.client() as client:
        with pytest.raises(LocalProtocolError, match="has no role 'clinet'"):
            client.open(echo, role="clinet")


@on_loop
async def test_person_takes_a_turn_through_the_inbox() -> None:
    async with MemoryBus() as bus:
        for role in ("researcher", "summarizer", "writer"):
            await bus.start(play(newsroom.role(role)))
        async with bus.client() as client, client.open(newsroom) as desk:
            await desk.send(newsroom.Brief(topic="tides"))
            await bus.settle()
            [item] = await client.inbox("editor")
            with pytest.raises(NotAllowed, match="Approve to writer; Kill to writer; Revise to writer"):
                await client.answer(item, newsroom.Published(headline="", section="", body=""), by="ann")
            await client.answer(item, newsroom.Approve(), by="ann")
            with pytest.raises(Refused, match="ann"):
                await client.answer(item, newsroom.Approve(), by="bob")
            assert await desk.wait_ended() == "published"


@on_loop
async def test_canceled_conversation_ends_as_canceled_for_everybody() -> None:
    async with MemoryBus() as bus:
        await bus.start(echoing())
        async with bus.client() as client, client.open(echo) as conversation:
            await conversation.request(echo.Say(text="hi"))
            assert await client.cancel(conversation.id, reason="enough") == "canceled"
            assert await conversation.wait_ended() == "canceled"
            assert conversation.reason == "enough"


@on_loop
async def test_status_and_listing_tell_who_is_there_and_what_goes_on() -> None:
    async with MemoryBus() as bus:
        await bus.start(echoing())
        async with bus.client(name="script") as client, client.open(echo) as conversation:
            await conversation.request(echo.Say(text="hi"))
            status = await client.status()
            [listed] = await client.conversations(live_only=True, limit=5)

    assert {agent["name"] for agent in status["agents"]} == {"echo", "script"}
    assert (listed["conversation"], listed["outcome"]) == (conversation.id, None)


@on_loop
async def test_question_that_the_broker_does_not_know_is_refused() -> None:
    async with MemoryBus() as bus, bus.client() as client:
        with pytest.raises(Refused, match="no-such-question"):
            await client.query("no-such-question")


@on_loop
async def test_client_outside_its_block_says_so() -> None:
    async with MemoryBus() as bus:
        client = bus.client()
        with pytest.raises(LocalProtocolError, match="async with Client"):
            client.open(echo)


@on_loop
async def test_broker_that_is_not_there_is_named_with_what_to_do() -> None:
    async with MemoryBus() as bus:
        bus.crash_broker()
        client = bus.client()
        client._timeout = 0.02
        with pytest.raises(BrokerUnavailable, match=r"no broker answered at memory within 0\.02 s.*palaver up"):
            await client.__aenter__()
