"""The child's decisions: which orders are taken, which runs are on their slots, whose slice is next.

One thread calls it; every slice is short (one optimizer step, a few tokens), so that an order waits for one slice
at most. Reports go out through a function; the desk knows nothing of pipes.
"""

import errno
from collections.abc import Callable

import structlog
import torch

from training_service.adapters import Adapter, internal_name
from training_service.audit import audit, check_warnings
from training_service.bench import Bench
from training_service.errors import (
    DiskFull,
    OutOfMemory,
    RequestInvalid,
    TrainingError,
)
from training_service.event import (
    FAILURE_CODES,
    Canceled,
    Failed,
    Generated,
    GenerateFailed,
    GenerateRequest,
    Paused,
    Prepared,
    Queued,
    Refused,
    Report,
    Trained,
    refusal,
)
from training_service.generate import Writing
from training_service.quote import check_memory, measure
from training_service.record import RunRecord, RunState, find_record, load_record, save_record
from training_service.request import TrainingRequest
from training_service.result import attach_adapter
from training_service.run import Places, Run
from training_service.slots import FairShare, Slot, Slots

log = structlog.get_logger()

MOST_RUNS = 8
"""LoRA runs on their slots at a time; the others are queued. One full run beside them."""

MOST_TEXTS = 32
TOKENS_BETWEEN_STEPS = 16
"""Tokens that each text may write between two optimizer steps."""

RETRYABLE = {"out-of-memory", "disk-full", "lost"}
"""What may go well when the same task is run again."""


def typed(error: Exception) -> TrainingError:
    """Return *error* as one of ours: a full disk and a lack of memory have a code, the rest is ``internal``."""
    if isinstance(error, TrainingError):
        return error
    text = str(error)
    no_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in text
    if no_memory or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return OutOfMemory("expected more free memory: take fewer rows a step, shorter rows, LoRA or a smaller base")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"{error.strerror}; free some room and run the task again")
    return TrainingError(f"{type(error).__name__}: {text or 'no detail'}")


