"""What people and tools may ask, and what a question that makes no sense is told."""

import pytest
from desk import EMPTY, Desk, Peer
from job_protocol import JOB

from bus.wire.record import Kind


@pytest.fixture
def desk() -> Desk:
    return Desk(JOB)


def begin(desk: Desk) -> tuple[Peer, Peer, bytes]:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "worker")
    return worker, client, conversation


def test_status_names_agents_their_roles_and_what_they_have(desk: Desk) -> None:
    _, client, _ = begin(desk)

    status = desk.query(client, "status")

    assert status["agents"] == [
        {"name": "worker", "instance": 0, "roles": ["job.worker"], "since": 0.0, "open_deliveries": 1},
        {"name": "client", "instance": 0, "roles": [], "since": 0.0, "open_deliveries": 0},
    ]
    assert (status["term"], status["n_conversations"], status["n_live"]) == (1, 1, 1)


def test_listing_can_leave_out_what_is_over_and_is_bounded(desk: Desk) -> None:
    _worker, client, conversation = begin(desk)
    desk.query(client, "cancel", conversation=conversation)
    desk.now += 1
    second = desk.open(client, "client", "second")

    assert [one["conversation"] for one in desk.query(client, "conversations", live_only=True)] == [second]
    assert [one["conversation"] for one in desk.query(client, "conversations", limit=1)] == [second]
    assert len(desk.query(client, "conversations")) == 2


def test_transcript_can_be_read_in_parts(desk: Desk) -> None:
    worker, client, conversation = begin(desk)
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Part", "client"), ("Answer", "client"))

    def read(**more: int) -> list[int]:
        return [one["sequence"] for one in desk.query(client, "transcript", conversation=conversation, **more)]

    assert (read(), read(after=2), read(limit=1), read(after=1, limit=2)) == ([1, 2, 3, 4], [3, 4], [1], [2, 3])


def test_transcript_with_large_bodies_comes_in_parts_that_fit_a_frame(desk: Desk) -> None:
    worker, client, conversation = begin(desk)
    for number in range(3):
        body = bytes(400_000)
        desk.send(worker, conversation, "worker", "Part", "client", body=body, message_id=b"0123456789abcde%d" % number)

    first = desk.query(client, "transcript", conversation=conversation)
    rest = desk.query(client, "transcript", conversation=conversation, after=first[-1]["sequence"])

    assert [one["sequence"] for one in first] == [1, 2]
    assert [one["sequence"] for one in rest] == [3]


@pytest.mark.parametrize("name", ["transcript", "cancel"])
def test_conversation_that_nobody_knows_is_said_to_be_unknown(desk: Desk, name: str) -> None:
    refused = desk.refused_query(desk.peer("client"), name, conversation=b"?" * 16)

    assert refused["code"] == "unknown-conversation"


def test_question_that_nobody_knows_is_told_which_there_are(desk: Desk) -> None:
    refused = desk.refused_query(desk.peer("client"), "weather")

    assert refused["code"] == "unknown-query"
    assert "expected one of answer, cancel, conversations" in refused["message"]


def test_wrong_arguments_are_named(desk: Desk) -> None:
    refused = desk.refused_query(desk.peer("client"), "transcript", conversation=b"short")

    assert refused["code"] == "bad-arguments"
    assert refused["message"].startswith("transcript: conversation:")


def test_live_session_can_be_taught_a_protocol(desk: Desk) -> None:
    client = desk.peer("client")

    known, new = (desk.query(client, "learn", source=text) for text in (JOB, JOB.replace("1.0.0", "1.1.0")))

    assert (known, new) == ({"number": 0}, {"number": 1})
    assert desk.refused_query(client, "learn", source="no protocol")["code"] == "bad-protocol"


def test_frame_that_cannot_be_decoded_is_answered_and_the_session_goes_on(desk: Desk) -> None:
    client = desk.peer("client")

    desk.broker.malformed(client.routing_id, "expected msgpack", desk.now)
    desk.turn()

    assert client.take(Kind.REFUSED) == [[Kind.REFUSED, 0, "malformed", {"message": "expected msgpack"}]]
    assert desk.logged("frame.refused") == 1
    assert desk.query(client, "status")["agents"][0]["name"] == "client"


def test_record_of_the_wrong_form_is_refused_by_its_number(desk: Desk) -> None:
    client = desk.peer("client")

    client.put([Kind.SEND, 1, "not a send"])
    client.put([99])
    desk.broker.receive(b"stranger", [[99]], desk.now)

    assert [record[1:3] for record in client.take(Kind.REFUSED)] == [[1, "malformed"], [0, "malformed"]]
    assert [record[2] for record in desk.broker.take_output()[b"stranger"]] == ["malformed"]


def test_commit_and_failure_for_what_is_not_there_change_nothing(desk: Desk) -> None:
    worker, client, conversation = begin(desk)
    _, _, _, role, fence, position, *_ = worker.take_one(Kind.DELIVER)

    def commit(*where: object) -> None:
        worker.put([Kind.COMMIT, worker.number(), *where, 0, True, 0, [], None])

    commit(b"?" * 16, role, fence, position)
    commit(conversation, 9, fence, position)
    commit(conversation, role, fence, position + 1)
    worker.put([Kind.HANDLED, worker.number(), conversation, role, fence, position + 1])
    worker.put([Kind.HANDLED, worker.number(), conversation, role, fence + 1, position])
    worker.put([Kind.HANDLED, worker.number(), b"?" * 16, role, fence, position])
    worker.put([Kind.NACK, worker.number(), b"?" * 16, role, fence, position, "c", "d", True])

    refused = ["unknown-conversation", "unknown-conversation", "lease-lost", "malformed", "lease-lost"]
    assert worker.refusals() == refused
    assert desk.transcript(client, conversation) == ["Ask"]
    assert desk.query(client, "dead") == []


def test_speaking_in_the_turn_of_the_end_is_refused_and_its_notice_given_up(desk: Desk) -> None:
    worker, _client, _conversation = begin(desk)
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Answer", "client"))

    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Part", "client"))

    (refused,) = worker.take(Kind.REFUSED)
    assert refused[2] == "not-allowed"
    assert "the conversation ended as 'answered'; start a new one" in refused[3]["message"]
    assert worker.reads() == []


def test_message_ids_are_remembered_for_two_generations(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus.broker.conversation.REMEMBERED", 4)
    worker, client, conversation = begin(desk)
    names = [b"0123456789abcde%d" % number for number in range(4)]

    for name in (*names, names[0]):
        desk.send(worker, conversation, "worker", "Part", "client", message_id=name, body=EMPTY)

    assert desk.transcript(client, conversation) == ["Ask", *["Part"] * 4]


def test_only_the_newest_finished_conversations_stay_readable(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus.broker.dispatch.FINISHED_CONVERSATIONS", 1)
    client = desk.peer("client")
    first, second = (desk.open(client, "client", request_id) for request_id in ("first", "second"))
    for conversation in (first, second):
        desk.query(client, "cancel", conversation=conversation)
        desk.handled(client, client.take_one(Kind.DELIVER))

    assert desk.transcript(client, second) == ["[canceled.end]"]
    assert desk.refused_query(client, "transcript", conversation=first)["code"] == "unknown-conversation"
