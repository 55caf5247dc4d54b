"""One process of the operating system: start it, hear what it prints, end it with all it started."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bus.fleet.log_file import LineSplitter

_LAST_OUTPUT = 1.0  # seconds for output that is still under way once the process and its group are gone


@dataclass(frozen=True, slots=True)
class Command:
    """What to start.

    Attributes:
        environment: Variables on top of our own.
    """

    arguments: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)


class FleetProcess:
    """A process in a group of its own, so that a Ctrl-C at the terminal reaches the supervisor alone.

    Its standard input is the lifeline (see ``lifeline``): it closes when this process ends.
    """

    def __init__(self, transport: asyncio.SubprocessTransport, ears: _Ears) -> None:
        self._transport = transport
        self._ears = ears
        self.pid = transport.get_pid()

    @classmethod
    async def start(cls, command: Command, on_line: Callable[[bytes], None]) -> FleetProcess:
        """Start *command*; *on_line* gets each line that it prints, standard error included.

        Raises:
            OSError: The operating system refuses.
        """
        # Not create_subprocess_exec: its wait() waits for the pipes too, which a grandchild may keep open.
        transport, ears = await asyncio.get_running_loop().subprocess_exec(
            lambda: _Ears(on_line),
            *command.arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            cwd=command.folder,
            env={**os.environ, **command.environment, "PYTHONUNBUFFERED": "1"},
        )
        return cls(transport, ears)

    async def wait(self) -> int:
        """Wait until it has ended; return its exit code, negative for a signal.

        What it left running in its group is killed.
        """
        try:
            await self._ears.exited
            # While a member lives the group's number is taken; without one it is not reused this soon.
            self.kill()
            await asyncio.wait({self._ears.silent}, timeout=_LAST_OUTPUT)
        finally:
            self._ears.finish()
            self._transport.close()
        code = self._transport.get_returncode()
        assert code is not None  # it has exited
        return code

    def terminate(self) -> None:
        """Ask the process to finish and leave; its children are its own business."""
        with suppress(ProcessLookupError):
            self._transport.terminate()

    def kill(self) -> None:
        """End the process and everything in its group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


class _Ears(asyncio.SubprocessProtocol):
    """Hears a process's output and its end."""

    def __init__(self, on_line: Callable[[bytes], None]) -> None:
        loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[None] = loop.create_future()
        self.silent: asyncio.Future[None] = loop.create_future()
        self._on_line = on_line
        self._lines = LineSplitter()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Pass complete lines on."""
        for line in self._lines.feed(data):
            self._on_line(line)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """Note the end of the output."""
        if fd == 1 and not self.silent.done():
            self.silent.set_result(None)

    def process_exited(self) -> None:
        """Note the end of the process."""
        if not self.exited.done():
            self.exited.set_result(None)

    def finish(self) -> None:
        """Pass on a last line that had no end."""
        for line in self._lines.finish():
            self._on_line(line)
