"""Protocols that are not enforced: what the order forbids is passed on, logged where observed, and steps nothing."""

from __future__ import annotations

from typing import Any

import pytest
from desk import Desk, Peer
from job_protocol import JOB
from test_keys import KEYED, commit

from bus.broker.broker import Broker
from bus.spec.mode import Mode, read_mode
from bus.wire.codec import encode_body
from bus.wire.record import WIRE_VERSION, Kind, Record

SEQUENCE, POSITION = 11, 5


def desk_in(mode: Mode, source: str = JOB) -> Desk:
    desk = Desk(source)
    desk.modes = {desk.protocol.name: mode}
    desk.broker = Broker(settings=desk.settings, term=1, rng_seed=b"test", modes=desk.modes)
    return desk


@pytest.fixture
def desk() -> Desk:
    return desk_in(Mode.OBSERVE)


def asked(desk: Desk) -> tuple[Peer, Peer, bytes, Record]:
    """Return client, worker, conversation and the worker's delivery of an Ask."""
    client, worker = desk.peer("c"), desk.peer("w", plays=["worker"])
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "worker")
    return client, worker, conversation, worker.take_one(Kind.DELIVER)


def facts(desk: Desk, peer: Peer) -> dict[str, Any]:
    return desk.query(peer, "conversations")[0]  # type: ignore[no-any-return]  # replies are plain values


def test_forbidden_message_is_delivered_and_steps_nobody(desk: Desk) -> None:
    client, worker, conversation, _ = asked(desk)
    before = facts(desk, client)["states"]
    desk.send(client, conversation, "client", "Ask", "worker")

    delivery = worker.take_one(Kind.DELIVER)
    assert desk.name_of(delivery) == "Ask"
    assert (delivery[POSITION], delivery[SEQUENCE]) == (2, -2)
    assert client.refusals() == []
    assert facts(desk, client)["states"] == before


def test_forbidden_message_is_logged_with_what_was_allowed_and_counted(desk: Desk) -> None:
    client, _, conversation, _ = asked(desk)
    desk.send(client, conversation, "client", "Ask", "worker")

    [line] = [one for one in desk.broker.log if one[1] == "message.violated"]
    assert line[0] == "warning"
    assert (line[2]["role"], line[2]["protocol"], line[2]["code"]) == ("client", "job", "not-allowed")
    assert "allowed here: Stop to worker" in str(line[2]["reason"])
    assert (facts(desk, client)["n_violations"], facts(desk, client)["mode"]) == (1, "observe")
    status = desk.query(client, "status")
    assert (status["n_violations"], status["modes"]) == (1, {"job": "observe"})


def test_transcript_tells_an_aside_from_what_the_order_allows(desk: Desk) -> None:
    client, _, conversation, _ = asked(desk)
    desk.send(client, conversation, "client", "Ask", "worker")

    entries = desk.query(client, "transcript", conversation=conversation)
    assert [(one["sequence"], one["type"], one["event"]) for one in entries] == [(1, "Ask", None), (2, "Ask", "aside")]


def test_turn_passes_its_forbidden_sends_in_their_place(desk: Desk) -> None:
    client, worker, conversation, delivery = asked(desk)
    desk.commit(worker, delivery, ("Part", "client"), ("Stopped", "client"), ("Answer", "client"))

    assert client.reads() == ["Part", "Stopped", "Answer", "[end]"]
    assert desk.outcome(client, conversation) == "answered"
    assert facts(desk, client)["n_violations"] == 1


def test_turn_that_owes_a_message_is_settled(desk: Desk) -> None:
    client, worker, _, delivery = asked(desk)
    desk.handled(worker, delivery)

    assert worker.refusals() == []
    assert facts(desk, client)["n_violations"] == 1
    assert desk.query(client, "dead") == []


def test_restart_gives_the_same_and_delivers_what_was_not_settled(desk: Desk) -> None:
    client, worker, conversation, delivery = asked(desk)
    desk.commit(worker, delivery, ("Part", "client"), ("Stopped", "client"), settles=False)
    desk.send(client, conversation, "client", "Ask", "worker")
    said, before = desk.transcript(client, conversation), facts(desk, client)
    desk.restart()
    again = desk.peer("w", plays=["worker"])

    assert again.reads() == ["Ask", "Ask"]
    assert desk.transcript(again, conversation) == said
    after = facts(desk, again)
    assert (after["states"], after["n_violations"]) == (before["states"], before["n_violations"])


def test_restart_in_another_mode_keeps_what_was_passed_and_refuses_from_then_on(desk: Desk) -> None:
    client, worker, conversation, delivery = asked(desk)
    desk.commit(worker, delivery, ("Stopped", "client"), ("Part", "client"), settles=False)
    said = desk.transcript(client, conversation)
    desk.modes = {}
    desk.restart()
    client = desk.peer("c")
    desk.send(client, conversation, "client", "Ask", "worker", message_id=b"another message.")

    assert client.refusals() == ["not-allowed"]
    assert desk.transcript(client, conversation) == said


