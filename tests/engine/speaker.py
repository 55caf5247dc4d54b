"""A peer that speaks records over any transport, and the protocol that it speaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from bus.ids import conversation_id, derive_id
from bus.spec.compile import compile_protocol
from bus.wire.codec import decode_frame, encode_body, encode_frame
from bus.wire.record import WIRE_VERSION, Kind, Record

PATIENCE = 20.0  # seconds after which a test gives up waiting

SOURCE = """
language: 1
protocol: pouring
version: 1.0.0
defaults: {delivery: durable}
roles:
  source: {}
  sink: {human: true}
messages:
  Drop: {window: 100000, fields: {number: int, ballast: bytes}}
  Last: {}
outcomes:
  full: Everything was poured.
conversation:
  - source -> sink: Drop*
    max: 1000000
  - source -> sink: Last
  - end: full
"""
POURING = compile_protocol(SOURCE)


class Wire(Protocol):
    """What a speaker needs of a connection."""

    def send(self, frame: bytes) -> None: ...
    def close(self) -> None: ...


class Speaker:
    """Opens one conversation as its source and pours numbered drops into it.

    Attributes:
        records: All that came and was not taken, in order.
    """

    def __init__(self, connect: Callable[[Callable[[bytes], None]], Wire], name: str = "tap") -> None:
        self.records: list[Record] = []
        self.name = name
        self.conversation = conversation_id(name, POURING.name, "r1")
        self._n = 0
        self._heard = asyncio.Event()
        self.wire = connect(self._on_frame)

    def put(self, *records: Record) -> None:
        self.wire.send(encode_frame(records))

    def hello(self) -> None:
        self._n = 0
        self.put([Kind.HELLO, WIRE_VERSION, self.name, 0, [SOURCE], [[0, "source"]], 100, []])

    def open(self) -> None:
        self._n += 1
        role = POURING.role_index("source")
        self.put([Kind.OPEN, self._n, self.conversation, 0, role, "r1", {"sink": ["nobody"]}, None])

    def drop(self, number: int, ballast: bytes = b"") -> None:
        """Send drop *number*; the same number has the same message id."""
        self._n += 1
        role, message = POURING.role_index("source"), POURING.message_index("Drop")
        address = POURING.tables.addresses.index((POURING.role_index("sink"),))
        body = encode_body({"number": number, "ballast": ballast})
        message_id = derive_id("drop", number)
        self.put([Kind.SEND, self._n, message_id, self.conversation, role, message, address, 0, None, None, body])

    def query(self, name: str, **arguments: Any) -> None:
        self.put([Kind.QUERY, 1, name, arguments])

    def take(self, kind: Kind) -> list[Record]:
        """Return and forget the records of *kind*."""
        taken = [record for record in self.records if record[0] == kind]
        self.records = [record for record in self.records if record[0] != kind]
        return taken

    def take_notice(self, kind: str) -> list[Record]:
        """Return and forget the notices about the session of that kind."""
        return [record for record in self.take(Kind.NOTICE) if record[1] == kind]

    def accepted(self) -> int:
        """Return how many of its records are known to be accepted."""
        return max((record[1] for record in self.records if record[0] == Kind.ACCEPTED), default=0)

    def nudge(self) -> None:
        """Have ``wait`` look at its condition again."""
        self._heard.set()

    async def wait(self, condition: Callable[[], Any]) -> Any:
        """Wait until *condition* holds and return what it gave."""
        async with asyncio.timeout(PATIENCE):
            while not (found := condition()):
                self._heard.clear()
                await self._heard.wait()
        return found

    async def start(self) -> None:
        """Register and open the conversation."""
        self.hello()
        await self.wait(lambda: self.take(Kind.WELCOME))
        self.open()
        await self.wait(lambda: self.accepted() == 1)

    async def transcript_length(self) -> int:
        """Return how many messages the broker has taken, after checking that their sequence has no gap."""
        sequences: list[int] = []
        while True:
            self.query("transcript", conversation=self.conversation, after=len(sequences), limit=10)
            ((_, _, ok, entries),) = await self.wait(lambda: self.take(Kind.REPLY))
            assert ok, entries
            if not entries:
                break
            sequences += [entry["sequence"] for entry in entries]
        assert sequences == list(range(1, len(sequences) + 1))
        return len(sequences)

    def _on_frame(self, frame: bytes) -> None:
        self.records += decode_frame(frame)
        self._heard.set()
