"""RULES.md 4, 5: messages that step nothing, and turns that the bus takes away."""

import pytest
from desk import Desk, Peer
from job_protocol import JOB

from bus.wire.codec import decode_body
from bus.wire.record import Kind


@pytest.fixture
def desk() -> Desk:
    return Desk(JOB)


def begin(desk: Desk, *, credit: int = 100) -> tuple[Peer, Peer, bytes]:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client", credit=credit)
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "worker")
    return worker, client, conversation


def test_at_most_once_message_leaves_at_once_steps_nothing_and_is_not_journaled(desk: Desk) -> None:
    worker, client, conversation = begin(desk)
    before = desk.query(client, "conversations")[0]

    desk.send(worker, conversation, "worker", "Note", "client")

    (note,) = client.take(Kind.DELIVER)
    assert (desk.name_of(note), note[5], note[11]) == ("Note", 0, 0)  # nothing to settle, no sequence
    assert desk.query(client, "conversations")[0] == before


def test_at_most_once_message_that_the_state_forbids_is_refused(desk: Desk) -> None:
    worker, client, _conversation = begin(desk)
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Answer", "client"))
    second = desk.open(client, "client", "second")

    desk.send(worker, second, "worker", "Note", "client")

    assert worker.refusals() == ["not-allowed"]


def test_slow_reader_of_at_most_once_messages_gets_only_the_newest(desk: Desk) -> None:
    worker, client, conversation = begin(desk, credit=1)
    for text in (b"1", b"2", b"3"):
        desk.send(worker, conversation, "worker", "Note", "client", body=text)
    first = client.take(Kind.DELIVER)

    client.put([Kind.CREDIT, 5])

    assert [record[17] for record in first] == [b"1"]
    assert [record[17] for record in client.take(Kind.DELIVER)] == [b"3"]


def test_newest_message_of_a_conversation_that_moved_on_is_never_handed_out(desk: Desk) -> None:
    worker, client, conversation = begin(desk, credit=1)
    for text in (b"1", b"2"):
        desk.send(worker, conversation, "worker", "Note", "client", body=text)
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Answer", "client"))
    client.take(Kind.DELIVER)

    client.put([Kind.CREDIT, 5])

    assert client.reads() == []


def test_newest_message_for_a_lease_that_went_back_is_never_handed_out(desk: Desk) -> None:
    worker, client, conversation = begin(desk, credit=1)
    for text in (b"1", b"2"):
        desk.send(worker, conversation, "worker", "Note", "client", body=text)
    client.take(Kind.DELIVER)
    elsewhere = desk.peer("client", instance=1)
    desk.open(elsewhere, "client")

    client.put([Kind.CREDIT, 5])

    assert client.reads() == []


def test_newest_message_of_a_conversation_that_ended_is_never_handed_out(desk: Desk) -> None:
    worker, client, conversation = begin(desk, credit=1)
    for text in (b"1", b"2"):
        desk.send(worker, conversation, "worker", "Note", "client", body=text)
    desk.query(client, "cancel", conversation=conversation)
    client.take(Kind.DELIVER)

    client.put([Kind.CREDIT, 5])

    assert client.reads() == []


def test_at_most_once_message_for_a_role_that_nobody_plays_is_dropped(desk: Desk) -> None:
    worker, client, conversation = begin(desk)
    client.bye()

    desk.send(worker, conversation, "worker", "Note", "client")

    assert worker.refusals() == []
    assert "Note" not in desk.transcript(worker, conversation)


def test_interrupt_revokes_the_open_turn_and_the_notice_has_the_last_committed_state(desk: Desk) -> None:
    worker, client, conversation = begin(desk)
    ask = worker.take_one(Kind.DELIVER)
    desk.commit(worker, ask, ("Part", "client"), settles=False, saved=b"\x01")

    desk.send(client, conversation, "client", "Stop", "worker")

    assert worker.notices("revoked") == [{"conversation": conversation, "role": ask[3], "fence": ask[4]}]
    (stop,) = worker.take(Kind.DELIVER)
    assert (desk.name_of(stop), stop[7], stop[16]) == ("Stop", 0, b"\x01")  # no commits of its turn yet


