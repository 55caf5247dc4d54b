"""Which rows a step takes: a pure function of (seed, step), so that a run may begin anywhere."""

import math
import random
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TypeVar

from training_service.data import Example, Pair

Row = TypeVar("Row", Example, Pair, Example | Pair)


def steps_per_epoch(n_rows: int, batch_rows: int) -> int:
    """Return how many batches one pass makes; the last may be short."""
    return math.ceil(n_rows / batch_rows)


def epoch_order(n_rows: int, *, seed: int, epoch: int) -> list[int]:
    """Return the order in which *epoch* goes over all rows, once each."""
    order = list(range(n_rows))
    random.Random(f"batches:{seed}:{epoch}").shuffle(order)
    return order


class Batches:
    """Which rows each step takes; keeps the order of the last epoch asked for, so that a step need not shuffle."""

    def __init__(self, n_rows: int, batch_rows: int, *, seed: int) -> None:
        self._n_rows, self._batch_rows, self._seed = n_rows, batch_rows, seed
        self._epoch, self._order = -1, [0]

    def indices(self, step: int) -> list[int]:
        """Return the rows of step *step*, counted from 0."""
        epoch, place = divmod(step, steps_per_epoch(self._n_rows, self._batch_rows))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(self._n_rows, seed=self._seed, epoch=epoch)
        return self._order[place * self._batch_rows : (place + 1) * self._batch_rows]


def examples_of(rows: Sequence[Example | Pair]) -> list[Example]:
    """Return what the model reads of *rows*: of pairs first every chosen answer, then every rejected one."""
    plain = [row for row in rows if isinstance(row, Example)]
    pairs = [row for row in rows if isinstance(row, Pair)]
    return [*plain, *(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]


def n_tokens(row: Example | Pair) -> int:
    """Return how many tokens the model reads of *row*."""
    return len(row.tokens) if isinstance(row, Example) else len(row.chosen.tokens) + len(row.rejected.tokens)


def micro_batches(
    rows: Sequence[Row], micro_rows: int | None, max_tokens: int, *, packing: bool = False
) -> Iterator[Sequence[Row]]:
    """Cut the rows of one step into parts of at most *micro_rows* rows and *max_tokens* tokens, padding counted.

    Packed rows have hardly any padding, so none is counted. A single row is a part, however long it is.
    """
    start = 0
    while start < len(rows):
        rest = rows[start : start + (micro_rows or len(rows))]
        if packing:
            totals = list(accumulate(n_tokens(row) for row in rest))
        else:
            totals = [n * widest for n, widest in enumerate(accumulate((_padded(row) for row in rest), max), 1)]
        n_rows = max(1, sum(1 for total in totals if total <= max_tokens))
        yield rest[:n_rows]
        start += n_rows


def n_computed(part: Sequence[Example | Pair], *, packing: bool = False) -> int:
    """Return how many tokens one forward pass over *part* takes, padding counted."""
    return sum(map(n_tokens, part)) if packing else len(part) * max(map(_padded, part))


def _padded(row: Example | Pair) -> int:
    """Return what *row* takes at least in a padded batch: a pair is two lines, as wide as the longer one."""
    return len(row.tokens) if isinstance(row, Example) else 2 * max(len(row.chosen.tokens), len(row.rejected.tokens))
