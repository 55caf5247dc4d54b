"""Goes the way of docs/training.md, to the letter: its files in an empty folder, its commands, its script, its end.

One broker and one training service, as the page starts them; what the tests claim is read when all has ended.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from training_page import blocks, page_blocks

from bus.cli.adapters import Action as ShelfAction
from bus.fleet.detach import stop_fleet
from bus.fleet.project import Project
from training_service.result import ADAPTER_CONFIG, ADAPTER_WEIGHTS

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(400)]

FIRST = "From a file to a served adapter"
RUNS = "Runs: the queue, their owners, and what survives what"
SHELF = "Adapters and artifacts"
LIMIT = 120.0
LONG = "5b0c1f0e-4b7c-4a55-9d0f-0f6f3a6a3a11"
"""The run that the section on runs steers; the page shows how its id begins."""

Ended = subprocess.CompletedProcess[str]


@dataclass(frozen=True, slots=True)
class Tour:
    """What came of the page's blocks.

    Attributes:
        lesson: The first commands, from the fleet's start to the text.
        script: The script that does the same over the bus.
        steered: Line of the section on runs → what came of it.
        ordered: The order of the run that those lines steer.
        shelf: The commands of the section on adapters.
        up: Processes that were there before the last command.
        end: The last command.
        left: Processes that were still there after it.
    """

    folder: Path
    lesson: Ended
    script: Ended
    steered: dict[str, Ended]
    ordered: Ended
    shelf: Ended
    up: list[int]
    end: Ended
    left: list[int]


class Reader:
    """Somebody in a folder who types what the page shows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PALAVER_")}
        path = os.pathsep.join((str(Path(sys.executable).parent), kept["PATH"]))
        self.environment = {**kept, "PATH": path, "OMP_NUM_THREADS": "2", "PYTHONUNBUFFERED": "1"}
        self._started: list[subprocess.Popen[str]] = []

    def write_files(self) -> None:
        """Write the files that the page names."""
        for block in page_blocks():
            if block.section == FIRST and block.file is not None:
                (self.folder / block.file).write_text(block.text)

    def start(self, commands: str) -> subprocess.Popen[str]:
        """Start commands; the first that fails is the last."""
        running = subprocess.Popen(
            ["sh", "-ec", commands], cwd=self.folder, env=self.environment, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._started.append(running)
        return running

    def type(self, commands: str) -> Ended:
        """Type commands and wait for their end."""
        return self.wait(self.start(commands))

    @staticmethod
    def wait(running: subprocess.Popen[str], before: str = "") -> Ended:
        """Wait for the end of commands of which *before* was read already."""
        out, err = running.communicate(timeout=LIMIT)
        return Ended(running.args, running.returncode, before + out, err)

    def steer(self, lines: list[str]) -> tuple[dict[str, Ended], Ended]:
        """Order a run that takes long, and type *lines* while it runs; whoever follows it does so to its end."""
        ordered = self.start(f"palaver train long.training.yaml --yes --task-id {LONG}")
        assert ordered.stdout is not None
        before = ""
        for line in ordered.stdout:
            before += line
            if line.startswith("step "):
                break
        following = {line: self.start(line) for line in lines if " follow " in line}
        ended = {line: self.type(line) for line in lines if line not in following}
        ended |= {line: self.wait(running) for line, running in following.items()}
        return ended, self.wait(ordered, before)

    def processes(self) -> list[int]:
        """Return the numbers of all processes that work in the folder, as proc_pid_cwd(5) tells."""
        found = []
        for link in Path("/proc").glob("[0-9]*/cwd"):
            with suppress(OSError):  # somebody else's, or gone
                if link.readlink().is_relative_to(self.folder):
                    found.append(int(link.parent.name))
        return found

    @contextmanager
    def leaving_nothing(self) -> Iterator[None]:
        """End what was started and its fleet, however the block ends; its agents end with their supervisor."""
        try:
            yield
        finally:
            for running in self._started:
                if running.poll() is None:
                    os.killpg(running.pid, signal.SIGKILL)
            stop_fleet(Project(self.folder))


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Tour:
    folder = tmp_path_factory.mktemp("school")
    reader = Reader(folder)
    reader.write_files()
    lesson, script, end = blocks(FIRST, "sh")
    with reader.leaving_nothing():
        first = reader.type(lesson)
        second = reader.type(script)
        (folder / "long.training.yaml").write_text(
            (folder / "lights.training.yaml").read_text().replace("max_steps: 30", "max_steps: 100000")
        )
        steered, ordered = reader.steer(blocks(RUNS, "sh")[0].splitlines())
        shelf = reader.type(blocks(SHELF, "sh")[0])
        up = reader.processes()
        ended = reader.type(end)
        return Tour(folder, first, second, steered, ordered, shelf, up, ended, reader.processes())


def test_files_in_an_empty_folder_become_an_adapter_that_answers(tour: Tour) -> None:
    *said, answer = tour.lesson.stdout.splitlines()

    assert tour.lesson.returncode == 0, tour.lesson
    assert any("6 rows, " in line for line in said)
    assert "■ trained" in said
    assert any(line.startswith("adapter ") and line.endswith("lights@1") for line in said)
    assert any(line.startswith("lights@1 ") for line in said)
    assert answer == "stop"


def test_script_trains_and_asks_over_the_bus(tour: Tour) -> None:
    lines = tour.script.stdout.splitlines()

    assert tour.script.returncode == 0, tour.script
    assert lines[0].startswith("8 rows, 24 of ")
    assert lines[1].startswith("30 steps, ")
    assert lines[-2:] == ["registered as signals@1", "go"]


def test_a_run_is_seen_and_steered_by_the_beginning_of_its_id(tour: Tour) -> None:
    codes = {[*line.split(), "list"][2]: ended.returncode for line, ended in tour.steered.items()}

    assert codes == {"list": 0, "show": 0, "plot": 0, "follow": 11, "pause": 0, "resume": 0, "cancel": 0}, tour.steered
    assert (tour.ordered.returncode, "canceled" in tour.ordered.stdout) == (11, True), tour.ordered
    assert (tour.folder / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_an_adapter_is_named_merged_exported_and_deleted(tour: Tour) -> None:
    actions = {line.split()[2] for line in blocks(SHELF, "sh")[0].splitlines() if line.startswith("palaver adapters ")}

    assert tour.shelf.returncode == 0, tour.shelf
    assert actions | {"list"} == set(ShelfAction)
    for said in ("stable means lights@1", "\nstop\n", "lights-merged@1 holds lights@1", "lights@1 is deleted"):
        assert said in tour.shelf.stdout
    exported = {path.name for path in (tour.folder / "exported").iterdir()}
    assert {ADAPTER_CONFIG, ADAPTER_WEIGHTS, "README.md"} <= exported


def test_the_fleet_ends_and_leaves_no_process(tour: Tour) -> None:
    assert (tour.end.returncode, tour.end.stdout) == (0, "fleet school has ended\n"), tour.end
    assert len(tour.up) > 3  # supervisor, broker, agent and its child
    assert tour.left == []
