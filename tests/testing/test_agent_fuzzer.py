"""Playing a protocol against one agent: good ones pass, and each planted fault is found."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from bus.errors import Failure, PalaverError
from bus.fleet.launch import load_program
from bus.fleet.program import locate_program
from bus.sdk.agent import Agent
from bus.sdk.notice import DeadlinePassed, Opened
from bus.spec.compile import compile_protocol, load_protocol
from bus.testing.agent_fuzzer import AgentReport, fuzz_agent

ROOT = Path(__file__).parents[2]
SHOP = compile_protocol("""
language: 1
protocol: shop
version: 1.0.0
keys: [order]
roles: {customer: {}, shop: {}, courier: {}}
messages:
  Order: {fields: {order: uuid, items: {type: list of string, min_items: 1}}}
  Reject: {fields: {order: uuid}}
  Ship: {fields: {order: uuid, weight: {type: number, min: 0, max: 30}}}
  Delivered: {fields: {order: uuid}}
  Receipt: {fields: {order: uuid, total: {type: int, min: 1}}}
  Cancel: {fields: {order: uuid}}
outcomes: {sold: It was sold., rejected: The shop did not want to., canceled: The customer changed its mind.}
conversation:
  - scope: sale
    do:
      - customer -> shop: Order
      - choice: shop
        within: 30s
        branches:
          no: [{shop -> customer: Reject}, {end: rejected}]
          yes: [{shop -> courier: Ship}]
      - courier -> shop: Delivered
        within: 1h
        else: [{shop -> customer: Reject, within: 30s}, {end: rejected}]
      - shop -> customer: Receipt
        within: 30s
    interrupts:
      - customer -> shop, courier: Cancel
        then: [{end: canceled}]
  - end: sold
