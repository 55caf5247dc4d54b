"""The pure session against scripted records of a broker."""

from typing import Any

import pytest
from work_protocol import work

from bus.errors import MalformedFrame, TooLarge
from bus.ids import new_id
from bus.sdk.session import FRAME_RECORDS, SYNCED, Session, SessionState
from bus.wire.codec import MAX_FRAME_BYTES, decode_frame, encode_frame
from bus.wire.record import Kind, Record

CONVERSATION = b"c" * 16
OTHER = b"o" * 16


def output(session: Session) -> list[Record]:
    return [record for frame in session.take_frames() for record in decode_frame(frame)]


def tell(session: Session, *records: Record) -> list[Record]:
    return session.receive(encode_frame(records))


def welcome(*, window: int = 100, kept: tuple[tuple[bytes, int], ...] = (), numbers: tuple[int, ...] = (7,)) -> Record:
    settings = {"heartbeat_interval": 1.0, "lease": 10.0, "window": window}
    return [Kind.WELCOME, 1, b"token", list(numbers), [list(one) for one in kept], settings]


def live_session(**named: Any) -> Session:
    session = Session(name="ann")
    session.play(work, "worker")
    session.hello()
    output(session)
    tell(session, welcome(**named))
    return session


def send_record(conversation: bytes = CONVERSATION, size: int = 1) -> Record:
    return [int(Kind.SEND), 0, new_id(), conversation, 1, 0, 0, 0, None, None, b"x" * size]


def commit_record(position: int, conversation: bytes = CONVERSATION) -> Record:
    return [int(Kind.COMMIT), 0, conversation, 1, 5, position, 0, True, 0, [], None]


def numbers_of(records: list[Record]) -> list[tuple[int, int]]:
    return [(record[0], record[1]) for record in records]


def test_hello_names_sources_roles_credit_and_held_leases() -> None:
    session = Session(name="ann", instance=2, credit=9)
    session.play(work, "worker")
    session.hello([(CONVERSATION, 1, 5, 3, b"m")])

    hello = output(session)[0]

    assert hello == [0, 1, "ann", 2, [work.spec.source], [[0, "worker"]], 9, [[CONVERSATION, 1, 5, 3, b"m"]]]


def test_records_are_numbered_from_one_without_a_gap() -> None:
    session = live_session()
    for _ in range(3):
        session.put(send_record())

    assert [record[1] for record in output(session)] == [1, 2, 3]


def test_what_is_said_before_welcome_waits_for_it() -> None:
    session = Session(name="ann")
    session.put(send_record())
    session.hello()
    before = output(session)
    tell(session, welcome(numbers=()))

    assert [record[0] for record in before] == [Kind.HELLO]
    assert numbers_of(output(session)) == [(Kind.SEND, 1)]


def test_records_beyond_the_window_wait_for_acceptance() -> None:
    session = live_session(window=2)
    for _ in range(3):
        session.put(send_record())
    first = output(session)

    tell(session, [Kind.ACCEPTED, 1, 0])

    assert len(first) == 2
    assert [record[1] for record in output(session)] == [3]


def test_accepted_but_unsynced_records_are_sent_again_renumbered_and_in_order() -> None:
    session = live_session()
    records = [send_record() for _ in range(4)]
    for record in records:
        session.put(record)
    output(session)
    tell(session, [Kind.ACCEPTED, 3, 2])

    session.disconnect()
    session.hello()
    output(session)
    tell(session, welcome())

    again = output(session)
    assert [(record[1], record[2]) for record in again] == [(1, records[2][2]), (2, records[3][2])]
    assert records[0][1] == SYNCED


def test_repeated_accepted_changes_nothing() -> None:
    session = live_session()
    session.put(send_record())
    output(session)
    tell(session, [Kind.ACCEPTED, 1, 1])

    assert tell(session, [Kind.ACCEPTED, 1, 1]) == []
    assert (session.accepted, session.synced, session.n_unsynced()) == (1, 1, 0)


