"""The broker's process: drain, decide, journal, send, in a plain loop.

Thin by intention: every decision is the pure broker's. The loop never waits for the disk; the journal's
writer thread wakes it when a batch is down.
"""

from __future__ import annotations

import gc
import json
import math
import os
import signal
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import structlog

from bus.broker.broker import Broker
from bus.clock import Clock, MonotonicClock
from bus.engine.journal import SqliteJournal
from bus.engine.port import BrokerTransport, Journal
from bus.engine.zeromq import Wake, ZmqBrokerTransport
from bus.errors import JournalFailed, MalformedFrame, TooLarge
from bus.settings import Settings
from bus.spec.mode import Mode
from bus.wire.codec import MAX_DELIVERY_FRAME_BYTES, MAX_FRAME_BYTES, decode_frame, encode_frame, encode_frames
from bus.wire.record import Kind, Record

log = structlog.get_logger()

EXIT_OK = 0
EXIT_JOURNAL = 74  # EX_IOERR of sysexits.h: the disk would not take what had to be kept
PRESENCE_FILE = "broker.json"
_DRAIN_GRACE = 0.5  # seconds that peers get to commit and leave after SIGTERM


class Server:
    """Drives a pure broker over a transport and a journal.

    Attributes:
        broker: The broker; built from what the journal recovers.
        n_recovered: Batches that it was built from.
    """

    def __init__(
        self,
        *,
        transport: BrokerTransport,
        journal: Journal,
        settings: Settings,
        clock: Clock,
        seed: bytes | None = None,
        modes: Mapping[str, Mode] | None = None,
    ) -> None:
        self._transport = transport
        self._journal = journal
        self._clock = clock
        self.broker = Broker(settings=settings, term=journal.term, rng_seed=seed or os.urandom(32), modes=modes)
        self.n_recovered = 0
        start = 0.0
        for bus_time, rows in journal.recover():
            self.broker.replay(rows, bus_time)
            start = max(start, bus_time)
            self.n_recovered += 1
        self._offset = start - clock.now()
        self._ticket = 0
        self._told_synced = 0
        self._is_stopping = False

    def now(self) -> float:
        """Return the bus time: seconds of broker uptime, downtime left out (RULES.md 18)."""
        return self._clock.now() + self._offset

    def stop(self) -> None:
        """Ask the loop to drain and end; safe in a signal handler."""
        self._is_stopping = True
        self._transport.wake()

    def run(self) -> None:
        """Serve until ``stop``; then give peers a moment to leave, and end once all that was decided is on disk.

        Raises:
            JournalFailed: The journal cannot be written; nobody is told "accepted" any more.
        """
        while not self._is_stopping:
            self.step(wait_until=math.inf)
        self.broker.stop(self.now())
        end = self.now() + _DRAIN_GRACE
        while self.now() < end:
            self.step(wait_until=end)
        self._write(all_of_them=True)
        last = self._ticket
        while self._told_synced < last:
            self.step(wait_until=math.inf)

    def step(self, *, wait_until: float = -math.inf) -> bool:
        """Take what has come, decide, journal and send.

        Args:
            wait_until: The bus time until which to wait for something to happen; waits for nothing if left out.

        Returns:
            Whether any frame had come.

        Raises:
            JournalFailed: As in ``run``; nothing was sent.
        """
        broker = self.broker
        frames = self._transport.receive(self._timeout(wait_until))
        now = self.now()
        for peer, frame in frames:
            try:
                records = decode_frame(frame, max_bytes=MAX_FRAME_BYTES)
            except MalformedFrame as error:
                broker.malformed(peer, str(error), now)
            else:
                broker.receive(peer, records, now)
        broker.tick(now)
        self._write()
        synced = self._journal.synced()
        if synced > self._told_synced:
            self._told_synced = synced
            broker.synced(synced, now)
        for peer, output in broker.take_output().items():
            self._send(peer, output, now)
        if broker.log:
            self._write_log()
        return bool(frames)

    def _timeout(self, wait_until: float) -> float | None:
        due = self.broker.next_deadline()
        wake_at = wait_until if due is None else min(due, wait_until)
        return None if wake_at == math.inf else max(0.0, wake_at - self.now())

    def _write(self, *, all_of_them: bool = False) -> None:
        rows = self.broker.take_rows(all_of_them=all_of_them)
        if rows:
            self._ticket = self._journal.append(self.now(), rows)

    def _send(self, peer: bytes, output: list[Record], now: float) -> None:
        try:
            frames = encode_frames(output)
        except TooLarge:
            frames = [frame for record in output for frame in encode_frames([_fit(record)])]
        for frame in frames:
            if not self._transport.send(peer, frame):
                self.broker.gone(peer, now)
                return

    def _write_log(self) -> None:
        lines = self.broker.log[:]
        self.broker.log.clear()
        for level, event, facts in lines:
            getattr(log, level)(event, **facts)


