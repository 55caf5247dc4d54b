"""Keys of a conversation at the broker: peers here write records by hand, with no SDK to stop them."""

from __future__ import annotations

from typing import Any

import pytest
from desk import Desk, Peer

from bus.ids import message_id
from bus.wire.codec import encode_body
from bus.wire.record import Kind, Record

KEYED = """
language: 1
protocol: keyed
version: 1.0.0
keys: [task_id, password]
roles: {client: {}, worker: {}, boss: {human: true}}
messages:
  Ask: {fields: {note: {type: string, default: ""}, task_id: string, password: {type: optional string, secret: true}}}
  Note: {delivery: at-most-once, fields: {task_id: {type: optional string}}}
  Part: {fields: {task_id: {type: optional string}, n: {type: int, default: 0}}}
  Done: {fields: {task_id: string}}
  Plain: {fields: {text: string}}
  Approve: {fields: {task_id: string}}
outcomes: {done: All is well., late: It took too long.}
conversation:
  - client -> worker: Ask
  - loop: steps
    within: 2h
    else: [{end: late}]
    do:
      - choice: worker
        within: 30m
        branches:
          note: [worker -> client: Note]
          part: [worker -> client: Part]
          done:
            - worker -> boss, client: Done
            - break
  - boss -> client: Approve
    within: 1h
  - client -> worker: Plain
  - end: done
"""


@pytest.fixture
def desk() -> Desk:
    return Desk(KEYED)


def sends(desk: Desk, delivery: Record, *given: tuple[str, str, dict[str, object]]) -> list[Record]:
    return [
        [
            message_id(delivery[1], delivery[3], delivery[5], delivery[7], index), desk.protocol.message_index(name),
            desk.address(*to.split(",")), None, None, encode_body(fields),
        ]
        for index, (name, to, fields) in enumerate(given)
    ]  # fmt: skip


def commit(desk: Desk, peer: Peer, delivery: Record, *given: tuple[str, str, dict[str, object]], settles: bool) -> None:
    turn = [delivery[1], delivery[3], delivery[4], delivery[5], delivery[7], settles, delivery[10]]
    peer.put([Kind.COMMIT, peer.number(), *turn, sends(desk, delivery, *given), None])


def ask(desk: Desk, **fields: object) -> tuple[Peer, Peer, bytes, Record]:
    """Return client, worker, conversation and the worker's delivery of an Ask."""
    client, worker = desk.peer("c"), desk.peer("w", plays=["worker"])
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "worker", body=encode_body({"task_id": "t1", **fields}))
    return client, worker, conversation, worker.take_one(Kind.DELIVER)


def detail_of(peer: Peer) -> Any:
    return peer.take_one(Kind.REFUSED)[3]


def test_turn_with_another_key_is_refused_whole_and_dead_lettered(desk: Desk) -> None:
    client, worker, _conversation, delivery = ask(desk)
    before = desk.query(client, "conversations")[0]
    commit(
        desk, worker, delivery, ("Part", "client", {"n": 1}), ("Part", "client", {"task_id": "t2"}), settles=False
    )  # fmt: skip

    _, _, code, detail = worker.take_one(Kind.REFUSED)
    assert code == "wrong-key"
    assert detail["message"].startswith("send 1 of the turn: Part.task_id: expected 't1', the value that")
    assert "got 't2' (conversation " in detail["message"]
    assert client.reads() == []
    assert [(one["code"], one["role"]) for one in desk.query(client, "dead")] == [("wrong-key", "worker")]
    after = desk.query(client, "conversations")[0]
    assert (after["states"], after["sequence"]) == (before["states"], before["sequence"])


def test_send_with_another_key_is_refused_and_the_right_one_is_taken_afterwards(desk: Desk) -> None:
    client, worker, conversation, _delivery = ask(desk)
    send_part = lambda peer, key: desk.send(  # noqa: E731 (twice the same line)
        peer, conversation, "worker", "Part", "client", body=encode_body({"task_id": key})
    )
    send_part(worker, "t2")
    assert worker.refusals() == ["wrong-key"]
    send_part(worker, "t1")

    assert worker.refusals() == []
    assert client.reads() == ["Part"]


def test_at_most_once_message_with_another_key_is_refused(desk: Desk) -> None:
    client, worker, conversation, _ = ask(desk)
    desk.send(worker, conversation, "worker", "Note", "client", body=encode_body({"task_id": "t2"}))

    assert worker.refusals() == ["wrong-key"]
    assert client.reads() == []


def test_answer_of_a_person_with_another_key_is_refused_and_the_item_waits_on(desk: Desk) -> None:
    client, worker, _conversation, delivery = ask(desk)
    commit(desk, worker, delivery, ("Done", "boss,client", {"task_id": "t1"}), settles=True)
    [item] = desk.query(client, "inbox")
    fence = {key: item[key] for key in ("conversation", "role", "position", "epoch")}
    choice = {key: item["allowed"][0][key] for key in ("type", "address")}
    refused = desk.refused_query(client, "answer", **fence, **choice, body=encode_body({"task_id": "t2"}), by="ann")

    assert refused["code"] == "wrong-key"
    assert len(desk.query(client, "inbox")) == 1
    desk.query(client, "answer", **fence, **choice, body=encode_body({"task_id": "t1"}), by="ann")
    assert client.reads() == ["Done", "Approve"]


