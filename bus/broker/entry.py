"""What a conversation's record is made of: its entries, who called it, and the outcomes that every protocol has."""

from __future__ import annotations

from typing import NamedTuple

FAILED = "failed"
CANCELED = "canceled"
ASIDE = "aside"  # the event of a message that the order forbids and its protocol's mode lets pass


class Parent(NamedTuple):
    """The turn that opened a conversation by ``call`` (RULES.md 17)."""

    conversation: bytes
    role: int
    position: int


class Entry(NamedTuple):
    """One journaled message or bus event of a conversation."""

    sequence: int
    epoch: int
    sender: int
    type: int
    address: int
    body: bytes
    event: str
