"""Agents in a conversation with members: who is meant, who spoke, and what is kept when processes die."""

from __future__ import annotations

from pathlib import Path

import pytest
from work_protocol import on_loop

from bus import Agent, NotAllowed
from bus.sdk.notice import Joined, Opened
from bus.spec.compile import load_protocol
from bus.testing import MemoryBus, play

net = load_protocol(Path(__file__).parents[1] / "spec/data/contract-net.protocol.yaml")
TENDER = "3f2b8c1e-0000-4000-8000-000000000001"
CALL = net.CallForProposals(tender_id=TENDER, task="dig", reply_by="2026-01-01T00:00:00Z")


def manager(log: list[object]) -> Agent:
    """Award the cheapest proposal, reject the others."""
    agent = Agent(plays=net.role("manager"))
    agent.on(Opened)(lambda opened, conversation: CALL)

    @agent.on(net.Propose)
    async def keep(proposal, conversation):
        conversation.state.setdefault("prices", {})[conversation.sender] = proposal.price

    @agent.on(Joined)
    async def decide(joined, conversation):
        log.append((joined.step, conversation.members("proposer")))
        if joined.step != "each bidder" or not conversation.members("proposer"):
            return
        prices = conversation.state["prices"]
        best = min(prices, key=prices.get)
        for name in conversation.members("proposer"):
            if name == best:
                await conversation.send(net.Award(tender_id=TENDER, price=prices[name]), to=name)
            else:
                await conversation.send(net.Reject(tender_id=TENDER), to=name)

    @agent.on(net.Done, net.Failed)
    async def over(message, conversation):
        log.append((conversation.sender, message.result))

    return agent


def bidder(name: str, price: float | None) -> Agent:
    agent = Agent(plays=net.role("bidder"), name=name)

    @agent.on(net.CallForProposals)
    async def propose(call, conversation):
        assert conversation.sender == "manager"
        if price is None:
            return net.Refuse(tender_id=call.tender_id)
        return net.Propose(tender_id=call.tender_id, price=price, eta="1h")

    @agent.on(net.Award)
    async def work(award, conversation):
        conversation.state["awarded"] = award.price

    @agent.on(Joined)
    async def deliver(joined, conversation):
        if joined.step == "each proposer" and name in conversation.members("winner"):
            await conversation.send(net.Done(tender_id=TENDER, result=conversation.state["awarded"]))

    return agent


async def opened(bus: MemoryBus, log: list[object]) -> bytes:
    """Open the tender as the manager, through a client of the same name, and let the agents do the rest."""
    async with bus.client("manager") as client:
        async with client.open(net, role="manager", request_id="t") as conversation:
            await conversation.send(CALL)
            await conversation.flush()
        return conversation.id


@on_loop
async def test_a_call_for_proposals_goes_to_every_member_and_the_cheapest_wins() -> None:
    log: list[object] = []
    async with MemoryBus() as bus:
        for name, price in (("ann", 5.0), ("ben", None), ("cid", 3.0)):
            await bus.start(bidder(name, price))
        identifier = await opened(bus, log)
        await bus.start(manager(log))
        await bus.settle()
        async with bus.client() as client:
            [told] = await client.conversations()
            entries = await client.transcript(identifier)

    assert told["outcome"] == "done"
    assert log[-1] == ("cid", 3.0)
    assert ("each bidder", ("ann", "cid")) in log
    said = [(one["type"], one["receivers"]) for one in entries if one["sender"] == "manager"]
    assert said[3:] == [("Reject", ["bidder:ann"]), ("Award", ["bidder:cid"])]


