"""The link: a session on an asyncio loop, over whatever transport there is.

It sends what the session has to send ("first at once, then coalesce"), hands on what arrives, wakes
whoever waits for acceptance, and registers again, on a fresh connection, when the broker does not
know it any more. A broker that is away is waited for, however long; only the first WELCOME has a limit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

import structlog

from bus.errors import BrokerUnavailable, LeaseLost, MalformedFrame, PalaverError, Refused
from bus.sdk.session import FRAME_RECORDS, SYNCED, Key, Session, SessionState
from bus.wire.record import Kind, Record

log = structlog.get_logger()

CLOSELY = 1e-4  # seconds; in less than this a batch is filled, and nobody minds having waited
SETTLE_EVERY = 128  # an eighth of a window of 1024: the broker sends more while the handlers go on
GREETING_PATIENCE = 5.0  # a HELLO without answer for this long is said again on a fresh connection

_DELIVER, _REFUSED, _WELCOME, _NOTICE, _REPLY = (
    int(kind) for kind in (Kind.DELIVER, Kind.REFUSED, Kind.WELCOME, Kind.NOTICE, Kind.REPLY)
)


class Wire(Protocol):
    """One connection to the broker."""

    def send(self, frame: bytes) -> None:
        """Hand *frame* to the transport; never blocks."""
        ...

    def close(self) -> None:
        """End the connection after what was handed over is out, within a moment."""
        ...


class Heart(Protocol):
    """Whatever proves, apart from the loop, that this process lives."""

    def close(self) -> None:
        """Stop proving it."""
        ...


class Connector(Protocol):
    """Makes connections to one broker."""

    @property
    def address(self) -> str:
        """Where the broker is, for people."""
        ...

    def connect(self, on_frame: Callable[[bytes], None]) -> Wire:
        """Open a connection whose frames come to *on_frame* on the running loop."""
        ...

    def beat(self, token: bytes, interval: float, lease: float, on_silence: Callable[[], None]) -> Heart | None:
        """Prove life under *token*; call *on_silence*, on the loop, when the broker is gone or knows us no more."""
        ...


class Owner(Protocol):
    """What the link tells about: an agent's runtime or a client."""

    def on_deliver(self, record: Record) -> object:
        """A delivery arrived."""
        ...

    def on_refused(self, record: Record, error: Refused) -> object:
        """The broker refused *record*."""
        ...

    def on_notice(self, kind: str, detail: dict[str, Any]) -> None:
        """The broker said something about the session."""
        ...

    def on_welcome(self, kept: frozenset[Key]) -> None:
        """A connection was made; leases other than *kept* are gone."""
        ...

    def held(self) -> Iterable[tuple[bytes, int, int, int, bytes]]:
        """Return the leases still worked on, as HELLO names them."""
        ...


