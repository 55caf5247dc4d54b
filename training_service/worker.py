"""The service's end of the pipe: orders go to the warm child, reports come back. Loads no torch, never blocks.

The child is started in the background and started again when it dies; what was in flight then ends with the
code ``lost``, and running the same task again resumes it from its last checkpoint.
"""

import asyncio
import os
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from training_service.adapters import Registry
from training_service.errors import ArtifactDamaged, Lost, TrainingError, error_from_code
from training_service.event import (
    RUN_ENDS,
    Canceled,
    Failed,
    Generated,
    GenerateFailed,
    GenerateRequest,
    Json,
    Paused,
    Piece,
    Prepared,
    Progress,
    Refused,
    Report,
    RunEvent,
    RunSummary,
    Speech,
    generate_to_json,
    refusal,
    report_from_json,
)
from training_service.pipe import LENGTH_BYTES, decode, decode_length, encode
from training_service.record import all_records, find_record, load_record
from training_service.request import TrainingRequest

log = structlog.get_logger()

BACK_OFF, BACK_OFF_LIMIT = 0.2, 30.0
"""Seconds between two starts of a child that keeps dying; doubles, and begins anew after a minute of life."""

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

STOP_LIMIT = 10.0
"""Seconds for the child to end by itself before it is killed."""


@dataclass(slots=True, eq=False)
class _Reports:
    """What has come for one reader; of several progress reports in a row only the newest."""

    waiting: deque[Report] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    listening: bool = True  # a follower listens from the reply on that says where the run stands

    def put(self, report: Report) -> None:
        if not self.listening:
            return
        if isinstance(report, Progress) and self.waiting and isinstance(self.waiting[-1], Progress):
            self.waiting.pop()
        self.waiting.append(report)
        self.arrived.set()

    async def get(self) -> Report:
        while not self.waiting:
            self.arrived.clear()
            await self.arrived.wait()
        return self.waiting.popleft()


@dataclass(slots=True)
class _Call:
    reply: asyncio.Future[list[Report]]
    follower: _Reports | None = None


