"""The journal: batches of rows in SQLite, synced before anybody is told. The only user of sqlite3.

One writer thread takes whatever has come since its last commit and commits it at once: group commit
without a timer. A batch is one packed blob; more indexes, not fsync, would be the limit (RELIABILITY.md,
"The journal"). A failed write or fsync is never tried again: the page cache may lie from then on.
What is on disk is always a prefix of what was appended.
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
# Pages of the write-ahead log before SQLite folds it in; a fold takes 1 to 2 ms of the writer thread.
_WAL_PAGES = 1000
_PAGE_BYTES = 4096
_SYNC_FULL = 2  # what `PRAGMA synchronous` calls FULL

_Batch = tuple[float, bytes]  # bus time, packed rows


class SqliteJournal:
    """The journal of one state folder, owned until closed.

    Args:
        folder: The state folder; made where it is missing, and closed to everybody but its owner.
        on_synced: Called by the writer thread after each commit or failure; must be quick and thread-safe.

    Raises:
        BrokerRunning: Another process owns the folder.
        JournalFailed: The folder or the file cannot be opened and written.
    """

    def __init__(self, folder: Path, *, on_synced: Callable[[], None]) -> None:
        self._lock = _own(folder)
        self._on_synced = on_synced
        self._path = folder / JOURNAL_FILE
        self._inbox: queue.SimpleQueue[tuple[int, _Batch] | None] = queue.SimpleQueue()
        self._ticket = 0
        self._synced = 0
        self._failure: JournalFailed | None = None
        try:
            self._database = self._open()
            self._term = self._begin_term()
        except (sqlite3.Error, OSError) as error:
            os.close(self._lock)
            raise JournalFailed(
                f"{self._path}: expected a journal that can be read and written, got: {error}; free the disk, or "
                f"give the folder back to its user, and start the broker again"
            ) from error
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
        self._inbox.put(None)
        self._writer.join()
        self._database.close()
        os.close(self._lock)

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._path.chmod(0o600)
        mode = database.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        database.execute("PRAGMA synchronous=FULL")
        level = database.execute("PRAGMA synchronous").fetchone()[0]
        if (mode, level) != ("wal", _SYNC_FULL):
            raise sqlite3.OperationalError(f"expected WAL with synchronous FULL, got {mode} with {level}")
        database.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES}")
        database.execute("CREATE TABLE IF NOT EXISTS log(batch INTEGER PRIMARY KEY, bus_time REAL, rows BLOB)")
        database.execute("CREATE TABLE IF NOT EXISTS owner(term INTEGER PRIMARY KEY, pid INTEGER)")
        # A log of full length from the start: syncs that need not lengthen the file take 170 instead of
        # 290 µs (measured here); the price is 35 ms once.
        database.execute("DROP TABLE IF EXISTS filling")
        database.execute("CREATE TABLE filling(zeros BLOB)")
        database.execute("INSERT INTO filling VALUES(zeroblob(?))", (_WAL_PAGES * _PAGE_BYTES,))
        database.execute("DROP TABLE filling")
        # A broker that was killed, or whose fsync failed, may have left commits that only the page cache
        # holds. They will be recovered, so they must be on disk first: folding the log in writes and syncs.
        is_busy = database.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0]
        if is_busy:
            raise sqlite3.OperationalError("expected to be the only reader, another program has the file open")
        return database

    def _begin_term(self) -> int:
        row = self._database.execute("INSERT INTO owner(pid) VALUES(?) RETURNING term", (os.getpid(),)).fetchone()
        return int(row[0])

    def _write(self) -> None:
        """Commit what has come, until told to end or until it fails; runs in the writer thread."""
        try:
            while self._write_group():
                self._on_synced()
        except Exception as error:  # a thread's border: whatever it was, nothing can be promised any more
            text = f"{self._path}: could not be written: {error}; free the disk or mend it, then start the broker again"
            failure = JournalFailed(text)
            failure.__cause__ = error
            self._failure = failure
        self._on_synced()

    def _write_group(self) -> bool:
        """Wait for batches and commit all that are there as one transaction; return whether more may come."""
        batches: list[_Batch] = []
        last = 0
        item = self._inbox.get()
        while item is not None:
            last = item[0]
            batches.append(item[1])
            try:
                item = self._inbox.get_nowait()
            except queue.Empty:
                break
        if len(batches) == 1:
            self._database.execute("INSERT INTO log(bus_time, rows) VALUES(?, ?)", batches[0])
        elif batches:
            self._database.execute("BEGIN")
            self._database.executemany("INSERT INTO log(bus_time, rows) VALUES(?, ?)", batches)
            self._database.execute("COMMIT")
        if batches:
            self._synced = last
        return item is not None


def _own(folder: Path) -> int:
    """Make the folder private and take its lock; return the lock's file descriptor."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise JournalFailed(f"{folder}: expected a folder of yours that can be written, got: {error}") from error
    try:
        # flock and not lockf: it belongs to the open file, so a second journal in this process is refused too.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = os.read(lock, 32).decode(errors="replace").strip()
        os.close(lock)
        text = f"{folder}: the broker with pid {pid or '?'} owns this state folder; stop it with `palaver down`"
        raise BrokerRunning(text) from error
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock
