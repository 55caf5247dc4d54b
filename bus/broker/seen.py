"""Which messages were admitted before: their ids, in bounded memory."""

from __future__ import annotations

REMEMBERED = 65_536  # ids kept in each of two generations


class SeenIds:
    """The newest message ids of one conversation; at least ``REMEMBERED`` of them are known.

    Attributes:
        newest: Ids are added here directly, and ``turn`` is called when there are ``REMEMBERED``: each message does.
    """

    __slots__ = ("_old", "newest")

    def __init__(self) -> None:
        self.newest: set[bytes] = set()
        self._old: set[bytes] = set()

    def __contains__(self, message_id: bytes) -> bool:
        return message_id in self.newest or message_id in self._old

    def turn(self) -> None:
        """Begin a new generation; what is older than the last one is forgotten."""
        self._old, self.newest = self.newest, set()
