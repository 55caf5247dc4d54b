"""A handler only ever sees what its state expects: what comes before its time waits at the bus."""

import pytest
from desk import Desk

from bus.wire.record import Kind

RELAY = """
language: 1
protocol: relay
version: 1.0.0
roles: {boss: {}, maker: {}, buyer: {}}
messages: {Order: {}, Goods: {}, Bill: {}, Thanks: {}}
outcomes: {sold: Everything is paid.}
conversation:
  - boss -> maker: Order
  - maker -> buyer: Goods
  - maker -> boss: Thanks
  - boss -> buyer: Bill
  - end: sold
"""
OVERTAKING = RELAY.replace(
    "  - maker -> buyer: Goods\n  - maker -> boss: Thanks\n",
    "  - maker -> boss: Thanks\n  - maker -> buyer: Goods\n",
)
TURNS = """
language: 1
protocol: turns
version: 1.0.0
roles: {a: {}, b: {}}
messages: {M: {}, N: {}}
outcomes: {done: Over.}
conversation:
  - loop: rounds
    max: 1
    do: [a -> b: M]
    else:
      - a -> b: N
      - end: done
"""


@pytest.mark.parametrize("restarts", [False, True])
def test_message_before_its_time_waits_until_the_state_expects_it(restarts: bool) -> None:
    desk = Desk(OVERTAKING)
    boss, maker, buyer = desk.peer("boss"), desk.peer("maker", plays=["maker"]), desk.peer("buyer", plays=["buyer"])
    conversation = desk.open(boss, "boss")
    desk.send(boss, conversation, "boss", "Order", "maker")
    order = maker.take_one(Kind.DELIVER)
    desk.commit(maker, order, ("Thanks", "boss"), settles=False)
    desk.send(boss, conversation, "boss", "Bill", "buyer")  # overtakes the goods
    early = buyer.reads()
    if restarts:
        desk.restart()
        maker = desk.peer("maker", plays=["maker"], held=[desk.lease_of(order)])
        buyer = desk.peer("buyer", plays=["buyer"])

    desk.commit(maker, order, ("Goods", "buyer"), commit=1)

    assert early == []
    assert buyer.reads() == ["Goods", "Bill", "[end]"]
    assert desk.transcript(maker, conversation) == ["Order", "Thanks", "Bill", "Goods", "[sold.end]"]


def test_receiver_that_is_behind_takes_early_messages_in_as_it_goes() -> None:
    desk = Desk(RELAY)
    boss, maker, buyer = desk.peer("boss"), desk.peer("maker", plays=["maker"]), desk.peer("buyer", plays=["buyer"])
    conversation = desk.open(boss, "boss")
    desk.send(boss, conversation, "boss", "Order", "maker")

    desk.commit(maker, maker.take_one(Kind.DELIVER), ("Goods", "buyer"), ("Thanks", "boss"))
    desk.send(boss, conversation, "boss", "Bill", "buyer")

    assert buyer.reads() == ["Goods", "Bill", "[end]"]


def test_turn_that_fills_a_loop_owes_nothing_and_the_bus_goes_on() -> None:
    desk = Desk(TURNS)
    a, b = desk.peer("a", plays=["a"]), desk.peer("b")
    conversation = desk.open(b, "b")

    opened = a.take_one(Kind.DELIVER)
    desk.commit(a, opened, ("M", "b"))
    (notice,) = a.take(Kind.DELIVER)
    desk.commit(a, notice, ("N", "b"))

    assert (desk.name_of(opened), desk.name_of(notice)) == ("[opened]", "[max]")
    assert desk.transcript(b, conversation) == ["M", "[rounds.max]", "N", "[done.end]"]


def test_turn_that_would_pass_the_max_of_a_loop_is_refused_whole() -> None:
    desk = Desk(TURNS)
    a, b = desk.peer("a", plays=["a"]), desk.peer("b")
    conversation = desk.open(b, "b")

    desk.commit(a, a.take_one(Kind.DELIVER), ("M", "b"), ("M", "b"))

    assert a.refusals() == ["not-allowed"]
    assert desk.transcript(b, conversation) == []


def test_role_that_did_not_take_part_hears_no_notices() -> None:
    desk = Desk(RELAY)
    boss, buyer = desk.peer("boss"), desk.peer("buyer", plays=["buyer"])
    conversation = desk.open(boss, "boss")

    desk.query(boss, "cancel", conversation=conversation)

    assert (boss.reads(), buyer.reads()) == (["[end]"], [])


def test_sequence_is_contiguous_over_messages_and_bus_events() -> None:
    desk = Desk(TURNS)
    a, b = desk.peer("a", plays=["a"]), desk.peer("b")
    conversation = desk.open(b, "b")
    desk.commit(a, a.take_one(Kind.DELIVER), ("M", "b"))
    desk.commit(a, a.take_one(Kind.DELIVER), ("N", "b"))

    entries = desk.query(b, "transcript", conversation=conversation)

    assert [entry["sequence"] for entry in entries] == [1, 2, 3, 4]
    assert [entry["epoch"] for entry in entries] == [0, 1, 1, 2]
    assert [(entry["kind"], entry["sender"], entry["receivers"]) for entry in entries[:2]] == [
        ("message", "a", ["b"]), ("event", None, []),
    ]  # fmt: skip
