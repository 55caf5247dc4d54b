"""Sockets: the broker's ROUTER, a peer's DEALER, a heartbeat of its own. The only user of zmq.

ZeroMQ gives frames and reconnects; confirmation, resending, liveness and flow control are ours
(RELIABILITY.md, "ZeroMQ, as it is"). One thread a socket, one context a process, never forked.
The FD of a socket is edge-triggered: after every send and drain its events are looked at again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import zmq

from bus.engine.security import check_address
from bus.errors import AddressRefused, BrokerRunning
from bus.wire.codec import MAX_DELIVERY_FRAME_BYTES, MAX_FRAME_BYTES, encode_frame
from bus.wire.record import Kind

_DRAIN = 64  # frames taken in one turn of a loop before others get theirs
_LINGER_MS = 500  # long enough for BYE to leave, short enough that nobody waits for a dead broker
_DROPPED = (zmq.EHOSTUNREACH, zmq.EAGAIN)  # the peer's connection is closed; its queue is full
# Frames that one peer may have sent unread: then the kernel holds it up. 64 MiB at the worst.
_UNREAD_FRAMES = 64
# Frames that one peer may have been sent unread; credits keep an honest one far below.
_UNSENT_FRAMES = 4096
# As plain integers: pyzmq's own flags are enums, and each use of one costs a microsecond or two.
_NO_WAIT, _NO_WAIT_MORE, _READABLE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE), int(zmq.POLLIN)
_EVENTS, _MORE = int(zmq.EVENTS), int(zmq.RCVMORE)
_PROBE_PATIENCE = 1.0  # seconds; a broker whose socket accepts nobody for so long still counts as alive


class Wake:
    """A pipe that makes a polling loop look up; safe from any thread and from signal handlers."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def set(self) -> None:
        """Make the loop look up, now or at its next poll."""
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes just as well
            os.write(self.write_fd, b"!")

    def clear(self) -> None:
        """Forget every ``set`` so far."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.read_fd, 4096)

    def close(self) -> None:
        """Give the pipe back."""
        os.close(self.read_fd)
        os.close(self.write_fd)


class ZmqBrokerTransport:
    """The broker's side: a ROUTER that assigns routing ids.

    Both queues of a peer are bounded. One that sends faster than the broker decides waits in its own
    process; one that does not read loses its session (``send``), never anybody else's time.

    Args:
        address: ``ipc://PATH`` or ``tcp://127.0.0.1:PORT``.
        wake: Ends a waiting ``receive``; stays its owner's to close.

    Raises:
        AddressRefused: *address* leaves this machine, is too long, or cannot be listened at.
        BrokerRunning: Somebody listens there already.
    """

    def __init__(self, address: str, *, wake: Wake) -> None:
        check_address(address)
        self._path = _socket_path(address)
        if self._path is not None:
            _clear_path(self._path)
        self._wake = wake
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.RCVHWM, _UNREAD_FRAMES)
        self._socket.setsockopt(zmq.SNDHWM, _UNSENT_FRAMES)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # else a ROUTER drops silently
        self._socket.setsockopt(zmq.LINGER, _LINGER_MS)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        self._socket.setsockopt(zmq.IPV6, 1)
        mask = os.umask(0o177)
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self._socket.close()
            self._context.term()
            raise AddressRefused(f"expected a free address to listen at, got {address!r}: {error}") from error
        finally:
            os.umask(mask)
        self._poll = select.poll()
        self._poll.register(self._socket.fileno(), select.POLLIN)
        self._poll.register(wake.read_fd, select.POLLIN)

    def receive(self, timeout: float | None) -> list[tuple[bytes, bytes]]:
        """Return up to 64 (routing id, frame) pairs; wait up to *timeout* seconds for one or a wake.

        A message of several parts is none of ours; it comes as an empty frame.
        """
        get, receive = self._socket.get, self._socket.recv
        frames: list[tuple[bytes, bytes]] = []
        if not int(get(_EVENTS)) & _READABLE:
            # Rounded up: a poll that ends before its time would only be repeated.
            for descriptor, _ in self._poll.poll(None if timeout is None else math.ceil(max(0.0, timeout) * 1000)):
                if descriptor == self._wake.read_fd:
                    self._wake.clear()
            if not int(get(_EVENTS)) & _READABLE:
                return frames
        while len(frames) < _DRAIN:
            peer, frame = receive(_NO_WAIT), receive(_NO_WAIT)
            while get(_MORE):
                frame, _ = b"", receive(_NO_WAIT)
            frames.append((peer, frame))
            if not int(get(_EVENTS)) & _READABLE:
                break
        return frames

    def send(self, peer: bytes, frame: bytes) -> bool:
        """Hand *frame* over; return False where the peer is gone or has let its queue fill up."""
        try:
            self._socket.send(peer, _NO_WAIT_MORE)
            self._socket.send(frame, _NO_WAIT)
        except zmq.ZMQError as error:
            if error.errno not in _DROPPED:
                raise
            return False
        return True

    def wake(self) -> None:
        """Make a waiting ``receive`` return; safe from any thread and from signal handlers."""
        self._wake.set()

    def close(self) -> None:
        """Close the socket and remove its file."""
        self._socket.close()
        self._context.term()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def process_context() -> zmq.Context[zmq.Socket[bytes]]:
    """Return the one context of this process, made when it is first asked for."""
    return zmq.Context.instance()


class ZmqPeer:
    """A peer's side: a DEALER on the running asyncio loop, without a task or a future for each frame.

    Args:
        address: Where the broker is; it need not be there yet.
        on_frame: Called on the loop with each frame.
        context: The process's context.
    """

    def __init__(
        self, address: str, on_frame: Callable[[bytes], None], *, context: zmq.Context[zmq.Socket[bytes]]
    ) -> None:
        check_address(address)
        self._loop = asyncio.get_running_loop()
        self._on_frame = on_frame
        self._socket = context.socket(zmq.DEALER)
        self._socket.set_hwm(0)  # the window bounds what is sent, credits what comes
        self._socket.setsockopt(zmq.LINGER, _LINGER_MS)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_DELIVERY_FRAME_BYTES)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 20)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        self._socket.setsockopt(zmq.IPV6, 1)
        self._socket.connect(address)
        self._fd = self._socket.fileno()
        self._loop.add_reader(self._fd, self._drain)
        self._again = False
        self._closed = False
        self._look_again()

    def send(self, frame: bytes) -> None:
        """Hand *frame* over; it waits in this process while no broker is connected."""
        self._socket.send(frame, _NO_WAIT)
        self._look_again()

    def close(self) -> None:
        """Close the connection; what was handed over gets a moment to leave."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._fd)
            self._socket.close()

    def _drain(self) -> None:
        self._again = False
        get, receive, on_frame = self._socket.get, self._socket.recv, self._on_frame
        n_left = _DRAIN
        try:
            while n_left and not self._closed and int(get(_EVENTS)) & _READABLE:
                n_left -= 1
                on_frame(receive(_NO_WAIT))
        except BaseException:
            n_left = 0
            raise
        finally:
            if not n_left:  # there may be more, and no edge will tell: the drain's end, or an error of on_frame
                self._look_again()

    def _look_again(self) -> None:
        if not self._again and not self._closed and int(self._socket.get(_EVENTS)) & _READABLE:
            self._again = True
            self._loop.call_soon(self._drain)


