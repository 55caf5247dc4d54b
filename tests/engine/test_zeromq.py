import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from speaker import PATIENCE

from bus.engine.zeromq import HeartbeatThread, Wake, ZmqBrokerTransport, ZmqPeer
from bus.errors import AddressRefused, BrokerRunning
from bus.wire.codec import encode_frame
from bus.wire.record import Kind

Context = zmq.Context[zmq.Socket[bytes]]
ALIVE = encode_frame([[int(Kind.HEARTBEAT), b""]])
STRANGER = encode_frame([[int(Kind.NOTICE), "hello", {}]])


@pytest.fixture
def context() -> Iterator[Context]:
    context: Context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path / 'bus.sock'}"


@pytest.fixture
def router(address: str) -> Iterator[ZmqBrokerTransport]:
    router = ZmqBrokerTransport(address, wake=Wake())
    yield router
    router.close()


def receive(router: ZmqBrokerTransport, n: int = 1) -> list[tuple[bytes, bytes]]:
    """Return *n* frames; ``receive`` may wake for a handshake, with nothing to read."""
    frames: list[tuple[bytes, bytes]] = []
    until = time.monotonic() + PATIENCE
    while len(frames) < n:
        assert time.monotonic() < until, f"only {len(frames)} of {n} frames came"
        frames += router.receive(until - time.monotonic())
    return frames


def test_no_frame_is_overlooked_however_many_come_at_once(
    router: ZmqBrokerTransport, address: str, context: Context
) -> None:
    """The socket's FD tells of the first frame only; 5,000 are many times what is taken in one turn."""
    expected = [n.to_bytes(4, "big") for n in range(5_000)]

    async def listen() -> list[bytes]:
        came: list[bytes] = []
        whole = asyncio.Event()

        def on_frame(frame: bytes) -> None:
            came.append(frame)
            if len(came) % 7 == 0:
                peer.send(b"between")
            if len(came) == len(expected):
                whole.set()

        peer = ZmqPeer(address, on_frame, context=context)
        peer.send(b"here")
        ((routing_id, _),) = await asyncio.to_thread(receive, router)
        for start in range(0, len(expected), 500):
            for frame in expected[start : start + 500]:
                assert router.send(routing_id, frame)
            await asyncio.to_thread(receive, router)
        async with asyncio.timeout(PATIENCE):
            await whole.wait()
        peer.close()
        return came

    assert asyncio.run(listen()) == expected


def test_an_error_in_one_frame_does_not_lose_the_next(
    router: ZmqBrokerTransport, address: str, context: Context
) -> None:
    async def listen() -> tuple[list[bytes], list[str]]:
        came: list[bytes] = []
        errors: list[str] = []
        whole = asyncio.Event()
        asyncio.get_running_loop().set_exception_handler(lambda _, facts: errors.append(str(facts["exception"])))

        def on_frame(frame: bytes) -> None:
            came.append(frame)
            if frame == b"2":
                whole.set()
            if frame == b"1":
                raise ValueError("not this one")

        peer = ZmqPeer(address, on_frame, context=context)
        peer.send(b"here")
        ((routing_id, _),) = await asyncio.to_thread(receive, router)
        router.send(routing_id, b"1")
        router.send(routing_id, b"2")
        async with asyncio.timeout(PATIENCE):
            await whole.wait()
        peer.close()
        return came, errors

    assert asyncio.run(listen()) == ([b"1", b"2"], ["not this one"])


def test_what_is_sent_before_the_broker_is_there_comes_once_it_is(address: str, context: Context) -> None:
    async def speak_early() -> list[tuple[bytes, bytes]]:
        peer = ZmqPeer(address, lambda frame: None, context=context)
        peer.send(b"early")
        router = ZmqBrokerTransport(address, wake=Wake())
        came = await asyncio.to_thread(receive, router)
        peer.close()
        peer.close()
        router.close()
        return came

    ((_, frame),) = asyncio.run(speak_early())
    assert frame == b"early"


def test_a_frame_to_nobody_is_reported_as_dropped(router: ZmqBrokerTransport) -> None:
    assert router.send(b"nobody", b"frame") is False


def test_a_peer_that_does_not_read_is_reported_once_its_queue_is_full(
    router: ZmqBrokerTransport, address: str, context: Context
) -> None:
    with context.socket(zmq.DEALER) as deaf:
        deaf.linger = 0
        deaf.rcvhwm = 1
        deaf.connect(address)
        deaf.send(b"here")
        ((routing_id, _),) = receive(router)

        n_sent = next(n for n in range(100_000) if not router.send(routing_id, bytes(1000)))

    assert n_sent >= 4096


