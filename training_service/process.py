"""The child's life: started in the background, read, and started again when it dies. Loads no torch, never blocks.

Knows messages as plain data; what they mean is ``worker``'s.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import structlog

from training_service.event import Json
from training_service.pipe import LENGTH_BYTES, decode, decode_length, encode

log = structlog.get_logger()

BACK_OFF, BACK_OFF_LIMIT = 0.2, 30.0
"""Seconds between two starts of a child that keeps dying; doubles, and begins anew after a minute of life."""

STOP_LIMIT = 10.0
"""Seconds for the child to end by itself before it is killed."""


class ChildProcess:
    """One child after the other.

    Args:
        arguments: Of the interpreter, but for the pipe's descriptor.
        environment: Of the child.
        take: Is given every message that comes.
        lost: Is told how a child ended, each time one did.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        take: Callable[[Json], None],
        lost: Callable[[str], None],
    ) -> None:
        self._arguments = list(arguments)
        self._environment = dict(environment)
        self._take = take
        self._lost = lost
        self._child: asyncio.subprocess.Process | None = None
        self._has_spoken = False
        self._writer: asyncio.StreamWriter | None = None
        self._connected = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id, or None while there is none."""
        return self._child.pid if self._child is not None and self._child.returncode is None else None

    @property
    def is_kept(self) -> bool:
        """Whether a child is kept alive."""
        return self._keeper is not None

    async def start(self) -> None:
        """Have the child started in the background; returns at once."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="training child")

    async def stop(self) -> bool:
        """End the child and wait for its end; return whether there was one to end.

        One that has answered puts its work away first; one that has not is killed.
        """
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return False
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper
        return True

    async def connected(self) -> None:
        """Wait until a message can be sent."""
        await self._connected.wait()

    def send(self, message: Json) -> None:
        """Send *message*, or drop it where the child is gone: whoever waits for an answer is told so by ``lost``."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(encode(message))

    async def _keep(self) -> None:
        pause, loop = BACK_OFF, asyncio.get_running_loop()
        while True:
            started_at = loop.time()
            why = await self._live_once()
            log.warning("child.died", detail=why)
            self._lost(why)
            pause = BACK_OFF if loop.time() - started_at > 60 else pause
            await asyncio.sleep(pause)
            pause = min(pause * 2, BACK_OFF_LIMIT)

    async def _live_once(self) -> str:
        """Start a child, read it to its end, and return how it ended."""
        ours, theirs = socket.socketpair()
        try:
            child = await asyncio.create_subprocess_exec(
                sys.executable, *self._arguments, "--fd", str(theirs.fileno()), pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL, env=self._environment,
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        self._child, self._writer, self._has_spoken = child, writer, False
        self._connected.set()
        log.info("child.started", pid=child.pid)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await self._read(reader)
            writer.close()  # a child that lives reads the end and goes
            code = await self._end_of(child)
        except asyncio.CancelledError:
            writer.close()
            if not self._has_spoken:  # still loading its libraries, for seconds: it has nothing to put away
                with suppress(ProcessLookupError):
                    child.kill()
            await self._end_of(child)
            raise
        finally:
            self._connected.clear()
            self._writer = None
            with suppress(ConnectionError):
                await writer.wait_closed()
        return f"the training child was killed by signal {-code}" if code < 0 else f"the training child exited: {code}"

    async def _end_of(self, child: asyncio.subprocess.Process) -> int:
        try:
            return await asyncio.wait_for(child.wait(), STOP_LIMIT)
        except TimeoutError:
            child.kill()
            return await child.wait()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while True:
            length = decode_length(await reader.readexactly(LENGTH_BYTES))
            message = decode(await reader.readexactly(length))
            self._has_spoken = True
            self._take(message)


def child_environment(*, threads: int | None, allow_hub: bool) -> dict[str, str]:
    """Return the environment of a child: this process's own, and what keeps it quiet where that does not say."""
    # HF_TOKEN travels here and nowhere else.
    counted = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    hub = {} if allow_hub else {"HF_HUB_OFFLINE": "1"}
    return {**QUIET, **os.environ, **counted, **hub}


QUIET = {
    # How long a thread spins for the next piece of a step. Measured, two threads of two cores, the tiny base:
    # alone 67 ms a step with the library's own count, 72 with this one, 115 without spinning; beside two busy
    # processes 1,300, 145 and 118.
    "GOMP_SPINCOUNT": "1000",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""The child's environment where the service's own does not say otherwise."""
