"""Which messages were admitted before: their ids, in bounded memory."""

from __future__ import annotations

_REMEMBERED = 65_536  # ids kept in each of two generations


class SeenIds:
    """The newest message ids of one conversation; at least 65,536 of them are known."""

    __slots__ = ("_new", "_old")

    def __init__(self) -> None:
        self._new: set[bytes] = set()
        self._old: set[bytes] = set()

    def __contains__(self, message_id: bytes) -> bool:
        return message_id in self._new or message_id in self._old

    def add(self, message_id: bytes) -> None:
        """Remember *message_id*."""
        self._new.add(message_id)
        if len(self._new) >= _REMEMBERED:
            self._old, self._new = self._new, set()
