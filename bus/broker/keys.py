"""The keys of a conversation: fields that keep one value for its whole life (LANGUAGE.md, "Anatomy").

The first journaled message that has such a field sets its value; whatever differs later is refused.
A field that is absent or null says nothing. Values are compared packed, so nothing is decoded but
what is about to be refused; messages without key fields are never looked into.
"""

from __future__ import annotations

from typing import NamedTuple

from bus.errors import MalformedFrame
from bus.spec.message_type import MessageType
from bus.wire.codec import decode_body
from bus.wire.fields import find_fields

WRONG_KEY = "wrong-key"
_NULL = b"\xc0"
_SHOWN = 60  # characters of a value in an error


class KeyFault(NamedTuple):
    """Why a body may not be taken: ``wrong-key``, or ``malformed`` where its fields cannot be read."""

    code: str
    message: str


class Keys:
    """The values that the keys of one conversation have."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}

    def find_fault(
        self, message_type: MessageType, body: bytes, said: dict[bytes, bytes] | None = None
    ) -> KeyFault | None:
        """Return why *body* may not be taken, or None; changes nothing but *said*.

        Args:
            said: What earlier messages of the same turn set, to which this one adds.
        """
        if not message_type.keys:
            return None
        try:
            found = find_fields(body, message_type.key_names)
        except MalformedFrame as error:
            return KeyFault("malformed", f"{message_type.name}: {error}")
        for name, value in found.items():
            known = self._values.get(name)
            if known is None and said is not None:
                known = said.get(name)
            if value == _NULL:
                continue
            if known is None:
                if said is not None:
                    said[name] = value
            elif value != known and (fault := _compare(message_type, name.decode(), known, value)) is not None:
                return fault
        return None

    def keep(self, message_type: MessageType, body: bytes) -> None:
        """Remember the values that a message which was taken sets."""
        if all(name in self._values for name in message_type.key_names):
            return
        try:
            found = find_fields(body, message_type.key_names)
        except MalformedFrame:  # taken where nothing was enforced, or before keys were
            return
        for name, value in found.items():
            if value != _NULL:
                self._values.setdefault(name, value)


def _compare(message_type: MessageType, name: str, known: bytes, value: bytes) -> KeyFault | None:
    """Return the fault of two packed values that differ, unless they are two ways to write the same."""
    where = f"{message_type.name}.{name}"
    try:
        expected, got = decode_body(known), decode_body(value)
    except MalformedFrame as error:
        return KeyFault("malformed", f"{where}: {error}")
    if expected == got and isinstance(expected, bool) is isinstance(got, bool):
        return None
    since = "that this conversation's key has had since it was first said"
    if name in message_type.secret:
        return KeyFault(WRONG_KEY, f"{where}: expected the value {since}, got another; it is secret")
    return KeyFault(WRONG_KEY, f"{where}: expected {_show(expected)}, the value {since}, got {_show(got)}")


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
