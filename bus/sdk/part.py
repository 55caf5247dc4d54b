"""A part: one role of one protocol, with the look-ups that checking a send needs.

The tables are the protocol's own; a part only arranges them so that "which address does this
message go to, and may it go now" is one dictionary look-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from pydantic import BaseModel

from bus.errors import NotAllowed
from bus.ids import show_id
from bus.spec.allowed import describe_allowed
from bus.spec.protocol import Delivery, Protocol
from bus.spec.tables import Move

if TYPE_CHECKING:
    from bus.spec.message_type import MessageType

Receivers: TypeAlias = str | Sequence[str] | None


class Part:
    """One role of one protocol.

    Attributes:
        choices: For each state of the role's machine: message type → its (address, move) pairs.
        type_of: Model class → message type.
        lossy: For each message type whether it is at-most-once.
    """

    __slots__ = ("choices", "lossy", "machine", "messages", "name", "protocol", "role", "type_of")

    def __init__(self, protocol: Protocol, role: int) -> None:
        self.protocol = protocol
        self.role = role
        self.name = protocol.roles[role].name
        self.machine = protocol.tables.machines[role]
        self.messages: tuple[MessageType, ...] = protocol.messages
        self.type_of = protocol.type_of
        self.lossy = tuple(message.delivery is Delivery.AT_MOST_ONCE for message in protocol.messages)
        choices: list[dict[int, tuple[tuple[int, Move], ...]]] = []
        for moves in self.machine.send:
            of_state: dict[int, tuple[tuple[int, Move], ...]] = {}
            for (index, address), move in moves.items():
                of_state[index] = (*of_state.get(index, ()), (address, move))
            choices.append(of_state)
        self.choices = tuple(choices)

    def __repr__(self) -> str:
        return f"Part({self.protocol.name}.{self.name})"

    def find(self, state: int, message: BaseModel, to: Receivers, conversation_id: bytes) -> tuple[int, int, Move]:
        """Return (type, address, move) of sending *message* in *state*.

        Raises:
            NotAllowed: The message is of another protocol, may not be sent now, or could go to more
                than one set of receivers and *to* does not say which.
        """
        index = self.type_of.get(type(message), -1)
        moves = self.choices[state].get(index)
        if moves is None:
            where = f"conversation {show_id(conversation_id)}"
            offered = self._offered(state)
            text = f"{self._refusal(message)} ({where}): {self._hint(offered)}"
            raise NotAllowed(text, describe_allowed(self.protocol, offered))
        if to is None and len(moves) == 1:
            return index, *moves[0]
        _, address = self.pick([(index, address) for address, _ in moves], message, to)
        return index, address, next(move for one, move in moves if one == address)

    def find_anywhere(
        self, state: int, message: BaseModel, to: Receivers, conversation_id: bytes
    ) -> tuple[int, int, Move]:
        """Return (type, address, move) as ``find``; what the order forbids goes where it ever goes and moves nothing.

        Raises:
            NotAllowed: The message is of another protocol, the role never sends it, or *to* does not say to whom.
        """
        try:
            return self.find(state, message, to, conversation_id)
        except NotAllowed:
            anywhere = {key for moves in self.machine.send for key in moves}
            index, address = self.pick(sorted(anywhere), message, to)
            return index, address, Move(state)

    def pick(self, offered: Sequence[tuple[int, int]], message: BaseModel, to: Receivers) -> tuple[int, int]:
        """Return the one of the *offered* (type, address) pairs that sends *message* to *to*.

        Raises:
            NotAllowed: There is none, or more than one.
        """
        index = self.type_of.get(type(message), -1)
        addresses = [address for type, address in offered if type == index]
        wanted = None if to is None else {to} if isinstance(to, str) else set(to)
        fitting = [one for one in addresses if wanted is None or set(self._receivers(one)) == wanted]
        if not addresses:
            text = f"{self._refusal(message)}: {self._hint(offered)}"
            raise NotAllowed(text, describe_allowed(self.protocol, offered))
        if len(fitting) == 1:
            return index, fitting[0]
        choices = " or ".join(", ".join(self._receivers(one)) for one in addresses)
        got = "none named" if wanted is None else repr(", ".join(sorted(wanted)))
        text = f"expected {self.messages[index].name!r} to go to {choices}, got {got}: say which with to="
        raise NotAllowed(text, describe_allowed(self.protocol, [(index, address) for address in addresses]))

    def receives(self, index: int) -> bool:
        """Return whether messages of type *index* are ever addressed to the role, interrupts included."""
        addresses = self.protocol.tables.addresses
        return any(
            type == index and self.role in addresses[address]
            for machine in self.protocol.tables.machines
            for moves in machine.send
            for type, address in moves
        )

    def allowed(self, state: int) -> list[type[BaseModel]]:
        """Return the classes of the messages that may be sent in *state*, sorted by name."""
        found = sorted(self.choices[state], key=lambda index: self.messages[index].name)
        return [self.messages[index].model for index in found]

    def _refusal(self, message: BaseModel) -> str:
        protocol = f"{self.protocol.name}@{self.protocol.version}"
        if type(message) not in self.type_of:
            return f"expected a message of {protocol}, got {type(message).__name__!r}"
        return f"{self.name} may not send {type(message).__name__!r} now in {protocol}"

    def _receivers(self, address: int) -> tuple[str, ...]:
        return tuple(self.protocol.roles[role].name for role in self.protocol.tables.addresses[address])

    def _offered(self, state: int) -> list[tuple[int, int]]:
        return [(index, address) for index, moves in self.choices[state].items() for address, _ in moves]

    def _hint(self, offered: Sequence[tuple[int, int]]) -> str:
        names = [f"{self.messages[index].name} to {', '.join(self._receivers(address))}" for index, address in offered]
        return f"allowed here: {'; '.join(sorted(names)) or 'nothing; wait for the next message'}"


@lru_cache(maxsize=256)
def part_of(protocol: Protocol, role: int) -> Part:
    """Return the part of *role* (its index) in *protocol*; the same object each time."""
    return Part(protocol, role)
