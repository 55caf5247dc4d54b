"""Everything that the broker knows, as one value that its parts share."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from typing import TypeAlias

from bus.broker.conversation import Conversation
from bus.broker.ledger import Ledger
from bus.broker.mailbox import Mailbox
from bus.broker.registry import Registry, Session
from bus.broker.versions import Versions
from bus.settings import Settings
from bus.spec.mode import Mode
from bus.spec.protocol import Protocol
from bus.wire.record import Record

FINISHED_CONVERSATIONS = 10_000  # newest finished conversations that stay readable in memory

LogLine: TypeAlias = tuple[str, str, dict[str, object]]  # (level, event, facts)


class Alarm(StrEnum):
    """What an instant of the agenda is for."""

    DEADLINE = "deadline"  # (conversation, mailbox): the role may be late, or a person reminded
    SCOPE = "scope"  # conversation: a scope's time may be up
    CALL = "call"  # conversation: the time of the step that called it may be up
    RETRY = "retry"  # (conversation, mailbox): back-off is over, or a suspect outlived its lease
    LEASES = "leases"  # sessions that were silent for a lease
    LOST = "lost"  # name: no instance for lost_after
    RETIRE = "retire"  # an ended conversation whose last notices nobody fetched
    CLOCK = "clock"  # journal the bus time


class Agenda:
    """Instants at which the broker must look at something; what is no longer due is skipped then."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Alarm, object]] = []
        self._order = count()

    def add(self, at: float, alarm: Alarm, subject: object = None) -> None:
        """Look at *subject* at the instant *at*."""
        heapq.heappush(self._heap, (at, next(self._order), alarm, subject))

    def next_at(self) -> float | None:
        """Return the earliest instant, or None."""
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> tuple[Alarm, object] | None:
        """Return and forget the earliest entry that is due, or None."""
        if not self._heap or self._heap[0][0] > now:
            return None
        _, _, alarm, subject = heapq.heappop(self._heap)
        return alarm, subject


@dataclass(slots=True)
class BrokerState:
    """The broker's memory. Parts change it; only ``Broker`` hands it out.

    Attributes:
        term: Number of this ownership of the state folder; the upper half of every fence.
        conversations: Live conversations, and ended ones with notices nobody has settled yet.
        finished: Ended conversations that stay readable, oldest first.
        modes: Protocol name → how strictly it is held to its order; enforced where it is not named.
        waiting: Mailboxes with deliveries and nobody live to take them.
        suspects: name → mailboxes that an instance held when it died; served one at a time (RULES.md 10).
        grace_until: Before this instant, after a restart, a mailbox goes to nobody but its keeper (RULES.md 18).
        journaled_plays: Digests of the protocols of which somebody was ever let in to play a role.
        known_before: ``journaled_plays`` as the broker started.
        log: (level, event, facts) for the shell to write.
    """

    settings: Settings
    term: int
    ledger: Ledger
    now: float = 0.0
    registry: Registry = field(default_factory=Registry)
    agenda: Agenda = field(default_factory=Agenda)
    conversations: dict[bytes, Conversation] = field(default_factory=dict)
    finished: OrderedDict[bytes, Conversation] = field(default_factory=OrderedDict)
    protocols: dict[str, Protocol] = field(default_factory=dict)
    modes: dict[str, Mode] = field(default_factory=dict)
    waiting: dict[Mailbox, Conversation] = field(default_factory=dict)
    suspects: dict[str, dict[Mailbox, Conversation]] = field(default_factory=dict)
    journaled_protocols: set[str] = field(default_factory=set)
    journaled_plays: set[str] = field(default_factory=set)
    log: list[LogLine] = field(default_factory=list)
    n_fences: int = 0
    grace_until: float = 0.0
    known_before: frozenset[str] = frozenset()
    versions: Versions = field(init=False)

    def __post_init__(self) -> None:
        self.versions = Versions(self.protocols, self.registry)

    def new_fence(self) -> int:
        """Return a number greater than that of any lease before."""
        self.n_fences += 1
        return (self.term << 32) | self.n_fences

    def find(self, conversation_id: bytes) -> Conversation | None:
        """Return the conversation, live or finished, or None."""
        return self.conversations.get(conversation_id) or self.finished.get(conversation_id)

    def note(self, level: str, event: str, **facts: object) -> None:
        """Have the shell log *event* (one of ``bus.log.EVENTS``)."""
        self.log.append((level, event, facts))

    def send(self, session: Session, record: Record) -> None:
        """Send *record* with the session's next frame."""
        self.ledger.send(session, record)
