"""What a conversation's record is made of: its entries, who called it, and the outcomes that every protocol has."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

_KEPT = 10_000  # newest entries of a conversation that stay readable in memory

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


class Transcript:
    """The newest entries of one conversation, oldest first.

    Attributes:
        rows: Their fields. Each message adds one here directly: an ``Entry`` takes four times as long to make, and
            most are never read.
    """

    __slots__ = ("rows",)

    def __init__(self) -> None:
        self.rows: deque[tuple[int, int, int, int, int, bytes, str]] = deque(maxlen=_KEPT)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Entry]:
        return (Entry(*row) for row in self.rows)

    def __getitem__(self, index: int) -> Entry:
        return Entry(*self.rows[index])
