"""How a child is ended: at once while it is still starting, and with time to put its work away once it has spoken."""

import asyncio
import os
from pathlib import Path

import pytest

from training_service import process
from training_service.process import ChildProcess

pytestmark = pytest.mark.integration
LIMIT = 60.0

CHILD = """
import pathlib, socket, sys, threading

kind, folder, _, descriptor = sys.argv[1:]
pipe = socket.socket(fileno=int(descriptor))
if kind == "silent":
    threading.Event().wait()
pipe.sendall(b"\\0\\0\\0\\2{}")
while pipe.recv(1):
    pass
pathlib.Path(folder, "down").touch()
"""
"""Silent, it does not hear that its pipe ends, as one that loads its libraries does not."""


async def start_and_stop(kind: str, folder: Path) -> None:
    """Stop a child as soon as it is there, or, where it is one that speaks, as soon as it has."""
    spoken = asyncio.Event()
    arguments = ["-c", CHILD, kind, str(folder)]
    child = ChildProcess(arguments, os.environ, take=lambda _: spoken.set(), lost=lambda why: pytest.fail(why))
    await child.start()
    await child.connected()
    if kind == "speaks":
        await spoken.wait()
    assert await child.stop()
    assert child.pid is None


def test_child_that_is_still_starting_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOP_LIMIT", 1e6)  # waited for, it would never end

    asyncio.run(asyncio.wait_for(start_and_stop("silent", tmp_path), LIMIT))

    assert not (tmp_path / "down").exists()


def test_child_that_has_spoken_ends_by_itself(tmp_path: Path) -> None:
    asyncio.run(asyncio.wait_for(start_and_stop("speaks", tmp_path), LIMIT))

    assert (tmp_path / "down").exists()
