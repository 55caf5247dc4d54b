"""The only source of "now".

Durations and instants are float seconds. An instant means nothing outside the clock that gave it.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """Anything that tells the present instant."""

    def now(self) -> float:
        """Return the present instant in seconds; never goes back."""
        ...


class MonotonicClock:
    """The machine's monotonic clock: changes of the wall clock do not move it."""

    def now(self) -> float:
        """Return seconds since an arbitrary start."""
        return time.monotonic()


class ManualClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now: float = 0.0) -> None:
        self._now = now

    def now(self) -> float:
        """Return the instant that was last set."""
        return self._now

    def advance(self, duration: float) -> float:
        """Move on by *duration* seconds (>= 0) and return the new instant.

        Raises:
            ValueError: *duration* is negative. The clock is unchanged.
        """
        if duration < 0:
            raise ValueError(f"expected a duration >= 0, got {duration!r}: a clock never goes back")
        self._now += duration
        return self._now
