"""What a run will need, measured: one real forward and backward pass, after which everything is as before.

A closed formula for memory was 12 to 43 % too low (TRAINING.md, trap 12).
"""

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from training_service.data import Example, Pair
from training_service.errors import NoMemory
from training_service.event import Quote
from training_service.steps import MOMENTS, Steps, swap_randomness

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MEMORY = Path("/proc/meminfo")
MOMENT_COPIES = len(MOMENTS) - 1
"""AdamW's two moments, each as large as the weights; the third is a number."""

DISK_COPIES = 3 * (MOMENT_COPIES + 1) + 1
"""Three checkpoints at a time, of weights and moments, while the newest is written; and the result."""

LONG_STEP = 5.0
"""Seconds; a first pass that took longer is not done again for a better clock."""


def measure(steps: Steps, *, n_evaluation: int, device: torch.device) -> Quote:
    """Return what the run of *steps* will need; takes no step.

    Weights, gradients and random state are afterwards what they were. The right adapter must be active.

    Args:
        steps: At its beginning.
        n_evaluation: Held-out rows, scored twice.
        device: Where it computes.

    Raises:
        RequestInvalid: The model cannot be trained as ordered.
    """
    plan = steps.plan
    steps.check_model()
    first = steps.rows_of(0)
    randomness = swap_randomness(steps.randomness, device)
    try:
        reset_peak(device)
        seconds = _timed(steps, steps.largest_rows())
        peak = peak_bytes(device)
        if seconds < LONG_STEP:
            seconds = _timed(steps, first)
    finally:
        steps.drop_gradients()
        swap_randomness(randomness, device)
    trained = sum(one.numel() * one.element_size() for one in steps.parameters.values())
    n_batches = 2 * n_evaluation / max(1, len(first))
    return Quote(
        peak_memory_bytes=peak + MOMENT_COPIES * trained,
        disk_bytes=DISK_COPIES * trained,
        steps=plan.steps,
        seconds=seconds * (plan.steps + n_batches),
        device=str(device),
    )


def _timed(steps: Steps, rows: Sequence[Example | Pair]) -> float:
    began_at = time.perf_counter()
    steps.accumulate(rows)
    steps.drop_gradients()
    return time.perf_counter() - began_at


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


def reset_peak(device: torch.device) -> None:
    """Begin to measure the peak of memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif CLEAR.exists():
        CLEAR.write_text("5")  # proc(5): resets the high-water mark of resident memory


def peak_bytes(device: torch.device) -> int:
    """Return the most memory held since ``reset_peak``: of the accelerator, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _kilobytes(STATUS, "VmHWM")


def free_bytes(device: torch.device) -> int | None:
    """Return how much this process may hold at most, what it holds already included; None where unknown."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    if not MEMORY.exists():
        return None
    return _kilobytes(MEMORY, "MemAvailable") + _kilobytes(STATUS, "VmRSS")


def _kilobytes(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise OSError(f"{path}: expected a line {name!r}")