def test_at_most_once_message_is_passed_whatever_the_receiver_expects(desk: Desk) -> None:
    client, worker, conversation, _delivery = asked(desk)
    desk.send(client, conversation, "client", "Stop", "worker")
    worker.inbox.clear()
    client.inbox.clear()
    desk.send(worker, conversation, "worker", "Note", "client", epoch=1)

    [note] = client.take(Kind.DELIVER)
    assert (desk.name_of(note), note[POSITION]) == ("Note", 0)
    assert note[SEQUENCE] < 0
    assert facts(desk, client)["n_violations"] == 1


def test_message_that_a_bus_event_overtook_is_superseded_and_no_violation(desk: Desk) -> None:
    client, worker, conversation, _ = asked(desk)
    desk.send(client, conversation, "client", "Stop", "worker")
    worker.inbox.clear()
    desk.send(worker, conversation, "worker", "Answer", "client", epoch=0)

    assert len(worker.notices("superseded")) == 1
    assert facts(desk, client)["n_violations"] == 0


@pytest.mark.parametrize("kind", [99, -2])
def test_message_type_that_there_is_not_is_refused_in_every_mode(desk: Desk, kind: int) -> None:
    client, _, conversation, _ = asked(desk)
    record = [Kind.SEND, client.number(), b"i" * 16, conversation, 0, kind, 0, 0, None, None, b"\x80"]
    client.put(record)

    assert client.refusals() == ["malformed"]


def test_address_that_there_is_not_is_refused_in_every_mode(desk: Desk) -> None:
    client, worker, conversation, delivery = asked(desk)
    client.put([Kind.SEND, client.number(), b"i" * 16, conversation, 0, 0, 77, 0, None, None, b"\x80"])
    turn = [conversation, 1, delivery[4], delivery[5], 0, True, 0]
    worker.put([Kind.COMMIT, worker.number(), *turn, [[b"j" * 16, 0, 77, None, None, b"\x80"]], None])

    assert client.refusals() == ["malformed"]
    assert worker.refusals() == ["malformed"]


def test_conversation_that_is_over_takes_nothing_in_any_mode(desk: Desk) -> None:
    client, worker, conversation, delivery = asked(desk)
    desk.commit(worker, delivery, ("Answer", "client"))
    client.inbox.clear()
    worker.inbox.clear()
    desk.send(client, conversation, "client", "Ask", "worker")

    assert worker.take(Kind.DELIVER) == []
    assert facts(desk, client)["n_violations"] == 0


def test_aside_waits_for_room_and_is_counted_once() -> None:
    desk = desk_in(Mode.OBSERVE, JOB.replace("window: 50", "window: 1"))
    client, worker, conversation, _ = asked(desk)
    for _ in range(3):
        desk.send(client, conversation, "client", "Part", "worker")
    delivered = []
    while deliveries := worker.take(Kind.DELIVER):
        delivered += deliveries
        desk.handled(worker, deliveries[-1])

    asides = [one for one in desk.broker.log if one[1] == "message.violated" and one[2]["role"] == "client"]
    assert (len(delivered), len(asides)) == (3, 3)


def test_off_passes_on_and_says_nothing() -> None:
    desk = desk_in(Mode.OFF)
    client, worker, conversation, delivery = asked(desk)
    desk.send(client, conversation, "client", "Ask", "worker")
    desk.commit(worker, delivery, ("Stopped", "client"))

    assert client.reads() == ["Stopped"]
    assert worker.reads() == ["Ask"]
    assert desk.logged("message.violated") == 0
    assert facts(desk, client)["n_violations"] == 0


@pytest.mark.parametrize(("mode", "n_violations"), [(Mode.OBSERVE, 1), (Mode.OFF, 0)])
def test_message_with_another_key_steps_the_order_and_is_taken(mode: Mode, n_violations: int) -> None:
    desk = desk_in(mode, KEYED)
    client, worker = desk.peer("c"), desk.peer("w", plays=["worker"])
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "worker", body=encode_body({"task_id": "t1"}))
    delivery = worker.take_one(Kind.DELIVER)
    commit(desk, worker, delivery, ("Part", "client", {"task_id": "t2"}), settles=False)

    assert client.reads() == ["Part"]
    assert facts(desk, client)["n_violations"] == n_violations


def test_welcome_names_the_protocols_that_are_not_enforced(desk: Desk) -> None:
    desk.n_peers += 1
    peer = Peer(desk, "p", 0)
    desk.peers[peer.routing_id] = peer
    peer.put([Kind.HELLO, WIRE_VERSION, "p", 0, [JOB], [], 1, []])

    assert peer.take_one(Kind.WELCOME)[5]["modes"] == {"job": "observe"}


def test_mode_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"expected a mode .enforce, observe, off., got 'strict'"):
        read_mode("strict")
