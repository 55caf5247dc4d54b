"""The broker's process: drain, decide, journal, send, in a plain loop.

Thin by intention: every decision is the pure broker's. The loop never waits for the disk; the journal's
writer thread wakes it when a batch is down.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType

import structlog

from bus.broker.broker import Broker
from bus.clock import Clock, MonotonicClock
from bus.engine.journal import SqliteJournal
from bus.engine.port import BrokerTransport, Journal
from bus.engine.zeromq import Wake, ZmqBrokerTransport
from bus.errors import JournalFailed, MalformedFrame
from bus.settings import Settings
from bus.wire.codec import decode_frame, encode_frames

log = structlog.get_logger()

EXIT_OK = 0
EXIT_JOURNAL = 74  # EX_IOERR of sysexits.h: the disk would not take what had to be kept
PRESENCE_FILE = "broker.json"
_DRAIN_GRACE = 0.5  # seconds that peers get to commit and leave after SIGTERM


class Server:
    """Drives a pure broker over a transport and a journal.

    Attributes:
        broker: The broker; built from what the journal recovers.
    """

    def __init__(
        self,
        *,
        transport: BrokerTransport,
        journal: Journal,
        settings: Settings,
        clock: Clock,
        seed: bytes | None = None,
    ) -> None:
        self._transport = transport
        self._journal = journal
        self._clock = clock
        batches = list(journal.recover())
        start = max((bus_time for bus_time, _ in batches), default=0.0)
        self.broker = Broker(settings=settings, term=journal.term, rng_seed=seed or os.urandom(32))
        for bus_time, rows in batches:
            self.broker.replay(rows, bus_time)
        self.n_recovered = len(batches)
        self._offset = start - clock.now()
        self._told_synced = 0
        self._stop_at: float | None = None
        self._draining = False

    def now(self) -> float:
        """Return the bus time: seconds of broker uptime, downtime left out (RULES.md 18)."""
        return self._clock.now() + self._offset

    def stop(self) -> None:
        """Ask the loop to drain and end; safe in a signal handler."""
        self._draining = True
        self._transport.wake()

    def run(self) -> None:
        """Serve until ``stop``.

        Raises:
            JournalFailed: The journal cannot be written; nobody is told "accepted" any more.
        """
        while True:
            self.step(wait=True)
            if self._draining:
                if self._stop_at is None:
                    self._stop_at = self.now() + _DRAIN_GRACE
                    self.broker.stop(self.now())
                elif self.now() >= self._stop_at:
                    self._write(all_of_them=True)
                    return

    def step(self, *, wait: bool = False) -> bool:
        """Take what has come, decide, journal and send; return whether any frame had come."""
        broker = self.broker
        frames = self._transport.receive(self._timeout() if wait else 0.0)
        now = self.now()
        for peer, frame in frames:
            try:
                records = decode_frame(frame)
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
        for peer, records in broker.take_output().items():
            for frame in encode_frames(records):
                self._transport.send(peer, frame)
        if broker.log:
            self._write_log()
        return bool(frames)

    def _timeout(self) -> float | None:
        due = self.broker.next_deadline()
        if self._stop_at is not None:
            due = self._stop_at if due is None else min(due, self._stop_at)
        return None if due is None else max(0.0, due - self.now())

    def _write(self, *, all_of_them: bool = False) -> None:
        rows = self.broker.take_rows(all_of_them=all_of_them)
        if rows:
            self._journal.append(self.now(), rows)

    def _write_log(self) -> None:
        lines = self.broker.log[:]
        self.broker.log.clear()
        for level, event, facts in lines:
            getattr(log, level)(event, **facts)


def serve(address: str, state_folder: Path, settings: Settings) -> int:
    """Run a broker until SIGTERM or SIGINT; return the process's exit code.

    Raises:
        BrokerRunning: Another broker owns *state_folder*.
        AddressRefused: *address* may not be used.
        JournalFailed: The journal could not be opened.
    """
    # The writer thread needs the interpreter for microseconds; the default of 5 ms would be a durable round trip.
    sys.setswitchinterval(0.0002)
    wake = Wake()
    journal = SqliteJournal(state_folder, on_synced=wake.set)
    try:
        transport = ZmqBrokerTransport(address, wake=wake)
    except BaseException:
        journal.close()
        raise
    server = Server(transport=transport, journal=journal, settings=settings, clock=MonotonicClock())

    def on_signal(number: int, frame: FrameType | None) -> None:
        server.stop()

    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, on_signal)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    presence = state_folder / PRESENCE_FILE
    _write_presence(presence, address=address, term=journal.term)
    log.info("broker.started", address=address, term=journal.term, n_batches=server.n_recovered)
    try:
        server.run()
    except JournalFailed as error:
        log.error("broker.failed", reason=str(error))
        os._exit(EXIT_JOURNAL)  # nothing may be written after a failed fsync, not even by closing the file
    finally:
        presence.unlink(missing_ok=True)
    journal.close()
    transport.close()
    log.info("broker.stopped", term=journal.term)
    return EXIT_OK


def _write_presence(path: Path, *, address: str, term: int) -> None:
    """Leave word of who serves here, whole or not at all."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({"pid": os.getpid(), "address": address, "term": term}) + "\n")
    draft.replace(path)
