"""Message types of one version as a program written against another sees them, by name.

An agent that was written against 1.0.0 may play in a conversation that is pinned at 1.1.0 (RULES.md 15).
On the wire everything is 1.1.0; its handlers get, and send, instances of its own classes. Fields that one
side does not know are left out. That it fits was the broker's to find out, so what cannot be translated is
the exception: it raises ``BodyInvalid``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bus.spec.message_type import Message, MessageType
from bus.spec.protocol import Protocol


@dataclass(frozen=True, slots=True, eq=False)
class TranslatedType(MessageType):
    """A message type of the pinned version, *pinned*, whose class is that of the program's own version, *own*."""

    pinned: MessageType | None = None
    own: MessageType | None = None

    def to_plain(self, message: Message) -> dict[str, object]:
        """Return the fields of *message*, of the own class or the pinned one, as the pinned version has them."""
        assert self.pinned is not None
        assert self.own is not None
        if isinstance(message, self.pinned.model):
            return self.pinned.to_plain(message)
        return self.pinned.to_plain(self.pinned.from_plain(self.own.to_plain(message)))

    def from_plain(self, fields: object) -> Message:
        """Return the message of the own class that a peer sent as *fields* of the pinned version."""
        assert self.pinned is not None
        assert self.own is not None
        return self.own.from_plain(self.pinned.to_plain(self.pinned.from_plain(fields)))


def translated_types(own: Protocol, pinned: Protocol) -> tuple[MessageType, ...]:
    """Return the message types of *pinned*, by index, those that *own* has too with the classes of *own*."""
    known: Mapping[str, MessageType] = {one.name: one for one in own.messages}
    return tuple(_translated(known[one.name], one) if one.name in known else one for one in pinned.messages)


def _translated(own: MessageType, pinned: MessageType) -> TranslatedType:
    return TranslatedType(
        name=pinned.name,
        index=pinned.index,
        delivery=pinned.delivery,
        window=pinned.window,
        model=own.model,
        keys=pinned.keys,
        secret=pinned.secret | own.secret,
        doc=own.doc,
        lists=None,
        pinned=pinned,
        own=own,
    )