def test_commit_of_a_revoked_turn_is_refused_as_superseded_and_changes_nothing(desk: Desk) -> None:
    worker, client, conversation = begin(desk)
    ask = worker.take_one(Kind.DELIVER)
    desk.send(client, conversation, "client", "Stop", "worker")

    desk.commit(worker, ask, ("Answer", "client"), saved=b"\x02")

    assert worker.refusals() == ["superseded"]
    assert desk.transcript(client, conversation) == ["Ask", "Stop"]
    assert worker.take_one(Kind.DELIVER)[16] is None


def test_delivery_of_a_revoked_turn_does_not_come_again(desk: Desk) -> None:
    worker, client, conversation = begin(desk)
    worker.take(Kind.DELIVER)
    desk.send(client, conversation, "client", "Stop", "worker")
    worker.take(Kind.DELIVER)
    worker.die()

    again = desk.peer("worker", plays=["worker"])

    assert again.reads() == ["Stop"]


def test_delivery_of_a_revoked_turn_does_not_come_again_after_a_restart(desk: Desk) -> None:
    worker, client, conversation = begin(desk)
    worker.take(Kind.DELIVER)
    desk.send(client, conversation, "client", "Stop", "worker")
    desk.restart()

    again = desk.peer("worker", plays=["worker"])

    assert again.reads() == ["Stop"]


def test_undelivered_message_from_before_the_scope_outlives_the_interrupt(desk: Desk) -> None:
    client = desk.peer("client")
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "worker")
    desk.send(client, conversation, "client", "Stop", "worker")

    worker = desk.peer("worker", plays=["worker"])

    assert worker.reads() == ["Ask", "Stop"]


def test_missed_deadline_revokes_the_turn_of_the_late_role(desk: Desk) -> None:
    worker, client, conversation = begin(desk)
    ask = worker.take_one(Kind.DELIVER)

    desk.pass_time(601)

    assert [notice["fence"] for notice in worker.notices("revoked")] == [ask[4]]
    assert desk.transcript(client, conversation) == ["Ask", "[choice worker.else]", "[late.end]"]
    assert worker.reads() == ["[else]", "[end]"]


STREAM = """
language: 1
protocol: stream
version: 1.0.0
roles: {source: {}, sink: {}}
messages: {Item: {}, Done: {}, Sum: {}}
outcomes: {summed: All is counted., late: The sum never came.}
conversation:
  - source -> sink: Item*
    max: 10
  - source -> sink: Done
  - sink -> source: Sum
    within: 1m
    else: [{end: late}]
  - end: summed
"""


def test_missed_deadline_discards_only_what_the_late_role_was_answering() -> None:
    desk = Desk(STREAM)
    sink, source = desk.peer("sink", plays=["sink"]), desk.peer("source")
    conversation = desk.open(source, "source")
    for name in ("Item", "Item", "Done"):
        desk.send(source, conversation, "source", name, "sink")
    assert sink.reads() == ["Item", "Item", "Done"]

    desk.pass_time(61)

    assert sink.reads() == ["Item", "Item", "[else]", "[end]"]


def test_missed_deadline_discards_an_undelivered_message_behind_delivered_ones() -> None:
    desk = Desk(STREAM)
    sink, source = desk.peer("sink", plays=["sink"], credit=2), desk.peer("source")
    conversation = desk.open(source, "source")
    for name in ("Item", "Item", "Done"):
        desk.send(source, conversation, "source", name, "sink")
    items = sink.take(Kind.DELIVER)

    desk.pass_time(61)
    desk.handled(sink, items[-1])

    assert sink.refusals() == []
    assert sink.reads() == ["[else]", "[end]"]


def test_notice_says_what_happened_where(desk: Desk) -> None:
    worker, _, _ = begin(desk)
    worker.take(Kind.DELIVER)

    desk.pass_time(601)

    notice = decode_body(worker.take(Kind.DELIVER)[0][17])
    assert notice == {
        "kind": "else",
        "name": "choice worker.else",
        "step": "choice worker",
        "role": "worker",
        "scope": None,
    }


def test_interrupt_raised_outside_a_turn_revokes_the_raisers_own_open_turn(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client", plays=["client"])
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "worker")
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Part", "client"), settles=False)
    part = client.take_one(Kind.DELIVER)

    desk.send(client, conversation, "client", "Stop", "worker")

    assert [notice["fence"] for notice in client.notices("revoked")] == [part[4]]
