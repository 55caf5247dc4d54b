"""Dead letters: seen, delivered again (as they were or edited), or dropped, by a person's command (RULES.md 11)."""

from __future__ import annotations

from bus.broker.admission import Admission
from bus.broker.conversation import Conversation
from bus.broker.delivery import Delivery, DeliveryState
from bus.broker.mailbox import Mailbox
from bus.broker.question import QueryRefused, find_conversation
from bus.broker.state import BrokerState
from bus.broker.turn import check_keys
from bus.errors import BodyInvalid, MalformedFrame
from bus.ids import derive_id
from bus.wire.codec import decode_body
from bus.wire.record import Record


class DeadLetters:
    """The dead letters of all live conversations; at most one blocks a mailbox."""

    def __init__(self, state: BrokerState, admission: Admission) -> None:
        self._state = state
        self._admission = admission

    def list_all(self) -> list[dict[str, object]]:
        """Return what is dead, without bodies."""
        return [
            self._facts(conversation, mailbox, letter)
            for conversation in self._state.conversations.values()
            for mailbox in conversation.mailboxes
            if (letter := _letter_of(mailbox)) is not None
        ]

    def show(self, conversation_id: bytes, role: str) -> dict[str, object]:
        """Return one dead letter whole, with the text of its protocol."""
        conversation, mailbox, letter = self._find(conversation_id, role)
        source = conversation.protocol.spec.source
        return {**self._facts(conversation, mailbox, letter), "body": letter.body, "source": source}

    def requeue(self, conversation_id: bytes, role: str, body: bytes | None) -> dict[str, object]:
        """Have it delivered again: under its id as it was, under a new one with another *body*."""
        conversation, mailbox, letter = self._find(conversation_id, role)
        row: Record = ["requeue", conversation_id, mailbox.role]
        if body is not None:
            _check_body(conversation, letter, body)
            row += [derive_id("edited", letter.message_id, body), body]
        self._admission.decide(row, urgent=True)
        return {"done": "requeue", "message_id": letter.message_id}

    def drop(self, conversation_id: bytes, role: str) -> dict[str, object]:
        """Settle it unread; the role's deadline runs on."""
        _, mailbox, _ = self._find(conversation_id, role)
        self._admission.decide(["drop", conversation_id, mailbox.role], urgent=True)
        return {"done": "drop"}

    def _find(self, conversation_id: bytes, role: str) -> tuple[Conversation, Mailbox, Delivery]:
        conversation = find_conversation(self._state, conversation_id)
        for mailbox in conversation.mailboxes:
            if conversation.players[mailbox.role].name == role:
                letter = _letter_of(mailbox)
                if letter is None:
                    raise QueryRefused("not-dead", f"{role!r} has no dead letter there")
                return conversation, mailbox, letter
        raise QueryRefused("unknown-role", f"no role {role!r} in {conversation.protocol.name}")

    def _facts(self, conversation: Conversation, mailbox: Mailbox, letter: Delivery) -> dict[str, object]:
        code, detail = letter.reason or ("", "")
        return {
            "conversation": conversation.conversation_id,
            "protocol": conversation.protocol.name,
            "role": conversation.players[mailbox.role].name,
            "type": conversation.protocol.messages[letter.type].name if letter.type >= 0 else "notice",
            "message_id": letter.message_id,
            "code": code,
            "detail": detail,
            "attempt": letter.attempt,
            "trace": letter.trace,
            "remaining": None if mailbox.timer < 0 else max(0.0, mailbox.deadline - self._state.now),
        }


def _letter_of(mailbox: Mailbox) -> Delivery | None:
    if mailbox.queued and mailbox.queued[0].state is DeliveryState.DEAD:
        return mailbox.queued[0]
    return None


def _check_body(conversation: Conversation, letter: Delivery, body: bytes) -> None:
    """Raise why the letter may not say *body*: nobody else checks what was edited before its handler does."""
    if letter.type < 0:
        raise QueryRefused("not-a-message", "a notice of the bus cannot be edited: requeue or drop it")
    message_type = conversation.protocol.messages[letter.type]
    try:
        message_type.from_plain(decode_body(body))
    except (BodyInvalid, MalformedFrame) as error:
        raise QueryRefused(error.code, str(error)) from error
    fault = check_keys(conversation, letter.type, body)
    if fault is not None:
        raise QueryRefused(fault.code, fault.message)
