"""Every conversation that this process has opened: finds the one that a delivery or a refusal is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bus.errors import LocalProtocolError, PalaverError, Refused
from bus.sdk.link import Link
from bus.sdk.opened import Bindings, OpenConversation
from bus.sdk.part import Part, part_of
from bus.sdk.seat import ROLE
from bus.sdk.session import Key
from bus.spec.protocol import Protocol
from bus.wire.record import Kind, Record


class Openings:
    """Every conversation that this process has opened and not left, by (conversation, role)."""

    def __init__(self, link: Link, name: str) -> None:
        self.link = link
        self.name = name
        self._conversations: dict[Key, OpenConversation] = {}

    def new(
        self,
        protocol: Protocol,
        *,
        role: str | None = None,
        request_id: str,
        bind: Bindings | None = None,
        parent: tuple[bytes, int, int, int] | None = None,
        notices: bool = False,
        remaining: float | None = None,
        trace: str | None = None,
    ) -> OpenConversation:
        """Return a conversation that is opened when its ``async with`` block is entered.

        Raises:
            NotAllowed: *role* is unknown, or left out where more than one role may speak first.
        """
        return OpenConversation(
            self.link,
            find_opener(protocol, role),
            opener=self.name,
            request_id=request_id,
            pin=self.pin,
            enter=self.add,
            leave=self.remove,
            bind=bind,
            parent=parent,
            notices=notices,
            remaining=remaining,
            trace=trace,
        )

    async def pin(self, conversation: OpenConversation) -> Protocol:
        """Return the version that *conversation* is to follow: asked where there may be more than one (RULES.md 15).

        Raises:
            Refused: There is none that the others can play, too; the text is the diff.
        """
        session, own = self.link.session, conversation.protocol
        session.add_protocol(own)
        if session.numbering.is_alone(own):
            return own
        asked: dict[str, object] = {
            "digest": own.digest, "role": conversation.role, "conversation": conversation.id,
            "bindings": conversation.bindings,
        }  # fmt: skip
        try:
            answer: dict[str, str] = await self.link.query("pin", asked)
        except Refused:
            refusal = session.numbering.why_untaught(own)
            if refusal is not None:
                raise Refused(*refusal) from None
            raise
        return session.numbering.of_digest(answer["digest"])

    def add(self, conversation: OpenConversation) -> None:
        """Open *conversation* at the broker, or attach to it again."""
        number = self.link.session.add_protocol(conversation.protocol)
        self._conversations[conversation.key] = conversation
        record = conversation.open_record(number)
        conversation.attach(record)
        self.link.post(record)

    def remove(self, conversation: OpenConversation) -> None:
        """Forget *conversation*; what still comes for it stays unsettled at the broker."""
        if self._conversations.get(conversation.key) is conversation:
            del self._conversations[conversation.key]

    def on_deliver(self, record: Record) -> bool:
        """Hand a delivery to the conversation that it is for; return whether there is one."""
        conversation = self._conversations.get((record[1], record[ROLE]))
        if conversation is None:
            return False
        conversation.on_deliver(record)
        return True

    def on_refused(self, record: Record, error: Refused) -> bool:
        """Tell the conversation whose OPEN or SEND was refused; return whether there is one."""
        kind = record[0]
        if kind == Kind.OPEN:
            key = (record[2], record[4])
        elif kind == Kind.SEND:
            key = (record[3], record[4])
        else:
            key = (record[2], record[3])
        conversation = self._conversations.get(key)
        if conversation is None:
            return False
        if kind != Kind.HANDLED:  # a lease that moved on: what was read is delivered again and dropped
            conversation.fail(error)
        return True

    def on_notice(self, kind: str, detail: Mapping[str, Any]) -> None:
        """Hand on what the bus says about one of the conversations."""
        for conversation in self._about(detail):
            if kind == "ended":
                conversation.on_end(str(detail.get("outcome", "")), str(detail.get("reason", "")))
            elif kind == "members":
                conversation.on_members(detail)
            elif kind == "nobody-plays":
                role = detail.get("role")
                names = conversation.protocol.roles
                conversation.on_nobody(names[role].name if isinstance(role, int) else str(role))

    def on_welcome(self, kept: frozenset[Key]) -> None:
        """Attach again to what is open and was not *kept*; what was read already is dropped when it comes again."""
        for conversation in list(self._conversations.values()):
            conversation.follow_mode()
            if conversation.outcome is None and conversation.key not in kept:
                number = self.link.session.add_protocol(conversation.protocol)
                self.link.post(conversation.open_record(number))

    def held(self) -> list[tuple[bytes, int, int, int, bytes]]:
        """Return the leases of unread deliveries."""
        held = (conversation.held() for conversation in self._conversations.values())
        return [lease for lease in held if lease is not None]

    def close(self, error: PalaverError) -> None:
        """Make every conversation raise *error*: the link is gone."""
        for conversation in self._conversations.values():
            conversation.fail(error)

    def _about(self, detail: Mapping[str, Any]) -> list[OpenConversation]:
        return [one for one in self._conversations.values() if one.id == detail.get("conversation")]


def find_opener(protocol: Protocol, role: str | None) -> Part:
    """Return the part that opens *protocol*: *role*, else the one role that may speak first.

    Raises:
        LocalProtocolError: No such role, or several may speak first.
    """
    names = [one.name for one in protocol.roles]
    if role is not None:
        if role not in names:
            raise LocalProtocolError(f"{protocol.name} has no role {role!r}: expected one of {', '.join(names)}")
        if names.index(role) not in (player.role for player in protocol.players):
            raise LocalProtocolError(
                f"{role!r} of {protocol.name} has many members: open it as a role that is one agent"
            )
        return part_of(protocol, names.index(role))
    speakers = [
        player.role
        for player in protocol.players
        if any(move.interrupt < 0 for move in protocol.tables.machines[player.role].send[0].values())
    ]
    if len(speakers) != 1:
        raise LocalProtocolError(
            f"{protocol.name} may be opened by {' or '.join(names[index] for index in speakers) or 'nobody'}: "
            f"say which with role="
        )
    return part_of(protocol, speakers[0])
