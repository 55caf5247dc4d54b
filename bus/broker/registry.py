"""Who is there: sessions, the names behind them and the roles that they play."""

from __future__ import annotations

from collections import deque

from bus.wire.record import Record

LeaseKey = tuple[bytes, int]  # (conversation id, role)
Play = tuple[str, int]  # (protocol digest, role)


class Session:
    """One peer's connection life, from HELLO to BYE, replacement or silence.

    Attributes:
        peer: The broker-assigned routing id.
        plays: (protocol digest, role index) pairs.
        numbers: The protocol number of this session → digest; ``protocols`` is its inverse.
        credit: Deliveries it may still be handed.
        lossy_credit: At-most-once deliveries it may still be handed; ``newest`` keeps what had none.
        taken: The last record number in effect.
        urgent: The first record number of each batch of rows that waits for the disk, oldest first.
        synced: The last record number known to be on disk; ``told``: the (accepted, synced) last sent.
        held: Numbers of records that wait for room at a receiver, in order.
        n_waiting: Records to this session that wait for the disk.
        leases: The mailboxes leased to it.
        starved: Those that wait for its credit.
        out: Records to send with the next frame.
    """

    __slots__ = (
        "credit",
        "held",
        "instance",
        "last_heard",
        "leases",
        "lossy_credit",
        "n_waiting",
        "name",
        "newest",
        "numbers",
        "out",
        "peer",
        "plays",
        "protocols",
        "since",
        "starved",
        "synced",
        "taken",
        "token",
        "told",
        "urgent",
        "wants_ack",
    )  # fmt: skip

    def __init__(self, *, peer: bytes, name: str, instance: int, token: bytes, credit: int, now: float) -> None:
        self.peer = peer
        self.name = name
        self.instance = instance
        self.token = token
        self.credit = credit
        self.lossy_credit = credit
        self.since = self.last_heard = now
        self.plays: frozenset[tuple[str, int]] = frozenset()
        self.numbers: dict[int, str] = {}
        self.protocols: dict[str, int] = {}
        self.newest: dict[tuple[bytes, int, int], Record] = {}
        self.taken = 0
        self.urgent: deque[int] = deque()
        self.synced = 0
        self.n_waiting = 0
        self.told = (0, 0)
        self.wants_ack = False
        self.held: list[int] = []
        self.leases: dict[LeaseKey, None] = {}
        self.starved: dict[LeaseKey, None] = {}
        self.out: list[Record] = []

    def in_effect(self) -> int:
        """Return the highest n up to which every record was dealt with."""
        return min(self.taken, self.held[0] - 1) if self.held else self.taken

    def number(self, digest: str) -> int:
        """Return this session's number of a protocol, a new one where it has none yet."""
        number = self.protocols.setdefault(digest, len(self.protocols))
        self.numbers[number] = digest
        return number

    def acceptable(self) -> int:
        """Return the highest n up to which every record is in effect and, where it must be, on disk."""
        n = self.in_effect()
        return min(n, self.urgent[0] - 1) if self.urgent else n


class Registry:
    """The sessions by routing id, by token and by name.

    Attributes:
        n_changes: How often a session came or went.
    """

    def __init__(self) -> None:
        self.by_peer: dict[bytes, Session] = {}
        self.by_token: dict[bytes, Session] = {}
        self._by_name: dict[str, dict[int, Session]] = {}
        self.last_seen: dict[str, float] = {}
        self.n_changes = 0

    def add(self, session: Session) -> None:
        """Register *session*; the caller has ended an older one of the same name and instance."""
        self.n_changes += 1
        self.by_peer[session.peer] = session
        self.by_token[session.token] = session
        self._by_name.setdefault(session.name, {})[session.instance] = session
        self.last_seen.pop(session.name, None)

    def remove(self, session: Session, *, now: float) -> None:
        """Take *session* out; the name is missing from *now* where it was the last instance."""
        self.n_changes += 1
        self.by_peer.pop(session.peer, None)
        self.by_token.pop(session.token, None)
        instances = self._by_name[session.name]
        del instances[session.instance]
        if not instances:
            del self._by_name[session.name]
            self.last_seen[session.name] = now

    def find(self, name: str, instance: int) -> Session | None:
        """Return the session of that instance, or None."""
        return self._by_name.get(name, {}).get(instance)

    def is_live(self, name: str) -> bool:
        """Return whether any instance of *name* is registered."""
        return name in self._by_name

    def player(self, wanted: frozenset[Play], *, names: tuple[str, ...]) -> Session | None:
        """Return the least loaded session that plays one of *wanted*, among *names* where any are given."""
        best: Session | None = None
        for name in names or tuple(self._by_name):
            for session in self._by_name.get(name, {}).values():
                if not wanted.isdisjoint(session.plays) and (best is None or len(session.leases) < len(best.leases)):
                    best = session
        return best

    def players(self, *roles: tuple[str, int]) -> tuple[str, ...]:
        """Return the names of the sessions that play all of these (digest, role) pairs."""
        return tuple(dict.fromkeys(one.name for one in self.by_peer.values() if one.plays.issuperset(roles)))

    def sessions(self) -> list[Session]:
        """Return all sessions, in order of registration."""
        return list(self.by_peer.values())
