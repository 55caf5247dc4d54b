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
from bus.sdk.translation import translated_types
from bus.spec.allowed import describe_allowed
from bus.spec.gathering import Gathering
from bus.spec.protocol import Delivery, Player, Protocol
from bus.spec.tables import Move

if TYPE_CHECKING:
    from bus.spec.message_type import MessageType

Receivers: TypeAlias = str | Sequence[str] | None


class Part:
    """One role of one protocol; in a conversation with members, one player of it.

    Args:
        protocol: The protocol.
        plays: The role, by index.
        gathering: The conversation's tables, where a role has many members.
        player: The player in it.

    Attributes:
        role: The number under which the part travels on the wire: the role's, or the player's.
        own: The protocol that the program is written against: *protocol*, or another version of it. Messages
            are of its classes (see ``translation``).
        type_of: Model class → message type.
        lossy: For each message type whether it is at-most-once.
    """

    __slots__ = (
        "_choices", "gathering", "lossy", "machine", "messages", "name", "own", "plays", "protocol", "role", "tables",
        "type_of",
    )  # fmt: skip

    def __init__(
        self, protocol: Protocol, plays: int, own: Protocol | None = None, gathering: Gathering | None = None,
        player: int = -1,
    ) -> None:  # fmt: skip
        self.protocol = protocol
        self.own = protocol if own is None else own
        self.plays = plays
        self.name = protocol.roles[plays].name
        self.gathering = gathering
        self.tables = protocol.tables if gathering is None else gathering.tables
        self.role = player if player >= 0 else _player(protocol, plays)
        self.machine = self.tables.machines[plays if gathering is None else player]
        self.messages: tuple[MessageType, ...] = protocol.messages
        self.type_of: dict[type[BaseModel], int] = protocol.type_of
        if self.own is not protocol:
            self.messages = translated_types(self.own, protocol)
            self.type_of = {**protocol.type_of, **{one.model: one.index for one in self.messages}}
        self.lossy = tuple(message.delivery is Delivery.AT_MOST_ONCE for message in protocol.messages)
        self._choices: list[dict[int, tuple[tuple[int, Move], ...]]] = []

    def __repr__(self) -> str:
        return f"Part({self.protocol.name}.{self.name})"

    def choices(self, state: int) -> dict[int, tuple[tuple[int, Move], ...]]:
        """Return what may be sent in *state*: message type → its (address, move) pairs."""
        while len(self._choices) <= state:
            of_state: dict[int, tuple[tuple[int, Move], ...]] = {}
            for (index, address), move in self.machine.send[len(self._choices)].items():
                of_state[index] = (*of_state.get(index, ()), (address, move))
            self._choices.append(of_state)
        return self._choices[state]

    def after(self, state: int, move: Move) -> int:
        """Return the state behind *move*, one that may be made in *state*."""
        if move.next >= 0 or self.gathering is None:
            return move.next
        return self.gathering.after(self.role, state, move)

    def find(
        self, state: int, message: BaseModel, to: Receivers, conversation_id: bytes, about: int = -1
    ) -> list[tuple[int, int, Move]]:
        """Return the (type, address, move) of sending *message* in *state*: one, or one for each member that is meant.

        Args:
            to: Names of roles, members or members' agents; a role stands for all of its members.
            about: The member that the turn is about, who is meant where *to* is left out, or -1.

        Raises:
            NotAllowed: The message is of another protocol, may not be sent now, or could go to more
                than one set of receivers and *to* does not say which.
        """
        index = self.type_of.get(type(message), -1)
        moves = self.choices(state).get(index)
        if moves is None:
            where = f"conversation {show_id(conversation_id)}"
            offered = self._offered(state)
            raise self._not_allowed(f"{self._refusal(message)} ({where}): {self._hint(offered)}", offered)
        if to is None and len(moves) == 1:
            return [(index, *moves[0])]
        if self.gathering is not None:
            meant = self._meant(moves, to, about)
            if meant:
                return [(index, address, move) for address, move in meant]
        _, address = self.pick([(index, address, self._receivers(address)) for address, _ in moves], message, to)
        return [(index, address, next(move for one, move in moves if one == address))]

    def find_anywhere(
        self, state: int, message: BaseModel, to: Receivers, conversation_id: bytes, about: int = -1
    ) -> list[tuple[int, int, Move]]:
        """Return what ``find`` does; what the order forbids goes where the role ever sends it, and moves nothing.

        Raises:
            NotAllowed: The message is of another protocol, the role never sends it, or *to* does not say to whom.
        """
        try:
            return self.find(state, message, to, conversation_id, about)
        except NotAllowed:
            anywhere = sorted({key for moves in [*self.machine.send] for key in moves})
            offered = [(type, address, self._receivers(address)) for type, address in anywhere]
            return [(*self.pick(offered, message, to), Move(state))]

    def _meant(self, moves: Sequence[tuple[int, Move]], to: Receivers, about: int) -> list[tuple[int, Move]]:
        """Return those of *moves* that *to* means; [] where it does not say, or names somebody else."""
        if to is None:
            kinds = {frozenset(self._players[player].role for player in self.tables.addresses[one]) for one, _ in moves}
            mine = [one for one in moves if one[1].member == about >= 0]
            return mine or list(moves) if len(kinds) == 1 else []
        wanted = {to} if isinstance(to, str) else set(to)
        found: list[tuple[int, Move]] = []
        named: set[str] = set()
        for address, move in moves:
            receivers = [self._labels(player, move) for player in self.tables.addresses[address]]
            if all(labels & wanted for labels in receivers):
                found.append((address, move))
                named.update(*receivers)
        return found if wanted <= named else []

    @property
    def _players(self) -> tuple[Player, ...]:
        return self.protocol.players if self.gathering is None else self.gathering.members.players

    def _labels(self, player: int, move: Move) -> set[str]:
        """Return every name that means *player* as a receiver of *move*: also the member's that it is told about."""
        assert self.gathering is not None  # else there are no members
        members, labels = self.gathering.members, set()
        about = members.whom(members.family(move.each), move.each, move.member) if move.member >= 0 else ()
        for number in {player, *about}:
            one = members.players[number]
            labels |= {one.name, members.agent(number) or one.name}
            if number == player:
                labels.add(self.protocol.roles[one.role].name)
            for role, enrolled in members.enrolled.items():
                if self.protocol.played_by[role] == one.role and one.member in enrolled:
                    labels.add(self.protocol.roles[role].name)
        return labels

    def pick(
        self, offered: Sequence[tuple[int, int, Sequence[str]]], message: BaseModel, to: Receivers
    ) -> tuple[int, int]:
        """Return (type, address) of the one of *offered*, which have their receivers' names, that sends *message*.

        Raises:
            NotAllowed: There is none, or more than one.
        """
        index = self.type_of.get(type(message), -1)
        fitting = [(address, names) for type, address, names in offered if type == index]
        if not fitting:
            raise self._not_allowed(f"{self._refusal(message)}: {self._hint(offered)}", offered)
        wanted = None if to is None else {to} if isinstance(to, str) else set(to)
        chosen = [address for address, names in fitting if wanted is None or set(names) == wanted]
        if len(chosen) == 1:
            return index, chosen[0]
        choices = " or ".join(", ".join(names) for _, names in fitting)
        got = "none named" if wanted is None else repr(", ".join(sorted(wanted)))
        text = f"expected {self.messages[index].name!r} to go to {choices}, got {got}: say which with to="
        raise self._not_allowed(text, [one for one in offered if one[0] == index])

    def receivers(self) -> list[tuple[str, ...]]:
        """Return the names behind each address."""
        return [self._receivers(address) for address in range(len(self.tables.addresses))]

    def receives(self, index: int) -> bool:
        """Return whether messages of type *index* are ever addressed to the role, interrupts included."""
        addresses = self.protocol.tables.addresses
        return any(
            type == index and self.plays in addresses[address]
            for machine in self.protocol.tables.machines
            for moves in machine.send
            for type, address in moves
        )

    def allowed(self, state: int) -> list[type[BaseModel]]:
        """Return the classes of the messages that may be sent in *state*, sorted by name."""
        found = sorted(self.choices(state), key=lambda index: self.messages[index].name)
        return [self.messages[index].model for index in found]

    def _refusal(self, message: BaseModel) -> str:
        protocol = f"{self.protocol.name}@{self.protocol.version}"
        if type(message) not in self.type_of:
            return f"expected a message of {protocol}, got {type(message).__name__!r}"
        return f"{self.name} may not send {type(message).__name__!r} now in {protocol}"

    def _receivers(self, address: int) -> tuple[str, ...]:
        if self.gathering is None:
            return tuple(self.protocol.roles[role].name for role in self.tables.addresses[address])
        return tuple(self._players[player].name for player in self.tables.addresses[address])

    def _offered(self, state: int) -> list[tuple[int, int, Sequence[str]]]:
        return [
            (index, address, self._receivers(address))
            for index, moves in self.choices(state).items()
            for address, _ in moves
        ]

    def _not_allowed(self, text: str, offered: Sequence[tuple[int, int, Sequence[str]]]) -> NotAllowed:
        """Return the error *text*, with what is allowed and its fields beside it."""
        return NotAllowed(text, describe_allowed(self.protocol, [(type, names) for type, _, names in offered]))

    def _hint(self, offered: Sequence[tuple[int, int, Sequence[str]]]) -> str:
        names = [f"{self.messages[index].name} to {', '.join(receivers)}" for index, _, receivers in offered]
        return f"allowed here: {'; '.join(sorted(names)) or 'nothing; wait for the next message'}"


def _player(protocol: Protocol, role: int) -> int:
    """Return the number under which *role*, if it is one agent, takes part in every conversation."""
    return next((number for number, one in enumerate(protocol.players) if one.role == role), role)


@lru_cache(maxsize=256)
def part_of(protocol: Protocol, role: int, own: Protocol | None = None) -> Part:
    """Return the part of *role* (its index) in *protocol*; the same object each time.

    Args:
        own: The version that the program is written against, where that is another one.
    """
    return Part(protocol, role, own)