class Worker:
    """The training service without the bus. One for each state folder.

    Args:
        models_dir: Where bases that are made or fetched are kept.
        state_dir: Where ``runs/``, ``artifacts/`` and ``adapters/`` are kept.
        roots: Folders that datasets and local bases may lie under, besides *models_dir* and *state_dir*.
        allow_hub: Whether a base that is no local folder may be fetched.
        threads: Threads of the child's arithmetic; None leaves them to ``OMP_NUM_THREADS``. Exactness holds for
            one count.
        n_hosts: Hosts that a run over several processes is shared among; this is the first.
        rendezvous: ``address:port`` of this host where the others reach it.
    """

    def __init__(
        self,
        *,
        models_dir: Path,
        state_dir: Path,
        roots: tuple[Path, ...] = (),
        allow_hub: bool = False,
        threads: int | None = None,
        n_hosts: int = 1,
        rendezvous: str | None = None,
    ) -> None:
        self._models_dir = models_dir
        self._runs = state_dir / "runs"
        self._state_dir = state_dir
        self._roots = roots
        self._allow_hub = allow_hub
        self._threads = threads
        self._n_hosts = n_hosts
        self._rendezvous = rendezvous
        self.adapters = Registry(state_dir / "adapters")
        self._calls: dict[int, _Call] = {}
        self._n_calls = self._n_texts = 0
        self._followers: dict[str, set[_Reports]] = {}
        self._texts: dict[str, _Reports] = {}
        self._child: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._connected = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def child_pid(self) -> int | None:
        """The child's process id, or None while there is none."""
        return self._child.pid if self._child is not None and self._child.returncode is None else None

    async def start(self) -> None:
        """Have the child started in the background; returns at once. Orders given before it is warm wait."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep_child(), name="training child")

    async def stop(self) -> None:
        """End the child and wait for its end; runs in progress resume when they are run again."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper
        self._drop_all("the service was stopped")

    async def prepare(self, request: TrainingRequest, *, conversation_id: str | None = None) -> Prepared | Refused:
        """Audit the data of *request* and measure what the run will need; nothing is trained.

        The same task id prepared again gives the first answer again, whatever has become of the run. The
        *conversation_id* is kept in the provenance of what the run makes.
        """
        try:
            body = request.model_dump(mode="json")
            reports = await self._call({"command": "prepare", "request": body, "conversation_id": conversation_id})
        except Lost as error:
            return Refused(request.task_id, "no-memory", f"{error}; the dry step may have needed too much memory")
        except TrainingError as error:
            return refusal(request.task_id, error)
        (report,) = reports
        if not isinstance(report, Prepared | Refused):
            raise TrainingError(f"expected an answer to prepare, got {report!r}")
        return report

    async def run(self, task_id: str) -> AsyncIterator[RunEvent]:
        """Start, resume or re-attach to the run of *task_id* and follow it to one of ``RUN_ENDS``.

        The first report is ``Queued``, then ``Started`` (at once where the run is on its slot already); a run
        that is over gives its end alone. To stop reading does not stop the run.

        Raises:
            NoSuchRun: The task was never prepared.
        """
        load_record(self._runs, task_id)
        follower = _Reports(listening=False)
        self._followers.setdefault(task_id, set()).add(follower)
        try:
            try:
                await self._call({"command": "start", "task_id": task_id}, follower=follower)
            except Lost as error:
                yield self._lost(task_id, str(error))
                return
            while True:
                report = await follower.get()
                assert isinstance(report, RunEvent)
                yield report
                if isinstance(report, RUN_ENDS):
                    return
        finally:
            self._followers[task_id].discard(follower)
            if not self._followers[task_id]:
                del self._followers[task_id]

    async def pause(self, task_id: str) -> Paused:
        """Write a checkpoint at the end of the present step and take the run off its slot.

        Raises:
            TrainingError: There is no such run, it is over, or the child died.
        """
        (report,) = await self._call({"command": "pause", "task_id": task_id})
        assert isinstance(report, Paused)
        return report

    async def resume(self, task_id: str) -> None:
        """Let a paused run go on; ``run`` does so too, and follows it."""
        await self._call({"command": "start", "task_id": task_id})

    async def cancel(self, task_id: str) -> Canceled:
        """Stop the run for good, with a last checkpoint; one that is canceled already says so again.

        Raises:
            TrainingError: There is no such run, it is trained, or the child died.
        """
        (report,) = await self._call({"command": "cancel", "task_id": task_id})
        assert isinstance(report, Canceled)
        return report

    def runs(self) -> tuple[RunSummary, ...]:
        """Return every run of this state folder, as it stands on disk."""
        return tuple(record.summary() for record in all_records(self._runs))

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Speech]:
        """Write one text: pieces as they come, then ``Generated``. To stop reading stops the writing.

        Raises:
            TrainingError: Its code says why: no-such-base, no-such-adapter, bad-request, no-memory, lost.
        """
        self._n_texts += 1
        # A name of its own on the pipe: what is still on its way for an abandoned text reaches no later one.
        written = replace(request, request_id=f"{self._n_texts}:{request.request_id}")
        reports = self._texts[written.request_id] = _Reports()
        finished = False
        try:
            await self._call({"command": "generate", "request": generate_to_json(written)})
            while not finished:
                report = await reports.get()
                if isinstance(report, GenerateFailed):
                    finished = True
                    raise error_from_code(report.code, report.detail)
                assert isinstance(report, Piece | Generated)
                finished = isinstance(report, Generated)
                yield replace(report, request_id=request.request_id)
        finally:
            del self._texts[written.request_id]
            if not finished and self._writer is not None:
                self._send(self._writer, {"command": "cancel-generate", "request_id": written.request_id})

    async def _call(self, order: Json, *, follower: _Reports | None = None) -> list[Report]:
        if self._keeper is None:
            raise TrainingError("expected a started worker: call start() first")
        await self._connected.wait()
        assert self._writer is not None
        self._n_calls += 1
        number = self._n_calls
        call = _Call(asyncio.get_running_loop().create_future(), follower)
        self._calls[number] = call
        try:
            self._send(self._writer, {**order, "number": number})
            return await call.reply
        finally:
            self._calls.pop(number, None)

    @staticmethod
    def _send(writer: asyncio.StreamWriter, message: Json) -> None:
        if not writer.is_closing():
            writer.write(encode(message))

    async def _keep_child(self) -> None:
        pause, loop = BACK_OFF, asyncio.get_running_loop()
        while True:
            started_at = loop.time()
            why = await self._live_once()
            log.warning("child.died", detail=why)
            self._drop_all(why)
            pause = BACK_OFF if loop.time() - started_at > 60 else min(pause * 2, BACK_OFF_LIMIT)
            await asyncio.sleep(pause)

    async def _live_once(self) -> str:
        """Start a child, read it to its end, and return how it ended."""
        ours, theirs = socket.socketpair()
        try:
            child = await asyncio.create_subprocess_exec(
                sys.executable, *self._arguments(theirs.fileno()), pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL, env=self._environment(),
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        self._child, self._writer = child, writer
        self._connected.set()
        log.info("child.started", pid=child.pid)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await self._read(reader)
            writer.close()  # a child that lives reads the end and goes
            code = await self._end_of(child)
        except asyncio.CancelledError:
            writer.close()
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

    def _arguments(self, descriptor: int) -> list[str]:
        arguments = ["-m", "training_service.child", "--fd", str(descriptor)]
        arguments += ["--models", str(self._models_dir), "--state", str(self._state_dir)]
        for root in self._roots:
            arguments += ["--root", str(root)]
        arguments += ["--hosts", str(self._n_hosts)]
        arguments += ["--rendezvous", self._rendezvous] if self._rendezvous is not None else []
        return [*arguments, *(["--hub"] if self._allow_hub else [])]

    def _environment(self) -> dict[str, str]:
        # HF_TOKEN travels here and nowhere else.
        threads = {} if self._threads is None else {"OMP_NUM_THREADS": str(self._threads)}
        hub = {} if self._allow_hub else {"HF_HUB_OFFLINE": "1"}
        return {**QUIET, **os.environ, **threads, **hub}

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while True:
            length = decode_length(await reader.readexactly(LENGTH_BYTES))
            self._take(decode(await reader.readexactly(length)))

    def _take(self, message: Json) -> None:
        found = message["reports"]
        assert isinstance(found, list)
        reports = [report_from_json(one) for one in found]
        number = message.get("number")
        if number is None:
            for report in reports:
                self._spread(report)
            return
        assert isinstance(number, int)
        call = self._calls.get(number)
        if call is None or call.reply.done():
            return
        error = message.get("error")
        if isinstance(error, dict):
            call.reply.set_exception(error_from_code(str(error["code"]), str(error["detail"])))
            return
        if call.follower is not None:
            call.follower.listening = True
            for report in reports:
                call.follower.put(report)
        call.reply.set_result(reports)

    def _spread(self, report: Report) -> None:
        if isinstance(report, Piece | Generated | GenerateFailed):
            reader = self._texts.get(report.request_id)
            if reader is not None:
                reader.put(report)
            return
        for follower in self._followers.get(report.task_id, ()):
            follower.put(report)

    def _drop_all(self, why: str) -> None:
        """End everything in flight as lost."""
        for call in self._calls.values():
            if not call.reply.done():
                call.reply.set_exception(Lost(why))
        for task_id, followers in self._followers.items():
            for follower in [one for one in followers if one.listening]:
                follower.put(self._lost(task_id, why))
        for request_id, reader in self._texts.items():
            reader.put(GenerateFailed(request_id, Lost.code, why))

    def _lost(self, task_id: str, why: str) -> Failed:
        try:
            record = find_record(self._runs, task_id)
        except ArtifactDamaged:
            record = None
        last = record.checkpoint.artifact if record is not None and record.checkpoint is not None else None
        detail = f"{why}; run the task again: it resumes from " + ("its last checkpoint" if last else "the start")
        return Failed(task_id, Lost.code, detail, last, retryable=True)
