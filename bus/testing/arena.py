"""What all random runs of one protocol share: its judge, what its states mean, and what was seen so far."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from bus.broker.conversation import Conversation
from bus.spec.projection import Projections, project
from bus.spec.protocol import Protocol
from bus.testing.choices import Choices
from bus.testing.judge import Judge, Label


class Fault(Exception):
    """Raised when a run breaks one of the claims; *kind* names it."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(kind, text)
        self.kind = kind
        self.text = text

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass(slots=True)
class Tally:
    """What was seen in the runs of one protocol.

    Attributes:
        n_illegal: Forbidden messages that were tried.
        n_superseded: Messages of clients that the bus had overtaken.
        outcomes: How often a run ended so; ``"(cut)"`` where it was stopped after its steps.
        reached: For each role the states in which it stood.
    """

    n_runs: int = 0
    n_messages: int = 0
    n_events: int = 0
    n_illegal: int = 0
    n_superseded: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    reached: list[set[int]] = field(default_factory=list)


class Arena:
    """One protocol's.

    Attributes:
        points: For each role and each of its states the points at which the conversation may stand.
        events: Bus event name → its number.
        labels: Every pair of a message type and an address that occur in some message.
        interrupts: (role, label) of every message that interrupts.
        guarded: (role, label) of every message that a counter may forbid.
        openers: Roles that may speak first.
        verified: What was compared already, as (place, states, counters): the comparison depends on these alone.
    """

    def __init__(self, protocol: Protocol, found: Projections | None = None) -> None:
        self.protocol = protocol
        self.judge = Judge(protocol.spec)
        self.points = [view.points for view in (found or project(protocol.spec)).views]
        self.events = {event.name: number for number, event in enumerate(protocol.tables.events)}
        machines = protocol.tables.machines
        moves = [
            (machine.role, label, move)
            for machine in machines
            for state in machine.send
            for label, move in state.items()
        ]
        exchanges = {
            edge.exchange for node in self.judge.graph.nodes for edge in node.edges if edge.exchange is not None
        }
        self.labels: list[Label] = [
            (type, address)
            for type in sorted({one.type for one in exchanges})
            for address in sorted({one.address for one in exchanges})
        ]
        self.interrupts = {(role, label) for role, label, move in moves if move.interrupt >= 0}
        self.guarded = {(role, label) for role, label, move in moves if move.guards}
        self.tally = Tally(reached=[set() for _ in machines])
        self.verified: set[tuple[object, ...]] = set()
        start = self.judge.ruling(self.judge.begin())
        self.openers = [role for role, sends in enumerate(start.sends) if sends] or [0]

    @property
    def names(self) -> list[str]:
        """The players' names."""
        return [role.name for role in self.protocol.roles]

    @property
    def members(self) -> dict[str, list[str]]:
        """Role → its members in this arena's conversations."""
        return {}

    def say(self, role: int, label: Label) -> str:
        """Return ``a -> b: M``."""
        protocol = self.protocol
        to = ", ".join(protocol.roles[one].name for one in protocol.tables.addresses[label[1]])
        return f"{protocol.roles[role].name} -> {to}: {protocol.messages[label[0]].name}"

    def draw(self, choices: Choices) -> Arena:
        """Return where a run takes place: here; see ``Halls``."""
        return self

    def event_name(self, event: int) -> str:
        """Return the name of an event of the judge."""
        return self.protocol.tables.events[event].name

    def is_cut_short(self, conversation: Conversation) -> bool:
        """Return whether it ended while some stood elsewhere; see ``Hall``."""
        return False

    def note_reached(self, conversation: Conversation) -> None:
        """Note where the players stand."""
        for role, mailbox in enumerate(conversation.mailboxes):
            self.tally.reached[role].add(mailbox.at)

    def state_key(self, conversation: Conversation) -> tuple[object, ...]:
        """Return where all players stand, as a value that means the same in every run."""
        return tuple([mailbox.at for mailbox in conversation.mailboxes])

    def misplaced(self, conversation: Conversation, number: int) -> tuple[str, object] | None:
        """Return (player, state) of one who is not where the conversation is, while nobody is ahead."""
        point = self.judge.place(number).point
        points = {point, self.judge.graph.ahead(point)}
        for role, mailbox in enumerate(conversation.mailboxes):
            if points.isdisjoint(self.points[role][mailbox.at]):
                return self.names[role], mailbox.at
        return None
