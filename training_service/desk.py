"""The child's decisions: which orders are taken, and what is done between them: its runs and its texts.

One thread calls it; every slice is short (one optimizer step, a few tokens), so that an order waits for one slice
at most. Reports go out through a function; the desk knows nothing of pipes.
"""

from collections.abc import Callable

import structlog
import torch

from training_service.adapters import Adapter, internal_name
from training_service.artifact import remove
from training_service.audit import audit, check_warnings
from training_service.bench import Bench
from training_service.errors import InUse, RequestInvalid, TrainingError
from training_service.event import (
    Generated,
    GenerateFailed,
    GenerateRequest,
    Prepared,
    Refused,
    Report,
    refusal,
)
from training_service.fault import log_fault
from training_service.generate import Writing
from training_service.owner import hash_key, is_same_owner, without_key
from training_service.quote import check_memory, measure
from training_service.rank_quote import check_ranks, held_bytes, quote_ranks
from training_service.ranks import Hosting
from training_service.record import RunRecord, RunState, find_record, save_record
from training_service.reference import check_unused
from training_service.request import TrainingRequest
from training_service.result import attach_adapter
from training_service.roster import MOST_RUNS, Roster
from training_service.run import Places
from training_service.scalars import check_event_files
from training_service.slots import Slot, Slots

log = structlog.get_logger()

MOST_TEXTS = 32
TOKENS_BETWEEN_STEPS = 16
"""Tokens that each text may write between two optimizer steps."""

RETRYABLE = {"out-of-memory", "disk-full", "lost"}
"""What may go well when the same task is run again."""


class Desk:
    """Everything that the child is doing.

    Args:
        slots: The bases in memory.
        places: Where runs, artifacts and adapters are kept.
        device: Where it computes.
        report: Is given every report that is no answer to an order.
        hosting: How runs over several processes are started; None refuses them.
        most_runs: LoRA runs on their slots at a time; the others are queued.

    Attributes:
        runs: The queue and the runs on their slots.
    """

    def __init__(
        self,
        slots: Slots,
        places: Places,
        *,
        device: torch.device,
        report: Callable[[Report], None],
        hosting: Hosting | None = None,
        most_runs: int = MOST_RUNS,
    ) -> None:
        self._slots = slots
        self._places = places
        self._device = device
        self._report = report
        self._hosting = hosting
        self.runs = Roster(slots, places, report=report, hosting=hosting, most_runs=most_runs)
        self._texts: dict[str, tuple[Writing, Slot, str | None]] = {}

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do until the next order."""
        return self.runs.is_idle and not self._texts

    def prepare(self, request: TrainingRequest, conversation_id: str | None) -> Prepared | Refused:
        """Audit and quote *request*; one that was prepared before gets the same answer."""
        try:
            known = find_record(self._places.runs, request.task_id)
            if known is not None:
                is_known = known.request == without_key(request)
                if not is_known or not is_same_owner(known.owner_sha256, request.owner_key):
                    raise RequestInvalid(f"expected a new task id, got that of another request: {request.task_id}")
                return known.prepared
            return self._quote(request, conversation_id)
        except Exception as error:
            return refusal(request.task_id, log_fault("task.refused", error, request.task_id))

    def _quote(self, request: TrainingRequest, conversation_id: str | None) -> Prepared | Refused:
        check_event_files(request)
        bench = Bench(request, self._slots, self._places.roots, use="quote")
        found = None
        try:
            tokenizer, stop_ids = bench.base.tokenizer, bench.base.stop_ids
            found = audit(bench.dataset, bench.evaluation, tokenizer, stop_ids=stop_ids)
            check_warnings(found, accepted=request.accept_warnings)
            bench.activate()
            n_evaluation = len(bench.evaluation.usable) if bench.evaluation is not None else 0
            if request.processes > 1:
                check_ranks(bench, self._hosting, self._device)
            held = held_bytes(self._device)
            quote = measure(bench.steps, n_evaluation=n_evaluation, device=self._device)
            if self._hosting is not None and request.processes > 1:
                quote = quote_ranks(quote, bench, held=held, n_hosts=self._hosting.n_hosts)
            check_memory(quote, self._device)
            prepared = Prepared(request.task_id, found, quote)
            record = RunRecord(
                without_key(request),
                RunState.PREPARED,
                prepared,
                bench.base.sha256,
                conversation_id=conversation_id,
                owner_sha256=hash_key(request.owner_key),
            )
            save_record(self._places.runs, record)
        except Exception as error:
            return refusal(request.task_id, log_fault("task.refused", error, request.task_id), found)
        finally:
            bench.close()
        log.info("task.accepted", task_id=request.task_id, steps=quote.steps, seconds=round(quote.seconds, 1))
        return prepared

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

    def delete_adapter(self, reference: str) -> None:
        """Remove one version of a result for good.

        Raises:
            InUse: An alias, a run or a text needs it. Nothing has changed.
            TrainingError: There is none of that name and version.
        """
        adapter, is_last = self._places.registry.delete(reference, may_go=self._check_unused)
        if is_last:
            remove(adapter.artifact)
        log.info("adapter.deleted", adapter=adapter.label)

    def _check_unused(self, adapter: Adapter) -> None:
        check_unused(adapter, self._places.runs)
        served, folder = internal_name("serve", adapter.artifact.sha256), adapter.artifact.path
        if any(name == served or slot.base.folder == folder for _, slot, name in self._texts.values()):
            raise InUse(f"expected a version that nobody uses, got {adapter.label}: a text is being written with it")

    def cancel_generate(self, request_id: str) -> None:
        """Stop a text; one that is over already is nothing to complain of."""
        if request_id in self._texts:
            for report in self._texts[request_id][0].finish("canceled"):
                self._report(report)
            self._end_text(request_id)

    def work(self) -> None:
        """Do one slice: a move of the queue, one step of one run, some tokens of every text."""
        self.runs.work(may_wait=not self._texts)
        for request_id in list(self._texts):
            self._write(request_id)

    def close(self) -> None:
        """End what works in other processes; every run goes on from its last checkpoint another time."""
        self.runs.close()

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
            fault = log_fault("run.failed", error, request_id)
            self._end_text(request_id)
            self._report(GenerateFailed(request_id, fault.code, str(fault)))

    def _end_text(self, request_id: str) -> None:
        _, slot, _ = self._texts.pop(request_id)
        slot.users.discard(request_id)