""")


def good() -> Agent:
    agent = Agent(plays=SHOP.role("shop"))

    @agent.on(SHOP.Order)
    async def take(order, conversation):
        conversation.state["order"] = str(order.order)
        if len(order.items) > 2:
            return SHOP.Reject(order=order.order)
        return SHOP.Ship(order=order.order, weight=len(order.items))

    @agent.on(SHOP.Delivered)
    async def bill(delivered, conversation):
        return SHOP.Receipt(order=delivered.order, total=1)

    @agent.on(DeadlinePassed)
    async def give_up(notice, conversation):
        return SHOP.Reject(order=conversation.state["order"])

    return agent


def replacing(what: type, handler: Callable) -> Agent:
    """Return the good agent with the handler of *what* replaced."""
    agent, old = Agent(plays=SHOP.role("shop")), good()
    for table, kept in zip(agent._tables.values(), old._tables.values(), strict=True):
        table.of_message[:] = kept.of_message
        table.of_notice.update(kept.of_notice)
        if what in table.part.type_of:
            table.of_message[table.part.type_of[what]] = None
        table.of_notice.pop(what, None)
    agent.on(what)(handler)
    return agent


def met(agent: Agent, *, runs: int = 15, role: str = "shop", **options: float) -> AgentReport:
    return asyncio.run(fuzz_agent(agent, SHOP, role, runs=runs, patience=options.pop("patience", 0.05), **options))  # type: ignore[arg-type]  # numbers


def found(agent: Agent) -> list[tuple[str, str]]:
    return [(one.kind, one.text) for one in met(agent).findings]


@pytest.mark.slow
def test_an_agent_that_keeps_to_the_protocol_passes_and_sees_every_outcome() -> None:
    report = met(good(), runs=80)

    assert report.findings == []
    assert {"sold", "rejected", "canceled"} <= report.tally.outcomes.keys()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "role"), [("newsroom", "summarizer"), ("echo", "echo")])
def test_agents_that_ship_pass(name: str, role: str) -> None:
    agent = load_program(locate_program(f"agents/{role}.py", ROOT))

    report = asyncio.run(fuzz_agent(agent, load_protocol(name), role, runs=20))

    assert report.findings == []
    assert report.tally.n_runs == 20


@pytest.mark.slow
def test_a_handler_that_raises_is_found_with_what_led_there() -> None:
    async def fails(delivered, conversation):
        raise KeyError("price")

    report = met(replacing(SHOP.Delivered, fails))

    [finding] = report.findings
    assert (finding.kind, finding.text) == ("raises", "KeyError: 'price'")
    assert [line.partition(" {")[0] for line in finding.trace] == [
        "customer -> shop: Order", "shop -> courier: Ship", "courier -> shop: Delivered",
    ]  # fmt: skip
    assert finding.seed.startswith("0-")


@pytest.mark.slow
def test_a_message_out_of_turn_is_found() -> None:
    async def hurries(order, conversation):
        return SHOP.Receipt(order=order.order, total=1)

    [(kind, text)] = found(replacing(SHOP.Order, hurries))

    assert kind == "illegal"
    assert "may not send 'Receipt' now" in text


@pytest.mark.slow
def test_a_body_that_breaks_a_key_is_found() -> None:
    async def mixes_up(delivered, conversation):
        return SHOP.Receipt(order="00000000-0000-4000-8000-000000000000", total=1)

    [(kind, text)] = found(replacing(SHOP.Delivered, mixes_up))

    assert kind == "illegal"
    assert "Receipt.order" in text


@pytest.mark.slow
def test_a_turn_that_is_left_unfinished_is_found() -> None:
    async def forgets(delivered, conversation):
        return None

    [(kind, text)] = found(replacing(SHOP.Delivered, forgets))

    assert kind == "unfinished"
    assert "must send Receipt" in text


@pytest.mark.slow
def test_an_agent_that_never_answers_is_found_at_its_deadline() -> None:
    async def sleeps(delivered, conversation):
        await asyncio.Event().wait()

    [(kind, text)] = found(replacing(SHOP.Delivered, sleeps))

    assert (kind, text) == ("late", "shop owes Receipt and has not sent it by its deadline")


@pytest.mark.slow
def test_a_turn_that_never_ends_although_all_is_said_is_found() -> None:
    async def lingers(delivered, conversation):
        await conversation.send(SHOP.Receipt(order=delivered.order, total=1))
        await conversation.commit()
        await asyncio.Event().wait()

    kinds = {kind for kind, _ in found(replacing(SHOP.Delivered, lingers))}

    assert kinds == {"unfinished"}


@pytest.mark.slow
def test_a_delivery_that_is_given_up_is_found() -> None:
    async def declines(delivered, conversation):
        raise Failure("no-paper", "the printer is empty", retryable=False)

    [(kind, text)] = found(replacing(SHOP.Delivered, declines))

    assert (kind, text) == ("no-paper", "the printer is empty")


@pytest.mark.slow
def test_a_missing_handler_is_found() -> None:
    agent = Agent(plays=SHOP.role("shop"))

    [(kind, text)] = found(agent)

    assert kind == "missing-handler"
    assert "no handler for" in text


@pytest.mark.slow
def test_an_agent_that_speaks_first_is_asked_to() -> None:
    agent = Agent(plays=SHOP.role("customer"))

    @agent.on(Opened)
    async def order(notice, conversation):
        return SHOP.Order(order="0190a2b4-5c6d-7e8f-9a0b-1c2d3e4f5a6b", items=["pen"])

    report = met(agent, role="customer")

    assert report.findings == []
    assert report.tally.n_messages > 15


def test_an_agent_of_another_protocol_is_refused() -> None:
    agent = Agent(plays=load_protocol("echo").role("echo"))

    with pytest.raises(PalaverError, match="expected an agent that plays 'shop'"):
        met(agent)


@pytest.mark.slow
def test_equal_seeds_send_an_agent_the_same() -> None:
    async def fails(order, conversation):
        raise ValueError(str(order.items))

    first, second = (met(replacing(SHOP.Order, fails), runs=3) for _ in range(2))

    assert [one.trace for one in first.findings] == [one.trace for one in second.findings]
