"""Which rows a step takes: a pure function of (seed, step), so that a run may begin anywhere."""

import math
import random
from collections.abc import Iterator, Sequence
from itertools import accumulate

from training_service.data import Example


def steps_per_epoch(n_rows: int, batch_rows: int) -> int:
    """Return how many batches one pass makes; the last may be short."""
    return math.ceil(n_rows / batch_rows)


def batch_indices(n_rows: int, batch_rows: int, *, seed: int, step: int) -> tuple[int, ...]:
    """Return which rows step *step* (from 0) takes: a pure function, so a run may begin anywhere.

    Every epoch goes over all rows once, in an order that follows from (seed, epoch).
    """
    epoch, place = divmod(step, steps_per_epoch(n_rows, batch_rows))
    order = list(range(n_rows))
    random.Random(f"batches:{seed}:{epoch}").shuffle(order)
    return tuple(order[place * batch_rows : (place + 1) * batch_rows])


def micro_batches(rows: Sequence[Example], micro_rows: int | None, max_tokens: int) -> Iterator[Sequence[Example]]:
    """Cut the rows of one step so that no part has more than *micro_rows* rows or *max_tokens* padded tokens."""
    start = 0
    while start < len(rows):
        widths = accumulate((len(row.tokens) for row in rows[start:]), max)
        fit = sum(1 for n_rows, width in enumerate(widths, 1) if n_rows * width <= max_tokens)
        n_rows = max(1, min(fit, micro_rows or len(rows)))
        yield rows[start : start + n_rows]
        start += n_rows
