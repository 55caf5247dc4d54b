"""What one order computes on: its model, its data and its steps; set up alike for the quote and for the run."""

from pathlib import Path

from training_service.adapters import internal_name
from training_service.data import Dataset, Encoder, load_ordered
from training_service.event import Variant
from training_service.model import Base, free_all
from training_service.request import Lora, TrainingRequest
from training_service.slots import Slot, Slots
from training_service.steps import Steps, plan_of
from training_service.variant import variants_of


class Bench:
    """A place on a shared slot (LoRA), or a private copy of the base (full).

    Args:
        request: The order.
        slots: Where bases are.
        roots: Folders that datasets may lie under.
        use: Keeps a quote and a run of one order apart.

    Raises:
        TrainingError: The base or the data cannot be used; nothing is left behind.
    """

    def __init__(self, request: TrainingRequest, slots: Slots, roots: tuple[Path, ...], *, use: str) -> None:
        self.request = request
        self.name = internal_name(use, request.task_id)
        self.slot: Slot | None = slots.shared(request.base) if request.method == "lora" else None
        self.base: Base = self.slot.base if self.slot is not None else slots.private(request.base)
        self.encoder = Encoder(
            self.base.tokenizer,
            stop_ids=self.base.stop_ids,
            max_tokens=min(request.max_tokens or self.base.max_tokens, self.base.max_tokens),
            train_on=request.train_on,
        )
        self.dataset, self.evaluation = load_ordered(request, self.encoder, roots)
        if self.slot is None:
            parameters = free_all(self.base)
        else:
            parameters = self.slot.host.attach(self.name, request.lora or Lora(), seed=request.seed)
            self.slot.users.add(self.name)
        rows = self.dataset.usable
        self.steps = Steps(self.base.model, parameters, rows, plan_of(request, len(rows)), pad_id=self.base.pad_id)

    def variants(self) -> dict[Variant, Dataset]:
        """Return the held-out rows as each variant of the model is asked them; none where no row is held out.

        Raises:
            DataError: See ``variants_of``.
        """
        if self.evaluation is None:
            return {}
        prompt, longest = self.request.system_prompt, self.base.max_tokens
        return variants_of(self.evaluation, self.dataset, self.encoder, system_prompt=prompt, longest=longest)

    def activate(self) -> None:
        """Make the model compute for this order from now on."""
        if self.slot is not None:
            self.slot.host.activate(self.name)

    def close(self) -> None:
        """Give the memory back; the slot is then as if the order had never been there."""
        if self.slot is not None:
            self.slot.host.detach(self.name)
            self.slot.users.discard(self.name)
