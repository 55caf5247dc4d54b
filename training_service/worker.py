"""The service's end of the pipe: orders go to the warm child, reports come back. Loads no torch, never blocks.

The child is started in the background and started again when it dies; what was in flight then ends with the
code ``lost``, and running the same task again resumes it from its last checkpoint.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
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
    Lineup,
    Metrics,
    Paused,
    Piece,
    Prepared,
    Progress,
    Queued,
    Refused,
    Report,
    RunEvent,
    RunSummary,
    Speech,
    generate_to_json,
    refusal,
    report_from_json,
)
from training_service.process import ChildProcess, child_environment
from training_service.record import RunRecord, RunState, all_records, find_record, load_record
from training_service.request import TrainingRequest

log = structlog.get_logger()

QUEUED = "queued"
"""The state of a run that waits for a place; on disk there is none such."""

QUEUE_LIMIT = 10.0
"""Seconds that a client waits for its place in the queue; the protocol gives 30."""

STANDS_STILL = "the service was stopped under it: it goes on with its conversation, or when it is resumed"


@dataclass(slots=True, eq=False)
class Reports:
    """What has come for one reader; of several progress reports in a row only the newest."""

    waiting: deque[Report] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    listening: bool = True  # a follower listens from the reply on that says where the run stands

    def put(self, report: Report) -> None:
        """Add a report."""
        if not self.listening:
            return
        if isinstance(report, Progress) and self.waiting and isinstance(self.waiting[-1], Progress):
            self.waiting.pop()
        self.waiting.append(report)
        self.arrived.set()

    async def get(self) -> Report:
        """Wait for the next report."""
        while not self.waiting:
            self.arrived.clear()
            await self.arrived.wait()
        return self.waiting.popleft()


@dataclass(slots=True)
class _Call:
    reply: asyncio.Future[list[Report]]
    follower: Reports | None = None


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
        self.runs_folder = state_dir / "runs"
        self._state_dir = state_dir
        self._roots = roots
        self._allow_hub = allow_hub
        self._n_hosts = n_hosts
        self._rendezvous = rendezvous
        self.adapters = Registry(state_dir / "adapters")
        self._calls: dict[int, _Call] = {}
        self._n_calls = self._n_texts = 0
        self._followers: dict[str, set[Reports]] = {}
        self._texts: dict[str, Reports] = {}
        self._lineup = Lineup()
        self._newest: dict[str, Metrics] = {}  # of the runs that are placed
        environment = child_environment(threads=threads, allow_hub=allow_hub)
        self._child = ChildProcess(self._arguments(), environment, take=self._take, lost=self._drop_all)

    @property
    def child_pid(self) -> int | None:
        """The child's process id, or None while there is none."""
        return self._child.pid

    async def start(self) -> None:
        """Have the child started in the background; returns at once. Orders given before it is warm wait."""
        await self._child.start()

    async def stop(self) -> None:
        """End the child and wait for its end; runs in progress resume when they are run again."""
        if await self._child.stop():
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
            return Refused(request.task_id, "no-memory", f"{error}; the rehearsed step may have needed too much memory")
        except TrainingError as error:
            return refusal(request.task_id, error)
        (report,) = reports
        if not isinstance(report, Prepared | Refused):
            raise TrainingError(f"expected an answer to prepare, got {report!r}")
        return report

    async def run(self, task_id: str, *, resumes: bool = True) -> AsyncIterator[RunEvent]:
        """Start, resume or re-attach to the run of *task_id* and follow it to one of ``RUN_ENDS``.

        With *resumes* false a run that was paused stays so: ``Suspended`` says it, and more comes when it goes on.
        Otherwise the first report is ``Queued``, then ``Started`` (at once where the run is on its slot already); a run
        that is over gives its end alone. To stop reading does not stop the run.

        Raises:
            NoSuchRun: The task was never prepared.
        """
        load_record(self.runs_folder, task_id)
        follower = Reports(listening=False)
        self._followers.setdefault(task_id, set()).add(follower)
        try:
            try:
                command = "start" if resumes else "attach"
                await self._call({"command": command, "task_id": task_id}, follower=follower)
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
            self._leave(task_id, follower)

    async def enqueue(self, task_id: str) -> int:
        """Queue the run of *task_id* as ``run`` does and return how many are before it.

        Where the child is in a long step or gone, that is a guess, and ``run`` queues it.
        """
        with suppress(TimeoutError, Lost):
            async with asyncio.timeout(QUEUE_LIMIT):
                for report in await self._call({"command": "attach", "task_id": task_id}):
                    if isinstance(report, Queued):
                        return report.position
        return len(self._lineup.waiting)

    @contextmanager
    def listen(self, task_id: str) -> Iterator[Reports]:
        """Give what the run of *task_id* reports from now on; starts nothing and ends nothing."""
        reports = Reports()
        self._followers.setdefault(task_id, set()).add(reports)
        try:
            yield reports
        finally:
            self._leave(task_id, reports)

    def _leave(self, task_id: str, follower: Reports) -> None:
        self._followers[task_id].discard(follower)
        if not self._followers[task_id]:
            del self._followers[task_id]

    async def pause(self, task_id: str, *, by_owner: bool = False) -> Paused:
        """Write a checkpoint at the end of the present step and take the run off its slot.

        Whoever follows the run gets ``Paused``, its last report; or ``Suspended`` where its owner did it beside
        their conversation.

        Raises:
            TrainingError: There is no such run, it is over, or the child died.
        """
        by = "owner" if by_owner else "client"
        (report,) = await self._call({"command": "pause", "task_id": task_id, "by": by})
        assert isinstance(report, Paused)
        return report

    async def resume(self, task_id: str) -> None:
        """Let a run go on that was paused, failed, or stood still since the service was stopped.

        Raises:
            TrainingError: There is no such run, it was never to begin, it is over for good, or the child died.
        """
        await self._call({"command": "resume", "task_id": task_id})

    async def give_up(self, task_id: str, why: str) -> None:
        """Let a run fail as lost: the child has died under it again and again."""
        await self._call({"command": "give-up", "task_id": task_id, "why": why})

    async def cancel(self, task_id: str) -> Canceled:
        """Stop the run for good, with a last checkpoint; one that is canceled already says so again.

        Raises:
            TrainingError: There is no such run, it is trained, or the child died.
        """
        (report,) = await self._call({"command": "cancel", "task_id": task_id})
        assert isinstance(report, Canceled)
        return report

    def runs(self) -> tuple[RunSummary, ...]:
        """Return every run of this state folder, as it stands now."""
        return tuple(self.summary(record) for record in all_records(self.runs_folder))

    def summary(self, record: RunRecord) -> RunSummary:
        """Return where the run of *record* stands: what is on disk, and what the child says of places and queue."""
        found, lineup = record.summary(), self._lineup
        if record.state in (RunState.TRAINED, RunState.CANCELED):
            return found
        if record.task_id in lineup.placed:
            newest = self._newest.get(record.task_id)
            found = replace(found, state=RunState.RUNNING, detail=None)
            return found if newest is None else replace(found, step=newest.step, loss=newest.loss)
        if record.task_id in lineup.waiting:
            return replace(found, state=QUEUED, position=lineup.waiting[record.task_id], detail=None)
        if record.state is RunState.RUNNING:
            return replace(found, state=RunState.PAUSED, detail=STANDS_STILL)
        return found

    async def delete_adapter(self, reference: str) -> None:
        """Remove one version, ``name@version``, for good.

        Raises:
            TrainingError: Its code says why: in-use, no-such-adapter, bad-request.
        """
        await self._call({"command": "delete-adapter", "adapter": reference})

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Speech]:
        """Write one text: pieces as they come, then ``Generated``. To stop reading stops the writing.

        Raises:
            TrainingError: Its code says why: no-such-base, no-such-adapter, bad-request, no-memory, lost.
        """
        self._n_texts += 1
        # A name of its own on the pipe: what is still on its way for an abandoned text reaches no later one.
        written = replace(request, request_id=f"{self._n_texts}:{request.request_id}")
        reports = self._texts[written.request_id] = Reports()
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
            if not finished:
                self._child.send({"command": "cancel-generate", "request_id": written.request_id})

    async def _call(self, order: Json, *, follower: Reports | None = None) -> list[Report]:
        if not self._child.is_kept:
            raise TrainingError("expected a started worker: call start() first")
        await self._child.connected()
        self._n_calls += 1
        number = self._n_calls
        call = _Call(asyncio.get_running_loop().create_future(), follower)
        self._calls[number] = call
        try:
            self._child.send({**order, "number": number})
            return await call.reply
        finally:
            self._calls.pop(number, None)

    def _arguments(self) -> list[str]:
        arguments = ["-m", "training_service.warm_start"]
        arguments += ["--models", str(self._models_dir), "--state", str(self._state_dir)]
        for root in self._roots:
            arguments += ["--root", str(root)]
        arguments += ["--hosts", str(self._n_hosts)]
        arguments += ["--rendezvous", self._rendezvous] if self._rendezvous is not None else []
        return [*arguments, *(["--hub"] if self._allow_hub else [])]

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
        if isinstance(report, Lineup):
            self._lineup = report
            self._newest = {name: one for name, one in self._newest.items() if name in report.placed}
            return
        if isinstance(report, Progress):
            self._newest[report.task_id] = report.metrics
        for follower in self._followers.get(report.task_id, ()):
            follower.put(report)

    def _drop_all(self, why: str) -> None:
        """End everything in flight as lost."""
        self._lineup = Lineup()
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
            record = find_record(self.runs_folder, task_id)
        except ArtifactDamaged:
            record = None
        last = record.checkpoint.artifact if record is not None and record.checkpoint is not None else None
        detail = f"{why}; run the task again: it resumes from " + ("its last checkpoint" if last else "the start")
        return Failed(task_id, Lost.code, detail, last, retryable=True)