@on_loop
async def test_a_second_award_in_one_turn_is_refused_by_the_bus() -> None:
    agent = Agent(plays=net.role("manager"))
    agent.on(Opened)(lambda opened, conversation: CALL)

    @agent.on(net.Propose)
    async def keep(proposal, conversation):
        pass

    @agent.on(Joined)
    async def greedy(joined, conversation):
        for name in conversation.members("proposer"):
            await conversation.send(net.Award(tender_id=TENDER, price=1.0), to=name)

    async with MemoryBus() as bus:
        for name in ("ann", "ben"):
            await bus.start(bidder(name, 1.0))
        await opened(bus, [])
        await bus.start(agent)
        await bus.settle()
        async with bus.client() as client:
            errors = [letter["code"] for letter in await client.query("dead")]

    assert errors == ["not-allowed"]


@on_loop
async def test_a_member_that_dies_in_its_turn_is_delivered_it_again_and_the_conversation_ends_the_same() -> None:
    log: list[object] = []
    async with MemoryBus() as bus:
        await bus.start(bidder("ann", 5.0))
        dying = await bus.start(bidder("cid", 3.0))
        await opened(bus, log)
        await dying.kill()
        await bus.start(manager(log))
        await bus.advance(11.0)
        await bus.start(bidder("cid", 3.0))
        await bus.settle()
        async with bus.client() as client:
            [told] = await client.conversations()

    assert told["outcome"] == "done"


@on_loop
async def test_a_broker_that_restarts_in_the_middle_goes_on_where_every_member_stood() -> None:
    log: list[object] = []
    async with MemoryBus() as bus:
        for name, price in (("ann", 5.0), ("ben", None), ("cid", 3.0)):
            await bus.start(bidder(name, price))
        await opened(bus, log)
        await bus.advance(1.0)  # at-least-once: on disk a little later
        bus.crash_broker()
        await bus.restart_broker()
        await bus.start(manager(log))
        await bus.advance(11.0)
        async with bus.client() as client:
            [told] = await client.conversations()

    assert told["outcome"] == "done"


@on_loop
async def test_somebody_who_is_no_member_cannot_be_named() -> None:
    async with MemoryBus() as bus:
        await bus.start(bidder("ann", 5.0))
        async with bus.client("boss") as client, client.open(net, role="manager") as conversation:
            with pytest.raises(NotAllowed, match="bidder:ann"):
                await conversation.send(CALL, to="zoe")


@on_loop
async def test_a_script_reads_what_members_say_and_hears_of_joining() -> None:
    async with MemoryBus() as bus:
        await bus.start(bidder("ann", None))
        async with bus.client("boss") as client, client.open(net, role="manager", notices=True) as conversation:
            await conversation.send(CALL)
            first, second = await conversation.receive(), await conversation.receive()

            assert isinstance(first, net.Refuse)
            assert second == Joined("each bidder")
            assert await conversation.wait_ended() == "no-award"


@on_loop
async def test_a_sub_role_is_not_played_but_filled() -> None:
    with pytest.raises(Exception, match="play 'bidder'"):
        Agent(plays=net.role("proposer"))


@on_loop
async def test_bidders_made_from_the_protocol_propose_and_the_winner_delivers() -> None:
    log: list[object] = []
    async with MemoryBus() as bus:
        for name in ("ann", "ben", "cid"):
            await bus.start(play(net.role("bidder"), name=name))
        identifier = await opened(bus, log)
        await bus.start(manager(log))
        await bus.settle()
        async with bus.client() as client:
            [told] = await client.conversations()
            entries = await client.transcript(identifier)

    assert told["outcome"] == "done"
    assert [one["type"] for one in entries if one["sender"] != "manager"].count("Propose") == 3
    assert log[-1][1] is None


@on_loop
async def test_a_manager_made_from_the_protocol_speaks_to_every_member() -> None:
    async with MemoryBus() as bus:
        for name in ("ann", "ben"):
            await bus.start(bidder(name, 1.0))
        identifier = await opened(bus, [])
        await bus.start(play(net.role("manager")))
        await bus.settle()
        async with bus.client() as client:
            [told] = await client.conversations()
            entries = await client.transcript(identifier)

    assert told["outcome"] == "no-award"
    said = [one["type"] for one in entries if one["sender"] == "manager"]
    assert said == ["CallForProposals", "CallForProposals", "Reject", "Reject"]
