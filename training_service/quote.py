"""What a run will need, measured: steps of its plan are rehearsed, after which everything is as before.

A closed formula for memory was 12 to 43 % too low (TRAINING.md, trap 12). Each thing that a run does is done once,
at its largest where that decides the memory; how often it will be done is reckoned.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import TypeAlias

import torch

from training_service.artifact import rehearse_writing
from training_service.batch import n_computed
from training_service.bench import Bench
from training_service.data import Dataset, Example, Pair
from training_service.errors import NoMemory
from training_service.evaluate import parts_of, rehearse_part
from training_service.event import Quote, Variant
from training_service.memory import free_bytes, peak_bytes, reset_peak
from training_service.milestones import milestones_of
from training_service.model import Base, hash_tensors
from training_service.steps import MOMENTS, Steps

MOMENT_COPIES = len(MOMENTS) - 1
"""AdamW's two moments, each as large as the weights; the third is a number."""

DISK_COPIES = 3 * (MOMENT_COPIES + 1) + 1
"""Three checkpoints at a time, of weights and moments, while the newest is written; and the result."""

STEPS_SEEN = 256
"""From so many steps of the plan it is read how large a step is on average."""

ENOUGH_SECONDS, WARM_SECONDS, MOST_REHEARSED = 0.8, 0.4, 7
"""Steps of average size are rehearsed until they and the largest took so many seconds together or they were so many:
one at least where nothing was computed before, for the first step of a base is slower; where its slot is warm none
need be, and the second number counts."""

HASHED_NUMBERS = 2**20
"""Of a base, to find out how long all of it takes."""

Rows: TypeAlias = Sequence[Example | Pair]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What was measured and reckoned.

    Attributes:
        peak_bytes: The most memory that was held.
        step: Seconds of an average step.
        rest: Seconds of everything that is no step, in all.
    """

    peak_bytes: int
    step: float
    rest: float


def rehearse(bench: Bench, artifacts: Path) -> Rehearsal:
    """Measure what the run of *bench* does; takes no step.

    Weights, gradients and random state are afterwards what they were. The right adapter must be active, and is
    afterwards.

    Args:
        bench: At its beginning.
        artifacts: The folder that checkpoints and result will go to.

    Raises:
        RequestInvalid: The model cannot be trained as ordered.
        DataError: The held-out rows cannot be put to the untouched base.
        DiskFull: There is no room for a few megabytes.
    """
    steps, device = bench.steps, bench.base.device
    steps.check_model()
    variants = bench.variants()
    milestones = milestones_of(bench.request, steps.plan.steps, is_evaluated=bool(variants))
    reset_peak(device)
    with steps.rehearsal() as take:
        step = step_seconds(steps, _timed(take, device), is_warm=bench.slot is not None and bench.slot.is_warm)
        scoring = _scoring_seconds(bench, variants, n_tuned=milestones.n_evaluations)
        peak = peak_bytes(device)
    if bench.slot is not None:
        bench.slot.is_warm = True
    return Rehearsal(
        peak, step, scoring + _writing_seconds(bench, artifacts, n_checkpoints=milestones.most_checkpoints)
    )


def quote_of(rehearsal: Rehearsal, bench: Bench) -> Quote:
    """Return what the run of *bench* will need in one process."""
    n_steps = bench.steps.plan.steps
    return Quote(
        peak_memory_bytes=rehearsal.peak_bytes,
        disk_bytes=DISK_COPIES * trained_bytes(bench.steps),
        steps=n_steps,
        seconds=rehearsal.step * n_steps + rehearsal.rest,
        device=str(bench.base.device),
    )


def trained_bytes(steps: Steps) -> int:
    """Return the size of all that is trained."""
    return _bytes(steps.parameters.values())


def check_memory(quote: Quote, device: torch.device) -> None:
    """See that the run fits.

    Raises:
        NoMemory: The quote is above what this process holds and what is free beside it.
    """
    limit = free_bytes(device)
    if limit is not None and quote.peak_memory_bytes > limit:
        raise NoMemory(
            f"expected at most {limit / 1e9:.1f} GB, the run would need {quote.peak_memory_bytes / 1e9:.1f} GB: "
            "take fewer rows a step, shorter rows, LoRA or a smaller base"
        )


def step_seconds(steps: Steps, take: Callable[[Rows], float], *, is_warm: bool) -> float:
    """Rehearse the largest step there may be, then steps of average size; return the seconds of one of those.

    Args:
        steps: Whose.
        take: Rehearses a step with some rows and returns its seconds.
        is_warm: Whether the base has computed before.
    """
    seen = [steps.rows_of(step) for step in range(min(steps.plan.steps, STEPS_SEEN))]
    sizes, largest = [steps.n_computed(rows) for rows in seen], steps.largest_rows()
    average, most = mean(sizes), steps.n_computed(largest)
    took = take(largest)
    first = took * average / most
    found: list[float] = []
    enough, n_least = (WARM_SECONDS, 0) if is_warm else (ENOUGH_SECONDS, 1)
    for step in sorted(range(len(seen)), key=lambda step: abs(sizes[step] - average))[:MOST_REHEARSED]:
        if took > enough and len(found) >= n_least:
            break
        seconds = take(seen[step])
        found.append(seconds * average / sizes[step])
        took += seconds
    return median(found) if len(found) > 1 else min([first, *found])  # what is cold or disturbed is only ever slower


def _timed(take: Callable[[Rows], None], device: torch.device) -> Callable[[Rows], float]:
    """Return *take* with the seconds that it takes as its value."""

    def timed(rows: Rows) -> float:
        began_at = time.perf_counter()
        take(rows)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began_at

    return timed


def _scoring_seconds(bench: Bench, variants: Mapping[Variant, Dataset], *, n_tuned: int) -> float:
    """Score the largest batch of held-out rows, with and without the adapter, and return what all evaluations take."""
    total = 0.0
    for is_tuned, way in ((False, bench.untouched), (True, nullcontext)):
        asked = [rows for variant, rows in variants.items() if (variant is Variant.TUNED) is is_tuned]
        largest = max((part for rows in asked for part in parts_of(rows)), key=n_computed, default=None)
        if largest is not None:
            with way():
                pace = rehearse_part(bench.base.model, bench.base, largest)
            total += sum(map(pace.seconds, asked)) * (n_tuned if is_tuned else 1)
    return total


def _writing_seconds(bench: Bench, artifacts: Path, *, n_checkpoints: int) -> float:
    """Return what checkpoints, each with the run's record, and result take, with the hash of a shared base."""
    pace, trained = rehearse_writing(artifacts), trained_bytes(bench.steps)
    checkpoints = n_checkpoints * (pace.seconds((1 + MOMENT_COPIES) * trained) + pace.sealing)
    if bench.slot is None:
        return checkpoints + pace.seconds(_bytes(bench.base.weights.values()), throttled=False)
    return checkpoints + pace.seconds(trained) + _hash_seconds(bench.base)


def _hash_seconds(base: Base) -> float:
    """Return how long it takes to see that *base* is unchanged, by doing it with a part of it."""
    part = max(base.weights.values(), key=torch.Tensor.numel).detach().flatten()[:HASHED_NUMBERS]
    began_at = time.perf_counter()
    hash_tensors({"part": part})
    return (time.perf_counter() - began_at) * _bytes(base.weights.values()) / _bytes([part])


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)
