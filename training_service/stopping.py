"""Early stopping, decided anew from all evaluations each time: what a resumed run decides is what it decided. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from training_service.event import Evaluated, Variant
from training_service.request import EarlyStopping


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the held-out losses say: *best_step* has the loss after which none has fallen enough."""

    best_step: int | None
    is_over: bool


def tuned_losses(evaluations: Sequence[Evaluated]) -> list[tuple[int, float]]:
    """Return step and held-out loss of the tuned model, in the order of the steps."""
    found = [(one.step, one.score(Variant.TUNED)) for one in evaluations]
    return sorted((step, score.loss) for step, score in found if score is not None)


def judge(losses: Sequence[tuple[int, float]], rule: EarlyStopping | None) -> Verdict:
    """Return whether the steps are over and which was the best.

    A loss that is not below the best by more than ``min_delta`` is no fall, and one that is no number never is.
    Without a *rule* nothing ends early, and no step is better than the last.
    """
    if rule is None:
        return Verdict(None, False)
    best_step, best, n_since = None, math.inf, 0
    for step, loss in losses:
        if loss < best - (rule.min_delta if best_step is not None else 0.0):
            best_step, best, n_since = step, loss, 0
        else:
            n_since += 1
        if n_since >= rule.patience:
            return Verdict(best_step, True)
    return Verdict(best_step, False)
