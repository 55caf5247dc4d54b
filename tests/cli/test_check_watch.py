"""``palaver check --watch`` as a process: it checks again whatever an editor does to the file, and ends by Ctrl-C."""

import os
import queue
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from test_check import BAD, GOOD

pytestmark = [pytest.mark.integration, pytest.mark.slow]
LIMIT = 30.0  # seconds for one line; a busy machine needs a few


class Watching:
    """The process and its lines, both streams in one."""

    def __init__(self, *arguments: str, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bus.cli", "check", "--watch", *arguments],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"},
            # As at a terminal: a shell's background job, in which tests may run, ignores it, and so would its children.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, words: str) -> str:
        """Return the next line with *words* in it."""
        while True:
            line = self._lines.get(timeout=LIMIT)
            assert line is not None, f"the process ended before it said {words!r}"
            if words in line:
                return line

    def __enter__(self) -> "Watching":
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        self.process.stdout.close()

    def interrupt(self) -> tuple[int, str]:
        """Press Ctrl-C; return the exit code and what was still said."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(LIMIT)
        rest = []
        while (line := self._lines.get(timeout=LIMIT)) is not None:
            rest.append(line)
        return code, "".join(rest)


@pytest.fixture
def watching(tmp_path):
    path = tmp_path / "greet.protocol.yaml"
    path.write_text(GOOD)
    with Watching("greet.protocol.yaml", folder=tmp_path) as running:
        running.wait_for("1 file: 0 errors")
        yield running, path


def test_a_saved_file_is_checked_again(watching):
    running, path = watching

    path.write_text(BAD)
    assert "E-UNKNOWN-MESSAGE" in running.wait_for("greet.protocol.yaml:9:")
    running.wait_for("1 file: 1 error")
    path.write_text(GOOD)

    running.wait_for("1 file: 0 errors")


def test_a_file_that_an_editor_replaces_is_still_watched(watching):
    running, path = watching

    for text, words in ((BAD, "1 file: 1 error"), (GOOD, "1 file: 0 errors")) * 2:
        aside = path.with_name("greet.swp")
        aside.write_text(text)
        aside.replace(path)
        running.wait_for(words)


def test_a_deleted_file_is_waited_for(watching):
    running, path = watching

    path.unlink()
    running.wait_for("waiting for it")
    path.write_text(BAD)

    running.wait_for("1 file: 1 error")


def test_a_new_file_in_a_watched_folder_is_found(tmp_path):
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "one.protocol.yaml").write_text(GOOD)
    with Watching("specs", folder=tmp_path) as running:
        running.wait_for("1 file: 0 errors")

        (tmp_path / "specs" / "two.protocol.yaml").write_text(BAD)

        running.wait_for("2 files: 1 error")


def test_ctrl_c_ends_it_without_a_word(watching):
    running, _ = watching

    code, rest = running.interrupt()

    assert (code, rest) == (130, "")


def test_a_missing_file_is_a_usage_error_at_the_start(tmp_path):
    with Watching("missing.protocol.yaml", folder=tmp_path) as running:
        running.wait_for("expected a")
        assert running.process.wait(LIMIT) == 2
