"""Run by ``test_run_faults``: kills a forked copy of this process before each file operation of a checkpoint.

One thread, so that a process that has computed may be forked. Prints one JSON line a stage: the operation before
which the copy was killed, which step the record then names, and where that
leaves something new, the hash of what a fresh desk makes of it.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from training_service.adapters import Registry
from training_service.artifact import WORK_PREFIX, verify
from training_service.desk import Desk
from training_service.event import Prepared, Progress, Report, Trained
from training_service.record import load_record
from training_service.request import TrainingRequest, parse_request
from training_service.run import Places
from training_service.slots import Slots
from training_service.sweep import sweep

OPERATIONS = (
    "open", "write", "fsync", "fdatasync", "rename", "replace", "unlink", "mkdir", "rmdir", "chmod", "fchmod",
    "truncate",
)  # fmt: skip
CPU = torch.device("cpu")


def kill_before(n: int) -> None:
    """Let this process kill itself before its *n*-th file operation from now on, as ``OPERATIONS`` names them."""
    left, last = n, ("", 0)

    def counted(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **named: Any) -> Any:
            nonlocal left, last
            now = (name, arguments[0] if name == "write" else left)
            left -= now != last  # the pieces of one file are one operation
            last = now
            if not left:
                sys.stdout.write(json.dumps({"killed_before": name}) + "\n")
                sys.stdout.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **named)

        return act

    for name in OPERATIONS:
        setattr(os, name, counted(name, getattr(os, name)))


def in_a_copy(work: Callable[[], None]) -> int:
    """Do *work* in a forked copy of this process and return its wait status."""
    pid = os.fork()
    if not pid:
        work()
        sys.stdout.flush()
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def main(state: Path, request: TrainingRequest) -> None:
    places = Places(state / "runs", state / "artifacts", Registry(state / "adapters"), (state.parent, state))
    said: list[Report] = []

    def new_desk(slots: Slots) -> Desk:
        return Desk(slots, places, device=CPU, report=said.append)

    first, second = (
        Slots(models_dir=state, allow_hub=False, roots=(state.parent, Path(request.base)), device=CPU) for _ in range(2)
    )
    second.shared(request.base)
    desk = new_desk(first)
    prepared = desk.prepare(request, None)
    assert isinstance(prepared, Prepared), prepared
    desk.runs.start(request.task_id)
    while sum(isinstance(one, Progress) for one in said) < 3:
        desk.work()
    kept = state.with_name("kept")
    shutil.copytree(state, kept)

    def checkpoint(n: int) -> None:
        kill_before(n)
        while sum(isinstance(one, Progress) for one in said) < 5:
            desk.work()

    def finish() -> None:
        sweep(places.artifacts, places.runs)
        other = new_desk(second)
        other.runs.start(request.task_id)
        while not other.is_idle:
            other.work()
        (trained,) = [one for one in said if isinstance(one, Trained)]
        left = [path.name for path in places.artifacts.iterdir() if path.name.startswith(WORK_PREFIX)]
        print(json.dumps({"result": trained.artifact.sha256, "left": left}))

    seen = None
    for n in range(1, 500):
        status = in_a_copy(lambda n=n: checkpoint(n))  # type: ignore[misc]  # its default binds the number
        record = load_record(places.runs, request.task_id)
        assert record.checkpoint is not None
        verify(record.checkpoint.artifact)
        print(json.dumps({"step": record.checkpoint.metrics.step}), flush=True)
        sealed = {path.name for path in places.artifacts.iterdir() if not path.name.startswith(WORK_PREFIX)}
        if (record, sealed) != seen:  # else what is there to go on from is what was there before
            seen = (record, sealed)
            assert not in_a_copy(finish)
        shutil.rmtree(state)
        shutil.copytree(kept, state)
        if not os.WIFSIGNALED(status):
            return
    raise AssertionError("expected the checkpoint to end")


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    main(Path(sys.argv[1]), parse_request(json.loads(sys.argv[2])))
