"""A dead letter can be read, mended and delivered again under a new id (RULES.md 11)."""

from __future__ import annotations

from typing import Any

import pytest
from desk import Desk, Peer

from bus.wire.codec import encode_body
from bus.wire.record import Kind, Record

LETTERS = """
language: 1
protocol: letters
version: 1.0.0
keys: [task_id]
roles: {client: {}, worker: {}}
messages:
  Ask: {fields: {task_id: string, n: {type: int, min: 1}}}
  Answer: {}
conversation:
  - client -> worker: Ask
  - worker -> client: Answer
    within: 10m
  - end: done
outcomes: {done: Well.}
"""
GOOD = encode_body({"task_id": "t1", "n": 2})


@pytest.fixture
def desk() -> Desk:
    return Desk(LETTERS)


def bury(desk: Desk) -> tuple[Peer, Peer, bytes, Record]:
    """Return client, worker, conversation and the delivery that died."""
    client, worker = desk.peer("c"), desk.peer("w", plays=["worker"])
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "worker", body=encode_body({"task_id": "t1", "n": 1}))
    delivery = worker.take_one(Kind.DELIVER)
    desk.nack(worker, delivery, final=True)
    return client, worker, conversation, delivery


def test_one_letter_is_shown_whole_with_its_protocol(desk: Desk) -> None:
    client, _, conversation, _ = bury(desk)

    letter = desk.query(client, "letter", conversation=conversation, role="worker")
    assert letter["body"] == encode_body({"task_id": "t1", "n": 1})
    assert letter["source"] == LETTERS
    assert (letter["type"], letter["code"]) == ("Ask", "error")


def test_edited_letter_is_delivered_with_its_new_body_under_a_new_id(desk: Desk) -> None:
    client, worker, conversation, first = bury(desk)
    done = desk.query(client, "requeue", conversation=conversation, role="worker", body=GOOD)

    again = worker.take_one(Kind.DELIVER)
    assert again[17] == GOOD
    assert again[15] == done["message_id"] != first[15]
    assert (again[5], again[6]) == (first[5], 1)
    desk.commit(worker, again, ("Answer", "client"))
    assert desk.outcome(client, conversation) == "done"


def test_edited_letter_is_the_same_after_a_restart(desk: Desk) -> None:
    client, worker, conversation, _ = bury(desk)
    desk.query(client, "requeue", conversation=conversation, role="worker", body=GOOD)
    before = worker.take_one(Kind.DELIVER)
    desk.restart()
    again = desk.peer("w", plays=["worker"]).take_one(Kind.DELIVER)

    assert (again[15], again[17]) == (before[15], before[17])


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (encode_body({"task_id": "t1", "n": 0}), "body-invalid", "n: expected"),
        (encode_body({"task_id": "t1"}), "body-invalid", "n: expected a value"),
        (encode_body({"task_id": "t2", "n": 1}), "wrong-key", "expected 't1'"),
        (b"\xc1", "malformed", "msgpack"),
    ],
)
def test_body_that_the_type_or_a_key_forbids_is_refused_and_the_letter_stays(
    desk: Desk, body: bytes, code: str, text: str
) -> None:
    client, worker, conversation, _ = bury(desk)
    refused: Any = desk.refused_query(client, "requeue", conversation=conversation, role="worker", body=body)

    assert refused["code"] == code
    assert text in refused["message"]
    assert len(desk.query(client, "dead")) == 1
    assert worker.reads() == []


def test_notice_of_the_bus_cannot_be_edited() -> None:
    source = LETTERS.replace("worker -> client: Answer", "client -> worker: Ask").replace(
        "  - client -> worker: Ask\n", "  - worker -> client: Answer\n    within: 10m\n", 1
    )
    desk = Desk(source)
    client, worker = desk.peer("c"), desk.peer("w", plays=["worker"])
    conversation = desk.open(client, "client")
    desk.nack(worker, worker.take_one(Kind.DELIVER), final=True)

    refused: Any = desk.refused_query(client, "requeue", conversation=conversation, role="worker", body=GOOD)
    assert refused["code"] == "not-a-message"
