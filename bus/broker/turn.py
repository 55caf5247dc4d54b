"""May a turn be taken as it stands? One commit is checked whole, before anything of it happens (RULES.md 3, 6-8)."""

from __future__ import annotations

from typing import Any, NamedTuple

from bus.broker.conversation import Conversation
from bus.broker.delivery import Delivery
from bus.broker.mailbox import Mailbox
from bus.broker.refusal import Refusal, out_of_turn, wrong_key
from bus.ids import ID_BYTES
from bus.spec.mode import Mode
from bus.spec.protocol import Delivery as DeliveryClass
from bus.spec.tables import Move
from bus.wire.record import NOTICE_TYPE, is_well_formed_send


class Fault(NamedTuple):
    """What the order or a key forbids of a turn, where the protocol's mode lets it pass.

    Attributes:
        send: Which of the sends, or -1 for the turn as a whole.
    """

    send: int
    refusal: Refusal


def is_message(conversation: Conversation, type: int) -> bool:
    """Return whether the protocol has a message type of that number."""
    return NOTICE_TYPE < type < len(conversation.protocol.messages)


def wrong_id(message_id: bytes) -> Refusal:
    """Return why a message may not be called so: its id is not of ``ID_BYTES``."""
    return Refusal("malformed", f"expected a message id of {ID_BYTES} bytes, got {len(message_id)}")


def check_turn(
    conversation: Conversation, mailbox: Mailbox, delivery: Delivery, *, settles: bool, sends: list[Any],
    saved: bytes | None, state_bytes: int, faults: list[Fault] | None = None,
) -> Refusal | None:  # fmt: skip
    """Return why the commit on *delivery* must be refused whole, or None.

    Args:
        faults: Where the protocol is not enforced: takes what would have been refused otherwise.
    """
    if saved is not None and len(saved) > state_bytes:
        return Refusal("too-large", f"expected a state of at most {state_bytes} bytes, got {len(saved)}; keep less")
    faults = [] if faults is None else faults
    machine = mailbox.machine
    state = mailbox.at
    is_strict = conversation.watch.mode is Mode.ENFORCE or conversation.outcome is not None
    counted: dict[int, int] = {}
    said: dict[bytes, bytes] = {}
    for index, send in enumerate(sends):
        refusal = _check_form(conversation, index, send)
        if refusal is not None:
            return refusal
        key = (send[1], send[2])
        move = machine.send[state].get(key) if index else conversation.find_move(mailbox, *key)
        if move is None or conversation.outcome is not None or not _count(conversation, move, counted):
            refusal = _of_turn(index, out_of_turn(conversation, mailbox, send[1], state))
            if is_strict:
                return refusal
            faults.append(Fault(index, refusal))
            continue
        if conversation.watch.keys is not None:
            refusal = check_keys(conversation, send[1], send[5], said)
            if refusal is not None:
                refusal = _of_turn(index, refusal)
                if is_strict or refusal.code == "malformed":
                    return refusal
                faults.append(Fault(index, refusal))
        state = conversation.cast.after(mailbox, state, move)
    is_last = delivery is mailbox.newest()
    if settles and is_last and conversation.outcome is None and _owes(conversation, mailbox, state, counted):
        who = conversation.players[mailbox.role].name
        owed = sorted(conversation.protocol.messages[type].name for type, _ in machine.send[state])
        refusal = Refusal("turn-unfinished", f"{who} ends its turn but still owes one of: {', '.join(owed)}")
        if is_strict:
            return refusal
        faults.append(Fault(-1, refusal))
    return None


def check_keys(
    conversation: Conversation, type: int, body: bytes, said: dict[bytes, bytes] | None = None
) -> Refusal | None:
    """Return why the keys of the conversation forbid *body*, or None; where the protocol is off they forbid nothing.

    Args:
        said: The values that earlier sends of the same turn have set; takes those of this one.
    """
    watch = conversation.watch
    if watch.keys is None or watch.mode is Mode.OFF:
        return None
    fault = watch.keys.find_fault(conversation.protocol.messages[type], body, said)
    return None if fault is None else wrong_key(conversation, fault)


def _of_turn(index: int, refusal: Refusal) -> Refusal:
    return refusal._replace(message=f"send {index} of the turn: {refusal.message}")


def _check_form(conversation: Conversation, index: int, send: Any) -> Refusal | None:
    if not is_well_formed_send(send) or not is_message(conversation, send[1]):
        return Refusal("malformed", f"expected send {index} as docs/wire.md describes it")
    if not 0 <= send[2] < len(conversation.tables.addresses):
        return Refusal("malformed", f"send {index}: no address {send[2]} in {conversation.protocol.name}")
    if conversation.protocol.messages[send[1]].delivery is DeliveryClass.AT_MOST_ONCE:
        return Refusal("malformed", f"send {index}: an at-most-once message leaves outside the commit")
    if len(send[0]) == ID_BYTES:
        return None
    refusal = wrong_id(send[0])
    return refusal._replace(message=f"send {index}: {refusal.message}")


def check_commit(
    conversation: Conversation, mailbox: Mailbox, delivery: Delivery, *, settles: bool, sends: list[Any],
    saved: bytes | None, state_bytes: int, faults: list[Fault] | None = None,
) -> tuple[Refusal | None, bool]:  # fmt: skip
    """Return why the commit must be refused whole, or None; and whether what it sends is superseded, no blame.

    It is where the bus moved on behind the delivery (a loop's `max`), and where an interrupt that it raises has
    crossed with a message by which the scope was left.
    """
    faults = [] if faults is None else faults

    def check(sends: list[Any], saved: bytes | None) -> Refusal | None:
        return check_turn(
            conversation, mailbox, delivery, settles=settles, sends=sends, saved=saved, state_bytes=state_bytes,
            faults=faults,
        )  # fmt: skip

    if _is_overtaken(conversation, mailbox, delivery, sends):
        return check([], None), True
    refusal = check(sends, saved)
    waived = next((one.refusal for one in faults if one.refusal.code == "not-allowed"), None)
    if (refusal or waived) is None or (refusal is not None and refusal.code != "not-allowed"):
        return refusal, False
    passed, faults[:] = faults[:], []
    if delivery.epoch < mailbox.epoch:  # what befell one member leaves alone what is said to others, not to that one
        return check([], None), True
    _, type, address, *_ = sends[0]
    move = conversation.find_move(mailbox, type, address)
    if move is None and mailbox.was_allowed(type, address, mailbox.epoch):
        return check([], None), True
    faults[:] = passed
    return refusal, False


def _is_overtaken(conversation: Conversation, mailbox: Mailbox, delivery: Delivery, sends: list[Any]) -> bool:
    """Return whether the bus has moved on behind *delivery* for somebody to whom the turn speaks."""
    if not mailbox.overtaken:
        return bool(sends) and delivery.epoch < mailbox.overtaken_at
    cast = conversation.cast
    return any(is_well_formed_send(send) and delivery.epoch < cast.overtaken_at(mailbox, send[2]) for send in sends)


def find_late_move(conversation: Conversation, mailbox: Mailbox, type: int, address: int, epoch: int) -> Move | None:
    """Return the move of a message outside a turn, whose sender has seen *epoch*, or None where it may not be sent.

    What was meant for a step that a bus event has cut off is not taken for another that looks like it.
    """
    move = conversation.find_move(mailbox, type, address)
    if move is None or epoch >= conversation.cast.overtaken_at(mailbox, address) or move.interrupt >= 0:
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
