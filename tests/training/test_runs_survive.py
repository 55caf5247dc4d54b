"""kill -9 of the child, of the agent and of the broker in mid-run: one run, and the same weights byte for byte.

Real processes over a real bus; the client is `palaver train`.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

LIMIT = 120.0
PALAVER = [sys.executable, "-m", "bus.cli"]
FLEET = """
fleet: school
agents:
  trainer:
    program: training_service
    environment: {OMP_NUM_THREADS: "1"}
restart: {at_most: 9, within: 1m}
"""
TRAINING = """
training: lights
base: tiny-gemma3
method: lora
lora: {rank: 4, dropout: 0.1}
dataset: lights.jsonl
evaluation: lights.jsonl
max_steps: 80
batch_rows: 2
learning_rate: 5.0e-3
checkpoint_every: 10
evaluate_every: 40
accept_warnings: true
"""


class School:
    """A fleet of a broker and a training service in a project of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rows = (("red", "stop"), ("green", "go"))
        (folder / "lights.jsonl").write_text(
            "".join(json.dumps({"prompt": a, "completion": b}) + "\n" for a, b in rows)
        )
        (folder / "lights.training.yaml").write_text(TRAINING)
        (folder / "school.fleet.yaml").write_text(FLEET)

    def palaver(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*PALAVER, *arguments], cwd=self.folder, env=_environment(), capture_output=True, text=True, timeout=LIMIT
        )

    def pid_of(self, name: str) -> int:
        record = json.loads((self.folder / ".palaver" / "fleet.json").read_text())
        return next(int(process["pid"]) for process in record["processes"] if process["name"] == name)

    def child_pid(self) -> int:
        """Return the process of the service that computes: the agent's one child."""
        agent = self.pid_of("trainer")
        tasks = Path(f"/proc/{agent}/task").iterdir()
        (child,) = {int(pid) for task in tasks for pid in (task / "children").read_text().split()}
        return child

    def newest_state(self) -> str:
        """Return what the newest run's record says."""
        records = (self.folder / ".palaver" / "training" / "runs").glob("*/run.json")
        newest = max(records, key=lambda path: path.parent.stat().st_ctime)
        return str(json.loads(newest.read_text())["state"])

    def train(self, strike: Callable[[], None] | None = None) -> list[dict[str, Any]]:
        """Order the run, *strike* at its second checkpoint, and return what its client was told."""
        command = [*PALAVER, "train", "lights.training.yaml", "--yes", "--json", "--task-id", str(uuid4())]
        told: list[dict[str, Any]] = []
        with subprocess.Popen(
            command, cwd=self.folder, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as client:
            assert client.stdout is not None
            for line in client.stdout:
                told.append(json.loads(line))
                if strike is not None and [one.get("received") for one in told].count("Checkpoint") == 2:
                    strike()
                    strike = None
            _, errors = client.communicate(timeout=LIMIT)
        assert client.returncode == 0, errors
        return told


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PALAVER_")}


def outcome(told: list[dict[str, Any]]) -> tuple[str, str, list[tuple[str, int]]]:
    """Return how it ended, the result's hash, and everything durable that was told, with its step."""
    durable = [one for one in told if one.get("received") not in (None, "Progress")]
    steps = [
        (one["received"], one["fields"].get("step", (one["fields"].get("metrics") or {}).get("step", -1)))
        for one in durable
    ]
    return told[-1]["outcome"], durable[-1]["fields"]["artifact"]["sha256"], steps


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> Iterator[School]:
    found = School(tmp_path_factory.mktemp("school"))
    started = found.palaver("up", "school.fleet.yaml", "--detach")
    assert started.returncode == 0, started.stderr
    yield found
    found.palaver("down")


@pytest.fixture(scope="module")
def undisturbed(school: School) -> tuple[str, str, list[tuple[str, int]]]:
    return outcome(school.train())


@pytest.mark.parametrize("victim", ["child", "trainer", "broker"])
def test_kill_in_mid_run_leaves_one_run_with_the_weights_of_one_undisturbed(
    school: School, undisturbed: tuple[str, str, list[tuple[str, int]]], victim: str
) -> None:
    states: list[str] = []

    def strike() -> None:
        os.kill(school.child_pid() if victim == "child" else school.pid_of(victim), signal.SIGKILL)
        states.append(school.newest_state())

    told = outcome(school.train(strike))

    assert states == ["running"]
    assert told == undisturbed
    assert told[0] == "trained"
