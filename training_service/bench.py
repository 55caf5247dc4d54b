"""What one order computes on: its model, its data and its steps; set up alike for the quote and for the run."""

from collections.abc import Hashable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import torch

from training_service.adapters import internal_name
from training_service.data import Dataset, Encoder, Example, Make, Pair, load_ordered
from training_service.errors import DataError
from training_service.event import Variant
from training_service.model import Base, free_all
from training_service.plan import plan_of
from training_service.request import Lora, TrainingRequest
from training_service.slots import Slot, Slots
from training_service.steps import Steps
from training_service.team import ALONE, Team
from training_service.variant import variants_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Bench:
    """A place on a shared slot (LoRA), or a private copy of the base (full).

    Args:
        request: The order.
        slots: Where bases are.
        roots: Folders that datasets may lie under.
        use: Keeps a quote and a run of one order apart.
        team: Who computes it together; full runs only.

    Raises:
        TrainingError: The base or the data cannot be used; nothing is left behind.
    """

    def __init__(
        self, request: TrainingRequest, slots: Slots, roots: tuple[Path, ...], *, use: str, team: Team = ALONE
    ) -> None:
        self.request = request
        self.name = internal_name(use, request.task_id)
        dtype = DTYPES[request.dtype]
        self.slot: Slot | None = slots.shared(request.base, dtype) if request.method == "lora" else None
        self.base: Base = self.slot.base if self.slot is not None else slots.private(request.base)
        self.encoder = Encoder(
            self.base.tokenizer,
            stop_ids=self.base.stop_ids,
            max_tokens=min(request.max_tokens or self.base.max_tokens, self.base.max_tokens),
            train_on=request.train_on,
        )
        self._encodings = slots.encodings
        self.dataset, self.evaluation = load_ordered(request, self.encoder, roots, recall=self._recall)
        rows = self._rows()
        untouched = self.slot  # the base that pairs are compared with; a full run's own changes
        if self.slot is None:
            parameters = free_all(self.base, freeze=request.freeze)
            if request.objective == "dpo":
                untouched = slots.shared(request.base)
        else:
            parameters = self.slot.host.attach(
                self.name, request.lora or Lora(), seed=request.seed, freeze=request.freeze
            )
        self._used = untouched
        if untouched is not None:
            untouched.users.add(self.name)
        try:
            model, trained = team.spread(self.base, parameters)
            self.steps = Steps(
                model,
                trained,
                rows,
                plan_of(request, len(rows)),
                pad_id=self.base.pad_id,
                team=team,
                reference=None if untouched is None else partial(untouched.host.untouched, then=self.name),
            )
        except BaseException:
            self.close()
            raise

    @property
    def standing(self) -> str:
        """What every rank of a run must agree on before the next step."""
        return f"{self.base.sha256}:{self.dataset.sha256}:{self.steps.step}"

    def whole(self) -> AbstractContextManager[object]:
        """Let ``base.model`` hold the present weights within the block, also where ranks hold a share each."""
        return self.steps.team.whole_model(self.base)

    def untouched(self) -> AbstractContextManager[object]:
        """Let a shared base compute alone within the block; a private copy is what it is."""
        return nullcontext() if self.slot is None else self.slot.host.untouched(then=self.name)

    def _rows(self) -> tuple[Example, ...] | tuple[Pair, ...]:
        """Return what the steps train on.

        Raises:
            DataError: There is nothing of what the objective needs.
        """
        wants_pairs = self.request.objective == "dpo"
        rows = self.dataset.pairs if wants_pairs else self.dataset.usable
        if not rows:
            wanted = "rows with 'chosen' and 'rejected'" if wants_pairs else "rows that train something"
            raise DataError(f"{self.request.dataset.uri}: expected {wanted} for {self.request.objective}, got none")
        return rows

    def variants(self) -> dict[Variant, Dataset]:
        """Return the held-out rows as each variant of the model is asked them; none where no row is held out.

        Raises:
            DataError: See ``variants_of``.
        """
        request, evaluation = self.request, self.evaluation
        if evaluation is None:
            return {}

        def make() -> tuple[Dataset, ...]:
            prompt, longest = request.system_prompt, self.base.max_tokens
            made = variants_of(evaluation, self.dataset, self.encoder, system_prompt=prompt, longest=longest)
            return tuple(made[variant] for variant in Variant if variant in made)

        split = (request.evaluation_share, request.seed)
        key = (self.dataset.sha256, evaluation.sha256, split, request.objective, request.system_prompt)
        found = self._recall(key, make)
        names = [one for one in Variant if len(found) == len(Variant) or one is not Variant.SYSTEM_PROMPT]
        return dict(zip(names, found, strict=True))

    def _recall(self, key: Hashable, make: Make) -> tuple[Dataset, ...]:
        """Return what was made of *key* with the same tokens, here or for another order."""
        texts, encoder = self.base.texts_sha256, self.encoder
        return self._encodings.get((key, texts, self.base.max_tokens, encoder.max_tokens, encoder.train_on), make)

    def activate(self) -> None:
        """Make the model compute for this order from now on."""
        if self.slot is not None:
            self.slot.host.activate(self.name)

    def close(self) -> None:
        """Give the memory back; the slot is then as if the order had never been there."""
        if self.slot is not None:
            self.slot.host.detach(self.name)
        if self._used is not None:
            self._used.users.discard(self.name)