def test_a_wake_ends_a_waiting_receive(address: str) -> None:
    wake = Wake()
    router = ZmqBrokerTransport(address, wake=wake)
    waker = threading.Thread(target=router.wake)
    waker.start()

    assert router.receive(None) == []
    assert router.receive(0.0) == []
    waker.join()
    router.close()


def test_many_wakes_at_once_do_not_block(address: str) -> None:
    wake = Wake()
    for _ in range(100_000):
        wake.set()
    wake.close()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:{port}", "tcp://[::1]:{port}"])
def test_a_loopback_port_serves_as_well(address: str, context: Context) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    router = ZmqBrokerTransport(address.format(port=port), wake=Wake())
    with context.socket(zmq.DEALER) as dealer:
        dealer.ipv6 = True
        dealer.linger = 0
        dealer.connect(address.format(port=port))
        dealer.send(b"frame")
        ((_, frame),) = receive(router)
    router.close()

    assert frame == b"frame"


def test_a_port_in_use_is_refused(context: Context) -> None:
    with context.socket(zmq.DEALER) as other:
        port = other.bind_to_random_port("tcp://127.0.0.1")

        with pytest.raises(AddressRefused, match="free address"):
            ZmqBrokerTransport(f"tcp://127.0.0.1:{port}", wake=Wake())


def test_a_living_brokers_socket_is_not_taken(router: ZmqBrokerTransport, address: str) -> None:
    with pytest.raises(BrokerRunning, match="listens here"):
        ZmqBrokerTransport(address, wake=Wake())


def test_a_file_that_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    file = tmp_path / "bus.sock"
    file.write_text("precious")

    with pytest.raises(AddressRefused, match="another file"):
        ZmqBrokerTransport(f"ipc://{file}", wake=Wake())
    assert file.read_text() == "precious"


def test_the_socket_is_its_owners_alone_and_goes_with_the_transport(address: str, tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        router = ZmqBrokerTransport(address, wake=Wake())
        mode = (tmp_path / "bus.sock").stat().st_mode
        assert os.umask(0) == 0
    finally:
        os.umask(mask)
    router.close()

    assert mode & 0o177 == 0
    assert list(tmp_path.iterdir()) == []


class Alarm:
    """Counts what a heartbeat reports."""

    def __init__(self) -> None:
        self._calls = threading.Semaphore(0)

    def ring(self) -> None:
        self._calls.release()

    def wait(self) -> bool:
        return self._calls.acquire(timeout=PATIENCE)

    def is_ringing(self) -> bool:
        return self._calls.acquire(blocking=False)


def test_heartbeats_go_on_while_they_are_answered(router: ZmqBrokerTransport, address: str, context: Context) -> None:
    alarm = Alarm()
    heart = HeartbeatThread(address, b"token", interval=0.01, lease=0.2, on_silence=alarm.ring, context=context)
    beats = []
    for _ in range(10):
        ((routing_id, frame),) = receive(router)
        beats.append(frame)
        router.send(routing_id, ALIVE)
    heart.close()

    assert beats == [encode_frame([[int(Kind.HEARTBEAT), b"token"]])] * 10
    assert not alarm.is_ringing()


def test_a_broker_that_does_not_know_the_session_rings_the_alarm(
    router: ZmqBrokerTransport, address: str, context: Context
) -> None:
    alarm = Alarm()
    heart = HeartbeatThread(address, b"token", interval=5.0, lease=10.0, on_silence=alarm.ring, context=context)
    ((routing_id, _),) = receive(router)
    router.send(routing_id, STRANGER)

    assert alarm.wait()
    heart.close()


def test_a_lease_of_silence_rings_the_alarm_and_so_does_the_next(address: str, context: Context) -> None:
    alarm = Alarm()
    heart = HeartbeatThread(address, b"token", interval=0.01, lease=0.03, on_silence=alarm.ring, context=context)

    assert alarm.wait()
    assert alarm.wait()
    heart.close()


def test_a_broker_that_was_away_gets_no_stale_heartbeats(address: str, context: Context) -> None:
    alarm = Alarm()
    heart = HeartbeatThread(address, b"token", interval=0.001, lease=0.05, on_silence=alarm.ring, context=context)
    assert alarm.wait()  # some fifty heartbeats later

    router = ZmqBrokerTransport(address, wake=Wake())
    frames = router.receive(PATIENCE)
    heart.close()
    router.close()

    assert len(frames) < 10