def test_older_accepted_does_not_take_anything_back() -> None:
    session = live_session()
    session.put(send_record())
    session.put(send_record())
    output(session)
    tell(session, [Kind.ACCEPTED, 2, 2])
    tell(session, [Kind.ACCEPTED, 1, 1])

    assert (session.accepted, session.synced) == (2, 2)


def test_refused_record_is_handed_back_and_never_sent_again() -> None:
    session = live_session()
    refused, other = send_record(), send_record()
    session.put(refused)
    session.put(other)
    output(session)
    events = tell(session, [Kind.REFUSED, 1, "not-allowed", {"message": "no"}])

    session.disconnect()
    session.hello()
    output(session)
    tell(session, welcome())

    assert events == [[Kind.REFUSED, refused, "not-allowed", {"message": "no"}]]
    assert events[0][1] is refused
    assert [record[2] for record in output(session)] == [other[2]]


def test_commits_of_leases_that_were_not_kept_are_dropped() -> None:
    session = live_session()
    kept, lost = commit_record(1), commit_record(1, OTHER)
    session.put(kept)
    session.put(lost)
    output(session)

    session.disconnect()
    session.hello()
    output(session)
    tell(session, welcome(kept=((CONVERSATION, 1),)))

    assert [record[2] for record in output(session)] == [CONVERSATION]
    assert session.dropped == [lost]


def test_handled_positions_are_coalesced_for_each_mailbox() -> None:
    session = live_session()
    for position in (1, 2, 3):
        session.settle((CONVERSATION, 1), 5, position)
    session.settle((OTHER, 1), 6, 9)

    assert output(session) == [
        [Kind.HANDLED, 1, CONVERSATION, 1, 5, 3],
        [Kind.HANDLED, 2, OTHER, 1, 6, 9],
    ]


def test_handled_goes_before_a_later_commit_of_its_mailbox() -> None:
    session = live_session()
    session.settle((CONVERSATION, 1), 5, 1)
    session.put(commit_record(2))

    assert numbers_of(output(session)) == [(Kind.HANDLED, 1), (Kind.COMMIT, 2)]


def test_lossy_send_is_dropped_where_the_window_is_full_and_never_sent_again() -> None:
    session = live_session(window=1)
    left = session.put_lossy(send_record())
    dropped = session.put_lossy(send_record())
    output(session)
    session.disconnect()
    session.hello()
    output(session)
    tell(session, welcome())

    assert (left, dropped) == (True, False)
    assert output(session) == []


def test_credit_for_lossy_deliveries_is_given_back_in_batches() -> None:
    session = live_session()
    session.credit = 8
    session.take_lossy()
    first = output(session)
    session.take_lossy()

    assert first == []
    assert output(session) == [[Kind.CREDIT, 2]]


def test_open_carries_the_brokers_number_of_its_protocol() -> None:
    session = live_session(numbers=(42,))
    session.put([int(Kind.OPEN), 0, CONVERSATION, 0, 0, "r", {}, None])

    assert output(session)[0][3] == 42


def open_record(number: int) -> Record:
    return [int(Kind.OPEN), 0, CONVERSATION, number, 0, "r", {}, None]


def test_protocol_that_is_new_to_a_live_session_is_taught_before_it_is_opened() -> None:
    session = Session(name="ann")
    session.hello()
    output(session)
    tell(session, welcome(numbers=()))
    session.put(open_record(session.add_protocol(work)))
    session.put(send_record())
    [question] = output(session)
    events = tell(session, [Kind.REPLY, question[1], True, {"number": 3}])

    assert question == [Kind.QUERY, 1, "learn", {"source": work.spec.source}]
    assert events == []
    opened, sent = output(session)
    assert opened[:4] == [Kind.OPEN, 1, CONVERSATION, 3]
    assert sent[:2] == [Kind.SEND, 2]
    assert session.numbering.of_broker(3) is work


