"""The agent's side of one connection life, without a socket, a loop or a clock.

A session numbers what it sends, keeps it until the broker says that it is on disk, and sends it
again, renumbered and in order, to the broker that answers next (docs/wire.md). It knows nothing of
handlers: what it cannot decide alone it returns from ``receive``.

A connection carries one HELLO. Whoever drives the session opens a new connection for the next
one, so that the WELCOME that comes is the answer to it and nothing old can follow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import StrEnum
from typing import TypeAlias

from bus.errors import TooLarge
from bus.sdk.numbering import Numbering
from bus.spec.protocol import Protocol
from bus.wire.codec import MAX_FRAME_BYTES, decode_frame, encode_frame
from bus.wire.record import WIRE_VERSION, Kind, Record

FRAME_RECORDS = 64  # one a frame gave 82 k messages/s, 64 gave 240 k (DESIGN.md, "The wire")
_ENVELOPE_BYTES = 4096  # room for all that is not body in the largest frame
MAX_BODY_BYTES = MAX_FRAME_BYTES - _ENVELOPE_BYTES

Key: TypeAlias = tuple[bytes, int]  # (conversation, role)


class SessionState(StrEnum):
    """Where a session stands."""

    SILENT = "silent"  # nothing was said on this connection
    GREETING = "greeting"  # HELLO is on its way
    LIVE = "live"
    LEFT = "left"  # BYE was said


SESSION_TRANSITIONS = {
    (SessionState.SILENT, Kind.HELLO): SessionState.GREETING,
    (SessionState.GREETING, Kind.WELCOME): SessionState.LIVE,
    (SessionState.LIVE, Kind.BYE): SessionState.LEFT,
    (SessionState.GREETING, Kind.BYE): SessionState.LEFT,
    (SessionState.SILENT, Kind.BYE): SessionState.LEFT,
    (SessionState.LEFT, Kind.BYE): SessionState.LEFT,
}

SYNCED = -1  # the n of a record that is on disk and forgotten here
_OF_A_LEASE = frozenset({Kind.COMMIT, Kind.HANDLED, Kind.NACK})
_HANDLED, _OPEN, _DELIVER, _ACCEPTED, _REPLY, _NOTICE = (  # looking an enum's member up costs as much as the comparison
    int(kind) for kind in (Kind.HANDLED, Kind.OPEN, Kind.DELIVER, Kind.ACCEPTED, Kind.REPLY, Kind.NOTICE)
)


class Session:
    """What this process has said to the broker and may still have to say again.

    Attributes:
        n: Number of the last record given out on this connection.
        accepted: Every record up to here is in effect, but for the refused.
        synced: Every record up to here is on disk.
        window: Records that may be under way unaccepted; the broker says how many.
        token: Names the session to the broker's heartbeat; empty before WELCOME.
        kept: (conversation, role) of each lease that outlived the last change of connection.
        modes: Protocol name → mode of those that the broker does not enforce.
        numbering: The protocols that the session has to do with.
        dropped: Records that the last WELCOME made void: their leases are gone.
    """

    def __init__(self, *, name: str, instance: int = 0, credit: int = 1024) -> None:
        self.name = name
        self.instance = instance
        self.credit = credit
        self.state = SessionState.SILENT
        self.n = 0
        self.accepted = 0
        self.synced = 0
        self.window = 1
        self.token = b""
        self.heartbeat_interval = 1.0
        self.lease = 10.0
        self.kept: frozenset[Key] = frozenset()
        self.modes: dict[str, str] = {}
        self.dropped: list[Record] = []
        self.numbering = Numbering()
        self._plays: list[tuple[int, str]] = []
        self._out: list[Record] = []
        self._outbox: deque[Record] = deque()  # numbered, not yet on disk
        self._backlog: deque[Record] = deque()  # beyond the window, or said while nobody listened
        self._handled: dict[Key, Record] = {}
        self._taken = 0  # at-most-once deliveries since the last CREDIT
        self._q = 0
        self._queries: dict[int, Record] = {}

    # -- protocols ------------------------------------------------------------------------------------

    def add_protocol(self, protocol: Protocol) -> int:
        """Return our number of *protocol*; a new one is taught to the broker, by HELLO or behind it."""
        number = self.numbering.find(protocol)
        if number is None:
            number = self.numbering.add(protocol)
            if self.state is SessionState.LIVE:
                self._teach(number)
        return number

    def play(self, protocol: Protocol, role: str) -> None:
        """Announce with HELLO that this agent plays *role*."""
        self._plays.append((self.add_protocol(protocol), role))

    def _teach(self, number: int) -> None:
        source = self.numbering.protocols[number].spec.source
        self.numbering.learning[self.query("learn", {"source": source})] = number

    def _taught(self, reply: Record) -> list[Record]:
        """Note the broker's number of a protocol; where it took none, what needed it is refused."""
        number = self.numbering.taught(reply)
        void = [] if number is None else [one for one in self._backlog if one[0] == _OPEN and one[3] == number]
        for record in void:
            self._backlog.remove(record)
        self._release()
        return [[int(Kind.REFUSED), record, reply[3].get("code", "refused"), reply[3]] for record in void]

    # -- sending --------------------------------------------------------------------------------------

    def put(self, record: Record) -> None:
        """Send OPEN, SEND, COMMIT or NACK: number it now, or when the window has room.

        The record belongs to the session from here on and gets a new n with each connection. OPEN
        carries our number of the protocol; its copy on the wire carries the broker's.
        """
        if self._handled:
            self._put_handled()
        if self.has_room() and self._is_known(record):
            self._number(record)
        else:
            self._backlog.append(record)

    def _is_known(self, record: Record) -> bool:
        """Return whether the broker has been told of the protocol that *record* opens, if it opens one."""
        return record[0] != _OPEN or self.numbering.is_told(record[3])

    def put_lossy(self, record: Record) -> bool:
        """Send an at-most-once SEND now or never; return whether it left."""
        if not self.has_room():
            return False
        if self._handled:
            self._put_handled()
        self.n = record[1] = self.n + 1
        self._out.append(record)
        return True

    def settle(self, key: Key, fence: int, position: int) -> None:
        """Say with the next frame that every delivery up to *position* is settled."""
        pending = self._handled.get(key)
        if pending is None:
            self._handled[key] = [_HANDLED, 0, key[0], key[1], fence, position]
        else:
            pending[4] = fence
            pending[5] = position

    def take_lossy(self) -> None:
        """Note that an at-most-once delivery was consumed; credit for more is given in batches."""
        self._taken += 1
        if self._taken * 4 >= self.credit and self.state is SessionState.LIVE:
            self._out.append([Kind.CREDIT, self._taken])
            self._taken = 0

    def query(self, name: str, arguments: dict[str, object]) -> int:
        """Ask the broker; the REPLY carries the number returned. Asked again after a reconnect."""
        self._q += 1
        record: Record = [Kind.QUERY, self._q, name, arguments]
        self._queries[self._q] = record
        if self.state is SessionState.LIVE:
            self._out.append(record)
        return self._q

    def forget_query(self, q: int) -> None:
        """Drop a question that nobody waits for any more."""
        self._queries.pop(q, None)

    def has_room(self) -> bool:
        """Return whether one more record may leave now."""
        return self.state is SessionState.LIVE and not self._backlog and self.n - self.accepted < self.window

    def n_unsynced(self) -> int:
        """Return how many records are still ours to keep."""
        return len(self._outbox) + len(self._backlog) + len(self._handled)

    def is_idle(self) -> bool:
        """Return whether all that was said is accepted and nothing waits."""
        return not (self._backlog or self._handled or self._out) and self.accepted >= self.n

    def _put_handled(self) -> None:
        pending = self._handled
        self._handled = {}
        for record in pending.values():
            if self.has_room():
                self._number(record)
            else:
                self._backlog.append(record)

    def _number(self, record: Record) -> None:
        self.n = record[1] = self.n + 1
        self._outbox.append(record)
        if record[0] == _OPEN:
            record = [*record]
            record[3] = self.numbering.theirs(record[3])
        self._out.append(record)

    def has_output(self) -> bool:
        """Return whether ``take_frames`` would give anything."""
        return bool(self._out or self._handled)

    def n_output(self) -> int:
        """Return how many records the next frame would carry."""
        return len(self._out)

    def take_frames(self) -> list[bytes]:
        """Return what is to be sent now, in frames that keep the wire's limits."""
        if self._handled and self.state is SessionState.LIVE:
            self._put_handled()
        records = self._out
        if not records:
            return []
        self._out = []
        if len(records) <= FRAME_RECORDS:
            return _frames(records)
        parts = (records[start : start + FRAME_RECORDS] for start in range(0, len(records), FRAME_RECORDS))
        return [frame for part in parts for frame in _frames(part)]

    # -- connection life ------------------------------------------------------------------------------

    def disconnect(self) -> None:
        """Forget the connection: what is not on disk waits for the next WELCOME."""
        if self.state is SessionState.LEFT:
            return
        self.state = SessionState.SILENT
        self._out.clear()

    def hello(self, held: Iterable[tuple[bytes, int, int, int, bytes]] = ()) -> None:
        """Register on a fresh connection.

        Args:
            held: (conversation, role, fence, position, message id) of each lease still worked on.
        """
        self._step(Kind.HELLO)
        for q in self.numbering.learning:  # HELLO names them all
            self._queries.pop(q)
        self.numbering.disconnect()
        sources = [protocol.spec.source for protocol in self.numbering.protocols]
        plays = [list(played) for played in self._plays]
        leases = [list(lease) for lease in held]
        self._out = [[Kind.HELLO, WIRE_VERSION, self.name, self.instance, sources, plays, self.credit, leases]]

    def bye(self) -> None:
        """Leave: leases go back at once."""
        if self.state is SessionState.LIVE:
            if self._handled:
                self._put_handled()
            self._out.append([Kind.BYE])
        self._step(Kind.BYE)

    def _step(self, kind: Kind) -> None:
        try:
            self.state = SESSION_TRANSITIONS[self.state, kind]
        except KeyError:
            raise RuntimeError(f"a session that is {self.state} cannot do {kind.name}") from None

    # -- receiving ------------------------------------------------------------------------------------

    def receive(self, frame: bytes) -> list[Record]:
        """Take a frame in; return the records that the session cannot deal with alone, in order.

        Those are WELCOME, DELIVER, NOTICE, REPLY and REFUSED; of a REFUSED the number is replaced by
        the refused record itself, or None where it is not known any more.

        Raises:
            MalformedFrame: Not a frame of ours. Nothing changed.
        """
        records = decode_frame(frame)
        if self.state is not SessionState.LIVE:
            return self._receive_welcome(records)
        return self._take(records)

    def _take(self, records: list[Record]) -> list[Record]:
        for record in records:
            if record[0] != _DELIVER:
                break
        else:
            return records
        rest: list[Record] = []
        for record in records:
            kind = record[0]
            if kind == _ACCEPTED:
                self._advance(record[1], record[2])
            elif kind == _NOTICE and record[1] == "protocol":
                if not self.numbering.hand_over(record[2]):
                    rest.append(record)
            elif kind == Kind.REFUSED:
                rest.append([kind, self._take_refused(record[1]), *record[2:]])
            elif kind == _REPLY:
                asked = self._queries.pop(record[1], None)
                if record[1] in self.numbering.learning:
                    rest += self._taught(record)
                elif asked is not None:
                    rest.append(record)
            else:
                rest.append(record)
        return rest

    def _receive_welcome(self, records: list[Record]) -> list[Record]:
        """Anything before WELCOME was meant for an older session."""
        for index, record in enumerate(records):
            if record[0] == Kind.WELCOME and self.state is SessionState.GREETING:
                self._welcome(record)
                return [record, *self._take(records[index + 1 :])]
            if record[0] == Kind.REFUSED and self.state is SessionState.GREETING:
                return [record]
        return []

    def _welcome(self, record: Record) -> None:
        _, _, token, numbers, kept, settings = record
        self._step(Kind.WELCOME)
        self.token = token
        self.numbering.welcome(numbers)
        self.window = int(settings.get("window", 2048))
        self.lease = float(settings.get("lease", self.lease))
        self.heartbeat_interval = float(settings.get("heartbeat_interval", self.heartbeat_interval))
        self.modes = dict(settings.get("modes") or {})
        self.kept = frozenset((conversation, role) for conversation, role in kept)
        waiting = [*self._outbox, *self._backlog, *self._handled.values()]
        self._outbox.clear()
        self._backlog.clear()
        self._handled.clear()
        for one in waiting:
            one[1] = 0
        self.n = self.accepted = self.synced = self._taken = 0
        # A COMMIT under a lease that is gone would only be refused: the delivery comes again.
        gone = [one for one in waiting if one[0] in _OF_A_LEASE and (one[2], one[3]) not in self.kept]
        self.dropped = gone
        void = {id(one) for one in gone}
        self._backlog.extend(one for one in waiting if id(one) not in void)
        self._out.extend(self._queries.values())
        for number in range(len(numbers), len(self.numbering.protocols)):  # added since HELLO
            self._teach(number)
        self._release()

    def _release(self) -> None:
        """Number what waited, as far as the window goes and the broker knows the protocols."""
        backlog = self._backlog
        while backlog and self.n - self.accepted < self.window and self._is_known(backlog[0]):
            self._number(backlog.popleft())

    def _advance(self, accepted: int, synced: int) -> None:
        self.accepted = max(self.accepted, accepted)
        self.synced = max(self.synced, synced)
        outbox = self._outbox
        while outbox and outbox[0][1] <= self.synced:
            outbox.popleft()[1] = SYNCED
        if self._backlog:
            self._release()

    def _take_refused(self, n: int) -> Record | None:
        for record in self._outbox:
            if record[1] == n:
                self._outbox.remove(record)
                return record
        return None


def _frames(records: list[Record]) -> list[bytes]:
    frame = encode_frame(records)
    if len(frame) <= MAX_FRAME_BYTES:
        return [frame]
    if len(records) == 1:
        kind = Kind(records[0][0]).name
        raise TooLarge(f"expected a record of at most {MAX_FRAME_BYTES} bytes, got {kind} of {len(frame)}")
    middle = len(records) // 2
    return _frames(records[:middle]) + _frames(records[middle:])
