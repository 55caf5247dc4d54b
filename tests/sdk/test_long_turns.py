"""Turns that commit as they go, begun again in the state that their last commit left."""

import asyncio

from work_protocol import bodies, on_loop

from bus.sdk.agent import Agent
from bus.spec.compile import compile_protocol
from bus.testing import MemoryBus

cook = compile_protocol("""
language: 1
protocol: cook
version: 1.0.0
roles: {guest: {}, cook: {}}
messages:
  Order: {fields: {}}
  Starter: {fields: {n: int}}
  Main: {fields: {n: int}}
  Dessert: {fields: {n: int}}
outcomes: {fed: All was eaten.}
conversation:
  - guest -> cook: Order
  - cook -> guest: Starter
  - cook -> guest: Main
  - cook -> guest: Dessert
  - end: fed
""")


def cooking(hang_after: int | None) -> tuple[Agent, asyncio.Event]:
    agent = Agent(plays=cook.role("cook"))
    reached = asyncio.Event()

    @agent.on(cook.Order)
    async def serve(order, conversation):
        for n, course in enumerate((cook.Starter, cook.Main, cook.Dessert)):
            if n < conversation.state.get("served", 0):
                continue
            conversation.state["served"] = n + 1
            await conversation.send(course(n=conversation.attempt))
            await conversation.commit()
            if n == hang_after:
                reached.set()
                await asyncio.Event().wait()

    return agent, reached


@on_loop
async def test_turn_begun_again_may_send_what_follows_its_last_commit() -> None:
    for hang_after in range(3):
        hanging, reached = cooking(hang_after)
        async with MemoryBus() as bus:
            first = await bus.start(hanging)
            async with bus.client() as client, client.open(cook) as table:
                await table.send(cook.Order())
                await reached.wait()
                await first.kill()
                await bus.start(cooking(None)[0])
                served = [type(course).__name__ async for course in table]
                said = bodies(await client.transcript(table.id))

        assert (table.outcome, served) == ("fed", ["Starter", "Main", "Dessert"])
        assert len(said) == 4


@on_loop
async def test_turn_begun_again_after_a_crash_of_both_sides_goes_on() -> None:
    hanging, reached = cooking(1)
    async with MemoryBus() as bus:
        first = await bus.start(hanging)
        async with bus.client() as client, client.open(cook) as table:
            await table.send(cook.Order())
            await reached.wait()
            await first.kill()
            bus.crash_broker()
            await bus.restart_broker()
            await bus.start(cooking(None)[0])
            served = [type(course).__name__ async for course in table]
            said = bodies(await client.transcript(table.id))

    assert (table.outcome, served) == ("fed", ["Starter", "Main", "Dessert"])
    assert len(said) == 4
