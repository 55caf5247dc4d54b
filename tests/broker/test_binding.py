"""RULES.md 14-16: who plays a role, and who may speak for it."""

import pytest
from desk import Desk, Peer
from job_protocol import JOB

from bus.wire.record import Kind


@pytest.fixture
def desk() -> Desk:
    return Desk(JOB)


def ask(desk: Desk, client: Peer, request_id: str = "r1", **bindings: list[str]) -> bytes:
    conversation = desk.open(client, "client", request_id, bindings=bindings)
    desk.send(client, conversation, "client", "Ask", "worker")
    return conversation


def test_role_is_free_until_its_first_commit(desk: Desk) -> None:
    first, client = desk.peer("one", plays=["worker"]), desk.peer("client")
    ask(desk, client)
    assert first.reads() == ["Ask"]
    first.bye()

    assert desk.peer("two", plays=["worker"]).reads() == ["Ask"]


def test_role_is_bound_to_a_name_after_its_first_commit(desk: Desk) -> None:
    first, client = desk.peer("one", plays=["worker"]), desk.peer("client")
    ask(desk, client)
    desk.commit(first, first.take_one(Kind.DELIVER), ("Part", "client"), settles=False)
    first.bye()

    stranger = desk.peer("two", plays=["worker"])
    namesake = desk.peer("one", plays=["worker"], instance=5)

    assert stranger.reads() == []
    assert namesake.reads() == ["Ask"]


def test_bindings_at_opening_restrict_who_is_offered_the_role(desk: Desk) -> None:
    other, client = desk.peer("other", plays=["worker"]), desk.peer("client")
    conversation = ask(desk, client, worker=["chosen"])

    desk.send(other, conversation, "worker", "Part", "client")
    chosen = desk.peer("chosen", plays=["worker"])

    assert other.reads() == []
    assert other.refusals() == ["not-a-player"]
    assert chosen.reads() == ["Ask"]


def test_conversations_are_spread_over_the_instances(desk: Desk) -> None:
    workers = [desk.peer("worker", plays=["worker"], instance=instance) for instance in range(3)]
    client = desk.peer("client")
    for number in range(6):
        ask(desk, client, f"r{number}")

    assert [worker.reads() for worker in workers] == [["Ask"] * 2] * 3


def test_sender_is_told_once_that_nobody_plays_the_role(desk: Desk) -> None:
    client = desk.peer("client")
    conversation = ask(desk, client)
    desk.send(client, conversation, "client", "Stop", "worker")

    assert client.notices("nobody-plays") == [{"conversation": conversation, "role": "worker"}]
    assert desk.logged("delivery.waiting") == 1


def test_sender_is_told_again_when_the_player_left(desk: Desk) -> None:
    client = desk.peer("client")
    ask(desk, client)
    client.notices("nobody-plays")
    worker = desk.peer("worker", plays=["worker"])

    worker.bye()

    assert len(client.notices("nobody-plays")) == 1


def test_messages_wait_for_a_player(desk: Desk) -> None:
    client = desk.peer("client")
    ask(desk, client)

    assert desk.peer("worker", plays=["worker"]).reads() == ["Ask"]


def test_send_that_nobody_took_fails_at_its_deadline_and_says_so() -> None:
    desk = Desk(JOB.replace("            else: [{end: late}]\n    interrupts", "    interrupts"))
    client = desk.peer("client")
    ask(desk, client)

    desk.pass_time(601)

    (summary,) = desk.query(client, "conversations")
    assert summary["outcome"] == "failed"
    assert summary["reason"] == "worker missed 'choice worker': nobody took its message"


