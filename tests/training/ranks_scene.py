"""A desk whose ranks are real processes, and what the tests of ranks read of them."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid5

import torch
from colors import CPU, SPACE, color_rows, write_rows

from training_service.adapters import Registry
from training_service.desk import Desk
from training_service.event import (
    Failed,
    Prepared,
    Progress,
    Report,
    RunEvent,
    Trained,
)
from training_service.ranks import Hosting, Ranks
from training_service.request import Artifact, TrainingRequest, parse_request
from training_service.run import Places
from training_service.slots import Slots
from training_service.tensors import read_tensors

ROOT = Path(__file__).parents[2]
LIMIT = 200.0
ORDER = {
    "method": "full", "max_steps": 30, "checkpoint_every": 3, "batch_rows": 5, "micro_rows": 2, "learning_rate": 1e-3,
}  # fmt: skip


@dataclass
class Scene:
    """A desk in this process whose ranks are real, and all that it has reported."""

    folder: Path
    base: Path
    data: Path
    hosting: Hosting
    places: Places
    slots: Slots
    heard: list[Report] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.desk = Desk(self.slots, self.places, device=CPU, report=self.hear, hosting=self.hosting)

    def hear(self, report: Report) -> None:
        if isinstance(report, RunEvent):
            self.heard.append(report)

    def order(self, name: str, **changes: object) -> TrainingRequest:
        dataset = Artifact.from_file(self.data).model_dump()
        body = {"task_id": str(uuid5(SPACE, name)), "base": str(self.base), "dataset": dataset, "processes": 2}
        return parse_request(body | ORDER | changes)

    def prepare(self, request: TrainingRequest) -> None:
        prepared = self.desk.prepare(request, None)
        assert isinstance(prepared, Prepared), prepared

    def work(self, request: TrainingRequest, stop: Callable[[Report], bool]) -> list[Report]:
        """Start the run and work until *stop* says so of a report; return what came."""
        begin = len(self.heard)
        self.desk.runs.start(request.task_id)
        give_up_at = time.monotonic() + LIMIT
        while not any(stop(one) for one in self.heard[begin:]):
            assert time.monotonic() < give_up_at, self.heard[begin:]
            self.desk.work()
        return self.heard[begin:]

    def carry_out(self, request: TrainingRequest) -> list[Report]:
        return self.work(request, lambda one: isinstance(one, Trained | Failed))

    def ranks(self, request: TrainingRequest) -> Ranks:
        found = self.desk.runs._runs[request.task_id]
        assert isinstance(found, Ranks)
        return found


def new_scene(
    folder: Path, models_dir: Path, tiny: Path, *, threads: int = 2, n_hosts: int = 1, rendezvous: str | None = None
) -> Scene:
    state = folder / "state"
    roots = (folder, models_dir, state)
    arguments = ["--models", str(models_dir), "--state", str(state), "--root", str(folder), "--root", str(models_dir)]
    return Scene(
        folder,
        tiny,
        write_rows(folder / "colors.jsonl", color_rows()),
        Hosting(tuple(arguments), threads, n_hosts, rendezvous),
        Places(state / "runs", state / "artifacts", Registry(state / "adapters"), roots),
        Slots(models_dir=models_dir, allow_hub=False, roots=roots, device=CPU),
    )


def losses(reports: list[Report]) -> list[float]:
    return [one.metrics.loss for one in reports if isinstance(one, Progress)]


def trained(reports: list[Report]) -> Trained:
    end = reports[-1]
    assert isinstance(end, Trained), end
    return end


def weights(end: Trained) -> dict[str, torch.Tensor]:
    return read_tensors(end.artifact.path / "model.safetensors")


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_gone(*pids: int) -> None:
    give_up_at = time.monotonic() + LIMIT
    for pid in pids:
        while not is_gone(pid):
            assert time.monotonic() < give_up_at, f"process {pid} lives on"
            os.sched_yield()


def listening(pid: int) -> set[str]:
    """Return the addresses (hex, as in proc_net(5)) on which *pid* listens."""
    held = {os.readlink(one) for one in Path(f"/proc/{pid}/fd").iterdir() if one.is_symlink()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            parts = line.split()
            if parts[3] == "0A" and f"socket:[{parts[9]}]" in held:
                found.add(parts[1].rpartition(":")[0])
    return found