class HeartbeatThread:
    """Proves that this process lives, over a thread and a socket that no busy handler can starve (RULES.md 9).

    Args:
        token: The session's, from WELCOME.
        interval: Seconds between two heartbeats.
        lease: Seconds of silence after which the broker counts as gone.
        on_silence: Called from this thread when the broker does not know the session, or is silent for a
            lease, and again whenever that happens again; must be quick.
    """

    def __init__(
        self,
        address: str,
        token: bytes,
        *,
        interval: float,
        lease: float,
        on_silence: Callable[[], None],
        context: zmq.Context[zmq.Socket[bytes]],
    ) -> None:
        self._address = address
        self._beat = encode_frame([[int(Kind.HEARTBEAT), token]])
        self._alive = encode_frame([[int(Kind.HEARTBEAT), b""]])
        self._interval = interval
        self._lease = lease
        self._on_silence = on_silence
        self._context = context
        self._stop = Wake()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; returns once the thread is gone."""
        self._stop.set()
        self._thread.join()
        self._stop.close()

    def _run(self) -> None:
        dealer = self._context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.IMMEDIATE, 1)  # none is kept for a broker that is away: it would be stale
        dealer.setsockopt(zmq.RECONNECT_IVL, 20)
        dealer.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        dealer.setsockopt(zmq.IPV6, 1)
        dealer.connect(self._address)
        poller = zmq.Poller()
        poller.register(dealer, zmq.POLLIN)
        poller.register(self._stop.read_fd, zmq.POLLIN)
        heard_at = beat_at = time.monotonic()
        is_due = False
        try:
            while True:
                now = time.monotonic()
                if now >= beat_at:
                    beat_at = now + self._interval
                    is_due = True
                if is_due:
                    with contextlib.suppress(zmq.Again):  # nobody is connected: as soon as somebody is
                        dealer.send(self._beat, zmq.NOBLOCK)
                        is_due = False
                poller.modify(dealer, zmq.POLLIN | zmq.POLLOUT if is_due else zmq.POLLIN)
                ready = dict(poller.poll(math.ceil((beat_at - now) * 1000)))
                if self._stop.read_fd in ready:
                    return
                if ready.get(dealer, 0) & zmq.POLLIN:
                    heard_at = time.monotonic()
                    if dealer.recv() != self._alive:
                        self._on_silence()
                elif time.monotonic() - heard_at >= self._lease:
                    heard_at = time.monotonic()
                    self._on_silence()
        finally:
            dealer.close()


def _socket_path(address: str) -> Path | None:
    return Path(address.removeprefix("ipc://")) if address.startswith("ipc://") else None


def _clear_path(path: Path) -> None:
    """Make the folder of a socket, and remove a socket file that nobody listens at any more.

    ZeroMQ itself would unlink the file of a living broker, which then waits for peers for ever.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise AddressRefused(f"{path}: expected a folder for the bus's socket, got: {error}") from error
    if not stat.S_ISSOCK(mode):
        raise AddressRefused(f"{path}: expected a socket or nothing, got another file; move it away")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE_PATIENCE)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass  # alive, but busy or somebody else's
    raise BrokerRunning(f"{path}: another broker listens here; stop it with `palaver down`, or use another --bus")
