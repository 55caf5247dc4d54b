"""RULES.md 8: windows hold what has no room, and the state that a role keeps is bounded."""

import pytest
from desk import Desk, Peer

from bus.settings import Settings
from bus.wire.record import Kind

WINDOWED = """
language: 1
protocol: windowed
version: 1.0.0
defaults: {delivery: at-least-once}
roles: {source: {}, sink: {}}
messages: {Go: {}, Item: {window: 2}, Done: {}, Thanks: {}}
outcomes: {done: All is there.}
conversation:
  - sink -> source: Go
  - source -> sink: Item*
    max: 100
  - source -> sink: Done
  - sink -> source: Thanks
  - end: done
"""


def begin(**settings: int) -> tuple[Desk, Peer, Peer, bytes, list[object]]:
    desk = Desk(WINDOWED, settings=Settings(**settings))  # type: ignore[arg-type]  # whole numbers only here
    source, sink = desk.peer("source", plays=["source"]), desk.peer("sink", plays=["sink"])
    conversation = desk.open(sink, "sink")
    desk.send(sink, conversation, "sink", "Go", "source")
    return desk, source, sink, conversation, source.take_one(Kind.DELIVER)


def accepted(peer: Peer) -> tuple[int, int]:
    """Return the newest (accepted, synced) that the peer was told."""
    peer.desk.now += 0.01  # acknowledgements linger for company
    peer.desk.turn()
    told = peer.take(Kind.ACCEPTED)
    return (told[-1][1], told[-1][2]) if told else (0, 0)


def test_commit_that_meets_a_full_window_is_held_and_its_acknowledgement_too() -> None:
    desk, source, sink, _conversation, go = begin()
    for commit in range(3):
        desk.commit(source, go, ("Item", "sink"), settles=False, commit=commit)
    items = sink.take(Kind.DELIVER)
    before = accepted(source)

    desk.handled(sink, items[0])

    assert len(items) == 2
    assert before == (2, 2)
    assert accepted(source) == (3, 3)
    assert sink.reads() == ["Item"]
    assert source.refusals() == []


def test_nothing_overtakes_a_held_commit() -> None:
    desk, source, sink, _conversation, go = begin()
    for commit in range(5):
        desk.commit(source, go, ("Item", "sink"), settles=False, commit=commit)
    desk.commit(source, go, ("Done", "sink"), commit=5)
    desk.handled(source, go)

    read = []
    while found := sink.take(Kind.DELIVER):
        read += [desk.name_of(delivery) for delivery in found]
        if read[-1] != "Done":
            desk.handled(sink, found[-1])

    assert read == ["Item"] * 5 + ["Done"]
    assert source.refusals() == []


def test_held_record_is_not_called_synced_before_its_row_is_on_disk() -> None:
    desk, source, sink, _conversation, go = begin()
    for commit in range(3):
        desk.commit(source, go, ("Item", "sink"), settles=False, commit=commit)
    desk.open(source, "source", "another")  # taken while the third commit is held
    items = sink.take(Kind.DELIVER)
    assert accepted(source) == (2, 2)
    desk.auto_sync = False

    desk.handled(sink, items[0])

    assert accepted(source) == (4, 2)
    desk.sync()
    assert accepted(source) == (4, 4)


def test_sends_outside_turns_are_held_in_their_order() -> None:
    desk, source, sink, conversation, _go = begin()
    ns = [desk.send(source, conversation, "source", "Item", "sink") for _ in range(4)]
    ns.append(desk.send(source, conversation, "source", "Done", "sink"))

    first = sink.take(Kind.DELIVER)
    desk.handled(sink, first[-1])
    second = sink.take(Kind.DELIVER)
    desk.handled(sink, second[-1])

    assert [desk.name_of(one) for one in first] == ["Item", "Item"]
    assert [desk.name_of(one) for one in second] == ["Item", "Item", "Done"]
    assert accepted(source)[0] == ns[-1]


def test_record_held_for_a_session_that_died_is_forgotten_and_taken_when_sent_again() -> None:
    desk, source, sink, conversation, go = begin()
    for commit in range(3):
        desk.commit(source, go, ("Item", "sink"), settles=False, commit=commit)
    source.die()
    again = desk.peer("source", plays=["source"])
    redelivery = again.take_one(Kind.DELIVER)
    desk.handled(sink, sink.take(Kind.DELIVER)[-1])
    assert desk.transcript(sink, conversation) == ["Go", "Item", "Item"]

    desk.commit(again, redelivery, ("Item", "sink"), settles=False)

    assert desk.transcript(sink, conversation) == ["Go", "Item", "Item", "Item"]


def test_held_record_of_a_conversation_that_ends_is_refused() -> None:
    desk, source, sink, conversation, go = begin()
    for commit in range(3):
        desk.commit(source, go, ("Item", "sink"), settles=False, commit=commit)

    desk.query(sink, "cancel", conversation=conversation)

    assert source.refusals() == ["superseded"]
    assert accepted(source)[0] == 3


def test_mailbox_takes_no_more_than_its_limit() -> None:
    desk, source, sink, _conversation, go = begin(mailbox=1)
    desk.commit(source, go, ("Item", "sink"), settles=False)

    desk.commit(source, go, ("Item", "sink"), settles=False, commit=1)

    assert sink.reads() == ["Item"]
    assert accepted(source)[0] == 1


def test_state_above_its_limit_is_refused_and_the_turn_buried() -> None:
    desk, source, sink, conversation, go = begin(state_bytes=10)

    desk.commit(source, go, ("Done", "sink"), saved=b"x" * 11)

    assert source.refusals() == ["too-large"]
    assert [letter["code"] for letter in desk.query(sink, "dead")] == ["too-large"]
    assert desk.transcript(sink, conversation) == ["Go"]


@pytest.mark.parametrize(("n_sends", "is_taken"), [(100, True), (101, False)])
def test_one_commit_may_not_pass_the_max_of_a_stream(n_sends: int, is_taken: bool) -> None:
    desk = Desk(WINDOWED.replace(" {window: 2}", " {}"))
    source, sink = desk.peer("source", plays=["source"]), desk.peer("sink", plays=["sink"])
    conversation = desk.open(sink, "sink")
    desk.send(sink, conversation, "sink", "Go", "source")

    desk.commit(source, source.take_one(Kind.DELIVER), *[("Item", "sink")] * n_sends, ("Done", "sink"))

    assert (source.refusals() == []) is is_taken
    assert len(desk.transcript(sink, conversation)) == (102 if is_taken else 1)


def test_handled_waits_behind_the_held_sends_that_answer_it() -> None:
    desk, source, sink, conversation, go = begin()
    for name in ("Item", "Item", "Item", "Done"):
        desk.send(source, conversation, "source", name, "sink")
    desk.handled(source, go)

    desk.handled(sink, sink.take(Kind.DELIVER)[-1])

    assert sink.reads() == ["Item", "Done"]
    assert source.refusals() == []
    assert desk.query(source, "status")["agents"][0]["open_deliveries"] == 0
