"""What is written down of a running fleet, so that other commands find it: ``.palaver/fleet.json``."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from bus.errors import FleetError
from bus.fleet.project import Project

_RECORD = "fleet.json"
_LOCK = "fleet.lock"


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """One supervised process as other commands see it."""

    name: str
    agent: str
    pid: int | None
    state: str
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class FleetRecord:
    """A running fleet.

    Attributes:
        pid: The supervisor's.
    """

    fleet: str
    pid: int
    address: str
    processes: tuple[ProcessRecord, ...] = ()


class FleetLock:
    """One supervisor for each project; the kernel lets go of the lock however its holder ends.

    Use it as a context manager around the life of a fleet. ``flock`` and not ``lockf``: it belongs to
    the open file, which children do not inherit, and no other ``close`` in this process drops it.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._descriptor = -1

    def __enter__(self) -> FleetLock:
        descriptor = _open_lock(self._project)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            running = read_record(self._project)
            who = f"fleet {running.fleet!r} (pid {running.pid})" if running else "another one"
            raise FleetError(
                f"{self._project.root}: expected no running fleet, got {who}: stop it with palaver down"
            ) from None
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        (self._project.state_folder / _RECORD).unlink(missing_ok=True)
        os.close(self._descriptor)


def is_running(project: Project) -> bool:
    """Return whether a supervisor holds this project."""
    if not (project.state_folder / _LOCK).exists():
        return False
    descriptor = _open_lock(project)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def write_record(project: Project, record: FleetRecord) -> None:
    """Replace the project's record in one step."""
    path = project.state_folder / _RECORD
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")
    fresh.replace(path)


def read_record(project: Project) -> FleetRecord | None:
    """Return the record of the running fleet, or None where none is or it was not written yet."""
    try:
        facts = json.loads((project.state_folder / _RECORD).read_text(encoding="utf-8"))
        processes = tuple(ProcessRecord(**one) for one in facts.pop("processes"))
        return FleetRecord(**facts, processes=processes)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        path: Path = project.state_folder / _RECORD
        raise FleetError(f"{path}: expected the record of a running fleet, got {error}: remove the file") from error


def _open_lock(project: Project) -> int:
    return os.open(project.state_folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
