"""The engine in memory: the same loop, frames and journal rows without sockets and disk, for tests.

Frames go through the real codec, so the bytes are those of ZeroMQ. The broker is stepped by the running
asyncio loop whenever a frame has come, or by hand with ``step``; time alone steps nothing, so whoever
moves the clock steps the engine.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping

from bus.broker.broker import Broker
from bus.clock import Clock
from bus.engine.server import Server
from bus.settings import Settings
from bus.spec.mode import Mode
from bus.wire.codec import decode_rows, encode_body
from bus.wire.record import Record


class MemoryJournal:
    """Batches of rows in a list; a crash may lose those that were not synced.

    Attributes:
        holds_back: While true nothing more is synced: the disk is slow.
    """

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
        """Begin a new ownership; tickets count from 1 again, and what was not synced is lost."""
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
            self.sync(len(self._tail))
        return self._synced

    def sync(self, n_batches: int) -> None:
        """Bring the oldest *n_batches* of those under way to the disk: any prefix may survive a crash."""
        self._disk += self._tail[:n_batches]
        del self._tail[:n_batches]
        self._synced = self._tickets - len(self._tail)

    def close(self) -> None:
        """Sync what is left."""
        self.sync(len(self._tail))


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
    """A broker in this process.

    Args:
        settings: The numbers of the bus.
        clock: The broker's clock, e.g. a ``ManualClock``.

    Attributes:
        journal: What survives ``crash``.
        modes: Protocol name → how strictly the next broker holds it to its order.
    """

    def __init__(self, *, settings: Settings, clock: Clock, modes: Mapping[str, Mode] | None = None) -> None:
        self.modes = dict(modes or {})
        self.journal = MemoryJournal()
        self._settings = settings
        self._clock = clock
        self._to_broker: deque[tuple[bytes, bytes]] = deque()
        self._to_peers: deque[tuple[MemoryPeer, bytes]] = deque()
        self._peers: dict[bytes, MemoryPeer] = {}
        self._n_peers = 0
        self._server: Server | None = None
        self._is_scheduled = False
        self.start()

    # -- life -----------------------------------------------------------------------------------------

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
            transport=self, journal=self.journal, settings=self._settings, clock=self._clock, seed=b"memory",
            modes=self.modes,
        )  # fmt: skip
        self._schedule()

    def crash(self, *, n_surviving: int = 0) -> None:
        """Kill the broker; frames on their way to it are gone, connections stay.

        Args:
            n_surviving: How many of the batches that were not synced are on disk all the same.
        """
        self._server = None
        self._to_broker.clear()
        self.journal.sync(n_surviving)

    # -- steps ----------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Let the broker take all that has come and act on time, and bring its frames to the peers.

        Returns:
            Whether any frame moved, in either direction. What peers answer waits for the next step.
        """
        moved = self._server is not None and self._server.step()
        for _ in range(len(self._to_peers)):
            moved = True
            connection, frame = self._to_peers.popleft()
            if not connection.is_closed:
                connection.on_frame(frame)
        return moved

    def settle(self) -> None:
        """Step until no frame moves any more at this instant."""
        while self.step():
            pass

    # -- for peers ------------------------------------------------------------------------------------

    def connect(self, on_frame: Callable[[bytes], None]) -> MemoryPeer:
        """Return a new connection; *on_frame* is called in ``step``, so on the loop where one runs."""
        self._n_peers += 1
        routing_id = self._n_peers.to_bytes(5, "big")
        peer = MemoryPeer(self, routing_id, on_frame)
        self._peers[routing_id] = peer
        return peer

    def take_in(self, routing_id: bytes, frame: bytes) -> None:
        """Queue a peer's frame; while the broker is down it waits, as in a peer's socket."""
        self._to_broker.append((routing_id, frame))
        self._schedule()

    def forget(self, routing_id: bytes) -> None:
        """Drop a connection."""
        self._peers.pop(routing_id, None)

    # -- BrokerTransport ------------------------------------------------------------------------------

    def receive(self, timeout: float | None) -> list[tuple[bytes, bytes]]:
        """Return all queued frames; never waits."""
        frames = list(self._to_broker)
        self._to_broker.clear()
        return frames

    def send(self, peer: bytes, frame: bytes) -> bool:
        """Queue *frame* for the peer; False where its connection is closed."""
        connection = self._peers.get(peer)
        if connection is None:
            return False
        self._to_peers.append((connection, frame))
        return True

    def wake(self) -> None:
        """Have the broker stepped in the next turn of the loop."""
        self._schedule()

    def close(self) -> None:
        """Drop all connections."""
        self._peers.clear()

    # -- parts ----------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if self._is_scheduled:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # no loop: ``step`` is called by hand
        self._is_scheduled = True
        loop.call_soon(self._run)

    def _run(self) -> None:
        self._is_scheduled = False
        self.step()
