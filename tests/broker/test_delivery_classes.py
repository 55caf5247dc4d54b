"""RULES.md 13: what waits for the disk, and what the journal holds after a crash."""

import pytest
from desk import Desk, Peer
from job_protocol import JOB

from bus.wire.record import Kind


@pytest.fixture
def desk() -> Desk:
    return Desk(JOB)


def begin(desk: Desk) -> tuple[Peer, Peer, bytes]:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client", plays=["client"])
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "worker")
    return worker, client, conversation


def told(peer: Peer) -> tuple[int, int]:
    """Return the newest (accepted, synced), after acknowledgements had time to linger."""
    peer.desk.now += 0.01
    peer.desk.turn()
    records = peer.take(Kind.ACCEPTED)
    return (records[-1][1], records[-1][2]) if records else (-1, -1)


def test_at_least_once_commit_is_accepted_before_and_synced_after_the_disk(desk: Desk) -> None:
    worker, _client, _ = begin(desk)
    ask = worker.take_one(Kind.DELIVER)
    desk.auto_sync = False
    n = desk.commit(worker, ask, ("Part", "client"), settles=False)

    before = told(worker)
    desk.sync()

    assert before == (n, n - 1)
    assert told(worker) == (n, n)


def test_durable_commit_is_neither_before_the_disk(desk: Desk) -> None:
    worker, _client, _ = begin(desk)
    ask = worker.take_one(Kind.DELIVER)
    desk.auto_sync = False
    n = desk.commit(worker, ask, ("Answer", "client"))

    before = told(worker)
    desk.sync()

    assert before == (-1, -1)
    assert told(worker) == (n, n)


def test_kept_state_is_accepted_only_when_it_is_on_disk(desk: Desk) -> None:
    worker, _client, _ = begin(desk)
    ask = worker.take_one(Kind.DELIVER)
    desk.auto_sync = False
    desk.commit(worker, ask, ("Part", "client"), settles=False, saved=b"1")

    assert told(worker) == (-1, -1)


def test_record_taken_while_a_batch_is_written_is_synced_with_that_batch(desk: Desk) -> None:
    worker, _client, _conversation = begin(desk)
    ask = worker.take_one(Kind.DELIVER)
    desk.auto_sync = False
    desk.commit(worker, ask, ("Part", "client"), settles=False)
    n = desk.commit(worker, ask, ("Part", "client"), settles=False, commit=0)  # a repetition writes no row
    desk.sync()

    assert told(worker) == (n, n)


def test_delivery_to_an_agent_may_leave_before_its_record_is_on_disk(desk: Desk) -> None:
    worker, client, _ = begin(desk)
    ask = worker.take_one(Kind.DELIVER)
    desk.auto_sync = False

    desk.commit(worker, ask, ("Answer", "client"))

    assert client.reads() == ["Answer", "[end]"]


def test_command_of_a_person_is_answered_only_when_it_is_on_disk(desk: Desk) -> None:
    _, client, conversation = begin(desk)
    desk.auto_sync = False
    client.put([Kind.QUERY, 1, "cancel", {"conversation": conversation}])

    before = client.take(Kind.REPLY)
    desk.sync()
    desk.turn()

    assert before == []
    assert client.take_one(Kind.REPLY)[3] == {"outcome": "canceled"}


def test_command_that_changes_nothing_waits_for_what_is_under_way_all_the_same(desk: Desk) -> None:
    _, client, conversation = begin(desk)
    desk.query(client, "cancel", conversation=conversation)
    desk.auto_sync = False
    desk.open(client, "client", "another")
    client.put([Kind.QUERY, 1, "cancel", {"conversation": conversation}])

    before = client.take(Kind.REPLY)
    desk.sync()
    desk.turn()

    assert (len(before), len(client.take(Kind.REPLY))) == (0, 1)


def test_lazy_rows_wait_for_company_but_not_for_long(desk: Desk) -> None:
    broker = desk.broker
    client = desk.peer("client", plays=["client"])
    client.put([Kind.OPEN, client.number(), b"0" * 16, 0, 0, "r", {}, None])
    desk.sync()
    broker.receive(client.routing_id, [[int(Kind.OPEN), 2, b"1" * 16, 0, 0, "r", {}, None]], desk.now)

    first = broker.take_rows()
    broker.tick(desk.now + 0.06)

    assert first == []
    assert [row[0] for row in broker.take_rows()] == ["open"]
    assert not broker.rows_urgent()


def test_durable_rows_are_urgent(desk: Desk) -> None:
    client = desk.peer("client")
    conversation = desk.open(client, "client")
    record = [int(Kind.SEND), 2, b"0" * 16, conversation, 0, 0, 0, 0, None, None, b""]

    desk.broker.receive(client.routing_id, [record], desk.now)

    assert desk.broker.rows_urgent()
    assert [row[0] for row in desk.broker.take_rows()] == ["message"]


def test_unsynced_tail_is_lost_with_the_broker_and_sent_again(desk: Desk) -> None:
    client = desk.peer("client")
    conversation = desk.open(client, "client")
    desk.auto_sync = False
    desk.send(client, conversation, "client", "Ask", "worker", message_id=b"the-one-question")
    desk.restart()
    client = desk.peer("client")
    lost = desk.transcript(client, conversation)

    desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "worker", message_id=b"the-one-question")

    assert lost == []
    assert desk.transcript(client, conversation) == ["Ask"]


def test_acknowledgements_ride_with_other_records_or_linger(desk: Desk) -> None:
    client = desk.peer("client")
    desk.open(client, "client")
    alone = client.take(Kind.ACCEPTED)
    due = desk.broker.next_deadline()

    client.put([Kind.QUERY, 1, "status", {}])

    assert alone == []
    assert due == pytest.approx(desk.now + 0.002)
    assert [record[0] for record in client.inbox] == [Kind.REPLY, Kind.ACCEPTED]


def test_many_records_are_acknowledged_at_once_before_the_window_fills() -> None:
    desk = Desk(JOB)
    client = desk.peer("client")

    for number in range(desk.settings.window // 4):
        desk.open(client, "client", f"r{number}")

    assert client.take(Kind.ACCEPTED) != []
