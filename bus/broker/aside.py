"""Asides: messages that the order forbids, in a conversation that is not held to it (docs/settings.md).

An aside is journaled, numbered and delivered as any other message; no machine steps for it.
"""

from __future__ import annotations

from bus.broker.conversation import Conversation
from bus.broker.delivery import Delivery
from bus.broker.entry import ASIDE
from bus.broker.mailbox import Mailbox


def pass_aside(
    conversation: Conversation, mailbox: Mailbox, *, type: int, address: int, message_id: bytes, body: bytes,
    trace: str | None,
) -> None:  # fmt: skip
    """Queue the message to its receivers behind what they have been given; it closes with its sender's scopes."""
    conversation.seen.newest.add(message_id)
    conversation.watch.note(type, body)
    conversation.sequence = sequence = conversation.sequence + 1
    mailbox.involved = True
    conversation.transcript.rows.append((sequence, conversation.epoch, mailbox.role, type, address, body, ASIDE))
    scopes = mailbox.machine.scopes[mailbox.at]
    for role in conversation.tables.addresses[address]:
        if role == mailbox.role:
            continue
        receiver = conversation.mailboxes[role]
        if type in receiver.unsettled:
            receiver.unsettled[type] += 1
        delivery = Delivery(type, mailbox.role, sequence, message_id, body, trace, scopes)
        receiver.take_in(delivery)
        delivery.is_aside = True
        conversation.touched[receiver] = None
