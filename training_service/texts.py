"""All texts that the child is writing: who writes next, on which base, together with whom."""

from collections import deque
from collections.abc import Callable, Sequence

import torch

from training_service.adapters import Adapter, Registry, internal_name
from training_service.errors import RequestInvalid, TrainingError
from training_service.event import Generated, GenerateFailed, GenerateRequest, Report
from training_service.fault import log_fault
from training_service.result import attach_adapter
from training_service.slots import Slot, Slots
from training_service.text import Text
from training_service.text_batch import TextBatch

MOST_TEXTS = 32


class Texts:
    """The texts, in batches that take turns; each turn is one pass.

    Args:
        slots: The bases in memory.
        registry: What the names of adapters mean.
        report: Is given every piece, end and failure.
    """

    def __init__(self, slots: Slots, registry: Registry, *, report: Callable[[Report], None]) -> None:
        self._slots = slots
        self._registry = registry
        self._report = report
        self._batches: deque[TextBatch] = deque()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self._batches

    def begin(self, request: GenerateRequest) -> None:
        """Begin a text.

        Raises:
            TrainingError: The base or adapter cannot be used, the request is wrong, or too many texts are
                being written.
        """
        if sum(len(batch.texts) for batch in self._batches) >= MOST_TEXTS:
            raise TrainingError(f"expected at most {MOST_TEXTS} texts at a time; ask again later")
        adapter = self._registry.find(request.adapter) if request.adapter else None
        slot = self._slots.shared(_base_of(request, adapter))
        name = self._serve(slot, adapter) if adapter is not None and adapter.kind == "adapter" else None
        text = Text(request, slot.base, adapter=adapter.label if adapter is not None else None)
        self._batches.append(TextBatch(text, slot, name))
        slot.users.add(request.request_id)

    def _serve(self, slot: Slot, adapter: Adapter) -> str:
        if adapter.base_sha256 != slot.base.sha256:
            raise RequestInvalid(
                f"expected an adapter of base {slot.base.name!r}, got {adapter.label} of {adapter.base!r}: "
                "other weights; name its own base, or none"
            )
        name = internal_name("serve", adapter.artifact.sha256)
        if not slot.host.parameters(name):
            slot.make_room({used for batch in self._batches if batch.slot is slot for used in batch.names if used})
            attach_adapter(slot.host, name, adapter.artifact)
        slot.served[name] = None
        slot.served.move_to_end(name)
        return name

    def uses(self, adapter: Adapter) -> bool:
        """Whether a text is being written with *adapter*, or with the model that it is."""
        served, folder = internal_name("serve", adapter.artifact.sha256), adapter.artifact.path
        return any(served in batch.names or batch.slot.base.folder == folder for batch in self._batches)

    def cancel(self, request_id: str) -> None:
        """Stop a text; one that is over already is nothing to complain of."""
        for batch in list(self._batches):
            for text in batch.texts:
                if text.request_id == request_id:
                    for report in text.finish("canceled"):
                        self._report(report)
                    self._batches.remove(batch)
                    self._go_on(batch, [one for one in batch.texts if one is not text])
                    return

    def write(self) -> None:
        """Do one pass of the batch whose turn it is: a token of each of its texts, or a part of a prompt."""
        batch = self._batches.popleft()
        try:
            logits = batch.advance()
        except Exception as error:
            self._part(batch, error)
            return
        if logits is None:
            self._batches.append(batch)
            return
        self._go_on(batch, [text for text, row in zip(batch.texts, logits, strict=True) if self._take(text, row)])

    def _take(self, text: Text, logits: torch.Tensor) -> bool:
        """Let *text* choose its next token; return whether it goes on."""
        try:
            reports = text.take(logits)
        except Exception as error:
            self._fail(text, error)
            return False
        for report in reports:
            self._report(report)
        return not (reports and isinstance(reports[-1], Generated))

    def _go_on(self, batch: TextBatch, live: Sequence[Text]) -> None:
        """Queue what is left of *batch*, with others where it may join them."""
        batch.slot.users -= {text.request_id for text in batch.texts if text not in live}
        if not live:
            return
        other: TextBatch | None = None
        try:
            batch.keep(live)
            other = next((one for one in self._batches if one.takes(batch)), None)
            if other is not None:
                other.join(batch)
            else:
                self._batches.append(batch)
        except Exception as error:  # no memory for a moment in which both are there
            log_fault("text.parted", error, batch.texts[0].request_id)
            if other is not None:
                self._batches.remove(other)
                self._batches.extend(other.parts())
            self._batches.extend(batch.parts())

    def _part(self, batch: TextBatch, error: Exception) -> None:
        """Let each text of a pass that failed go on alone; one that was alone fails."""
        if len(batch.texts) == 1:
            self._fail(batch.texts[0], error)
            self._go_on(batch, [])
            return
        log_fault("text.parted", error, batch.texts[0].request_id)
        self._batches.extend(batch.parts())

    def _fail(self, text: Text, error: Exception) -> None:
        fault = log_fault("run.failed", error, text.request_id)
        self._report(GenerateFailed(text.request_id, fault.code, str(fault)))


def _base_of(request: GenerateRequest, adapter: Adapter | None) -> str:
    if adapter is not None and adapter.kind == "model":
        return str(adapter.artifact.path)
    base = request.base or (adapter.base if adapter is not None else None)
    if base is None:
        raise RequestInvalid("expected a base or an adapter, got neither: name one")
    return base
