"""RULES.md 3-8: turns are atomic commits under a lease."""

import pytest
from desk import Desk

from bus.wire.record import Kind

PIPELINE = """
language: 1
protocol: pipeline
version: 1.0.0
defaults: {delivery: durable}
roles: {client: {}, worker: {}}
messages:
  Ask: {}
  Part: {delivery: at-least-once}
  Answer: {}
outcomes: {answered: There is an answer.}
conversation:
  - client -> worker: Ask
  - worker -> client: Part*
    max: 3
  - worker -> client: Answer
  - end: answered
"""


@pytest.fixture
def desk() -> Desk:
    return Desk(PIPELINE)


def test_message_reaches_the_role_that_plays_it(desk: Desk) -> None:
    worker = desk.peer("worker", plays=["worker"])
    client = desk.peer("client")

    desk.send(client, desk.open(client, "client"), "client", "Ask", "worker")

    assert desk.name_of(worker.take_one(Kind.DELIVER)) == "Ask"


def test_commit_with_the_answer_ends_the_conversation_for_both(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "worker")

    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Answer", "client"))

    assert [desk.name_of(delivery) for delivery in client.take(Kind.DELIVER)] == ["Answer", "[end]"]
    assert [desk.name_of(delivery) for delivery in worker.take(Kind.DELIVER)] == ["[end]"]
    assert desk.transcript(client, conversation) == ["Ask", "Answer", "[answered.end]"]


def test_durable_send_is_accepted_only_when_it_is_on_disk(desk: Desk) -> None:
    client = desk.peer("client")
    conversation = desk.open(client, "client")
    client.take(Kind.ACCEPTED)
    desk.auto_sync = False

    n = desk.send(client, conversation, "client", "Ask", "worker")
    before = client.take(Kind.ACCEPTED)
    desk.sync()
    desk.turn()

    assert all(accepted < n for _, accepted, _ in before)
    assert client.take(Kind.ACCEPTED)[-1][1:] == [n, n]


def test_script_reads_a_durable_message_only_when_it_is_on_disk(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    desk.send(client, desk.open(client, "client"), "client", "Ask", "worker")
    desk.auto_sync = False

    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Answer", "client"))
    before = client.take(Kind.DELIVER)
    desk.sync()
    desk.turn()

    assert before == []
    assert desk.name_of(client.take(Kind.DELIVER)[0]) == "Answer"


def test_message_out_of_turn_is_refused_with_what_is_allowed_and_changes_nothing(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversation = desk.open(client, "client")

    desk.send(worker, conversation, "worker", "Answer", "client")

    _, _, code, detail = worker.take_one(Kind.REFUSED)
    assert code == "not-allowed"
    assert "allowed here: nothing" in detail["message"]
    assert desk.transcript(client, conversation) == []


def test_turn_with_one_forbidden_send_is_refused_whole(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "worker")

    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Part", "client"), ("Ask", "worker"))

    assert worker.take_one(Kind.REFUSED)[2] == "not-allowed"
    assert "Part" not in desk.transcript(client, conversation)
    assert [letter["code"] for letter in desk.query(client, "dead")] == ["not-allowed"]


def test_turn_that_settles_while_its_role_owes_is_refused_as_unfinished(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    desk.send(client, desk.open(client, "client"), "client", "Ask", "worker")

    desk.commit(worker, worker.take_one(Kind.DELIVER))

    assert worker.take_one(Kind.REFUSED)[2] == "turn-unfinished"


def test_repeated_commit_is_accepted_again_without_a_second_effect(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "worker")
    delivery = worker.take_one(Kind.DELIVER)
    desk.commit(worker, delivery, ("Part", "client"), settles=False)

    desk.commit(worker, delivery, ("Part", "client"), settles=False, commit=0)

    assert desk.transcript(client, conversation) == ["Ask", "Part"]
    assert worker.take(Kind.REFUSED) == []


def test_redelivery_after_a_crash_starts_from_the_last_commit(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "worker")
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Part", "client"), settles=False, saved=b"\x01")

    again = desk.peer("worker", plays=["worker"])
    delivery = again.take_one(Kind.DELIVER)

    assert (delivery[6], delivery[7], delivery[16]) == (2, 1, b"\x01")  # attempt, commits done, saved


def test_commit_under_an_older_fence_is_refused(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "worker")
    delivery = worker.take_one(Kind.DELIVER)
    newer = desk.peer("worker", plays=["worker"])

    desk.commit(newer, delivery, ("Answer", "client"))

    assert newer.take_one(Kind.REFUSED)[2] == "lease-lost"
    assert desk.transcript(client, conversation) == ["Ask"]


def test_stream_beyond_its_max_is_refused(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "worker")
    delivery = worker.take_one(Kind.DELIVER)
    for commit in range(3):
        desk.commit(worker, delivery, ("Part", "client"), settles=False, commit=commit)

    desk.commit(worker, delivery, ("Part", "client"), settles=False, commit=3)

    assert worker.take_one(Kind.REFUSED)[2] == "not-allowed"
    assert desk.transcript(client, conversation) == ["Ask", "Part", "Part", "Part"]


def test_repeated_send_has_one_effect(desk: Desk) -> None:
    client = desk.peer("client")
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "worker", message_id=b"0123456789abcdef")

    desk.send(client, conversation, "client", "Ask", "worker", message_id=b"0123456789abcdef")

    assert client.take(Kind.REFUSED) == []
    assert desk.transcript(client, conversation) == ["Ask"]


def test_commit_behind_unreported_deliveries_settles_them() -> None:
    desk = Desk(PIPELINE.replace("client -> worker: Ask", "client -> worker: Ask\n  - client -> worker: Part"))
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "worker")
    desk.send(client, conversation, "client", "Part", "worker")
    ask, part = worker.take(Kind.DELIVER)
    desk.commit(worker, part, ("Part", "client"), settles=False)

    again = desk.peer("worker", plays=["worker"])

    (delivery,) = again.take(Kind.DELIVER)
    assert (delivery[5], delivery[7]) == (part[5], 1)
    assert ask[5] < part[5]
