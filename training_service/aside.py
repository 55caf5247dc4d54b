"""Work on files beside the steps of other runs: a checkpoint is throttled, and nobody else should wait for it."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

T = TypeVar("T")

_ONE_AT_A_TIME = threading.Lock()
"""What is written in one process at a time together keeps to the throttle of one file."""


class Aside(Generic[T]):
    """*work* in a thread of its own, begun at once; it may read what nobody changes until it is done.

    The process does not end before it.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._seconds = 0.0
        thread = ThreadPoolExecutor(1, thread_name_prefix="aside")
        self._future: Future[T] = thread.submit(self._do, work)
        thread.shutdown(wait=False)

    def _do(self, work: Callable[[], T]) -> T:
        with _ONE_AT_A_TIME:
            began_at = time.monotonic()
            try:
                return work()
            finally:
                self._seconds = time.monotonic() - began_at

    @property
    def is_done(self) -> bool:
        """Whether ``result`` would not wait."""
        return self._future.done()

    @property
    def seconds(self) -> float:
        """How long the work took, once it is done."""
        return self._seconds

    def wait(self, seconds: float | None = None) -> None:
        """Wait until it is done, at most *seconds*; raises nothing."""
        wait([self._future], timeout=seconds)

    def result(self) -> T:
        """Wait until it is done, and return or raise what the work did."""
        return self._future.result()
