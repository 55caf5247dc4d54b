"""An arena for conversations with members: one hall for each number of members that a run may draw."""

from __future__ import annotations

from typing import Any

from bus.broker.conversation import Conversation
from bus.spec.members import Members
from bus.spec.projection import Projections, View, project
from bus.spec.protocol import Protocol
from bus.spec.tables import NO_EACH, NO_EVENT
from bus.testing.arena import Arena, Tally
from bus.testing.choices import Choices
from bus.testing.company import Company
from bus.testing.judge import Label

_MOST_MEMBERS = 3  # language: an `each` is verified with 1, 2 and 3 members; nobody where the role allows it


class Hall:
    """What ``Arena`` is for conversations without members, for one number of members of each role.

    Attributes:
        members: Role → its members.
    """

    def __init__(
        self, protocol: Protocol, members: dict[str, list[str]], tally: Tally, views: tuple[View, ...]
    ) -> None:
        self.protocol = protocol
        self.members = members
        self.judge = Company(protocol, members)
        self.events = self.judge.events
        self.tally = tally
        self.verified: set[tuple[object, ...]] = set()
        self._views = views
        self._members = Members(protocol, members)
        self.names = [one.name for one in self._members.players]
        self._addresses = {number: key for key, number in self._members.addresses.items()}
        self.labels: list[Label] = []
        self.interrupts: set[tuple[int, Label]] = set()
        self.guarded: set[tuple[int, Label]] = set()
        self._find_labels()
        start = self.judge.ruling(self.judge.begin())
        self.openers = [
            player for player, sends in enumerate(start.sends) if sends and self._members.players[player].member < 0
        ] or [0]

    def _find_labels(self) -> None:
        members, found = self._members, set()
        for machine in {id(one): one for one in self.protocol.tables.machines}.values():
            for moves in machine.send:
                for (type, address), move in moves.items():
                    family = members.family(move.each) if move.each != NO_EACH else -1
                    copies = range(len(members.names[family])) if family >= 0 else (-1,)
                    for member in copies:
                        label = (type, members.address(address, move.each, member))
                        found.add(label)
                        for player in members.whom(machine.role, move.each, member):
                            if move.interrupt != NO_EVENT:
                                self.interrupts.add((player, label))
                            if move.guards:
                                self.guarded.add((player, label))
        self.labels = sorted(found)

    def say(self, role: int, label: Label) -> str:
        """Return ``a -> b: M``, and about whom."""
        players, _, member = self._addresses[label[1]]
        to = ", ".join(self.names[one] for one in players)
        about = f" (of member {member})" if member >= 0 else ""
        return f"{self.names[role]} -> {to}: {self.protocol.messages[label[0]].name}{about}"

    def event_name(self, event: int) -> str:
        """Return the name of an event of the judge."""
        return self.judge.event_name(event)

    def is_cut_short(self, conversation: Conversation) -> bool:
        """Return whether one member's way has ended it for all, wherever the others stood."""
        return self.judge.is_members_own(conversation.transcript[-1].event)

    def note_reached(self, conversation: Conversation) -> None:
        """Note where the players stand, in the machines of the protocol."""
        for player, mailbox in enumerate(conversation.mailboxes):
            for _, state in self._standing(conversation, player, mailbox.at)[1]:
                self.tally.reached[self._members.players[player].role].add(state)

    def state_key(self, conversation: Conversation) -> tuple[object, ...]:
        """Return where all players stand, as a value that means the same in every run."""
        return tuple(
            self._standing(conversation, player, mailbox.at) for player, mailbox in enumerate(conversation.mailboxes)
        )

    def misplaced(self, conversation: Conversation, number: int) -> tuple[str, object] | None:
        """Return (player, state) of one who is not where the conversation is, while nobody is ahead."""
        company = self.judge
        places = company.place(number).places
        for player, mailbox in enumerate(conversation.mailboxes):
            role, mine = company.players[player]
            each, standing = self._standing(conversation, player, mailbox.at)
            states = dict(standing)
            for copy, (family, member) in enumerate(company.copies):
                if family == role and member != mine:
                    continue
                if each != NO_EACH and (family != self._members.family(each) or member not in states):
                    continue
                if company.passes_by(number, copy):
                    continue
                state = states[member] if each != NO_EACH else states[-1]
                point = places[copy].point
                if self._views[role].points[state].isdisjoint({point, company.graph.ahead(point)}):
                    return self.names[player], (each, standing)
        return None

    def _standing(self, conversation: Conversation, player: int, state: int) -> tuple[int, tuple[tuple[int, int], ...]]:
        shown: Any = conversation.cast.show_state(player, state)
        each, pairs = shown
        return each, tuple((member, at) for member, at in pairs)


class Halls:
    """All halls of one protocol with members."""

    def __init__(self, protocol: Protocol, found: Projections | None = None) -> None:
        self.protocol = protocol
        self.tally = Tally(reached=[set() for _ in protocol.tables.machines])
        self._halls: dict[tuple[int, ...], Hall] = {}
        self._views = tuple((found or project(protocol.spec)).views)

    def draw(self, choices: Choices) -> Hall:
        """Return the hall of a run: how many members each role has is drawn, within its bounds."""
        counts = []
        roles = [role for role in self.protocol.roles if role.many is not None and role.source is None]
        for role in roles:
            assert role.many is not None  # chosen so
            least, most = role.many
            most = max(least, _MOST_MEMBERS if most is None else min(most, _MOST_MEMBERS))
            counts.append(least + choices.pick(most - least + 1))
        key = tuple(counts)
        if key not in self._halls:
            names = {
                role.name: [f"{role.name}{index + 1}" for index in range(n)]
                for role, n in zip(roles, counts, strict=True)
            }
            self._halls[key] = Hall(self.protocol, names, self.tally, self._views)
        return self._halls[key]


def arena_of(protocol: Protocol, found: Projections | None = None) -> Arena | Halls:
    """Return what all runs of *protocol* share."""
    return Halls(protocol, found) if protocol.has_members else Arena(protocol, found)
