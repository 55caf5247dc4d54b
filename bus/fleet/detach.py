"""A supervisor in the background: a session of its own, its words in a file, its verdict through a pipe."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from bus.errors import FleetError
from bus.fleet.project import Project
from bus.fleet.record import is_running, read_record
from bus.fleet.supervision import GRACE

READY = b"ready\n"
_STOP_LIMIT = 3 * GRACE  # agents, then the broker, each with its grace
_LOOK_EVERY = 0.05


def start_detached(project: Project, arguments: Sequence[str]) -> int | None:
    """Start a supervisor with *arguments* and wait until its fleet is registered or has failed.

    The process gets ``--ready-fd N``: it writes there once everything is registered. No double fork:
    ``start_new_session`` alone takes the terminal away, and nothing here may fork with threads about.

    Returns:
        None when it is ready, else its exit code.
    """
    reading, writing = os.pipe()
    with (project.logs / "fleet.log").open("ab") as output:
        process = subprocess.Popen(
            [*arguments, "--ready-fd", str(writing)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(writing,),
            start_new_session=True,
            cwd=project.root,
        )
    os.close(writing)
    try:
        with open(reading, "rb") as pipe:
            is_ready = pipe.read(len(READY)) == READY
        return None if is_ready else process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise


def tell_ready(descriptor: int) -> None:
    """Tell whoever started this supervisor that its fleet is registered."""
    with suppress(BrokenPipeError):  # they did not wait
        os.write(descriptor, READY)
    os.close(descriptor)


def stop_fleet(project: Project) -> str | None:
    """End the project's fleet in order and wait until it is gone; a supervisor that hangs is killed.

    Returns:
        The fleet's name, or None where none runs.

    Raises:
        FleetError: It could not be ended.
    """
    if not is_running(project):
        return None
    record = read_record(project)
    if record is None:
        raise FleetError(f"{project.root}: expected a fleet, got one that is starting or ending: try again")
    # The lock proves that its holder lives, so the number is the supervisor's.
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.kill(record.pid, number)
        limit_at = time.monotonic() + _STOP_LIMIT
        while time.monotonic() < limit_at:
            if not is_running(project):
                return record.fleet
            time.sleep(_LOOK_EVERY)
    raise FleetError(f"fleet {record.fleet!r} (pid {record.pid}) did not end within {2 * _STOP_LIMIT:g} s")


def tail(path: Path, n_lines: int) -> list[str]:
    """Return the last lines of the file at *path*; none where there is no such file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - n_lines * 2048))
            return file.read().decode(errors="replace").splitlines()[-n_lines:]
    except FileNotFoundError:
        return []
