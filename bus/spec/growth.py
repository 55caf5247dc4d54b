"""The automaton while it grows: nodes, edges and what they index, each added in one place.

``unfold`` and its neighbors decide what a step means; this module knows no step.
"""

from __future__ import annotations

from dataclasses import dataclass

from bus.spec.automaton import Automaton, Edge, Exchange, Node, error_at
from bus.spec.syntax import Mark, Role, Send, Spec
from bus.spec.tables import NO_EVENT, BusEvent, Counter, EventKind, ScopeTable

NO_LIMIT = 2**53


@dataclass(frozen=True, slots=True)
class Frame:
    """A loop around a step: where ``continue`` and ``break`` lead, and its counter or -1."""

    name: str
    head: int
    after: int
    counter: int


@dataclass(frozen=True, slots=True)
class Around:
    """What stands around a step. *covered*: something outside bounds every wait in it (RULES.md 19)."""

    scopes: tuple[int, ...] = ()
    counters: tuple[int, ...] = ()
    frames: tuple[Frame, ...] = ()
    regions: tuple[tuple[int, int], ...] = ()
    covered: bool = False


class Growth:
    """The automaton of one spec while it is made. Nodes are only ever added, so a body's nodes are one range.

    Attributes:
        graph: What has been made so far.
        terminal: The node in which the conversation is over.
    """

    def __init__(self, spec: Spec) -> None:
        # A sub-role is played by members of the role that it is from: in the automaton it is that role.
        self.spec = spec
        self._sub_roles = index = {role.name: number for number, role in enumerate(spec.roles)}
        roots = {name: index[spec.root_of(name).name] for name in index}
        self.graph = Automaton(roots, {message.name: number for number, message in enumerate(spec.messages)})
        self.terminal = self.graph.add_node(spec.mark, Node(terminal=True))
        self._entered: set[int] = set()

    def node(self, mark: Mark, around: Around) -> int:
        """Return the number of a new node."""
        return self.graph.add_node(mark, Node(scopes=around.scopes, counters=around.counters))

    def edge(self, source: int, edge: Edge) -> None:
        """Add *edge* to the node *source*."""
        self.graph.nodes[source].edges.append(edge)
        self._entered.add(edge.target)

    def leads(self, source: int | None, target: int) -> None:
        """Let *source*, unless it is None, lead silently to *target*."""
        if source is not None:
            self.edge(source, Edge(target))

    def reached(self, node: int) -> int | None:
        """Return *node* where an edge leads to it, else None."""
        return node if node in self._entered else None

    def role(self, mark: Mark, name: str) -> int:
        """Return the number of the role that plays what is called *name*; see ``Automaton.role``."""
        return self.graph.role(mark, name)

    def exchange(self, send: Send, around: Around) -> Exchange:
        """Return the message that *send* says, as edges carry it.

        Raises:
            SpecError: A name in it is not declared.
        """
        if send.message not in self.graph.messages:
            raise error_at(
                send.mark,
                "E-UNKNOWN-MESSAGE",
                f"expected a declared message type, got {send.message!r}; declare it under messages",
            )
        receivers = tuple(self.role(send.mark, name) for name in send.receivers)
        return Exchange(
            mark=send.mark,
            sender=self.role(send.mark, send.sender),
            address=self.graph.address(receivers),
            type=self.graph.messages[send.message],
            stream=bool(send.repeat),
            scopes=around.scopes,
            regions=around.regions,
            each=self.graph.each,
        )

    def scope(self, name: str, around: Around) -> int:
        """Return the number of a new scope."""
        parent = around.scopes[-1] if around.scopes else -1
        self.graph.scopes.append(ScopeTable(name, parent, each=self.graph.each))
        return len(self.graph.scopes) - 1

    def counter(self, mark: Mark, name: str, limit: int, event: int = NO_EVENT) -> int:
        """Return the number of a new counter of a loop or stream."""
        self.graph.counted.append(mark)
        self.graph.counters.append(Counter(name, limit, event, each=self.graph.each))
        return len(self.graph.counters) - 1

    def enrollment(self, mark: Mark, role: Role) -> int:
        """Return the counter of the sub-role's members, the same for every step that enrolls into it."""
        index = self._sub_roles[role.name]
        for number, counter in enumerate(self.graph.counters):
            if counter.enrolls == index:
                return number
        most = role.many[1] if role.many is not None else None
        self.graph.counted.append(mark)
        self.graph.counters.append(Counter(role.name, NO_LIMIT if most is None else most, enrolls=index))
        return len(self.graph.counters) - 1

    def positions(self, first: int) -> list[int]:
        """Return the nodes made since *first* in which a conversation can rest."""
        nodes = self.graph.nodes
        return [number for number in range(first, len(nodes)) if nodes[number].is_position]

    def end(self, mark: Mark, here: int, outcome: str) -> int:
        """Let the conversation end from *here* on; return the END event."""
        event = self.graph.add_event(BusEvent(f"{outcome}.end", EventKind.END, f"end {outcome}", outcome=outcome))
        self.edge(here, Edge(self.terminal, event=event))
        return event