def test_key_is_remembered_over_a_restart(desk: Desk) -> None:
    ask(desk)
    desk.restart()
    worker = desk.peer("w", plays=["worker"])
    delivery = worker.take_one(Kind.DELIVER)
    commit(desk, worker, delivery, ("Part", "client", {"task_id": "t2"}), settles=False)

    assert worker.refusals() == ["wrong-key"]


def test_first_message_that_has_the_field_sets_its_value(desk: Desk) -> None:
    client, worker, conversation, _delivery = ask(desk)
    desk.send(worker, conversation, "worker", "Part", "client", body=encode_body({"n": 3}))
    desk.send(worker, conversation, "worker", "Part", "client", body=encode_body({"n": 4, "task_id": None}))
    desk.send(worker, conversation, "worker", "Part", "client", body=encode_body({"n": 4, "task_id": "t1"}))

    assert worker.refusals() == []
    assert client.reads() == ["Part"] * 3


def test_two_sends_of_one_turn_must_agree_on_a_key_that_the_first_sets() -> None:
    late = Desk(KEYED.replace('Ask: {fields: {note: {type: string, default: ""}, task_id: string,', "Ask: {fields: {"))
    client, worker = late.peer("c"), late.peer("w", plays=["worker"])
    conversation = late.open(client, "client")
    late.send(client, conversation, "client", "Ask", "worker")
    delivery = worker.take_one(Kind.DELIVER)
    given = [("Part", "client", {"task_id": one}) for one in ("a", "b")]
    commit(late, worker, delivery, *given, settles=False)

    assert "expected 'a'" in detail_of(worker)["message"]
    assert client.reads() == []


def test_refused_turn_sets_no_key() -> None:
    late = Desk(KEYED.replace('Ask: {fields: {note: {type: string, default: ""}, task_id: string,', "Ask: {fields: {"))
    client, worker = late.peer("c"), late.peer("w", plays=["worker"])
    conversation = late.open(client, "client")
    late.send(client, conversation, "client", "Ask", "worker")
    delivery = worker.take_one(Kind.DELIVER)
    commit(late, worker, delivery, *[("Part", "client", {"task_id": one}) for one in ("a", "b")], settles=False)
    late.query(client, "requeue", conversation=conversation, role="worker")
    again = worker.take_one(Kind.DELIVER)
    worker.take(Kind.REFUSED)
    commit(late, worker, again, ("Part", "client", {"task_id": "b"}), settles=False)

    assert worker.refusals() == []
    assert client.reads() == ["Part"]


def test_secret_key_is_not_told(desk: Desk) -> None:
    client, _worker = desk.peer("c"), desk.peer("w", plays=["worker"])
    conversation = desk.open(client, "client")
    first = encode_body({"task_id": "t1", "password": "hunter2"})
    desk.send(client, conversation, "client", "Ask", "worker", body=first)
    keys = desk.broker._state.conversations[conversation].watch.keys
    assert keys is not None
    fault = keys.find_fault(desk.protocol.messages[0], encode_body({"task_id": "t1", "password": "other"}))

    assert fault is not None
    assert fault.code == "wrong-key"
    assert "hunter2" not in fault.message
    assert "other," not in fault.message
    assert "'other'" not in fault.message


def test_two_ways_to_write_one_number_are_the_same_key(desk: Desk) -> None:
    source = KEYED.replace("task_id: string", "task_id: int").replace("optional string", "optional int")
    numbers = Desk(source)
    client, worker = numbers.peer("c"), numbers.peer("w", plays=["worker"])
    conversation = numbers.open(client, "client")
    numbers.send(client, conversation, "client", "Ask", "worker", body=encode_body({"task_id": 1}))
    long_one = b"\x81\xa7task_id\xcd\x00\x01"  # 1 in two bytes
    numbers.send(worker, conversation, "worker", "Part", "client", body=long_one)
    true_one = b"\x81\xa7task_id\xc3"
    numbers.send(worker, conversation, "worker", "Part", "client", body=true_one)

    assert worker.refusals() == ["wrong-key"]
    assert client.reads() == ["Part"]


def test_body_that_is_no_map_is_refused_where_a_key_must_be_read(desk: Desk) -> None:
    _client, worker, conversation, _ = ask(desk)
    desk.send(worker, conversation, "worker", "Part", "client", body=b"\xc1")

    assert worker.refusals() == ["malformed"]


def test_message_without_key_fields_is_not_looked_into(desk: Desk) -> None:
    client, worker, conversation, delivery = ask(desk)
    commit(desk, worker, delivery, ("Done", "boss,client", {"task_id": "t1"}), settles=True)
    [item] = desk.query(client, "inbox")
    fence = {key: item[key] for key in ("conversation", "role", "position", "epoch")}
    choice = {key: item["allowed"][0][key] for key in ("type", "address")}
    desk.query(client, "answer", **fence, **choice, body=encode_body({"task_id": "t1"}), by="ann")
    desk.send(client, conversation, "client", "Plain", "worker", body=b"\xc1")

    assert client.refusals() == []
