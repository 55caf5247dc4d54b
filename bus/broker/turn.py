"""May a turn be taken as it stands? One commit is checked whole, before anything of it happens (RULES.md 3, 6-8)."""

from __future__ import annotations

from typing import Any

from bus.broker.conversation import Conversation
from bus.broker.mailbox import Delivery, Mailbox
from bus.broker.refusal import Refusal, out_of_turn
from bus.ids import ID_BYTES
from bus.spec.protocol import Delivery as DeliveryClass
from bus.spec.tables import Move
from bus.wire.record import NOTICE_TYPE, is_well_formed_send


def is_message(conversation: Conversation, type: int) -> bool:
    """Return whether the protocol has a message type of that number."""
    return NOTICE_TYPE < type < len(conversation.protocol.messages)


def wrong_id(message_id: bytes) -> Refusal:
    """Return why a message may not be called so: its id is not of ``ID_BYTES``."""
    return Refusal("malformed", f"expected a message id of {ID_BYTES} bytes, got {len(message_id)}")


def check_turn(
    conversation: Conversation, mailbox: Mailbox, delivery: Delivery, *, settles: bool, sends: list[Any],
    saved: bytes | None, state_bytes: int,
) -> Refusal | None:  # fmt: skip
    """Return why the commit on *delivery* must be refused whole, or None."""
    if saved is not None and len(saved) > state_bytes:
        return Refusal("too-large", f"expected a state of at most {state_bytes} bytes, got {len(saved)}; keep less")
    machine = mailbox.machine
    state = mailbox.at
    counted: dict[int, int] = {}
    for index, send in enumerate(sends):
        refusal = _check_form(conversation, index, send)
        if refusal is not None:
            return refusal
        key = (send[1], send[2])
        move = machine.send[state].get(key) if index else conversation.find_move(mailbox, *key)
        if move is None or conversation.outcome is not None or not _count(conversation, move, counted):
            refusal = out_of_turn(conversation, mailbox, send[1])
            return refusal._replace(message=f"send {index} of the turn: {refusal.message}")
        state = conversation.cast.after(mailbox, state, move)
    is_last = delivery is mailbox.newest()
    if settles and is_last and conversation.outcome is None and _owes(conversation, mailbox, state, counted):
        who = conversation.players[mailbox.role].name
        owed = sorted(conversation.protocol.messages[type].name for type, _ in machine.send[state])
        return Refusal("turn-unfinished", f"{who} ends its turn but still owes one of: {', '.join(owed)}")
    return None


def _check_form(conversation: Conversation, index: int, send: Any) -> Refusal | None:
    if not is_well_formed_send(send) or not is_message(conversation, send[1]):
        return Refusal("malformed", f"expected send {index} as docs/wire.md describes it")
    if conversation.protocol.messages[send[1]].delivery is DeliveryClass.AT_MOST_ONCE:
        return Refusal("malformed", f"send {index}: an at-most-once message leaves outside the commit")
    if len(send[0]) == ID_BYTES:
        return None
    refusal = wrong_id(send[0])
    return refusal._replace(message=f"send {index}: {refusal.message}")


def check_commit(
    conversation: Conversation, mailbox: Mailbox, delivery: Delivery, *, settles: bool, sends: list[Any],
    saved: bytes | None, state_bytes: int,
) -> tuple[Refusal | None, bool]:  # fmt: skip
    """Return why the commit must be refused whole, or None; and whether what it sends is superseded, no blame.

    It is where the bus moved on behind the delivery (a loop's `max`), and where an interrupt that it raises has
    crossed with a message by which the scope was left.
    """

    def check(sends: list[Any], saved: bytes | None) -> Refusal | None:
        return check_turn(
            conversation, mailbox, delivery, settles=settles, sends=sends, saved=saved, state_bytes=state_bytes
        )

    if sends and delivery.epoch < mailbox.overtaken_at:
        return check([], None), True
    refusal = check(sends, saved)
    if refusal is None or refusal.code != "not-allowed":
        return refusal, False
    if delivery.epoch < mailbox.epoch:  # what befell one member leaves alone what is said to others, not to that one
        return check([], None), True
    _, type, address, *_ = sends[0]
    move = conversation.find_move(mailbox, type, address)
    if move is None and mailbox.was_allowed(type, address, mailbox.epoch):
        return check([], None), True
    return refusal, False


def find_late_move(conversation: Conversation, mailbox: Mailbox, type: int, address: int, epoch: int) -> Move | None:
    """Return the move of a message outside a turn, whose sender has seen *epoch*, or None where it may not be sent.

    What was meant for a step that a bus event has cut off is not taken for another that looks like it.
    """
    move = conversation.find_move(mailbox, type, address)
    if move is None or epoch >= mailbox.overtaken_at or move.interrupt >= 0:
        return move
    return None if mailbox.allowed_before(type, address, epoch) else move


def owes_after(conversation: Conversation, mailbox: Mailbox, move: Move) -> bool:
    """Return whether the role must send again once it has made *move*."""
    counted: dict[int, int] = {}
    _count(conversation, move, counted)
    return _owes(conversation, mailbox, conversation.cast.after(mailbox, mailbox.at, move), counted)


def _owes(conversation: Conversation, mailbox: Mailbox, state: int, counted: dict[int, int]) -> bool:
    """Return whether the role owes a send in *state*: not where a loop has had its passes, for the bus goes on then."""
    if not mailbox.machine.owes[state]:
        return False
    tables = conversation.tables
    loops = (tables.events[event].counter for event in mailbox.machine.due[state])
    return not any(
        loop >= 0 and counted.get(loop, conversation.counters[loop]) >= tables.counters[loop].limit for loop in loops
    )


def _count(conversation: Conversation, move: Move, counted: dict[int, int]) -> bool:
    """Return whether the streams that *move* belongs to may go on, and count it among those of this commit."""
    limits = conversation.tables.counters
    for counter in move.guards:
        if counted.get(counter, conversation.counters[counter]) >= limits[counter].limit:
            return False
    for counter in move.resets:
        counted[counter] = 0
    for counter in move.counts:
        counted[counter] = counted.get(counter, conversation.counters[counter]) + 1
    return True
