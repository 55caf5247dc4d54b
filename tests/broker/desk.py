"""A test's side of the broker: peers that speak records, a bus time that moves by hand, a disk that syncs on call."""

from __future__ import annotations

from typing import Any

from bus.broker.broker import Broker
from bus.ids import conversation_id
from bus.log import EVENTS
from bus.settings import Settings
from bus.spec.compile import compile_protocol
from bus.spec.mode import Mode
from bus.wire.codec import decode_body, encode_body
from bus.wire.record import WIRE_VERSION, Kind, Record

EMPTY = encode_body({})


class Peer:
    """One peer of the broker under test."""

    def __init__(self, desk: Desk, name: str, instance: int) -> None:
        self.desk = desk
        self.name = name
        self.instance = instance
        self.routing_id = f"{name}/{instance}/{desk.n_peers}".encode()
        self.n = 0
        self.inbox: list[Record] = []
        self.kept: list[Record] = []

    def put(self, *records: Record) -> None:
        """Hand records to the broker as one frame."""
        frame = [[int(record[0]), *record[1:]] for record in records]
        self.desk.broker.receive(self.routing_id, frame, self.desk.now)
        self.desk.turn()

    def hello(self, *, plays: list[str] | None = None, source: str, credit: int = 100, held: Any = ()) -> None:
        roles = [[0, role] for role in plays or []]
        self.n = 0
        self.put([Kind.HELLO, WIRE_VERSION, self.name, self.instance, [source], roles, credit, list(held)])

    def number(self) -> int:
        self.n += 1
        return self.n

    def take(self, kind: Kind) -> list[Record]:
        """Return and forget the records of *kind* that came."""
        found = [record for record in self.inbox if record[0] == kind]
        self.inbox = [record for record in self.inbox if record[0] != kind]
        return found

    def die(self) -> None:
        """Fall silent: the process was killed."""
        del self.desk.peers[self.routing_id]

    def bye(self) -> None:
        self.put([Kind.BYE])
        self.die()

    def reads(self) -> list[str]:
        """Take every delivery and return what they are: message types, notices in brackets."""
        return [self.desk.name_of(delivery) for delivery in self.take(Kind.DELIVER)]

    def notices(self, kind: str) -> list[Any]:
        """Take every NOTICE and return the facts of those of *kind*."""
        return [detail for _, one, detail in self.take(Kind.NOTICE) if one == kind]

    def refusals(self) -> list[str]:
        """Take every REFUSED and return the codes."""
        return [record[2] for record in self.take(Kind.REFUSED)]

    def take_one(self, kind: Kind) -> Record:
        found = self.take(kind)
        assert len(found) == 1, (self.name, kind, found, self.inbox)
        return found[0]


class Desk:
    """The broker, its peers, its journal and its time."""

    def __init__(self, source: str, *, settings: Settings | None = None) -> None:
        self.source = source
        self.protocol = compile_protocol(source)
        self.settings = settings or Settings()
        self.now = 0.0
        self.term = 1
        self.n_peers = 0
        self.disk: list[tuple[float, list[Record]]] = []
        self.unsynced: list[tuple[float, list[Record]]] = []
        self.n_batches = 0
        self.auto_sync = True
        self.peers: dict[bytes, Peer] = {}
        self.modes: dict[str, Mode] = {}
        self.broker = Broker(settings=self.settings, term=1, rng_seed=b"test")

    def peer(
        self, name: str, *, plays: list[str] | None = None, instance: int = 0, credit: int = 100, held: Any = ()
    ) -> Peer:
        """Return a registered peer; WELCOME is taken already, ``kept`` is what it said."""
        self.n_peers += 1
        peer = Peer(self, name, instance)
        self.peers[peer.routing_id] = peer
        peer.hello(plays=plays, source=self.source, credit=credit, held=held)
        peer.kept = peer.take_one(Kind.WELCOME)[4]
        return peer

    def turn(self) -> None:
        """Let the shell do its part: write, sync, send."""
        self.broker.tick(self.now)
        rows = self.broker.take_rows(all_of_them=True)
        if rows:
            self.unsynced.append((self.now, rows))
        if self.auto_sync:
            self.sync()
        for routing_id, records in self.broker.take_output().items():
            if routing_id in self.peers:
                self.peers[routing_id].inbox += records

    def sync(self) -> None:
        """Bring everything written so far to the disk."""
        self.n_batches += len(self.unsynced)
        self.disk += self.unsynced
        self.unsynced = []
        self.broker.synced(self.n_batches, self.now)

    def pass_time(self, duration: float) -> None:
        """Move the bus time; every peer that is still there sends heartbeats meanwhile."""
        end = self.now + duration
        while self.now < end:
            self.now = min(end, self.now + self.settings.lease / 2)
            for peer in list(self.peers.values()):
                self.broker.receive(peer.routing_id, [[int(Kind.CREDIT), 0]], self.now)
            self.turn()

    def restart(self) -> None:
        """Kill the broker; what was not synced is gone, every peer must register again."""
        self.unsynced = []
        self.n_batches = 0
        self.term += 1
        self.peers.clear()
        bus_time = self.disk[-1][0] if self.disk else 0.0
        self.broker = Broker(settings=self.settings, term=self.term, rng_seed=b"test", modes=self.modes)
        for at, rows in self.disk:
            self.broker.replay(rows, at)
        self.now = bus_time

    # -- records --------------------------------------------------------------------------------------

    def open(self, peer: Peer, role: str, request_id: str = "r1", **more: Any) -> bytes:
        index = self.protocol.role_index(role)
        identifier = conversation_id(peer.name, self.protocol.name, request_id)
        bindings, parent = more.get("bindings", {}), more.get("parent")
        peer.put([Kind.OPEN, peer.number(), identifier, 0, index, request_id, bindings, parent])
        return identifier

    def address(self, *roles: str) -> int:
        return self.protocol.tables.addresses.index(tuple(self.protocol.role_index(role) for role in roles))

    def send(self, peer: Peer, conversation: bytes, role: str, message: str, *to: str, **more: Any) -> int:
        n = peer.number()
        message_id = more.get("message_id") or f"{peer.name}-{n}".encode().ljust(16, b".")
        peer.put(
            [
                Kind.SEND, n, message_id, conversation, self.protocol.role_index(role),
                self.protocol.message_index(message), self.address(*to), more.get("epoch", 0), None, None,
                more.get("body", EMPTY),
            ]
        )  # fmt: skip
        return n

    def commit(self, peer: Peer, delivery: Record, *sends: tuple[str, ...], settles: bool = True, **more: Any) -> int:
        """Commit the turn on *delivery* with sends given as (message, receiver, …)."""
        n = peer.number()
        _, conversation, _, role, fence, position, _, commits, _, _, epoch, *_ = delivery
        commit = more.get("commit", commits)
        listed = [
            [
                more.get("message_id") or f"{position}.{commit}.{index}.{role}".encode().ljust(16, b"."),
                self.protocol.message_index(message), self.address(*to), None, None, EMPTY,
            ]
            for index, (message, *to) in enumerate(sends)
        ]  # fmt: skip
        saved = more.get("saved")
        peer.put([Kind.COMMIT, n, conversation, role, fence, position, commit, settles, epoch, listed, saved])
        return n

    def handled(self, peer: Peer, delivery: Record) -> int:
        n = peer.number()
        peer.put([Kind.HANDLED, n, delivery[1], delivery[3], delivery[4], delivery[5]])
        return n

    def lease_of(self, delivery: Record) -> Record:
        """Return *delivery* as HELLO's *held* names it."""
        return [delivery[1], delivery[3], delivery[4], delivery[5], delivery[15]]

    def nack(self, peer: Peer, delivery: Record, *, final: bool = False) -> None:
        peer.put([Kind.NACK, peer.number(), delivery[1], delivery[3], delivery[4], delivery[5], "error", "no", final])

    def query(self, peer: Peer, name: str, /, **arguments: Any) -> Any:
        peer.put([Kind.QUERY, 1, name, arguments])
        _, _, ok, data = peer.take_one(Kind.REPLY)
        assert ok, data
        return data

    def refused_query(self, peer: Peer, name: str, /, **arguments: Any) -> Any:
        """Return what a query that must be refused is told."""
        peer.put([Kind.QUERY, 1, name, arguments])
        _, _, ok, data = peer.take_one(Kind.REPLY)
        assert not ok, data
        return data

    def outcome(self, peer: Peer, conversation: bytes) -> str | None:
        found = [one for one in self.query(peer, "conversations") if one["conversation"] == conversation]
        return found[0]["outcome"]  # type: ignore[no-any-return]  # replies are plain values

    def logged(self, event: str) -> int:
        """Return how often the broker wrote *event*, which must be one of ours."""
        assert event in EVENTS
        return sum(one == event for _, one, _ in self.broker.log)

    def transcript(self, peer: Peer, conversation: bytes) -> list[str]:
        entries = self.query(peer, "transcript", conversation=conversation)
        return [entry["type"] or f"[{entry['event']}]" for entry in entries]

    def name_of(self, delivery: Record) -> str:
        """Return the message type of a DELIVER, or the kind of its notice in brackets."""
        if delivery[8] >= 0:
            return self.protocol.messages[delivery[8]].name
        return f"[{decode_body(delivery[17])['kind']}]"
