"""Records that wait for room at their receiver (RULES.md 8): taken from the wire, not yet decided."""

from __future__ import annotations

from bisect import insort

from bus.broker.conversation import Conversation
from bus.broker.registry import Session
from bus.broker.state import BrokerState
from bus.wire.record import Kind, Record


def hold(session: Session, conversation: Conversation, record: Record) -> None:
    """Keep a record until its receiver has room (8); its sender sees no acknowledgement till then."""
    insort(session.held, record[1])
    session.taken = max(session.taken, record[1])
    conversation.held.append((session, record))


def behind_held(state: BrokerState, session: Session, record: Record) -> Conversation | None:
    """Return the conversation in which *record* must wait behind a held one of the same role, or None.

    What follows a held COMMIT would settle its turn without it. HANDLED passes a held SEND, or two
    roles that stream to each other would wait for ever, unless it settles what that SEND answers.
    """
    kind, at = record[0], int(record[0] == Kind.SEND)  # SEND has its message id before the conversation
    conversation = state.conversations.get(record[2 + at]) if kind != Kind.OPEN else None
    if conversation is None or not conversation.held:
        return None
    role = record[3 + at]
    for one, held in conversation.held:
        if one is not session or held[4 if held[0] == Kind.SEND else 3] != role:
            continue
        mailbox = conversation.mailboxes[role]
        if kind != Kind.HANDLED or held[0] != Kind.SEND or mailbox.machine.owes[mailbox.at]:
            return conversation
    return None
