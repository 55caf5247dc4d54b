import asyncio
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from serving import BrokerProcess
from speaker import PATIENCE, Speaker

from bus.engine.server import EXIT_JOURNAL, EXIT_OK
from bus.engine.zeromq import ZmqPeer
from bus.wire.codec import decode_frame
from bus.wire.record import Kind

pytestmark = [pytest.mark.integration, pytest.mark.slow]

Start = Callable[..., BrokerProcess]
MIB = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    started = []

    def start_one(folder: Path = folder, *, ready: bool = True, **more: object) -> BrokerProcess:
        broker = BrokerProcess(folder, **more)  # type: ignore[arg-type]  # handed on
        started.append(broker)
        if ready:
            broker.wait_ready()
        return broker

    yield start_one
    for broker in started:
        broker.kill()


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


def connect(broker: BrokerProcess, context: zmq.Context[zmq.Socket[bytes]]) -> Speaker:
    return Speaker(lambda on_frame: ZmqPeer(broker.address, on_frame, context=context))


def test_everything_accepted_before_a_kill_is_there_afterwards_and_nothing_twice(
    start: Start, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    async def pour() -> None:
        broker = start()
        tap = connect(broker, context)
        await tap.start()
        for number in range(400):
            tap.drop(number)
        await tap.wait(lambda: tap.accepted() > 100)
        broker.kill()
        accepted = tap.accepted() - 1  # OPEN was the first record
        tap.wire.close()

        tap = connect(start(), context)
        await tap.start()
        assert accepted <= await tap.transcript_length() <= 400
        for number in range(400):
            tap.drop(number)
        await tap.wait(lambda: tap.accepted() == 401)
        assert await tap.transcript_length() == 400
        tap.wire.close()

    asyncio.run(pour())


def test_a_peer_that_stays_connected_is_told_to_register_with_the_next_broker(
    start: Start, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    async def stay() -> None:
        broker = start()
        tap = connect(broker, context)
        await tap.start()
        broker.kill()
        start()
        tap.drop(1)

        assert await tap.wait(lambda: tap.take_notice("hello"))
        await tap.start()
        tap.wire.close()

    asyncio.run(stay())


def test_a_disk_that_takes_no_more_ends_the_broker_and_nothing_is_accepted_any_more(
    start: Start, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    async def fill() -> int:
        broker = start(max_file_bytes=9 * MIB)
        tap = connect(broker, context)
        await tap.start()
        ending = asyncio.create_task(asyncio.to_thread(broker.wait))
        ending.add_done_callback(lambda _: tap.nudge())
        n_sent = 0
        while not ending.done():
            tap.drop(n_sent, bytes(64 * 1024))
            n_sent += 1
            await tap.wait(lambda goal=n_sent + 1: tap.accepted() >= goal or ending.done())
        assert await ending == EXIT_JOURNAL
        assert broker.presence() is None
        assert "broker.failed" in broker.log.read_text()
        accepted = tap.accepted() - 1
        tap.wire.close()
        return accepted

    async def recover(accepted: int) -> None:
        tap = connect(start(), context)
        await tap.start()
        assert accepted <= await tap.transcript_length() <= accepted + 1
        tap.drop(10_000)
        await tap.wait(lambda: tap.accepted() == 2)
        tap.wire.close()

    accepted = asyncio.run(fill())
    assert accepted > 10
    asyncio.run(recover(accepted))


def test_a_second_broker_on_the_same_folder_is_refused_and_the_first_goes_on(
    start: Start, folder: Path, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    first = start()

    second = start(ready=False, address=f"ipc://{folder / 'other.sock'}")

    assert second.wait() not in (EXIT_OK, EXIT_JOURNAL)
    assert f"the broker with pid {first.process.pid} owns this state folder" in second.log.read_text()
    assert not (folder / "other.sock").exists()

    async def ask() -> None:
        tap = connect(first, context)
        await tap.start()
        tap.wire.close()

    asyncio.run(ask())


def test_a_broker_on_another_folder_cannot_take_a_living_brokers_socket(start: Start, tmp_path: Path) -> None:
    first = start()

    second = start(tmp_path / "elsewhere", ready=False, address=first.address)

    assert second.wait() not in (EXIT_OK, EXIT_JOURNAL)
    assert "another broker listens here" in second.log.read_text()


def test_a_socket_file_that_a_killed_broker_left_is_no_obstacle(start: Start, folder: Path) -> None:
    start().kill()
    assert stat.S_ISSOCK((folder / "bus.sock").stat().st_mode)

    start()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_makes_it_tell_its_peers_sync_and_leave_no_file_behind(
    start: Start, folder: Path, context: zmq.Context[zmq.Socket[bytes]], number: signal.Signals
) -> None:
    async def stop() -> None:
        broker = start()
        tap = connect(broker, context)
        await tap.start()
        tap.drop(1)
        await tap.wait(lambda: tap.accepted() == 2)
        broker.process.send_signal(number)
        assert await tap.wait(lambda: tap.take_notice("drain"))
        tap.wire.close()

        assert broker.wait() == EXIT_OK

    asyncio.run(stop())

    assert sorted(path.name for path in folder.iterdir()) == ["broker.lock", "journal.db"]


def test_the_socket_and_the_word_of_who_serves_are_there_while_it_serves(start: Start, folder: Path) -> None:
    broker = start()

    presence = broker.presence()
    assert presence is not None
    assert presence == {
        "pid": broker.process.pid, "address": broker.address, "term": 1, "started": presence["started"],
    }  # fmt: skip
    assert (folder / "bus.sock").stat().st_mode & 0o077 == 0


def test_malformed_and_multipart_frames_are_refused_and_the_broker_goes_on(
    start: Start, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    broker = start()
    with context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.RCVTIMEO, int(PATIENCE * 1000))
        dealer.linger = 0
        dealer.connect(broker.address)
        for bad in ([os.urandom(100)], [b"\x91\x91\x0a", b"\x91\x91\x0a"], [b"", b"", b""], [b""]):
            dealer.send_multipart(bad)
            (refused,) = decode_frame(dealer.recv())
            assert refused[:3] == [Kind.REFUSED, 0, "malformed"]

        dealer.send(b"\x91\x92\x08\xc4\x00")
        assert decode_frame(dealer.recv()) == [[Kind.NOTICE, "hello", {}]]
    assert broker.process.poll() is None


def test_a_frame_above_the_limit_costs_its_sender_the_connection_and_nobody_else(
    start: Start, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    async def flood() -> None:
        broker = start()
        tap, other = connect(broker, context), connect(broker, context)
        await tap.start()
        tap.wire.send(bytes(2 * MIB))
        other.name = "other"
        other.hello()
        assert await other.wait(lambda: other.take(Kind.WELCOME))
        tap.query("status")
        assert await tap.wait(lambda: tap.take_notice("hello"))
        tap.wire.close()
        other.wire.close()

    asyncio.run(flood())
