"""What ``palaver doctor`` looks at: one function for each check, none of which changes the project."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bus.cli.options import run
from bus.errors import PalaverError
from bus.fleet.project import SOCKET_PATH_BYTES, Project
from bus.sdk.client import Client

_NEEDED = ("pyzmq", "msgpack", "pydantic", "structlog", "PyYAML", "typer", "rich")
_TRAINING = ("torch", "transformers", "peft", "safetensors", "tokenizers")
_HOT = "bus.broker.broker"
_PYTHON = (3, 11)
_BROKER_WITHIN = 2.0
_FREE_BYTES = 1 << 30  # a checkpoint of a small model, with room


class Verdict(StrEnum):
    """How a check went."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check; *advice* says what to do."""

    check: str
    verdict: Verdict
    found: str
    advice: str = ""


def examine(project: Project, address: str) -> Iterator[Finding]:
    """Yield the finding of every check, the quick ones first."""
    yield _python()
    yield _packages()
    yield _training()
    yield _speed()
    yield _state_folder(project)
    yield _space(project)
    yield _socket_path(project, address)
    yield _sockets()
    yield _broker(address)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < _PYTHON:
        return Finding("python", Verdict.FAIL, version, "install Python 3.11 or newer")
    return Finding("python", Verdict.OK, version)


def _packages() -> Finding:
    missing = [name for name in _NEEDED if _version(name) is None]
    if missing:
        return Finding("packages", Verdict.FAIL, f"missing: {', '.join(missing)}", "install palaver again with pip")
    return Finding("packages", Verdict.OK, ", ".join(f"{name} {_version(name)}" for name in _NEEDED))


def _training() -> Finding:
    missing = [name for name in _TRAINING if _version(name) is None]
    if missing:
        advice = "pip install 'palaver[training]' where a training service is to run"
        return Finding("training", Verdict.WARN, f"missing: {', '.join(missing)}", advice)
    return Finding("training", Verdict.OK, ", ".join(f"{name} {_version(name)}" for name in _TRAINING))


def _speed() -> Finding:
    """Look whether the hot path is compiled, and by which event loop agents run; both only cost time."""
    spec = importlib.util.find_spec(_HOT)
    loop = "uvloop" if _version("uvloop") else "asyncio"
    if spec is None or str(spec.origin).endswith(".py"):
        advice = "`make compile` in a checkout, or a wheel for this platform: about twice as fast"
        return Finding("speed", Verdict.WARN, f"not compiled, {loop}", advice)
    return Finding("speed", Verdict.OK, f"compiled, {loop}")


def _state_folder(project: Project) -> Finding:
    folder = project.state_folder
    if not folder.exists():
        return Finding("state folder", Verdict.OK, f"{folder} (made by palaver up)")
    found = folder.stat()
    if found.st_uid != os.getuid() or not os.access(folder, os.W_OK | os.X_OK):
        return Finding("state folder", Verdict.FAIL, f"{folder} cannot be written", "change its owner, or remove it")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        return Finding("state folder", Verdict.WARN, f"{folder} has mode {mode:o}", f"chmod 700 {folder}")
    return Finding("state folder", Verdict.OK, str(folder))


def _space(project: Project) -> Finding:
    free = shutil.disk_usage(project.root).free
    found = f"{free / 2**30:.1f} GiB free"
    if free < _FREE_BYTES:
        return Finding("disk", Verdict.WARN, found, "the journal stops the broker when the disk is full: make room")
    return Finding("disk", Verdict.OK, found)


def _socket_path(project: Project, address: str) -> Finding:
    path = address.removeprefix("ipc://")
    if path == address:
        return Finding("address", Verdict.OK, address)
    length = len(os.fsencode(path))
    found = f"{address} ({length} of {SOCKET_PATH_BYTES} bytes)"
    if length > SOCKET_PATH_BYTES:
        return Finding("address", Verdict.FAIL, found, "give a shorter path with --bus or PALAVER_BUS")
    if Path(path).parent != project.state_folder.resolve() and address == project.address():
        return Finding("address", Verdict.OK, f"{found}: the project's own path is too long for a socket")
    return Finding("address", Verdict.OK, found)


def _sockets() -> Finding:
    """Try a unix socket in a temporary folder: some containers and network file systems refuse them."""
    try:
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
            server.bind(f"{folder}/s")
            server.listen()
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(f"{folder}/s")
    except OSError as error:
        return Finding("unix sockets", Verdict.FAIL, str(error), "use PALAVER_BUS=tcp://127.0.0.1:PORT")
    return Finding("unix sockets", Verdict.OK, "work")


def _broker(address: str) -> Finding:
    async def ask() -> int:
        async with Client(address, timeout=_BROKER_WITHIN) as client:
            return sum(bool(one["roles"]) for one in (await client.status())["agents"])

    try:
        n_agents = run(ask())
    except PalaverError as error:
        return Finding("broker", Verdict.WARN, str(error), "palaver up starts one")
    return Finding("broker", Verdict.OK, f"answers, {n_agents} agents")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