class Link:
    """A session that is kept connected.

    Attributes:
        session: What was said and has to be said; posted to through ``post`` only.
        loop: The loop that everything runs on.
        owner: Is told what arrives; set before ``start``.
    """

    owner: Owner

    def __init__(self, session: Session, connector: Connector) -> None:
        self.session = session
        self.loop = asyncio.get_running_loop()
        self._connector = connector
        self._wire: Wire | None = None
        self._heart: Heart | None = None
        self._scheduled = False
        self._lazy = False
        self._n_settled = 0
        self._sent_at = 0.0
        self._receiving = False
        self._broken: PalaverError | None = None
        self._live = asyncio.Event()
        self._room: deque[asyncio.Future[None]] = deque()
        self._waiters: deque[tuple[Record, asyncio.Future[None]]] = deque()
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._is_missed = False
        self._retry: asyncio.TimerHandle | None = None

    # -- life -----------------------------------------------------------------------------------------

    async def start(self, within: float) -> None:
        """Connect and register; *within* so many seconds.

        Raises:
            BrokerUnavailable: Nobody answered in that time.
            Refused: The broker does not take this peer.
        """
        self._connect()
        try:
            async with asyncio.timeout(within):
                await self._live.wait()
        except TimeoutError:
            self.close()
            raise BrokerUnavailable(
                f"no broker answered at {self._connector.address} within {within:g} s: start one with `palaver up`, "
                f"or name another with --bus or PALAVER_BUS"
            ) from None
        if self._broken is not None:
            self.close()
            raise self._broken

    def _connect(self) -> None:
        if self._wire is not None:
            self._wire.close()
        self.session.disconnect()
        self._live.clear()
        self._wire = self._connector.connect(self._on_frame)
        self.session.hello(self.owner.held())
        self._flush()
        if self._retry is not None:
            self._retry.cancel()
        self._retry = self.loop.call_later(GREETING_PATIENCE, self._insist)

    def _insist(self) -> None:
        """A broker that died between connection and WELCOME took our HELLO with it."""
        self._retry = None
        if self.session.state is SessionState.GREETING:
            self._connect()

    def _on_silence(self, token: bytes) -> None:
        """The broker is gone, or has forgotten this session: said once, then healed silently."""
        if self.session.state is SessionState.LIVE and token == self.session.token:
            log.warning("agent.disconnected", agent=self.session.name, address=self._connector.address)
            self._is_missed = True
            self._connect()

    async def drain(self, within: float) -> bool:
        """Wait until all that was posted is accepted, *within* seconds at most; return whether it is."""
        self._flush()
        session = self.session
        try:
            async with asyncio.timeout(within):
                while not session.is_idle():
                    await self.room(idle=True)
        except TimeoutError:
            return False
        return True

    def leave(self) -> None:
        """Say BYE, give the leases back and close."""
        if self.session.state is SessionState.LIVE:
            self.session.bye()
            self._flush()
        else:
            self.session.bye()
        self.close()

    def close(self) -> None:
        """Close the connection; whoever still waits is told that the broker is unavailable."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._heart is not None:
            self._heart.close()
            self._heart = None
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        error = BrokerUnavailable(f"the connection to {self._connector.address} was closed")
        waiting = [future for _, future in self._waiters]
        for future in (*waiting, *self._replies.values(), *self._room):
            if not future.done():
                future.set_exception(error)
                future.exception()  # seen: nobody may be left to wait for it
        self._waiters.clear()
        self._replies.clear()
        self._room.clear()

    # -- sending --------------------------------------------------------------------------------------

    def post(self, record: Record) -> None:
        """Send *record*; see ``Session.put``."""
        self.session.put(record)
        self.touch()

    def touch(self) -> None:
        """Have what the session holds sent: the first at once, what follows closely together with the next."""
        if self.session.n_output() >= FRAME_RECORDS:
            self._flush()
        elif not self._scheduled:
            now = self.loop.time()
            if self._receiving or now - self._sent_at < CLOSELY:
                self._scheduled = True
                self.loop.call_soon(self._flush_scheduled)
            else:
                self._sent_at = now
                self._flush()

    def touch_settled(self) -> None:
        """Have what was settled said: after many deliveries at once, else as ``touch_later``."""
        self._n_settled += 1
        if self._n_settled >= SETTLE_EVERY:
            self._flush()
        else:
            self.touch_later()

    def touch_later(self) -> None:
        """Have what the session holds sent at the end of this turn of the loop, or sooner with something else."""
        if not self._lazy:
            self._lazy = True
            self.loop.call_soon(self._flush_lazy)

    def _flush_lazy(self) -> None:
        self._lazy = False
        self._flush()

    def _flush_scheduled(self) -> None:
        self._scheduled = False
        self._flush()

    def _flush(self) -> None:
        self._n_settled = 0
        if self._wire is not None and self.session.has_output():
            for frame in self.session.take_frames():
                self._wire.send(frame)

    async def room(self, *, idle: bool = False) -> None:
        """Wait until something more was accepted where the window is full; *idle*: wait in any case."""
        while idle or not self.session.has_room():
            self._flush()
            future: asyncio.Future[None] = self.loop.create_future()
            self._room.append(future)
            await future
            if idle:
                return

    async def accepted(self, record: Record) -> None:
        """Wait until the broker has accepted *record*, the one posted last.

        Raises:
            Refused: It did not.
            LeaseLost: The record was void after a reconnect: its lease is gone.
        """
        if self._is_accepted(record):
            return
        self._flush()
        future: asyncio.Future[None] = self.loop.create_future()
        self._waiters.append((record, future))
        await future

    async def query(self, name: str, arguments: dict[str, object]) -> Any:
        """Ask the broker and return its answer.

        Raises:
            Refused: The broker answered with an error.
        """
        q = self.session.query(name, arguments)
        future: asyncio.Future[Any] = self.loop.create_future()
        self._replies[q] = future
        self.touch()
        try:
            return await future
        finally:
            self._replies.pop(q, None)
            self.session.forget_query(q)

    # -- receiving ------------------------------------------------------------------------------------

    def _on_frame(self, frame: bytes) -> None:
        session = self.session
        before = session.accepted
        try:
            records = session.receive(frame)
        except MalformedFrame as error:
            log.error("frame.refused", agent=session.name, reason=str(error))
            return
        self._receiving = True
        try:
            for record in records:
                if record[0] == _DELIVER:
                    self.owner.on_deliver(record)
                else:
                    self._on_other(record)
        finally:
            self._receiving = False
        if session.accepted != before:
            self._on_accepted()
        if len(records) > 1 and not self._scheduled:  # what they are answered with leaves together
            self._scheduled = True
            self.loop.call_soon(self._flush_scheduled)
        if session.has_output():
            self.touch_later()

    def _on_other(self, record: Record) -> None:
        kind = record[0]
        if kind == _WELCOME:
            self._on_welcome()
        elif kind == _REPLY:
            future = self._replies.pop(record[1], None)
            if future is not None and not future.done():
                if record[2]:
                    future.set_result(record[3])
                else:
                    future.set_exception(Refused(str(record[3].get("code", "refused")), record[3]))
        elif kind == _REFUSED:
            self._on_refused(record)
        elif kind == _NOTICE:
            if record[1] == "hello":
                self._on_silence(self.session.token)
            else:
                self.owner.on_notice(record[1], record[2])

    def _on_refused(self, record: Record) -> None:
        refused = record[1]
        error = Refused(record[2], record[3])
        if self.session.state is not SessionState.LIVE:  # HELLO itself
            self._broken = error
            self._live.set()
            return
        if refused is None:
            return
        self.owner.on_refused(refused, error)
        self._wake(refused, error)

    def _wake(self, record: Record, error: PalaverError) -> None:
        for waiting in [one for one in self._waiters if one[0] is record]:
            self._waiters.remove(waiting)
            if not waiting[1].done():
                waiting[1].set_exception(error)

    def _on_welcome(self) -> None:
        session = self.session
        for record in session.dropped:
            self._wake(record, LeaseLost("the lease went to another while the broker was away; nothing was committed"))
        session.dropped = []
        if self._heart is not None:
            self._heart.close()
        silence = partial(self._on_silence, session.token)
        self._heart = self._connector.beat(session.token, session.heartbeat_interval, session.lease, silence)
        if self._is_missed:
            log.info("agent.reconnected", agent=session.name, address=self._connector.address)
            self._is_missed = False
        self.owner.on_welcome(session.kept)
        self._live.set()

    def _is_accepted(self, record: Record) -> bool:
        n = record[1]
        return n == SYNCED or (0 < n <= self.session.accepted and self.session.state is SessionState.LIVE)

    def _on_accepted(self) -> None:
        waiters = self._waiters
        while waiters and self._is_accepted(waiters[0][0]):
            _, future = waiters.popleft()
            if not future.done():
                future.set_result(None)
        if self._room and (self.session.has_room() or self.session.is_idle()):
            room, self._room = self._room, deque()
            for future in room:
                if not future.done():
                    future.set_result(None)
