"""At which steps a run is checkpointed and evaluated: known before its first step. Pure.

The run asks step by step, the quote asks how often: what is quoted is what is done.
"""

import math
from dataclasses import dataclass

from training_service.request import TrainingRequest

CHECKPOINTS_OF_A_RUN, FEWEST_STEPS = 10, 10
"""Where the request does not say: every tenth of the run, but not more often than this many steps."""


@dataclass(frozen=True, slots=True)
class Milestones:
    """What is done beside the steps.

    Attributes:
        steps: Of the whole run.
        checkpoint_every: Steps between two checkpoints.
        is_evaluated: There are held-out rows.
        evaluate_every: Steps between two evaluations; None leaves the first and the last.
        stops_early: Each evaluation whose loss is the best so far is checkpointed too.
    """

    steps: int
    checkpoint_every: int
    is_evaluated: bool = False
    evaluate_every: int | None = None
    stops_early: bool = False

    def is_evaluation(self, step: int) -> bool:
        """Return whether the held-out rows are scored after *step* steps: at 0 without tuning, then the tuned model."""
        every = self.evaluate_every
        return self.is_evaluated and (step in (0, self.steps) or (every is not None and step % every == 0))

    def is_checkpoint(self, step: int) -> bool:
        """Return whether the state is put on disk after *step* steps, whatever an evaluation found."""
        return step > 0 and step % self.checkpoint_every == 0

    @property
    def n_evaluations(self) -> int:
        """How often the tuned model is evaluated; early stopping makes it less."""
        if not self.is_evaluated:
            return 0
        return _multiples(self.steps, self.evaluate_every) + (not self._ends_on(self.evaluate_every))

    @property
    def most_checkpoints(self) -> int:
        """How many checkpoints are made if every evaluation is better than those before."""
        n_planned = _multiples(self.steps, self.checkpoint_every)
        if not self.stops_early or not self.is_evaluated:
            return n_planned
        both = self.evaluate_every and math.lcm(self.evaluate_every, self.checkpoint_every)
        n_shared = _multiples(self.steps, both)
        if self._ends_on(self.checkpoint_every) and not self._ends_on(self.evaluate_every):
            n_shared += 1  # the last evaluation stands on no multiple of its own
        return n_planned + self.n_evaluations - n_shared

    def _ends_on(self, every: int | None) -> bool:
        return every is not None and self.steps % every == 0


def milestones_of(request: TrainingRequest, steps: int, *, is_evaluated: bool) -> Milestones:
    """Return the milestones of a run of *steps* steps."""
    checkpoint_every = request.checkpoint_every or max(FEWEST_STEPS, math.ceil(steps / CHECKPOINTS_OF_A_RUN))
    stops_early = request.early_stopping is not None
    return Milestones(
        steps,
        checkpoint_every,
        is_evaluated=is_evaluated,
        evaluate_every=request.evaluate_every or (checkpoint_every if stops_early else None),
        stops_early=stops_early,
    )


def _multiples(steps: int, every: int | None) -> int:
    return steps // every if every else 0
