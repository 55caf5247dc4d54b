"""Random decisions that can be recorded, replayed and made fewer, so that a failing run becomes a short one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random


class Choices:
    """Where every decision of a run comes from.

    Args:
        seed: Draws fresh decisions; equal seeds give equal runs.
        recorded: Decisions to replay instead; behind their end everything is the first possibility.

    Attributes:
        taken: The decisions so far.
    """

    __slots__ = ("_draw", "_recorded", "taken")

    def __init__(self, seed: int | str = 0, *, recorded: Sequence[int] | None = None) -> None:
        self._draw = Random(seed).random
        self._recorded = recorded
        self.taken: list[int] = []

    def pick(self, n: int) -> int:
        """Return one of 0 … n - 1, all equally likely."""
        if n < 2:
            return 0
        if self._recorded is None:
            chosen = int(self._draw() * n)
        else:
            chosen = self._recorded[len(self.taken)] % n if len(self.taken) < len(self._recorded) else 0
        self.taken.append(chosen)
        return chosen

    def chance(self, probability: float) -> bool:
        """Return True with *probability*."""
        if probability <= 0.0:
            return False
        if self._recorded is None:
            happens = self._draw() < probability
        else:
            happens = len(self.taken) < len(self._recorded) and self._recorded[len(self.taken)] == 1
        self.taken.append(int(happens))
        return happens


def shortened(recorded: Sequence[int], fails: Callable[[list[int]], bool], *, attempts: int = 400) -> list[int]:
    """Return decisions that still fail, as few as *attempts* replays find.

    Args:
        fails: Replays decisions and says whether the run fails in the same way.
    """
    best = list(recorded)
    size = max(1, len(best) // 2)
    while attempts > 0:
        start, smaller = 0, False
        while start < len(best) and attempts > 0:
            attempts -= 1
            shorter = best[:start] + best[start + size :]
            if fails(shorter):
                best, smaller = shorter, True
            else:
                start += size
        if size == 1 and not smaller:
            break
        size = max(1, size // 2)
    return best