def serve(address: str, state_folder: Path, settings: Settings, *, modes: Mapping[str, Mode] | None = None) -> int:
    """Run a broker until SIGTERM or SIGINT; return the process's exit code.

    Args:
        modes: Protocol name → how strictly it is held to its order; all others are enforced.

    A journal that fails ends the process at once, with code 74: nothing may be written after a failed
    fsync, not even by closing the file.

    Raises:
        BrokerRunning: Another broker owns *state_folder*, or listens at *address*.
        AddressRefused: *address* may not be used.
        JournalFailed: The journal could not be opened.
    """
    # The writer thread needs the interpreter for microseconds; the default of 5 ms would be a durable round trip.
    sys.setswitchinterval(0.0002)
    wake = Wake()
    journal = SqliteJournal(state_folder, on_synced=wake.set)
    presence = state_folder / PRESENCE_FILE
    try:
        transport = ZmqBrokerTransport(address, wake=wake)
    except BaseException:
        journal.close()
        raise
    server = Server(transport=transport, journal=journal, settings=settings, clock=MonotonicClock(), modes=modes)
    _stop_on_signals(server, wake)
    spare_the_collector()
    _write_presence(presence, address=address, term=journal.term)
    log.info("broker.started", address=address, term=journal.term, n_batches=server.n_recovered)
    try:
        server.run()
    except JournalFailed as error:
        log.error("broker.failed", reason=str(error))
        presence.unlink(missing_ok=True)
        os._exit(EXIT_JOURNAL)
    # The lock goes last: whoever takes it next may remove and make these files.
    presence.unlink(missing_ok=True)
    signal.set_wakeup_fd(-1)
    transport.close()
    journal.close()
    wake.close()  # last: the journal's writer uses it to the end
    log.info("broker.stopped", term=journal.term)
    return EXIT_OK


def _fit(record: Record) -> Record:
    """Return *record*, or what stands in for an answer that no frame can carry.

    Only answers can grow so large: a delivery is what a peer's frame brought and 64 KiB of state.
    """
    if record[0] != Kind.REPLY or len(encode_frame([record])) <= MAX_DELIVERY_FRAME_BYTES:
        return record
    text = f"the answer is above {MAX_DELIVERY_FRAME_BYTES} bytes; ask for less of it at a time"
    return [int(Kind.REPLY), record[1], False, {"code": "too-large", "message": text}]


def _stop_on_signals(server: Server, wake: Wake) -> None:
    def on_signal(number: int, frame: FrameType | None) -> None:
        server.stop()

    # The kernel may hand the signal to the writer thread; only this wakes the loop that runs the handler.
    signal.set_wakeup_fd(wake.write_fd, warn_on_full_buffer=False)
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, on_signal)


def spare_the_collector() -> None:
    """Keep what start-up made out of the garbage collector's sight, and have it look less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(400_000, 20, 50)


def _write_presence(path: Path, *, address: str, term: int) -> None:
    """Leave word of who serves here, whole or not at all."""
    started = datetime.now(UTC).isoformat(timespec="seconds")  # for people; nothing is reckoned with it
    draft = path.with_suffix(".draft")
    facts = {"pid": os.getpid(), "address": address, "term": term, "started": started}
    draft.write_text(json.dumps(facts) + "\n", encoding="utf-8")
    draft.replace(path)
