"""The journal: batches of rows in SQLite, synced before anybody is told. The only user of sqlite3.

One writer thread takes whatever has come since its last commit and commits it at once: group commit
without a timer. A batch is one packed blob; more indexes, not fsync, would be the limit (RELIABILITY.md,
"The journal"). A failed write or fsync is never tried again: the page cache may lie from then on.
"""

import fcntl
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from bus.errors import BrokerRunning, JournalFailed
from bus.wire.codec import decode_rows, encode_body
from bus.wire.record import Record

JOURNAL_FILE = "journal.db"
LOCK_FILE = "broker.lock"
_WAL_PAGES = 2000  # pages of the write-ahead log before SQLite folds it in (prototype, 2026)


class SqliteJournal:
    """The journal of one state folder, owned until closed.

    Args:
        folder: The state folder; made with mode 0700 where it is missing.
        on_synced: Called by the writer thread after each commit or failure; must be quick and thread-safe.

    Raises:
        BrokerRunning: Another process owns the folder.
        JournalFailed: The file cannot be opened.
    """

    def __init__(self, folder: Path, *, on_synced: Callable[[], None]) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _own(folder)
        self._on_synced = on_synced
        self._path = folder / JOURNAL_FILE
        self._inbox: queue.SimpleQueue[tuple[int, tuple[float, bytes]]] = queue.SimpleQueue()
        self._ticket = 0
        self._synced = 0
        self._failure: JournalFailed | None = None
        try:
            self._database = self._open()
            self._term = self._begin_term()
        except sqlite3.Error as error:
            os.close(self._lock)
            raise JournalFailed(f"{self._path}: cannot be opened: {error}; the folder must be writable") from error
        self._writer = threading.Thread(target=self._write, name="journal", daemon=True)
        self._writer.start()

    @property
    def term(self) -> int:
        """Number of this ownership, greater than any before."""
        return self._term

    def recover(self) -> Iterator[tuple[float, list[Record]]]:
        """Yield every batch on disk, oldest first; to be called before the first ``append``."""
        for bus_time, rows in self._database.execute("SELECT bus_time, rows FROM log ORDER BY batch"):
            yield bus_time, decode_rows(rows)

    def append(self, bus_time: float, rows: list[Record]) -> int:
        """Hand over a batch to be written and return its ticket."""
        if self._failure is not None:
            raise self._failure
        self._ticket += 1
        self._inbox.put((self._ticket, (bus_time, encode_body(rows))))
        return self._ticket

    def synced(self) -> int:
        """Return the highest ticket that is on disk."""
        if self._failure is not None:
            raise self._failure
        return self._synced

    def close(self) -> None:
        """Write what is left, close the file and give the folder back."""
        self._inbox.put((0, (0.0, b"")))
        self._writer.join()
        self._database.close()
        os.close(self._lock)

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        os.chmod(self._path, 0o600)
        mode = database.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        database.execute("PRAGMA synchronous=FULL")
        level = database.execute("PRAGMA synchronous").fetchone()[0]
        if (mode, level) != ("wal", 2):
            raise sqlite3.OperationalError(f"expected WAL with synchronous FULL, got {mode} with {level}")
        database.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES}")
        database.execute("CREATE TABLE IF NOT EXISTS log(batch INTEGER PRIMARY KEY, bus_time REAL, rows BLOB)")
        database.execute("CREATE TABLE IF NOT EXISTS owner(term INTEGER PRIMARY KEY, pid INTEGER)")
        return database

    def _begin_term(self) -> int:
        row = self._database.execute("INSERT INTO owner(pid) VALUES(?) RETURNING term", (os.getpid(),)).fetchone()
        return int(row[0])

    def _write(self) -> None:
        while True:
            ticket, batch = self._inbox.get()
            batches = [batch] if ticket else []
            last, stops = ticket, not ticket
            while not stops:
                try:
                    ticket, batch = self._inbox.get_nowait()
                except queue.Empty:
                    break
                stops = not ticket
                if ticket:
                    batches.append(batch)
                    last = ticket
            if batches and not self._commit(batches, last):
                return
            if stops:
                return

    def _commit(self, batches: list[tuple[float, bytes]], last: int) -> bool:
        try:
            if len(batches) == 1:
                self._database.execute("INSERT INTO log(bus_time, rows) VALUES(?, ?)", batches[0])
            else:
                self._database.execute("BEGIN")
                self._database.executemany("INSERT INTO log(bus_time, rows) VALUES(?, ?)", batches)
                self._database.execute("COMMIT")
        except sqlite3.Error as error:
            text = f"{self._path}: could not be written: {error}; free the disk or mend it, then start the broker again"
            self._failure = JournalFailed(text)
            self._on_synced()
            return False
        self._synced = last
        self._on_synced()
        return True


def _own(folder: Path) -> int:
    """Take the folder's lock; return its file descriptor."""
    lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = os.read(lock, 32).decode(errors="replace").strip()
        os.close(lock)
        text = f"{folder}: the broker with pid {pid or '?'} owns this state folder; stop it with `palaver down`"
        raise BrokerRunning(text) from error
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock
