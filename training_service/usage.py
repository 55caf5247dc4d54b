"""What a run takes, measured slice by slice, so that what others do in the same process is not counted as its own."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from training_service.memory import peak_bytes, reset_peak


class Meter:
    """Seconds in slices, and the most memory that the process held during one.

    Args:
        device: Where it computes.
        seconds: What was spent before, e.g. until the last checkpoint.
        peak_bytes: The most until then.
    """

    def __init__(self, device: torch.device, *, seconds: float, peak_bytes: int) -> None:
        self._device = device
        self.seconds = seconds
        self.peak_bytes = peak_bytes

    @contextmanager
    def slice(self) -> Iterator[None]:
        """Measure the block."""
        reset_peak(self._device)
        began_at = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - began_at
            self.peak_bytes = max(self.peak_bytes, peak_bytes(self._device))
