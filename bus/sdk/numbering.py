"""The protocols of one session: under our own numbers, which last, and the broker's, which a connection lasts.

Some are the program's own; others the broker hands over, because agents of several versions are about
(docs/wire.md, "Versions").
"""

from __future__ import annotations

from bus.errors import SpecError
from bus.spec.compile import compile_protocol
from bus.spec.protocol import Protocol
from bus.wire.record import Record


class Numbering:
    """Protocols by number.

    Attributes:
        protocols: By our number.
        learning: Question → our number of the protocol that it teaches to the broker.
    """

    def __init__(self) -> None:
        self.protocols: list[Protocol] = []
        self.learning: dict[int, int] = {}
        self._by_digest: dict[str, int] = {}
        self._theirs: dict[int, int] = {}  # our number → the broker's, once it is told
        self._ours: dict[int, int] = {}  # and back
        self._untaught: dict[int, tuple[str, dict[str, object]]] = {}  # our number → why the broker did not take it

    def find(self, protocol: Protocol) -> int | None:
        """Return our number of *protocol*, or None."""
        return self._by_digest.get(protocol.digest)

    def add(self, protocol: Protocol) -> int:
        """Return our number of *protocol*, a new one where it has none yet."""
        number = self._by_digest.setdefault(protocol.digest, len(self.protocols))
        if number == len(self.protocols):
            self.protocols.append(protocol)
        return number

    def is_told(self, number: int) -> bool:
        """Return whether the broker has been told of our *number*."""
        return number in self._theirs

    def theirs(self, number: int) -> int:
        """Return the broker's number for our *number*."""
        return self._theirs[number]

    def of_broker(self, number: int) -> Protocol:
        """Return what the broker means by *number*."""
        return self.protocols[self._ours[number]]

    def of_digest(self, digest: str) -> Protocol:
        """Return the protocol of that digest; it has a number."""
        return self.protocols[self._by_digest[digest]]

    def is_alone(self, protocol: Protocol) -> bool:
        """Return whether *protocol* is all that is known of its versions, and the broker has been told of it."""
        if self._by_digest[protocol.digest] in self.learning.values():
            return False  # what there is beside it comes with the answer
        return all(one is protocol or one.identity != protocol.identity for one in self.protocols)

    def why_untaught(self, protocol: Protocol) -> tuple[str, dict[str, object]] | None:
        """Return (code, detail) of the broker's refusal of *protocol*, or None where it has taken it."""
        return self._untaught.get(self._by_digest[protocol.digest])

    # -- what the broker says -------------------------------------------------------------------------

    def disconnect(self) -> None:
        """Forget the broker's numbers: the next HELLO names everything."""
        self.learning.clear()
        self._theirs.clear()

    def welcome(self, numbers: list[int]) -> None:
        """Note the broker's numbers of the first protocols, by ours."""
        self._theirs = dict(enumerate(numbers))
        self._ours = {number: index for index, number in enumerate(numbers)}

    def taught(self, reply: Record) -> int | None:
        """Note the answer to what teaches a protocol; return our number of it where the broker did not take it."""
        number = self.learning.pop(reply[1])
        if reply[2]:
            self._tie(number, reply[3]["number"])
            return None
        self._untaught[number] = (str(reply[3].get("code", "refused")), reply[3])
        return number

    def hand_over(self, facts: dict[str, object]) -> bool:
        """Take in the text of another version, which the broker is about to use; return whether it is any."""
        number, source = facts.get("number"), facts.get("source")
        if not isinstance(number, int) or not isinstance(source, str):
            return False
        try:
            protocol = compile_protocol(source)
        except SpecError:
            return False  # a later version of the language: what comes under it cannot be read
        self._tie(self.add(protocol), number)
        return True

    def _tie(self, ours: int, theirs: int) -> None:
        self._theirs[ours] = theirs
        self._ours[theirs] = ours
