"""Messages that a protocol forbids where it is not enforced: noted, counted, and passed on (docs/settings.md).

Such a message is an *aside*: its receivers' handlers see it, and no machine steps for it. Aside or
not, a violation is a journal row, so that a restart counts the same.
"""

from __future__ import annotations

from bus.broker.conversation import Conversation
from bus.broker.history import History
from bus.broker.mailbox import Mailbox
from bus.broker.refusal import Refusal
from bus.broker.state import BrokerState
from bus.ids import show_id
from bus.spec.mode import Mode
from bus.wire.record import Record

# What a mode can waive. Bodies, sizes, ids, leases and players are checked whatever the mode.
_WAIVED = frozenset({"not-allowed", "wrong-key", "turn-unfinished"})


def is_waived(conversation: Conversation, refusal: Refusal) -> bool:
    """Return whether the conversation's mode lets pass what *refusal* is about; nothing does once it is over."""
    return conversation.watch.mode is not Mode.ENFORCE and conversation.outcome is None and refusal.code in _WAIVED


def note_violation(
    state: BrokerState, history: History, conversation: Conversation, mailbox: Mailbox, refusal: Refusal
) -> None:
    """Log and count what was waived; where the protocol is off nothing is said."""
    if conversation.watch.mode is not Mode.OBSERVE:
        return
    row: Record = ["violated", conversation.conversation_id]
    state.ledger.journal(row, session=None, n=0, urgent=False, now=state.now)
    history.apply(row)
    protocol = conversation.protocol
    state.note(
        "warning", "message.violated", conversation_id=show_id(conversation.conversation_id), protocol=protocol.name,
        role=conversation.players[mailbox.role].name, code=refusal.code, reason=refusal.message,
    )  # fmt: skip
