"""Why a record changes nothing, in words that help: expected, got, where, what to do."""

from __future__ import annotations

from typing import NamedTuple

from bus.broker.conversation import Conversation
from bus.broker.entry import BUS
from bus.broker.keys import KeyFault
from bus.broker.mailbox import Mailbox
from bus.broker.registry import Session
from bus.ids import show_id
from bus.spec.allowed import AllowedMessage, describe_allowed


class Allowed(NamedTuple):
    """A message that a role may send now."""

    type: int
    address: int
    name: str
    to: tuple[str, ...]


class Refusal(NamedTuple):
    """A stable code, a sentence for people and, where order is concerned, what was allowed, with its fields."""

    code: str
    message: str
    allowed: list[AllowedMessage] | None = None


def allowed_moves(conversation: Conversation, mailbox: Mailbox, state: int = -1) -> tuple[Allowed, ...]:
    """Return what the role may send now, or could in another *state* of its machine; sorted by name."""
    protocol = conversation.protocol
    found = [
        Allowed(
            type=type,
            address=address,
            name=protocol.messages[type].name,
            to=tuple(conversation.players[player].name for player in conversation.tables.addresses[address]),
        )
        for type, address in mailbox.machine.send[mailbox.at if state < 0 else state]
        if state not in (-1, mailbox.at) or conversation.find_move(mailbox, type, address) is not None
    ]
    return tuple(sorted(found, key=lambda allowed: (allowed.name, allowed.to)))


def out_of_turn(conversation: Conversation, mailbox: Mailbox, type: int, state: int = -1) -> Refusal:
    """Return the refusal of a message that the order forbids now.

    Args:
        state: Where earlier messages of the same turn have brought the role; left out: where it is.
    """
    protocol = conversation.protocol
    allowed = () if conversation.outcome is not None else allowed_moves(conversation, mailbox, state)
    if conversation.outcome is not None:
        hint = f"the conversation ended as {conversation.outcome!r}; start a new one"
    elif allowed:
        hint = "allowed here: " + "; ".join(f"{one.name} to {', '.join(one.to)}" for one in allowed)
    else:
        hint = "allowed here: nothing; wait for the next message"
    text = (
        f"{conversation.players[mailbox.role].name} may not send {protocol.messages[type].name!r} now in "
        f"{protocol.name}@{protocol.version} (conversation {show_id(conversation.conversation_id)}): {hint}"
    )
    return Refusal("not-allowed", text, describe_allowed(protocol, [(one.type, one.to) for one in allowed]))


def wrong_key(conversation: Conversation, fault: KeyFault) -> Refusal:
    """Return the refusal of a body whose key is not that of the conversation."""
    return Refusal(fault.code, f"{fault.message} (conversation {show_id(conversation.conversation_id)})")


def not_a_player(session: Session, conversation: Conversation, role: int) -> Refusal:
    """Return the refusal of a session that speaks for a role of somebody else (14)."""
    players = conversation.players
    is_role = 0 <= role < len(players)
    name = players[role].name if is_role else str(role)
    bound = conversation.mailboxes[role].agent if is_role else None
    who = f"it is played by {bound!r}" if bound else "register with that role first"
    where = f"conversation {show_id(conversation.conversation_id)}"
    return Refusal("not-a-player", f"{session.name!r} may not speak as {name!r} in {where}: {who}")


def not_yours(conversation: Conversation) -> Refusal:
    """Return the refusal of a session that opens what another has opened (16)."""
    opener = "the bus" if conversation.opener == BUS else repr(conversation.mailboxes[conversation.opener].agent)
    return Refusal("not-yours", f"conversation {show_id(conversation.conversation_id)} was opened by {opener}")


def lease_lost(mailbox: Mailbox, fence: int) -> Refusal:
    """Return the refusal of a turn that is no longer the session's."""
    if fence == mailbox.revoked_fence:
        return Refusal("superseded", "a bus event moved the conversation on; the turn was revoked")
    return Refusal("lease-lost", "the delivery belongs to another lease; stop working on it")


def gone(conversation_id: bytes, finished: Conversation | None) -> Refusal:
    """Return the refusal of a record for a conversation that is over or was never opened."""
    if finished is None:
        return Refusal("unknown-conversation", f"no conversation {show_id(conversation_id)}; OPEN it first")
    return Refusal("ended", f"conversation {show_id(conversation_id)} ended as {finished.outcome!r}")
