"""Superseded or forbidden: decided by what the sender had seen, however many bus events have passed since."""

from __future__ import annotations

import pytest
from desk import Desk, Peer

from bus.wire.record import Kind

NESTED = """
language: 1
protocol: nested
version: 1.0.0
roles: {client: {}, worker: {}}
messages: {Ask: {}, Part: {}, Answer: {}, Next: {}, Other: {}, Stop: {}, Reset: {}, Fresh: {}, Bye: {}}
outcomes: {done: Well.}
conversation:
  - scope: outer
    do:
      - client -> worker: Ask
      - scope: inner
        do:
          - worker -> client: Part
          - worker -> client: Answer
        interrupts:
          - client -> worker: Stop
            then: []
      - client -> worker: Next
      - worker -> client: Other
    interrupts:
      - client -> worker: Reset
        then: []
  - client -> worker: Fresh
  - worker -> client: Part
  - client -> worker: Bye
  - end: done
"""


@pytest.fixture
def desk() -> Desk:
    return Desk(NESTED)


def overtaken(desk: Desk) -> tuple[Peer, Peer, bytes]:
    """Return client, worker and a conversation in which two bus events have overtaken the worker."""
    client, worker = desk.peer("c"), desk.peer("w", plays=["worker"])
    conversation = desk.open(client, "client")
    for message in ("Ask", "Stop", "Reset"):
        desk.send(client, conversation, "client", message, "worker")
    worker.inbox.clear()
    return client, worker, conversation


def says(desk: Desk, worker: Peer, conversation: bytes, message: str, epoch: int) -> str:
    """Return what becomes of *message*: "superseded", "taken" or the code of the refusal."""
    desk.send(worker, conversation, "worker", message, "client", epoch=epoch)
    refused = worker.refusals()
    if refused:
        return refused[0]
    return "superseded" if worker.notices("superseded") else "taken"


def test_message_of_two_events_ago_is_superseded(desk: Desk) -> None:
    client, worker, conversation = overtaken(desk)

    assert says(desk, worker, conversation, "Part", 0) == "superseded"
    assert client.reads() == []


def test_what_follows_a_superseded_message_is_superseded_too(desk: Desk) -> None:
    _, worker, conversation = overtaken(desk)

    assert says(desk, worker, conversation, "Answer", 0) == "not-allowed"  # before its Part it was never right
    assert [says(desk, worker, conversation, one, 0) for one in ("Part", "Answer")] == ["superseded"] * 2


def test_superseded_message_that_is_said_again_is_superseded_again(desk: Desk) -> None:
    _, worker, conversation = overtaken(desk)
    said = [says(desk, worker, conversation, one, 0) for one in ("Part", "Answer", "Part", "Answer")]

    assert said == ["superseded"] * 4


@pytest.mark.parametrize(("message", "epoch"), [("Other", 0), ("Part", 1), ("Other", 1), ("Part", 2)])
def test_message_that_was_wrong_when_its_sender_spoke_is_a_violation(desk: Desk, message: str, epoch: int) -> None:
    _, worker, conversation = overtaken(desk)

    assert says(desk, worker, conversation, message, epoch) == "not-allowed"


def test_message_of_an_old_epoch_is_not_taken_for_the_same_one_of_the_new_state(desk: Desk) -> None:
    client, worker, conversation = overtaken(desk)
    desk.send(client, conversation, "client", "Fresh", "worker", epoch=2)

    assert says(desk, worker, conversation, "Part", 0) == "superseded"
    assert says(desk, worker, conversation, "Part", 2) == "taken"
    assert client.reads() == ["Part"]


def test_raiser_of_an_interrupt_goes_on_although_nobody_told_it(desk: Desk) -> None:
    client, worker, conversation = overtaken(desk)
    desk.send(client, conversation, "client", "Fresh", "worker", epoch=0)

    assert client.refusals() == []
    assert client.notices("superseded") == []
    assert worker.reads() == ["Fresh"]


def test_what_was_seen_is_told_apart_after_a_restart(desk: Desk) -> None:
    overtaken(desk)
    desk.restart()
    worker = desk.peer("w", plays=["worker"])
    conversation = worker.take(Kind.DELIVER)[0][1]

    assert says(desk, worker, conversation, "Other", 0) == "not-allowed"
    assert says(desk, worker, conversation, "Part", 0) == "superseded"
