"""When the scopes of one conversation began, and which of their timeouts is next."""

from __future__ import annotations

from collections.abc import Collection
from math import inf

from bus.spec.tables import ScopeTable


class ScopeClock:
    """A scope's time runs from the first role's entry until the last role has left.

    Attributes:
        scheduled_at: The instant at which the broker looks next; ``inf`` where it does not.
    """

    __slots__ = ("_started", "_tables", "scheduled_at")

    def __init__(self, tables: tuple[ScopeTable, ...]) -> None:
        self._tables = tables
        self._started: dict[int, tuple[float, int]] = {}  # instant, sequence by then
        self.scheduled_at = inf

    def watch(self, inside: Collection[int], now: float, sequence: int) -> None:
        """Note that these scopes, and no others, have somebody *inside*; *sequence* is the conversation's."""
        for scope in inside:
            self._started.setdefault(scope, (now, sequence))
        for scope in [scope for scope in self._started if scope not in inside]:
            del self._started[scope]

    def since(self, scope: int, now: int) -> int:
        """Return the sequence number by which the scope began this time: only what came later is of this time.

        Where nobody is inside it begins *now*, by the interrupt that closes it: nothing was said in it yet.
        """
        return self._started[scope][1] if scope in self._started else now

    def stop(self) -> None:
        """Forget every scope: the conversation is over."""
        self._started.clear()

    def next_timeout(self) -> tuple[float, int] | None:
        """Return the next (instant, TIMEOUT event), or None."""
        if not self._started:
            return None
        due = [
            (started + seconds, event)
            for scope, (started, _) in self._started.items()
            for seconds, event in self._tables[scope].timeouts
        ]
        return min(due, default=None)