def test_protocol_added_between_hello_and_welcome_is_taught() -> None:
    session = Session(name="ann")
    session.hello()
    output(session)
    session.put(open_record(session.add_protocol(work)))
    tell(session, welcome(numbers=()))

    assert [record[2] for record in output(session)] == ["learn"]


def test_protocol_that_the_broker_does_not_take_refuses_what_opens_it() -> None:
    session = Session(name="ann")
    session.hello()
    output(session)
    tell(session, welcome(numbers=()))
    opening = open_record(session.add_protocol(work))
    session.put(opening)
    [question] = output(session)
    events = tell(session, [Kind.REPLY, question[1], False, {"code": "bad-protocol", "message": "no"}])

    assert events == [[Kind.REFUSED, opening, "bad-protocol", {"code": "bad-protocol", "message": "no"}]]
    assert events[0][1] is opening
    assert session.is_idle()


def test_what_was_being_taught_is_named_by_the_next_hello() -> None:
    session = Session(name="ann")
    session.hello()
    output(session)
    tell(session, welcome(numbers=()))
    session.put(open_record(session.add_protocol(work)))
    output(session)
    session.disconnect()
    session.hello()
    [hello] = output(session)
    tell(session, welcome(numbers=(5,)))

    assert hello[4] == [work.spec.source]
    assert [record[:4] for record in output(session)] == [[Kind.OPEN, 1, CONVERSATION, 5]]


def test_questions_without_answer_are_asked_again() -> None:
    session = live_session()
    answered = session.query("status", {})
    asked = session.query("inbox", {})
    output(session)
    replies = tell(session, [Kind.REPLY, answered, True, {}])

    session.disconnect()
    session.hello()
    output(session)
    tell(session, welcome())

    assert replies == [[Kind.REPLY, answered, True, {}]]
    assert output(session) == [[Kind.QUERY, asked, "inbox", {}]]


def test_what_comes_before_welcome_belongs_to_an_older_session() -> None:
    session = Session(name="ann")
    session.hello()
    output(session)

    assert tell(session, [Kind.ACCEPTED, 5, 5], [Kind.NOTICE, "drain", {}]) == []
    assert session.state is SessionState.GREETING


def test_refused_hello_is_told() -> None:
    session = Session(name="ann")
    session.hello()
    output(session)

    assert tell(session, [Kind.REFUSED, 0, "unknown-role", {"message": "x"}])[0][2] == "unknown-role"


def test_malformed_frame_changes_nothing() -> None:
    session = live_session()

    with pytest.raises(MalformedFrame):
        session.receive(b"\xc1")
    assert session.state is SessionState.LIVE


def test_frames_keep_to_their_number_of_records() -> None:
    session = live_session(window=1000)
    for _ in range(FRAME_RECORDS + 1):
        session.put(send_record())

    assert [len(decode_frame(frame)) for frame in session.take_frames()] == [FRAME_RECORDS, 1]


def test_frames_keep_to_their_size() -> None:
    session = live_session()
    for _ in range(3):
        session.put(send_record(size=600_000))

    frames = session.take_frames()

    assert [len(decode_frame(frame)) for frame in frames] == [1, 1, 1]
    assert max(len(frame) for frame in frames) <= MAX_FRAME_BYTES


def test_record_larger_than_a_frame_is_refused() -> None:
    session = live_session()
    session.put(send_record(size=MAX_FRAME_BYTES))

    with pytest.raises(TooLarge, match="SEND"):
        session.take_frames()


def test_session_that_left_stays_silent() -> None:
    session = live_session()
    session.bye()
    last = output(session)
    session.disconnect()
    session.put(send_record())

    assert last == [[Kind.BYE]]
    assert (session.state, output(session)) == (SessionState.LEFT, [])


def test_second_hello_on_one_connection_is_a_mistake() -> None:
    session = live_session()

    with pytest.raises(RuntimeError, match="live cannot do HELLO"):
        session.hello()
