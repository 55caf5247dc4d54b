"""The ``call`` steps of one conversation that run now. Knows neither what is called nor who opens it."""

from __future__ import annotations

from collections.abc import Callable

from bus.spec.tables import BusEvent, CallTable


class RunningCalls:
    """Which steps run, and what has to be opened or closed because of it.

    Attributes:
        running: Index of a ``call`` step → the id of its conversation, b"" until that is opened.
        news: (call, id) pairs since they were last taken: a call that began (b"") or was cut short.
        returned: The conversation whose outcome was told last.
    """

    __slots__ = ("_tables", "news", "returned", "running")

    def __init__(self, tables: tuple[CallTable, ...]) -> None:
        self._tables = tables
        self.running: dict[int, bytes] = {}
        self.news: list[tuple[int, bytes]] = []
        self.returned = b""

    def begin(self, call: int) -> None:
        """Note that every role stands where it waits for *call*."""
        self.running[call] = b""
        self.news.append((call, b""))

    def end(self, call: int, outcome: str) -> int:
        """Note that what was called is over and return the event that tells so."""
        self.returned = self.running.pop(call)
        return dict(self._tables[call].events)[outcome]

    def keep(self, is_known: Callable[[int], bool]) -> None:
        """Cut short the calls whose events are not known to all roles any more."""
        for call, child in list(self.running.items()):
            if is_known(self._tables[call].events[0][1]):
                continue
            del self.running[call]
            if child:
                self.news.append((call, child))
            else:  # it began with the same row
                self.news.remove((call, child))

    def facts(self, event: BusEvent) -> dict[str, object]:
        """Return what the roles are told with *event*."""
        name = self._tables[event.call].name
        return {"protocol": name, "outcome": event.outcome, "conversation": self.returned}

    def stop(self) -> None:
        """Forget every call: the conversation is over, and closes its children itself."""
        self.running.clear()
        self.news.clear()

    def take_news(self) -> list[tuple[int, bytes]]:
        """Return and forget the news."""
        taken, self.news = self.news, []
        return taken
