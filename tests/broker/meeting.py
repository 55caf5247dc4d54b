"""A conversation with members, seen from a test: agents by name, messages by name and whom they are about."""

from __future__ import annotations

from typing import Any

from desk import EMPTY, Desk, Peer

from bus.spec.members import Members
from bus.wire.codec import decode_body
from bus.wire.record import Kind, Record


class Meeting:
    """One conversation whose role *many* is played by the agents *names*; the role *one* opens it as ``chair``."""

    def __init__(self, desk: Desk, many: str, names: list[str], one: str, *, bind: bool = True) -> None:
        self.desk = desk
        self.names = names
        self.chair = desk.peer("chair", plays=[one])
        self.peers = {name: desk.peer(name, plays=[many]) for name in names}
        self.members = Members(desk.protocol, {many: names})
        self.conversation = desk.open(self.chair, one, bindings={many: names} if bind else {})

    def peer(self, who: str) -> Peer:
        return self.chair if who == "chair" else self.peers[who]

    def player(self, who: str) -> int:
        names = [player.name.rpartition(":")[2] for player in self.members.players]
        return names.index(who) if who in names else 0

    def address(self, message: str, about: str, each: int) -> int:
        """Return the address of *message* in the *each*-th `each`, to or about the member."""
        index = self.desk.protocol.message_index(message)
        [address] = {
            address
            for machine in self.desk.protocol.tables.machines
            for moves in machine.send
            for (type, address), move in moves.items()
            if type == index and move.each == each
        }
        member = -1 if each < 0 else self.names.index(about)
        return self.members.address(address, each, member)

    def say(self, who: str, message: str, about: str = "", each: int = 0) -> int:
        """Send a message outside a turn, in the *each*-th `each` about *about*, by default the speaker."""
        peer = self.peer(who)
        n = peer.number()
        identifier = f"{who}-{n}".encode().ljust(16, b".")
        address = self.address(message, about or who, each)
        index = self.desk.protocol.message_index(message)
        record = [Kind.SEND, n, identifier, self.conversation, self.player(who), index, address, 0, None, None, EMPTY]
        peer.put(record)
        return n

    def commit(self, who: str, delivery: Record, *sends: tuple[str, str], each: int = 0, **more: Any) -> int:
        """Commit the turn on *delivery* with sends of (message, about)."""
        peer = self.peer(who)
        n = peer.number()
        listed = [
            [
                f"{n}.{index}.{who}".encode().ljust(16, b"."), self.desk.protocol.message_index(message),
                self.address(message, about, each), None, None, EMPTY,
            ]
            for index, (message, about) in enumerate(sends)
        ]  # fmt: skip
        settles, saved = more.get("settles", True), more.get("saved")
        peer.put([Kind.COMMIT, n, *delivery[1:2], *delivery[3:6], delivery[7], settles, delivery[10], listed, saved])
        return n

    def reads(self, who: str) -> list[str]:
        """Take what came, settle it, and return what it was: messages, or notices in brackets."""
        found = self.peer(who).take(Kind.DELIVER)
        for delivery in found:
            self.desk.handled(self.peer(who), delivery)
        return [self.desk.name_of(delivery) for delivery in found]

    def facts(self, delivery: Record) -> dict[str, Any]:
        found: dict[str, Any] = decode_body(delivery[17])
        return found

    def transcript(self) -> list[str]:
        return self.desk.transcript(self.chair, self.conversation)

    def outcome(self) -> str | None:
        return self.desk.outcome(self.chair, self.conversation)