class Desk:
    """Everything that the child is doing.

    Args:
        slots: The bases in memory.
        places: Where runs, artifacts and adapters are kept.
        device: Where it computes.
        report: Is given every report that is no answer to an order.
    """

    def __init__(self, slots: Slots, places: Places, *, device: torch.device, report: Callable[[Report], None]) -> None:
        self._slots = slots
        self._places = places
        self._device = device
        self._report = report
        self._queue: list[str] = []
        self._runs: dict[str, Run] = {}
        self._share = FairShare()
        self._texts: dict[str, tuple[Writing, Slot, str | None]] = {}

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do until the next order."""
        return not (self._queue or self._runs or self._texts)

    def prepare(self, request: TrainingRequest, conversation_id: str | None) -> Prepared | Refused:
        """Audit and quote *request*; one that was prepared before gets the same answer."""
        try:
            known = find_record(self._places.runs, request.task_id)
            if known is not None:
                if known.request != request:
                    raise RequestInvalid(f"expected a new task id, got that of another request: {request.task_id}")
                return known.prepared
            return self._quote(request, conversation_id)
        except Exception as error:
            return refusal(request.task_id, self._log("task.refused", error, request.task_id))

    def _quote(self, request: TrainingRequest, conversation_id: str | None) -> Prepared | Refused:
        bench = Bench(request, self._slots, self._places.roots, use="quote")
        found = None
        try:
            tokenizer, stop_ids = bench.base.tokenizer, bench.base.stop_ids
            found = audit(bench.dataset, bench.evaluation, tokenizer, stop_ids=stop_ids)
            check_warnings(found, accepted=request.accept_warnings)
            bench.activate()
            n_evaluation = len(bench.evaluation.usable) if bench.evaluation is not None else 0
            quote = measure(bench.steps, n_evaluation=n_evaluation, device=self._device)
            check_memory(quote, self._device)
            prepared = Prepared(request.task_id, found, quote)
            record = RunRecord(request, RunState.PREPARED, prepared, bench.base.sha256, conversation_id=conversation_id)
            save_record(self._places.runs, record)
        except Exception as error:
            return refusal(request.task_id, self._log("task.refused", error, request.task_id), found)
        finally:
            bench.close()
        log.info("task.accepted", task_id=request.task_id, steps=quote.steps, seconds=round(quote.seconds, 1))
        return prepared

    def start(self, task_id: str) -> list[Report]:
        """Queue the run of *task_id*, or say where it stands.

        Raises:
            NoSuchRun: It was never prepared.
        """
        record = load_record(self._places.runs, task_id)
        task_id = record.task_id
        if task_id in self._runs:
            return [Queued(task_id, 0), self._runs[task_id].started]
        if isinstance(record.ended, Trained | Canceled):
            return [record.ended]
        if task_id not in self._queue:
            self._queue.append(task_id)
        return [Queued(task_id, self._queue.index(task_id))]

    def pause(self, task_id: str) -> Paused:
        """Take a run off its slot, its state on disk.

        Raises:
            RequestInvalid: It has not started, or is over.
        """
        record = load_record(self._places.runs, task_id)
        task_id = record.task_id
        run = self._runs.get(task_id)
        if run is not None:
            checkpoint = run.checkpoint()
            record = run.record
            self._drop(task_id)
        elif record.checkpoint is not None and record.state in (RunState.RUNNING, RunState.PAUSED):
            checkpoint = record.checkpoint
            self._unqueue(task_id)
        else:
            raise RequestInvalid(f"expected a run that has started, got one that is {record.state}: {task_id}")
        if record.state is not RunState.PAUSED:
            save_record(self._places.runs, record.moved(RunState.PAUSED))
        paused = Paused(task_id, checkpoint.artifact)
        self._report(paused)
        return paused

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
            if run.step:
                run.checkpoint()
            record = run.record
            self._drop(task_id)
        self._unqueue(task_id)
        last = record.checkpoint.artifact if record.checkpoint is not None else None
        canceled = Canceled(task_id, last)
        save_record(self._places.runs, record.moved(RunState.CANCELED, ended=canceled))
        log.info("run.canceled", task_id=task_id)
        self._report(canceled)
        return canceled

    def generate(self, request: GenerateRequest) -> None:
        """Begin to write a text; its pieces are reports.

        Raises:
            TrainingError: The base or adapter cannot be used, the request is wrong, or too many texts are
                being written.
        """
        if len(self._texts) >= MOST_TEXTS:
            raise TrainingError(f"expected at most {MOST_TEXTS} texts at a time; ask again later")
        adapter = self._places.registry.find(request.adapter) if request.adapter else None
        base = request.base
        if adapter is not None and adapter.kind == "model":
            base = str(adapter.artifact.path)
        slot = self._slots.shared(base)
        name = self._serve(slot, adapter) if adapter is not None and adapter.kind == "adapter" else None
        label = adapter.label if adapter is not None else None
        writing = Writing(request, slot.base, adapter=label)
        self._texts[request.request_id] = (writing, slot, name)
        slot.users.add(request.request_id)

    def _serve(self, slot: Slot, adapter: Adapter) -> str:
        if adapter.base_sha256 != slot.base.sha256:
            raise RequestInvalid(
                f"expected an adapter of base {slot.base.name!r}, got {adapter.label} of {adapter.base!r}: "
                "other weights; name its own base"
            )
        name = internal_name("serve", adapter.artifact.sha256)
        if not slot.host.parameters(name):
            in_use = {used for _, other, used in self._texts.values() if other is slot and used is not None}
            slot.make_room(in_use)
            attach_adapter(slot.host, name, adapter.artifact)
        slot.served[name] = None
        slot.served.move_to_end(name)
        return name

    def cancel_generate(self, request_id: str) -> None:
        """Stop a text; one that is over already is nothing to complain of."""
        if request_id in self._texts:
            for report in self._texts[request_id][0].finish("canceled"):
                self._report(report)
            self._end_text(request_id)

    def work(self) -> None:
        """Do one slice: fill the slots, one step of one run, some tokens of every text."""
        self._fill()
        task_id = self._share.next()
        if task_id is not None:
            self._advance(task_id)
        for request_id in list(self._texts):
            self._write(request_id)

    def _fill(self) -> None:
        for task_id in list(self._queue):
            is_full = load_record(self._places.runs, task_id).request.method == "full"
            n_full = sum(run.record.request.method == "full" for run in self._runs.values())
            if (n_full if is_full else len(self._runs) - n_full) >= (1 if is_full else MOST_RUNS):
                continue
            self._queue.remove(task_id)
            self._begin(task_id)

    def _begin(self, task_id: str) -> None:
        record = load_record(self._places.runs, task_id)
        try:
            run = Run(record, self._slots, self._places)
        except Exception as error:
            self._fail(record if record.state is RunState.RUNNING else record.moved(RunState.RUNNING), error)
            return
        self._runs[task_id] = run
        self._share.add(task_id)
        event = "run.started" if run.started.resumed_from_step is None else "run.resumed"
        log.info(event, task_id=task_id, step=run.step, of_steps=run.started.of_steps)
        self._report(run.started)

    def _advance(self, task_id: str) -> None:
        run = self._runs[task_id]
        tokens = run.tokens
        try:
            reports = run.advance()
        except Exception as error:
            record = run.record
            self._drop(task_id)
            self._fail(record, error)
            return
        self._share.charge(task_id, max(1, run.tokens - tokens))
        if reports and isinstance(reports[-1], Trained):
            self._drop(task_id)
            log.info(
                "run.finished", task_id=task_id, adapter=reports[-1].adapter, seconds=round(reports[-1].used.seconds, 1)
            )
        for report in reports:
            self._report(report)

    def _fail(self, record: RunRecord, error: Exception) -> None:
        fault = self._log("run.failed", error, record.task_id)
        last = record.checkpoint.artifact if record.checkpoint is not None else None
        code = fault.code if fault.code in FAILURE_CODES else "internal"
        failed = Failed(record.task_id, code, str(fault), last, retryable=code in RETRYABLE)
        try:
            save_record(self._places.runs, record.moved(RunState.FAILED, ended=failed))
        except (OSError, TrainingError) as second:  # a full disk: the report still goes out
            self._log("run.failed", second, record.task_id)
        self._report(failed)

    def _write(self, request_id: str) -> None:
        writing, slot, name = self._texts[request_id]
        slot.host.activate(name)
        try:
            for _ in range(TOKENS_BETWEEN_STEPS):
                for report in writing.advance():
                    self._report(report)
                    if isinstance(report, Generated):
                        self._end_text(request_id)
                        return
        except Exception as error:
            fault = self._log("run.failed", error, request_id)
            self._end_text(request_id)
            self._report(GenerateFailed(request_id, fault.code, str(fault)))

    def _end_text(self, request_id: str) -> None:
        _, slot, _ = self._texts.pop(request_id)
        slot.users.discard(request_id)

    def _drop(self, task_id: str) -> None:
        self._share.remove(task_id)
        self._runs.pop(task_id).close()

    def _unqueue(self, task_id: str) -> None:
        if task_id in self._queue:
            self._queue.remove(task_id)

    @staticmethod
    def _log(event: str, error: Exception, name: str) -> TrainingError:
        fault = typed(error)
        unexpected = type(fault) is TrainingError
        log.warning(event, task_id=name, code=fault.code, detail=str(fault), exc_info=error if unexpected else None)
        return fault
