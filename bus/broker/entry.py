"""What a conversation's record is made of: its entries, who called it, and the outcomes that every protocol has."""

from __future__ import annotations

from typing import NamedTuple

FAILED = "failed"
CANCELED = "canceled"
ASIDE = "aside"  # the event of a message that the order forbids and its protocol's mode lets pass
BUS = -1  # in the place of a role: the bus itself


class Parent(NamedTuple):
    """The turn that opened a conversation by ``call`` (RULES.md 17), or a step ``call``.

    Of a step *role* is ``BUS`` and *position* the step's number among the protocol's calls.
    """

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
