"""Identifiers: random where something is new, derived where a repetition must be recognised.

Every identifier on the wire is 16 bytes. Derived ones are BLAKE2b digests over length-prefixed
parts, so that ("ab", "c") and ("a", "bc") differ.
"""

import os
from hashlib import blake2b

ID_BYTES = 16


def new_id() -> bytes:
    """Return a fresh random identifier of 16 bytes."""
    return os.urandom(ID_BYTES)


def derive_id(*parts: str | bytes | int) -> bytes:
    """Return the identifier that these *parts*, in this order, always give."""
    pieces = []
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        pieces.append(len(data).to_bytes(4, "big"))
        pieces.append(data)
    return blake2b(b"".join(pieces), digest_size=ID_BYTES).digest()


def conversation_id(opener: str, protocol: str, request_id: str) -> bytes:
    """Return the id of the conversation that *opener* asks for (RULES.md 16): opening again re-attaches."""
    return derive_id("conversation", opener, protocol, request_id)


def message_id(conversation: bytes, role: int, sequence: int, commit: int, index: int) -> bytes:
    """Return the id of a message sent in a turn (RULES.md 3).

    Args:
        conversation: The conversation's id.
        role: Index of the role that handles the delivery.
        sequence: Sequence number of the handled message in its conversation: names the delivery.
        commit: 0, 1, … the commit of that turn.
        index: 0, 1, … place among the sends of that commit.
    """
    return derive_id("message", conversation, role, sequence, commit, index)


def show_id(identifier: bytes) -> str:
    """Return the short form for people: the first eight hex digits."""
    return identifier.hex()[:8]
