"""What the engine must offer: a transport for the broker, one for peers, and a journal.

Everything above stays the same whatever stands behind these: memory in tests, ZeroMQ and SQLite
in a fleet.
"""

from collections.abc import Iterator
from typing import Protocol

from bus.wire.record import Record


class BrokerTransport(Protocol):
    """Frames between the broker and its peers, by routing id."""

    def receive(self, timeout: float | None) -> list[tuple[bytes, bytes]]:
        """Return the (routing id, frame) pairs that have come; wait up to *timeout* seconds for one or a wake."""
        ...

    def send(self, peer: bytes, frame: bytes) -> bool:
        """Hand *frame* to the transport; never blocks.

        Returns:
            False where it was dropped: the peer is gone, or has not read for so long that its queue is full.
        """
        ...

    def wake(self) -> None:
        """Make a waiting ``receive`` return; may be called from any thread or signal handler."""
        ...

    def close(self) -> None:
        """Release everything; frames handed over shortly before may still go out."""
        ...


class Journal(Protocol):
    """The broker's durable record: batches of rows, in order."""

    @property
    def term(self) -> int:
        """Number of this ownership, greater than any before."""
        ...

    def recover(self) -> Iterator[tuple[float, list[Record]]]:
        """Yield the (bus time, rows) of every batch on disk, oldest first."""
        ...

    def append(self, bus_time: float, rows: list[Record]) -> int:
        """Hand over a batch to be written and return its ticket: 1, 2, 3 … Never blocks.

        Raises:
            JournalFailed: An earlier batch could not be written.
        """
        ...

    def synced(self) -> int:
        """Return the highest ticket that is on disk.

        Raises:
            JournalFailed: A batch could not be written; nothing after it ever will be.
        """
        ...

    def close(self) -> None:
        """Write what is left and give the state folder back."""
        ...
