"""What has been decided and must be journaled, and who may be told of it when.

Rows are handed to the journal in batches, numbered by ticket. A durable record is accepted only when
its batch is on disk; an at-least-once record at once; both are *synced* when their batch is (RULES.md
13). Acknowledgements are cumulative and ride with other records; alone they wait ``ACK_LINGER``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from bus.broker.registry import Session
from bus.wire.record import Kind, Record

ACK_LINGER = 0.002  # seconds; long enough for a reply to carry the acknowledgement (measured in the prototype)
LAZY_ROWS = 0.05  # seconds that rows nobody waits for may wait for company: a sync costs a round trip's CPU
LAZY_COUNT = 1024  # … or this many of them


@dataclass(slots=True)
class _Batch:
    """What one batch of rows promises to whom."""

    marks: dict[Session, int] = field(default_factory=dict)
    urgent: set[Session] = field(default_factory=set)
    waiting: list[tuple[Session, Record]] = field(default_factory=list)


class Ledger:
    """Rows, tickets and acknowledgements. Pure; one for each broker."""

    def __init__(self, *, window: int) -> None:
        self._ack_every = max(1, window // 4)
        self._rows: list[Record] = []
        self._rows_since = 0.0
        self._urgent = False
        self._batch = _Batch()
        self._handed_out: deque[_Batch] = deque()
        self._first_ticket = 1
        self._unacked: dict[Session, float] = {}  # since when, oldest first
        self._out: dict[Session, None] = {}

    # -- journal --------------------------------------------------------------------------------------

    def journal(self, row: Record, *, session: Session | None, n: int, urgent: bool, now: float) -> None:
        """Add *row*; *session*'s record *n* caused it, and waits for the disk where it is urgent."""
        if not self._rows:
            self._rows_since = now
        self._rows.append(row)
        if session is not None:
            self.take(session, n, now)
        if urgent:
            self._urgent = True
            if session is not None and session not in self._batch.urgent:
                self._batch.urgent.add(session)
                session.urgent.append(n)

    def take(self, session: Session, n: int, now: float) -> None:
        """Note that the session's records up to *n* are dealt with."""
        if n > session.taken:
            session.taken = n
        in_effect = session.in_effect() if session.held else session.taken
        if self._rows:
            self._batch.marks[session] = in_effect
        elif self._handed_out:
            self._handed_out[-1].marks[session] = in_effect
        else:
            session.synced = in_effect
        self._unacked.setdefault(session, now)

    def rows_urgent(self) -> bool:
        """Return whether somebody waits for the rows that are not handed out yet."""
        return self._urgent

    def take_rows(self, now: float, *, all_of_them: bool = False) -> list[Record]:
        """Return the rows that should be written now; [] while lazy ones may wait for company."""
        rows = self._rows
        if not rows:
            return []
        lazy = not self._urgent and len(rows) < LAZY_COUNT and now < self._rows_since + LAZY_ROWS
        if lazy and not all_of_them:
            return []
        self._rows = []
        self._urgent = False
        self._handed_out.append(self._batch)
        self._batch = _Batch()
        return rows

    def synced(self, ticket: int, now: float) -> None:
        """Note that every batch up to *ticket* is on disk and release what waited for it."""
        while self._handed_out and self._first_ticket <= ticket:
            batch = self._handed_out.popleft()
            self._first_ticket += 1
            for session in batch.urgent:
                session.urgent.popleft()
                session.wants_ack = True
            for session, n in batch.marks.items():
                session.synced = max(session.synced, n)
                self._unacked.setdefault(session, now)
            for session, record in batch.waiting:
                session.n_waiting -= 1
                self.send(session, record)

    # -- output ---------------------------------------------------------------------------------------

    def send(self, session: Session, record: Record) -> None:
        """Send *record* with the next frame to *session*."""
        session.out.append(record)
        self._out[session] = None

    def send_synced(self, session: Session, record: Record) -> None:
        """Send *record* once everything decided so far is on disk."""
        if self._rows:
            self._batch.waiting.append((session, record))
            self._urgent = True
        elif self._handed_out:
            self._handed_out[-1].waiting.append((session, record))
        else:
            self.send(session, record)
            return
        session.n_waiting += 1

    def take_output(self, now: float) -> dict[bytes, list[Record]]:
        """Return the records to send now by routing id, acknowledgements included."""
        if self._unacked:
            self._acknowledge(now)
        output: dict[bytes, list[Record]] = {}
        for session in self._out:
            output[session.peer] = session.out
            session.out = []
        self._out.clear()
        return output

    def next_deadline(self) -> float | None:
        """Return when lazy rows or lingering acknowledgements must move at the latest."""
        instants = []
        if self._rows:
            instants.append(self._rows_since + LAZY_ROWS)
        if self._unacked:
            instants.append(next(iter(self._unacked.values())) + ACK_LINGER)
        return min(instants, default=None)

    def forget(self, session: Session) -> None:
        """Drop what was to be sent to a session that ended."""
        self._out.pop(session, None)
        self._unacked.pop(session, None)
        session.out = []

    def _acknowledge(self, now: float) -> None:
        for session, since in list(self._unacked.items()):
            accepted = session.acceptable()
            told = (accepted, min(session.synced, accepted))
            if told == session.told:
                session.wants_ack = False
                del self._unacked[session]
                continue
            is_due = session.out or session.wants_ack or accepted - session.told[0] >= self._ack_every
            if not is_due and now < since + ACK_LINGER:
                continue
            session.told = told
            session.wants_ack = False
            del self._unacked[session]
            self.send(session, [int(Kind.ACCEPTED), *told])
