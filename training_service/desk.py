"""The child's decisions: which orders are taken, and what is done between them: its runs and its texts.

One thread calls it; every slice is short (one optimizer step, one pass of texts), so that an order waits for one
slice at most. Reports go out through a function; the desk knows nothing of pipes.
"""

import time
from collections.abc import Callable

import structlog
import torch

from training_service.adapters import Adapter
from training_service.audit import audit, check_warnings
from training_service.bench import Bench
from training_service.errors import InUse, RequestInvalid
from training_service.event import GenerateRequest, Prepared, Refused, Report, refusal
from training_service.fault import log_fault
from training_service.memory import held_bytes
from training_service.owner import hash_key, is_same_owner, without_key
from training_service.quote import check_memory, quote_of, rehearse
from training_service.rank_quote import check_ranks, quote_ranks
from training_service.ranks import Hosting
from training_service.record import RunRecord, RunState, find_record, save_record
from training_service.reference import check_unused
from training_service.request import TrainingRequest
from training_service.roster import MOST_RUNS, Roster
from training_service.run import Places
from training_service.scalars import check_event_files
from training_service.share import Balance
from training_service.slots import Slots
from training_service.texts import Texts

log = structlog.get_logger()


class Desk:
    """Everything that the child is doing.

    Args:
        slots: The bases in memory.
        places: Where runs, artifacts and adapters are kept.
        device: Where it computes.
        report: Is given every report that is no answer to an order.
        hosting: How runs over several processes are started; None refuses them.
        most_runs: LoRA runs on their slots at a time; the others are queued.
        clock: Seconds; measures what runs and texts take.

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
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._slots = slots
        self._places = places
        self._device = device
        self._report = report
        self._hosting = hosting
        self.runs = Roster(slots, places, report=report, hosting=hosting, most_runs=most_runs)
        self._texts = Texts(slots, places.registry, report=report)
        self._balance = Balance()
        self._clock = clock

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do until the next order."""
        return self.runs.is_idle and self._texts.is_empty

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
        if request.adapter is not None:
            self._places.registry.check_name(request.adapter)
        bench = Bench(request, self._slots, self._places.roots, use="quote")
        found = None
        try:
            tokenizer, stop_ids = bench.base.tokenizer, bench.base.stop_ids
            found = audit(bench.dataset, bench.evaluation, tokenizer, stop_ids=stop_ids)
            check_warnings(found, accepted=request.accept_warnings)
            bench.activate()
            if request.processes > 1:
                check_ranks(bench, self._hosting, self._device)
            held = held_bytes(self._device)
            rehearsal = rehearse(bench, self._places.artifacts)
            quote = quote_of(rehearsal, bench)
            if self._hosting is not None and request.processes > 1:
                quote = quote_ranks(rehearsal, bench, held=held, n_hosts=self._hosting.n_hosts)
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
        self._texts.begin(request)

    def delete_adapter(self, reference: str) -> None:
        """Remove one version of a result for good.

        Raises:
            InUse: An alias, a run or a text needs it. Nothing has changed.
            TrainingError: There is none of that name and version.
        """
        adapter = self._places.registry.delete(reference, may_go=self._check_unused)
        log.info("adapter.deleted", adapter=adapter.label)

    def _check_unused(self, adapter: Adapter) -> None:
        check_unused(adapter, self._places.runs)
        if self._texts.uses(adapter):
            raise InUse(f"expected a version that nobody uses, got {adapter.label}: a text is being written with it")

    def cancel_generate(self, request_id: str) -> None:
        """Stop a text; one that is over already is nothing to complain of."""
        self._texts.cancel(request_id)

    def work(self) -> None:
        """Do one slice: one pass of some texts, or a move of the queue and one step of one run."""
        began_at = self._clock()
        if self.runs.is_idle or self._texts.is_empty:
            self._balance.clear()
        if not self._texts.is_empty and self._balance.is_for_texts:
            self._texts.write()
            self._balance.wrote(self._clock() - began_at)
        elif self.runs.work(may_wait=self._texts.is_empty):
            self._balance.ran(self._clock() - began_at)
        else:
            self._balance.clear()  # ranks work by themselves

    def close(self) -> None:
        """End what works in other processes; every run goes on from its last checkpoint another time."""
        self.runs.close()
