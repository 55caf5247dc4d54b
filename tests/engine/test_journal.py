import contextlib
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.engine.journal import JOURNAL_FILE, SqliteJournal
from bus.errors import BrokerRunning, JournalFailed

PATIENCE = 20.0  # seconds after which a test gives up on the disk


class Disk:
    """Opens journals on one folder and waits for their commits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._moved = threading.Condition()
        self._opened: list[SqliteJournal] = []

    def open(self) -> SqliteJournal:
        journal = SqliteJournal(self.folder, on_synced=self._note)
        self._opened.append(journal)
        return journal

    def close(self, journal: SqliteJournal) -> None:
        self._opened.remove(journal)
        journal.close()

    def wait_synced(self, journal: SqliteJournal, ticket: int) -> None:
        with self._moved:
            assert self._moved.wait_for(lambda: journal.synced() >= ticket, PATIENCE)

    def close_all(self) -> None:
        for journal in list(self._opened):
            self.close(journal)

    def _note(self) -> None:
        with self._moved:
            self._moved.notify_all()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "state")
    yield disk
    disk.close_all()


def test_what_was_synced_is_recovered_in_order_with_its_bus_time(disk: Disk) -> None:
    journal = disk.open()
    batches = [(n / 2, [["row", n, bytes(n)]]) for n in range(1, 40)]
    for bus_time, rows in batches:
        last = journal.append(bus_time, rows)
    disk.wait_synced(journal, last)
    disk.close(journal)

    assert list(disk.open().recover()) == batches


def test_closing_writes_what_is_left(disk: Disk) -> None:
    journal = disk.open()
    journal.append(1.0, [["row"]])
    disk.close(journal)

    assert list(disk.open().recover()) == [(1.0, [["row"]])]


def test_tickets_count_from_one_and_nothing_is_synced_before_it_was_appended(disk: Disk) -> None:
    journal = disk.open()

    assert journal.synced() == 0
    assert [journal.append(0.0, [["row"]]) for _ in range(3)] == [1, 2, 3]
    disk.wait_synced(journal, 3)
    assert journal.synced() == 3


def test_rows_are_taken_as_they_are_when_appended(disk: Disk) -> None:
    journal = disk.open()
    row: list[object] = ["row", 1]
    journal.append(0.0, [row])
    row[1] = 2
    disk.close(journal)

    assert list(disk.open().recover()) == [(0.0, [["row", 1]])]


def test_each_ownership_has_a_greater_term(disk: Disk) -> None:
    first = disk.open()
    term = first.term
    disk.close(first)

    assert disk.open().term > term


def test_a_second_owner_of_the_folder_is_refused_and_told_who_owns_it(disk: Disk) -> None:
    disk.open()

    with pytest.raises(BrokerRunning, match=f"pid {os.getpid()} .*palaver down"):
        disk.open()


def test_the_folder_and_its_files_are_open_to_their_owner_alone(disk: Disk) -> None:
    disk.folder.mkdir(mode=0o755)
    disk.folder.chmod(0o755)

    disk.open()

    assert disk.folder.stat().st_mode & 0o077 == 0
    assert {path.name: path.stat().st_mode & 0o077 for path in disk.folder.iterdir()} == {
        "broker.lock": 0, JOURNAL_FILE: 0, f"{JOURNAL_FILE}-wal": 0, f"{JOURNAL_FILE}-shm": 0,
    }  # fmt: skip


def test_commits_go_through_a_write_ahead_log(disk: Disk) -> None:
    disk.close(disk.open())

    database = sqlite3.connect(disk.folder / JOURNAL_FILE)
    mode = database.execute("PRAGMA journal_mode").fetchone()[0]
    database.close()

    assert mode == "wal"


def test_a_start_that_was_cut_short_while_filling_the_log_is_made_good(disk: Disk) -> None:
    journal = disk.open()
    journal.append(1.0, [["row"]])
    disk.close(journal)
    database = sqlite3.connect(disk.folder / JOURNAL_FILE)
    database.execute("CREATE TABLE filling(zeros BLOB)")
    database.close()

    assert list(disk.open().recover()) == [(1.0, [["row"]])]


def test_what_only_the_write_ahead_log_holds_after_a_kill_is_folded_in_before_it_is_believed(
    disk: Disk, tmp_path: Path
) -> None:
    """After a kill -9 commits may sit in the page cache alone; folding them in writes and syncs them."""
    journal = disk.open()
    disk.wait_synced(journal, journal.append(1.0, [["row"]]))
    killed = shutil.copytree(disk.folder, tmp_path / "killed")
    reopened = Disk(killed)

    recovered = list(reopened.open().recover())

    database_alone = shutil.copy(killed / JOURNAL_FILE, tmp_path / "alone.db")
    with contextlib.closing(sqlite3.connect(database_alone)) as database:
        n_folded = database.execute("SELECT count(*) FROM log").fetchone()[0]
    reopened.close_all()
    assert recovered == [(1.0, [["row"]])]
    assert n_folded == 1


def test_a_file_that_is_no_journal_is_refused_by_name(disk: Disk) -> None:
    disk.folder.mkdir()
    (disk.folder / JOURNAL_FILE).write_bytes(b"not a database" * 100)

    with pytest.raises(JournalFailed, match=JOURNAL_FILE):
        disk.open()


def test_a_folder_that_cannot_be_made_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(JournalFailed, match="file/state"):
        SqliteJournal(tmp_path / "file" / "state", on_synced=lambda: None)


def test_a_refused_folder_can_be_owned_later(disk: Disk) -> None:
    first = disk.open()
    with pytest.raises(BrokerRunning):
        disk.open()
    disk.close(first)

    assert disk.open().term == first.term + 1
