"""The engine in memory: the same loop, frames and journal rows without sockets and disk, for tests.

Frames go through the real codec, so the bytes are those of ZeroMQ. What is appended to the journal
is synced at the next step unless ``sync`` is held back; ``crash`` forgets what was not.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator

from bus.broker.broker import Broker
from bus.clock import Clock
from bus.engine.server import Server
from bus.settings import Settings
from bus.wire.codec import decode_rows, encode_body
from bus.wire.record import Record


class MemoryJournal:
    """Batches of rows in a list; the tail may be lost by a crash."""

    def __init__(self) -> None:
        self._term = 0
        self._disk: list[tuple[float, bytes]] = []
        self._tail: list[tuple[float, bytes]] = []
        self._tickets = 0
        self._synced = 0
        self.holds_back = False

    @property
    def term(self) -> int:
        """Number of this ownership."""
        return self._term

    def begin_term(self) -> None:
        """Begin a new ownership; tickets count from 1 again."""
        self._term += 1
        self._tail.clear()
        self._tickets = self._synced = 0

    def recover(self) -> Iterator[tuple[float, list[Record]]]:
        """Yield every synced batch, oldest first."""
        for bus_time, rows in self._disk:
            yield bus_time, decode_rows(rows)

    def append(self, bus_time: float, rows: list[Record]) -> int:
        """Hand over a batch and return its ticket."""
        self._tail.append((bus_time, encode_body(rows)))
        self._tickets += 1
        return self._tickets

    def synced(self) -> int:
        """Return the highest ticket that would survive a crash."""
        if not self.holds_back:
            self._disk += self._tail
            self._tail = []
            self._synced = self._tickets
        return self._synced

    def close(self) -> None:
        """Sync what is left."""
        self.holds_back = False
        self.synced()


class MemoryPeer:
    """A peer's connection to the engine in memory."""

    def __init__(self, engine: MemoryEngine, routing_id: bytes, on_frame: Callable[[bytes], None]) -> None:
        self._engine = engine
        self._routing_id = routing_id
        self.on_frame = on_frame
        self.is_closed = False

    def send(self, frame: bytes) -> None:
        """Queue *frame* for the broker's next step."""
        if not self.is_closed:
            self._engine.take_in(self._routing_id, frame)

    def close(self) -> None:
        """End the connection; frames under way to the peer are lost."""
        self.is_closed = True
        self._engine.forget(self._routing_id)


class MemoryEngine:
    """A broker in this process, stepped by the running asyncio loop.

    Args:
        settings: The numbers of the bus.
        clock: The broker's clock; with a ``ManualClock`` nothing times out by itself.
    """

    def __init__(self, *, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self.journal = MemoryJournal()
        self._frames: deque[tuple[bytes, bytes]] = deque()
        self._peers: dict[bytes, MemoryPeer] = {}
        self._n_peers = 0
        self._server: Server | None = None
        self._scheduled = False
        self.start()

    @property
    def broker(self) -> Broker:
        """The living broker.

        Raises:
            RuntimeError: It was crashed and not started again.
        """
        if self._server is None:
            raise RuntimeError("the broker is down; call start() first")
        return self._server.broker

    def start(self) -> None:
        """Start a broker from what the journal holds."""
        self.journal.begin_term()
        self._server = Server(
            transport=self, journal=self.journal, settings=self._settings, clock=self._clock, seed=b"memory"
        )
        self._schedule()

    def crash(self) -> None:
        """Kill the broker: unsynced rows and every frame under way are gone, connections stay."""
        self._server = None
        self._frames.clear()

    def connect(self, on_frame: Callable[[bytes], None]) -> MemoryPeer:
        """Return a new connection whose frames come to *on_frame*, on the loop."""
        self._n_peers += 1
        routing_id = self._n_peers.to_bytes(5, "big")
        peer = MemoryPeer(self, routing_id, on_frame)
        self._peers[routing_id] = peer
        return peer

    def step(self) -> None:
        """Let the broker take everything that has come, and act on time; sends leave through the loop."""
        if self._server is None:
            return
        self._server.step()
        if self._server.broker.next_deadline() is not None and self._frames:
            self._schedule()

    def settle_acknowledgements(self) -> None:
        """Step until the broker has nothing more to write or to send at this instant."""
        for _ in range(3):
            self.step()

    # -- BrokerTransport ------------------------------------------------------------------------------

    def receive(self, timeout: float | None) -> list[tuple[bytes, bytes]]:
        """Return all queued frames; never waits."""
        frames = list(self._frames)
        self._frames.clear()
        return frames

    def send(self, peer: bytes, frame: bytes) -> None:
        """Bring *frame* to the peer in the next turn of the loop, as a socket would."""
        connection = self._peers.get(peer)
        if connection is not None:
            asyncio.get_running_loop().call_soon(self._bring, connection, frame)

    def wake(self) -> None:
        """Have the broker stepped in the next turn of the loop."""
        self._schedule()

    def close(self) -> None:
        """Drop all connections."""
        self._peers.clear()

    # -- parts ----------------------------------------------------------------------------------------

    def take_in(self, routing_id: bytes, frame: bytes) -> None:
        """Queue a peer's frame; while the broker is down it waits, as in a peer's socket."""
        self._frames.append((routing_id, frame))
        self._schedule()

    def forget(self, routing_id: bytes) -> None:
        """Drop a connection."""
        self._peers.pop(routing_id, None)

    def _bring(self, connection: MemoryPeer, frame: bytes) -> None:
        if not connection.is_closed:
            connection.on_frame(frame)

    def _schedule(self) -> None:
        if self._scheduled:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # made outside a loop; the first frame schedules
        self._scheduled = True
        loop.call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        self.step()