def test_opening_again_attaches_to_the_same_conversation(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversation = ask(desk, client)
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Part", "client"), settles=False)
    client.bye()

    again = desk.peer("client")
    desk.open(again, "client")

    assert again.reads() == ["Part"]
    assert desk.transcript(again, conversation) == ["Ask", "Part"]


def test_opening_a_conversation_that_is_over_tells_its_outcome(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversation = ask(desk, client)
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Answer", "client"))
    desk.handled(worker, worker.take_one(Kind.DELIVER))
    desk.handled(client, client.take(Kind.DELIVER)[-1])

    desk.open(client, "client")

    assert client.notices("ended") == [{"conversation": conversation, "outcome": "answered"}]


def test_conversation_of_somebody_else_cannot_be_opened(desk: Desk) -> None:
    client, thief = desk.peer("client"), desk.peer("thief")
    conversation = ask(desk, client)

    thief.put([Kind.OPEN, thief.number(), conversation, 0, 0, "r1", {}, None])
    thief.put([Kind.OPEN, thief.number(), conversation, 0, 99, "r1", {}, None])

    assert thief.refusals() == ["not-yours", "not-yours"]


def test_attaching_without_the_conversations_protocol_is_refused(desk: Desk) -> None:
    client = desk.peer("client")
    conversation = ask(desk, client)
    client.hello(source=JOB.replace("1.0.0", "2.0.0"))
    client.inbox.clear()

    client.put([Kind.OPEN, client.number(), conversation, 0, 0, "r1", {}, None])
    desk.send(client, conversation, "client", "Stop", "worker", message_id=b"a-new-message-id")

    assert client.refusals() == ["unknown-protocol", "not-a-player"]


def test_player_may_not_speak_for_a_role_that_is_bound_to_another(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversation = ask(desk, client)
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Part", "client"), settles=False)
    rival = desk.peer("rival", plays=["worker"])

    desk.send(rival, conversation, "worker", "Part", "client")

    (refused,) = rival.take(Kind.REFUSED)
    assert refused[2] == "not-a-player"
    assert "it is played by 'worker'" in refused[3]["message"]


def test_role_that_does_not_exist_cannot_be_spoken_for(desk: Desk) -> None:
    client = desk.peer("client")
    conversation = ask(desk, client)

    client.put([Kind.SEND, client.number(), b"0" * 16, conversation, 9, 0, 0, 0, None, None, b""])

    assert client.refusals() == ["not-a-player"]


def test_message_of_a_wrong_id_or_type_is_malformed(desk: Desk) -> None:
    client = desk.peer("client")
    conversation = ask(desk, client)

    desk.send(client, conversation, "client", "Stop", "worker", message_id=b"short")
    client.put([Kind.SEND, client.number(), b"0" * 16, conversation, 0, 99, 0, 0, None, None, b""])

    assert client.refusals() == ["malformed", "malformed"]


def test_message_for_an_unknown_conversation_is_refused(desk: Desk) -> None:
    client = desk.peer("client")

    desk.send(client, b"?" * 16, "client", "Ask", "worker")

    assert client.refusals() == ["unknown-conversation"]


BAD_OPENINGS = {
    "unknown-protocol": [b"0" * 16, 7, 0, "r", {}, None],
    "unknown-protocol: role": [b"0" * 16, 0, 7, "r", {}, None],
    "malformed: id": [b"0", 0, 0, "r", {}, None],
    "malformed: binding of no role": [b"0" * 16, 0, 0, "r", {"boss": ["a"]}, None],
    "malformed: binding to no names": [b"0" * 16, 0, 0, "r", {"worker": [1]}, None],
    "malformed: parent": [b"0" * 16, 0, 0, "r", {}, [1]],
    "ended": [b"0" * 16, 0, 0, "r", {}, [b"?" * 16, 0, 1, 1]],
}


@pytest.mark.parametrize("case", BAD_OPENINGS)
def test_bad_opening_is_refused_and_opens_nothing(desk: Desk, case: str) -> None:
    client = desk.peer("client")

    client.put([Kind.OPEN, client.number(), *BAD_OPENINGS[case]])

    assert client.refusals() == [case.partition(":")[0]]
    assert desk.query(client, "conversations") == []


def test_protocol_named_twice_has_one_number(desk: Desk) -> None:
    client = desk.peer("client")

    client.put([Kind.HELLO, 1, "client", 0, [JOB, JOB], [[1, "client"]], 1, []])

    assert client.take_one(Kind.WELCOME)[3] == [0, 0]
