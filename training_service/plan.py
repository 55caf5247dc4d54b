"""What the steps of a run are, decided before the first: pure numbers from the order and the size of the data."""

import math
from dataclasses import dataclass
from typing import Literal

from training_service.batch import steps_per_epoch
from training_service.request import Dpo, TrainingRequest


@dataclass(frozen=True, slots=True)
class Plan:
    """How many steps of what kind.

    Attributes:
        max_norm: The gradient's norm is cut to this; 0 leaves it.
        micro_rows: Most rows of one forward pass; None leaves it to the memory.
        packing: Rows of a pass stand one behind the other instead of padded.
        gradient_checkpointing: Activations are computed again instead of kept.
        dtype: What is computed in; what is trained is float32 always.
        dpo: Learn from pairs; None learns what the rows say.
    """

    steps: int
    batch_rows: int
    learning_rate: float
    weight_decay: float
    seed: int
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_steps: int = 0
    max_norm: float = 1.0
    micro_rows: int | None = None
    packing: bool = False
    gradient_checkpointing: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    dpo: Dpo | None = None

    def rate(self, step: int) -> float:
        """Return the learning rate of step *step*, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        if self.schedule == "linear":
            return self.learning_rate * (1 - done)
        if self.schedule == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate


def plan_of(request: TrainingRequest, n_rows: int) -> Plan:
    """Return the plan of *request* over *n_rows* usable rows or pairs; ``max_steps`` goes before ``epochs``."""
    each = steps_per_epoch(n_rows, request.batch_rows)
    steps = request.max_steps if request.max_steps is not None else max(1, math.ceil(request.epochs * each))
    return Plan(
        steps=steps,
        batch_rows=request.batch_rows,
        learning_rate=request.learning_rate,
        weight_decay=request.weight_decay,
        seed=request.seed,
        schedule=request.schedule,
        warmup_steps=request.warmup_steps,
        max_norm=request.max_norm,
        micro_rows=request.micro_rows,
        packing=request.packing,
        gradient_checkpointing=request.gradient_checkpointing,
        dtype=request.dtype,
        dpo=(request.dpo or Dpo()) if request.objective == "dpo" else None,
    )
