"""The members of one conversation's roles, and the numbers of what exists once for each of them.

Whatever belongs to the block of an `each` (its messages, events, counters, scopes, deadlines) has a copy for
every member, with a number of its own behind those of the protocol. Numbers follow from the protocol and the
members alone, so they may travel on the wire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bus.spec.protocol import Player, Protocol
from bus.spec.tables import NO_EACH

_EVENT, _COUNTER, _SCOPE, _TIMER = range(4)


class Members:
    """Who takes part in one conversation, and how everything about them is numbered.

    Args:
        protocol: One with roles that have members.
        members: Role → the names of the agents that are its members, in order.

    Attributes:
        names: Role → the names of its members.
        players: Everybody who takes part: the roles that are one agent, in the order of the protocol, then the
            members of the others.
        voices: Who may be heard: (player, member that the message is about or -1); the players come first.
        addresses: (players, each, member) → its number, in the order of the numbers.
        enrolled: Sub-role → its members, in the order in which they were enrolled.
        version: How many enrollments there were: what may happen next depends on them.
        events: For each event the protocol's own and the member that it is a copy for, or -1; so below.
    """

    def __init__(self, protocol: Protocol, members: Mapping[str, Sequence[str]]) -> None:
        self.protocol = protocol
        self.names = {role: tuple(members[name]) for name, role in _roots(protocol).items()}
        self.players = _players(protocol, self.names)
        self.voices: list[tuple[int, int]] = [(player, -1) for player in range(len(self.players))]
        self.addresses: dict[tuple[tuple[int, ...], int, int], int] = {}
        self.enrolled: dict[int, list[int]] = {
            index: [] for index, role in enumerate(protocol.roles) if role.source is not None
        }
        self.version = 0
        tables = protocol.tables
        self._player_of = {(one.role, one.member): number for number, one in enumerate(self.players)}
        self._family = tuple(protocol.played_by[each.role] for each in tables.eaches)
        self._voice_of: dict[tuple[int, int], int] = {}
        self._copies: dict[tuple[int, int, int], int] = {}
        self.events = self._copied(_EVENT, [one.each for one in tables.events])
        self.counters = self._copied(_COUNTER, [one.each for one in tables.counters])
        self.scopes = self._copied(_SCOPE, [one.each for one in tables.scopes])
        self.timers = self._copied(_TIMER, [one.each for one in tables.timers])
        for machine in {id(one): one for one in tables.machines}.values():  # numbers are fixed, whoever asks first
            for moves in machine.send:
                for (_, address), move in moves.items():
                    for member in (-1,) if move.each == NO_EACH else self._copied_for(move.each):
                        self.address(address, move.each, member)
                        self.voice(machine.role, move.each, member)
        self._meant = tuple(member for _, _, member in self.addresses)

    # -- who ------------------------------------------------------------------------------------------

    def player(self, role: int, member: int = -1) -> int:
        """Return the player of *role*, which is one agent, or of its *member*."""
        return self._player_of[role, member]

    def players_of(self, role: int) -> tuple[int, ...]:
        """Return every player of *role*, which is no sub-role."""
        return tuple(number for number, one in enumerate(self.players) if one.role == role)

    def active(self, each: int) -> tuple[int, ...]:
        """Return the members that take part in *each* now."""
        role = self.protocol.tables.eaches[each].role
        if role in self.enrolled:
            return tuple(self.enrolled[role])
        return tuple(range(len(self.names[role])))

    def enroll(self, role: int, member: int) -> None:
        """Put *member* into the sub-role *role*; once is enough."""
        if member not in self.enrolled[role]:
            self.enrolled[role].append(member)
            self.version += 1

    def note_enrolled(self, enrolled: Mapping[str, Sequence[int]]) -> None:
        """Take the bus's word on who was enrolled by now."""
        for name, found in enrolled.items():
            for member in found:
                self.enroll(self.protocol.role_index(name), member)

    def agent(self, player: int) -> str | None:
        """Return the agent that is *player*, a member; None for a role that is one agent."""
        one = self.players[player]
        return None if one.member < 0 else self.names[one.role][one.member]

    def members_of(self, role: int) -> tuple[str, ...]:
        """Return the names of the agents that are members of *role* or were enrolled into it."""
        if role not in self.enrolled:
            return self.names[role]
        names = self.names[self.protocol.played_by[role]]
        return tuple(names[member] for member in self.enrolled[role])

    def family(self, each: int) -> int:
        """Return the role whose members *each* is about, also where it names a sub-role."""
        return self._family[each]

    def is_concerned(self, player: int, event: int) -> bool:
        """Return whether *event* can move *player*: what befalls one member is not seen by the others."""
        origin, member = self.events[event]
        if member < 0:
            return True
        one = self.players[player]
        return one.role != self._family[self.protocol.tables.events[origin].each] or one.member == member

    # -- numbers --------------------------------------------------------------------------------------

    def event(self, event: int, member: int) -> int:
        """Return the copy of *event* for *member*, or *event* itself where there is none; so below."""
        return self._copies.get((_EVENT, event, member), event)

    def counter(self, counter: int, member: int) -> int:
        """Return the copy of *counter* for *member*."""
        return self._copies.get((_COUNTER, counter, member), counter)

    def counters_of(self, counters: Sequence[int], member: int) -> tuple[int, ...]:
        """Return the copies of *counters* for *member*; where that is -1, those for every member."""
        found: list[int] = []
        for counter in counters:
            copied = self._copied_for(self.protocol.tables.counters[counter].each) if member < 0 else range(0)
            found += [self.counter(counter, one) for one in copied] or [self.counter(counter, member)]
        return tuple(found)

    def scope(self, scope: int, member: int) -> int:
        """Return the copy of *scope* for *member*."""
        return self._copies.get((_SCOPE, scope, member), scope)

    def timer(self, timer: int, member: int) -> int:
        """Return the copy of *timer* for *member*."""
        return self._copies.get((_TIMER, timer, member), timer)

    def whom(self, role: int, each: int, member: int) -> tuple[int, ...]:
        """Return the players that *role* means in the copy for *member* of what stands in *each*, or outside any."""
        if member >= 0 and role == self._family[each]:
            return (self.player(role, member),)
        return self.players_of(role)

    def address(self, address: int, each: int, member: int) -> int:
        """Return the number of the protocol's *address*, as said in *each* about *member*, or outside any."""
        roles = self.protocol.tables.addresses[address]
        players = [player for role in roles for player in self.whom(role, each, member)]
        return self.addresses.setdefault((tuple(players), each, member), len(self.addresses))

    def meant(self, address: int) -> int:
        """Return the member to whom, or about whom, is spoken at *address*; -1: none, or no such address."""
        return self._meant[address] if 0 <= address < len(self._meant) else -1

    def voice(self, role: int, each: int, member: int) -> int:
        """Return who is heard where *role* speaks in *each* about *member*, or outside any."""
        if each == NO_EACH:
            return self.player(role)
        if role == self._family[each]:
            return self.player(role, member)
        key = (self.player(role), member)
        if key not in self._voice_of:
            self._voice_of[key] = len(self.voices)
            self.voices.append(key)
        return self._voice_of[key]

    def _copied_for(self, each: int) -> range:
        """Return the members for whom there are copies of what stands in the block of *each*."""
        return range(0) if each == NO_EACH else range(len(self.names[self._family[each]]))

    def _copied(self, part: int, eaches: Sequence[int]) -> list[tuple[int, int]]:
        """Number the copies behind the originals, which stand in *eaches*; return (original, member or -1) of all."""
        layout = [(number, -1) for number in range(len(eaches))]
        for number, each in enumerate(eaches):
            for member in self._copied_for(each):
                self._copies[part, number, member] = len(layout)
                layout.append((number, member))
        return layout


def _roots(protocol: Protocol) -> dict[str, int]:
    return {role.name: index for index, role in enumerate(protocol.roles) if role.many and role.source is None}


def _players(protocol: Protocol, names: Mapping[int, tuple[str, ...]]) -> tuple[Player, ...]:
    members = (
        Player(index, f"{protocol.roles[index].name}:{name}", member)
        for index, agents in names.items()
        for member, name in enumerate(agents)
    )
    return (*protocol.players, *members)
