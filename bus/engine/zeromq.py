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
import threading
from collections.abc import Callable
from pathlib import Path

import zmq

from bus.engine.security import check_address
from bus.wire.codec import MAX_FRAME_BYTES, encode_frame
from bus.wire.record import Kind

_DRAIN = 64  # frames taken in one turn of a loop before others get theirs
_LINGER_MS = 500  # long enough for BYE to leave, short enough that nobody waits for a dead broker
_DROPPED = (zmq.EHOSTUNREACH, zmq.EAGAIN)  # the peer is gone; its session ends by silence


class Wake:
    """A pipe that makes a polling loop look up; safe from any thread and from signal handlers."""

    def __init__(self) -> None:
        self.read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def set(self) -> None:
        """Make the loop look up, now or at its next poll."""
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes just as well
            os.write(self._write_fd, b"!")

    def clear(self) -> None:
        """Forget every ``set`` so far."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.read_fd, 4096)

    def close(self) -> None:
        """Give the pipe back."""
        os.close(self.read_fd)
        os.close(self._write_fd)


class ZmqBrokerTransport:
    """The broker's side: a ROUTER that assigns routing ids and drops nothing it was not asked to send.

    Args:
        address: ``ipc://PATH`` or ``tcp://127.0.0.1:PORT``.
        wake: Ends a waiting ``receive``; closed with the transport.

    Raises:
        AddressRefused: *address* leaves this machine or is too long.
    """

    def __init__(self, address: str, *, wake: Wake) -> None:
        check_address(address)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        # No high-water mark: credits bound what is handed over, and a ROUTER at its mark drops silently.
        self._socket.set_hwm(0)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.LINGER, _LINGER_MS)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        self._path = Path(address.removeprefix("ipc://")) if address.startswith("ipc://") else None
        if self._path is not None:
            # The state folder's lock proves that no other broker lives, so a file here is a leftover.
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
        self._socket.bind(address)
        if self._path is not None:
            self._path.chmod(0o600)
        self._wake = wake
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(wake.read_fd, zmq.POLLIN)

    def receive(self, timeout: float | None) -> list[tuple[bytes, bytes]]:
        """Return up to 64 (routing id, frame) pairs; wait up to *timeout* seconds for one or a wake."""
        if not int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            ready = dict(self._poller.poll(None if timeout is None else math.ceil(max(0.0, timeout) * 1000)))
            if self._wake.read_fd in ready:
                self._wake.clear()
        frames: list[tuple[bytes, bytes]] = []
        receive = self._socket.recv_multipart
        try:
            while len(frames) < _DRAIN:
                parts = receive(zmq.NOBLOCK)
                if len(parts) == 2:  # anything else is not of our making and is dropped unread
                    frames.append((parts[0], parts[1]))
        except zmq.Again:
            pass
        return frames

    def send(self, peer: bytes, frame: bytes) -> None:
        """Hand *frame* over; a peer that is gone is no error, its session ends by silence."""
        try:
            self._socket.send_multipart((peer, frame), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in _DROPPED:
                raise

    def wake(self) -> None:
        """Make a waiting ``receive`` return; safe from any thread and from signal handlers."""
        self._wake.set()

    def close(self) -> None:
        """Close the socket and remove its file."""
        self._socket.close()
        self._context.term()
        self._wake.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


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
        self._socket.set_hwm(0)
        self._socket.setsockopt(zmq.LINGER, _LINGER_MS)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 20)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        self._socket.connect(address)
        self._fd = self._socket.fileno()
        self._loop.add_reader(self._fd, self._drain)
        self._again = False
        self._closed = False
        self._look_again()

    def send(self, frame: bytes) -> None:
        """Hand *frame* over; it waits in this process while no broker is connected."""
        self._socket.send(frame, zmq.NOBLOCK)
        self._look_again()

    def close(self) -> None:
        """Close the connection; what was handed over gets a moment to leave."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._fd)
            self._socket.close()

    def _drain(self) -> None:
        self._again = False
        if self._socket.closed:
            return
        receive, on_frame = self._socket.recv, self._on_frame
        try:
            for _ in range(_DRAIN):
                on_frame(receive(zmq.NOBLOCK))
                if self._closed:
                    return
        except zmq.Again:
            pass
        self._look_again()

    def _look_again(self) -> None:
        if not self._again and not self._closed and int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            self._again = True
            self._loop.call_soon(self._drain)


class HeartbeatThread:
    """Proves that this process lives, over a thread and a socket that no busy handler can starve (RULES.md 9).

    Args:
        token: The session's, from WELCOME.
        interval: Seconds between two heartbeats.
        lease: Seconds of silence after which the broker counts as gone.
        on_silence: Called from this thread, once, when the broker does not know the session or is silent.
    """

    def __init__(
        self, address: str, token: bytes, *, interval: float, lease: float, on_silence: Callable[[], None],
        context: zmq.Context[zmq.Socket[bytes]],
    ) -> None:  # fmt: skip
        self._address = address
        self._beat = encode_frame([[int(Kind.HEARTBEAT), token]])
        self._alive = encode_frame([[int(Kind.HEARTBEAT), b""]])
        self._interval = interval
        self._lease = lease
        self._on_silence = on_silence
        self._context = context
        self._stop_read, self._stop_write = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; returns once the thread is gone."""
        os.write(self._stop_write, b"!")
        self._thread.join()
        os.close(self._stop_read)
        os.close(self._stop_write)

    def _run(self) -> None:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.set_hwm(8)  # while the broker is away a few heartbeats are enough
        socket.connect(self._address)
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(self._stop_read, zmq.POLLIN)
        unanswered = 0.0
        try:
            while True:
                with contextlib.suppress(zmq.Again):  # enough of them wait for the broker already
                    socket.send(self._beat, zmq.NOBLOCK)
                ready = dict(poller.poll(int(self._interval * 1000)))
                if self._stop_read in ready:
                    return
                if socket in ready:
                    unanswered = 0.0
                    if socket.recv() != self._alive:
                        self._on_silence()
                        poller.unregister(socket)
                    # The answer came early; the next beat is due an interval after the last one.
                    if dict(poller.poll(int(self._interval * 1000))).get(self._stop_read):
                        return
                    continue
                unanswered += self._interval
                if unanswered >= self._lease:
                    unanswered = 0.0
                    self._on_silence()
        finally:
            socket.close()
