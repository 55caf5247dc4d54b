"""The runs of the child: queued, placed, stepped, suspended and ended, as ``turns`` decides.

Every call is short: one move of the queue and one slice of one run at most. Reports go out through a function. What
is not placed holds no memory; what it needs to go on is on disk.
"""

from collections.abc import Callable

import structlog

from training_service.errors import Lost, RequestInvalid, TrainingError
from training_service.event import (
    FAILURE_CODES,
    Canceled,
    Checkpoint,
    Failed,
    Lineup,
    Paused,
    Queued,
    Report,
    Suspended,
    Trained,
)
from training_service.fault import log_fault
from training_service.ranks import POLL, Hosting, Ranks
from training_service.record import RunRecord, RunState, load_record, save_record
from training_service.run import Places, Run
from training_service.slots import Slots
from training_service.turns import Entrant, Kind, Move, Turns

log = structlog.get_logger()

MOST_RUNS = 8
"""LoRA runs on their slots at a time; the others are queued. One full run beside them."""

RETRYABLE = {"out-of-memory", "disk-full", "lost"}
"""What may go well when the same task is run again."""


class Roster:
    """Every run that waits or is placed.

    Args:
        slots: The bases in memory.
        places: Where runs, artifacts and adapters are kept.
        report: Is given every report that is no answer to an order.
        hosting: How runs over several processes are started.
        most_runs: LoRA runs on their slots at a time.
    """

    def __init__(
        self,
        slots: Slots,
        places: Places,
        *,
        report: Callable[[Report], None],
        hosting: Hosting | None = None,
        most_runs: int = MOST_RUNS,
    ) -> None:
        self._slots = slots
        self._places = places
        self._report = report
        self._hosting = hosting
        self._turns = Turns({Kind.SHARED: most_runs, Kind.EXCLUSIVE: 1})
        self._runs: dict[str, Run | Ranks] = {}
        self._told = Lineup()

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do until the next order."""
        return self._turns.is_empty

    def start(self, task_id: str) -> list[Report]:
        """Queue the run of *task_id*, or say where it stands.

        Raises:
            NoSuchRun: It was never prepared.
        """
        record = load_record(self._places.runs, task_id)
        task_id = record.task_id
        if task_id in self._runs:
            return [Queued(task_id, 0), *_where(self._runs[task_id])]
        if isinstance(record.ended, Trained | Canceled):
            return [record.ended]
        if record.state is RunState.PAUSED:
            save_record(self._places.runs, record.moved(RunState.RUNNING))  # from now on it is meant to go on
        if task_id not in self._turns:
            kind = Kind.EXCLUSIVE if record.request.method == "full" else Kind.SHARED
            self._turns.enter(Entrant(task_id, record.owner_sha256 or "", record.request.priority, kind))
            self._tell_lineup()
        return [Queued(task_id, self._turns.position(task_id))]

    def attach(self, task_id: str) -> list[Report]:
        """Do as ``start``, but leave a run that was paused where it is: a message that comes back wakes nobody.

        Raises:
            NoSuchRun: It was never prepared.
        """
        record = load_record(self._places.runs, task_id)
        if record.state is not RunState.PAUSED or record.task_id in self._turns:
            return self.start(task_id)
        assert record.checkpoint is not None  # nothing is paused without one
        return [Queued(record.task_id, 0), Suspended(record.task_id, "owner", record.checkpoint.artifact)]

    def resume(self, task_id: str) -> list[Report]:
        """Queue a run that its owner wants to go on.

        Raises:
            RequestInvalid: Its quote was not taken, or it is over for good.
        """
        record = load_record(self._places.runs, task_id)
        if record.state is RunState.PREPARED and record.task_id not in self._turns:
            raise RequestInvalid(f"expected a run whose quote was taken, nobody has taken that of {task_id}")
        if isinstance(record.ended, Trained | Canceled):
            raise RequestInvalid(f"expected a run that is not over, got one that is {record.state}: {task_id}")
        return self.start(task_id)

    def pause(self, task_id: str, *, by_owner: bool) -> Paused:
        """Take a run off its slot, its state on disk; one that has not begun is begun for it.

        Whoever follows the run is told that it is paused, or, where its owner did it beside their conversation,
        that it is suspended.

        Raises:
            RequestInvalid: Nobody has ordered it to start, or it is over.
            DiskFull: There is no room for its state. It goes on.
        """
        record = load_record(self._places.runs, task_id)
        task_id = record.task_id
        if isinstance(record.ended, Trained) and not by_owner:  # its client could not know yet, and asks again
            return Paused(task_id, (record.checkpoint or record.ended).artifact)
        if task_id in self._turns or record.state is RunState.RUNNING:
            record = self._park(task_id)
        elif record.state is not RunState.PAUSED:
            raise RequestInvalid(f"expected a run that has started, got one that is {record.state}: {task_id}")
        if record.state is not RunState.PAUSED:
            if record.state is not RunState.RUNNING:  # it waited to be tried again
                record = record.moved(RunState.RUNNING, ended=None)
            record = record.moved(RunState.PAUSED)
            save_record(self._places.runs, record)
        assert record.checkpoint is not None
        paused = Paused(task_id, record.checkpoint.artifact)
        self._report(Suspended(task_id, "owner", paused.checkpoint) if by_owner else paused)
        return paused

    def _park(self, task_id: str) -> RunRecord:
        """Put the state of a run on disk, take it from its place or the queue, and return its record."""
        record = load_record(self._places.runs, task_id)
        run = self._runs.get(task_id)
        if run is not None:
            self._put_down(run)
            record = run.record
            self._drop(task_id)
        elif record.checkpoint is None:
            run = self._set_up(record)
            try:
                run.checkpoint()
                record = run.record
            finally:
                run.close()
        self._leave(task_id)
        return record

    def cancel(self, task_id: str) -> Canceled:
        """Stop a run for good, its last state on disk.

        Raises:
            RequestInvalid: It is trained already.
        """
        record = load_record(self._places.runs, task_id)
        task_id = record.task_id
        if isinstance(record.ended, Canceled):
            return record.ended
        if isinstance(record.ended, Trained):
            raise RequestInvalid(f"expected a run that is not over, got one that is trained: {task_id}")
        run = self._runs.get(task_id)
        if run is not None:
            try:
                if run.step:
                    self._put_down(run)
            except TrainingError as error:  # a full disk stops nobody from stopping
                log_fault("run.failed", error, task_id)
            record = run.record
        last = record.checkpoint.artifact if record.checkpoint is not None else None
        canceled = Canceled(task_id, last)
        try:  # before its place is told to be free: whoever asks then must not find a run that stands still
            save_record(self._places.runs, record.moved(RunState.CANCELED, ended=canceled))
        finally:
            if run is not None:
                self._drop(task_id)
            self._leave(task_id)
        log.info("run.canceled", task_id=task_id)
        self._report(canceled)
        return canceled

    def give_up(self, task_id: str, why: str) -> list[Report]:
        """Let a run fail as lost, because the child died under it again and again.

        Raises:
            NoSuchRun: It was never prepared.
        """
        record = load_record(self._places.runs, task_id)
        if record.task_id in self._runs:
            record = self._runs[record.task_id].record
            self._drop(record.task_id)
        self._leave(record.task_id)
        if not isinstance(record.ended, Trained | Canceled):
            self._fail(record if record.state is RunState.RUNNING else record.moved(RunState.RUNNING), Lost(why))
        return []

    def work(self, *, may_wait: bool = False) -> bool:
        """Do one move of the queue, and one slice of the run whose turn it is; hear what ranks report.

        Where there is nothing but ranks and runs that rest, it waits up to ``POLL`` seconds for them if it *may_wait*.

        Returns:
            Whether there was work to do here, and not only to wait for.
        """
        self._wake()
        move = self._turns.next_move()
        if move is not None:
            what, task_id = move
            if what is Move.PLACE:
                self._begin(task_id)
            else:
                self._evict(task_id)
        next_id = self._turns.next()
        if next_id is not None:
            self._advance(next_id)
        may_wait = may_wait and next_id is None
        for task_id in [task_id for task_id, run in self._runs.items() if isinstance(run, Ranks)]:
            self._advance(task_id, wait=POLL if may_wait else 0.0)
            may_wait = False
        if may_wait and self._turns.resting:
            self._run_at(self._turns.resting[0]).rest(POLL)
        return move is not None or next_id is not None

    def _wake(self) -> None:
        """Give the runs whose files are written their turns again."""
        for task_id in self._turns.resting:
            if not self._run_at(task_id).is_resting:
                self._turns.wake(task_id)

    def _run_at(self, task_id: str) -> Run:
        run = self._runs[task_id]
        assert isinstance(run, Run)  # ranks have processes of their own and no slices here
        return run

    def close(self) -> None:
        """End all ranks."""
        for run in self._runs.values():
            if isinstance(run, Ranks):
                run.close()

    def _set_up(self, record: RunRecord) -> Run | Ranks:
        if record.request.processes > 1 and self._hosting is not None:
            return Ranks(record, self._places.runs, self._hosting)
        return Run(record, self._slots, self._places)

    def _put_down(self, run: Run | Ranks) -> Checkpoint:
        checkpoint = run.checkpoint()
        for report in run.remaining() if isinstance(run, Ranks) else ():
            self._report(report)
        return checkpoint

    def _begin(self, task_id: str) -> None:
        record = load_record(self._places.runs, task_id)
        self._turns.place(task_id, by_slices=record.request.processes == 1)
        self._tell_lineup()
        try:
            run = self._set_up(record)
        except Exception as error:
            self._leave(task_id)
            self._fail(record if record.state is RunState.RUNNING else record.moved(RunState.RUNNING), error)
            return
        self._runs[task_id] = run
        event = "run.started" if run.started.resumed_from_step is None else "run.resumed"
        log.info(event, task_id=task_id, step=run.step, of_steps=run.started.of_steps)
        for report in _where(run):
            self._report(report)

    def _evict(self, task_id: str) -> None:
        run = self._runs[task_id]
        try:
            checkpoint = self._put_down(run)
        except Exception as error:
            self._end(task_id, error)
            return
        self._turns.evict(task_id)
        self._tell_lineup()
        self._runs.pop(task_id).close()
        self._report(Suspended(task_id, "priority", checkpoint.artifact))

    def _advance(self, task_id: str, *, wait: float = 0.0) -> None:
        run = self._runs[task_id]
        tokens = run.tokens
        try:
            reports = run.advance(wait) if isinstance(run, Ranks) else run.advance()
        except Exception as error:
            self._end(task_id, error)
            return
        if isinstance(run, Run):
            self._turns.charge(task_id, max(1, run.tokens - tokens))
            if run.is_resting:
                self._turns.rest(task_id)
        if reports and isinstance(reports[-1], Trained):
            self._drop(task_id)
        for report in reports:
            if isinstance(report, Trained):
                seconds = round(report.used.seconds, 1)
                log.info("run.finished", task_id=task_id, adapter=report.adapter, seconds=seconds)
            self._report(report)

    def _end(self, task_id: str, error: Exception) -> None:
        """Let a placed run fail; the others stay as they are."""
        record = self._runs[task_id].record
        self._drop(task_id)
        self._fail(record, error)

    def _fail(self, record: RunRecord, error: Exception) -> None:
        fault = log_fault("run.failed", error, record.task_id)
        last = record.checkpoint.artifact if record.checkpoint is not None else None
        code = fault.code if fault.code in FAILURE_CODES else "internal"
        failed = Failed(record.task_id, code, str(fault), last, retryable=code in RETRYABLE)
        try:
            save_record(self._places.runs, record.moved(RunState.FAILED, ended=failed))
        except (OSError, TrainingError) as second:  # a full disk: the report still goes out
            log_fault("run.failed", second, record.task_id)
        self._report(failed)

    def _drop(self, task_id: str) -> None:
        self._leave(task_id)
        self._runs.pop(task_id).close()

    def _leave(self, task_id: str) -> None:
        self._turns.leave(task_id)
        self._tell_lineup()

    def _tell_lineup(self) -> None:
        """Tell it before what else is told of the change: who hears of that asks where the run stands."""
        turns = self._turns
        lineup = Lineup(turns.placed, {task_id: turns.position(task_id) for task_id in turns.waiting})
        if lineup != self._told:
            self._told = lineup
            self._report(lineup)


def _where(run: Run | Ranks) -> list[Report]:
    """Return what tells somebody who comes late where *run* stands; what was told before is told again."""
    last = run.record.checkpoint
    return [run.started, *run.record.evaluations, *([last] if last is not None else [])]
