"""The global automaton: every position in which a conversation can stand, built from the syntax tree.

Positions are nodes; edges are messages, bus events, or silent (ε) moves that may reset or count a
counter. This module holds the graph; ``unfold`` builds it from a spec, ``interleave`` adds the
products of parallel branches, and ``projection`` finds what a single role sees of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from bus.errors import SpecError
from bus.spec.diagnostic import Diagnostic, spec_error
from bus.spec.syntax import Branch, Call, Mark
from bus.spec.tables import (
    NO_EACH,
    NO_EVENT,
    BusEvent,
    CallTable,
    Counter,
    EachTable,
    EventKind,
    ScopeTable,
    Timer,
)

# A parallel is the only blow-up of the language (LANGUAGE.md, "Static checks"); larger products are refused.
MAX_NODES = 20_000

# Ranks of the deadlines that meet in one state: the lowest wins, then the one written first (RULES.md 19).
WRITTEN, DEFAULT, STREAM_WRITTEN, STREAM_DEFAULT = range(4)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A message as an edge carries it; *address* indexes ``Automaton.addresses``.

    Attributes:
        stream: One of the messages of a ``*`` or ``+`` step.
        guards: Counters that must be below their limit.
        scopes: The scopes that the message belongs to, outermost first.
        regions: (parallel, branch) of every parallel around it, outermost first.
        each: The `each` in whose block it stands, or -1.
    """

    mark: Mark
    sender: int
    address: int
    type: int
    stream: bool = False
    guards: tuple[int, ...] = ()
    scopes: tuple[int, ...] = ()
    regions: tuple[tuple[int, int], ...] = ()
    each: int = NO_EACH

    def beside(self, other: Exchange | CallSite) -> bool:
        """Return whether the two stand in different branches of one parallel, so that either may come first."""
        return are_beside(self.regions, other.regions)


@dataclass(frozen=True, slots=True)
class CallSite:
    """Where a ``call`` step is written; *regions* as an ``Exchange`` has them."""

    mark: Mark
    regions: tuple[tuple[int, int], ...] = ()


def are_beside(one: tuple[tuple[int, int], ...], other: tuple[tuple[int, int], ...]) -> bool:
    """Return whether the two places, by their regions, stand in different branches of one parallel."""
    for (mine, branch), (theirs, other_branch) in zip(one, other, strict=False):
        if mine != theirs:
            return False
        if branch != other_branch:
            return True
    return False


@dataclass(frozen=True, slots=True)
class Edge:
    """A move to *target*: silent without *exchange* and *event*; with both, a message that interrupts."""

    target: int
    exchange: Exchange | None = None
    event: int = NO_EVENT
    resets: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()

    @property
    def silent(self) -> bool:
        """Whether nobody can see the move."""
        return self.exchange is None and self.event == NO_EVENT


@dataclass(slots=True)
class Node:
    """A place in the conversation.

    Attributes:
        scopes: The scopes around it, outermost first.
        counters: The counters of the loops and streams around it.
        deadlines: (rank, timer) of every step that is enabled here.
        terminal: The conversation is over here.
        begins: The `each` whose block begins here, or -1.
    """

    scopes: tuple[int, ...] = ()
    counters: tuple[int, ...] = ()
    edges: list[Edge] = field(default_factory=list)
    deadlines: list[tuple[int, int]] = field(default_factory=list)
    terminal: bool = False
    begins: int = NO_EACH

    @property
    def is_position(self) -> bool:
        """Whether a conversation can rest here, rather than pass silently."""
        return self.terminal or bool(self.deadlines) or any(not edge.silent for edge in self.edges)


def error_at(mark: Mark, rule: str, problem: str) -> SpecError:
    """Return the error that says *problem*, which breaks *rule*, about the place *mark*."""
    return spec_error((Diagnostic(mark, rule, problem),))


@dataclass(frozen=True, slots=True)
class Decision:
    """A choice: where each of its branches, by name, begins."""

    mark: Mark
    decider: int
    branches: tuple[tuple[str, int], ...]


@dataclass(slots=True)
class Automaton:
    """All positions and edges of one conversation, with the tables that they index.

    Attributes:
        roles: Role name → index of the role that plays it: of a sub-role the one that its members are from.
        messages: Message type name → index.
        counted: Where the loop or stream of each counter is written.
        called: Where each of the *calls* is written.
        decisions: Every choice, in the order written.
        implicit_end: The END event of a conversation that falls off its end, or ``NO_EVENT``.
        n_parallels: How many parallels there are.
        eaches: Every `each`, in the order written.
        each: The `each` whose block is being unfolded, or -1: what is added now belongs to each member apart.
    """

    roles: dict[str, int]
    messages: dict[str, int]
    start: int = 0
    nodes: list[Node] = field(default_factory=list)
    addresses: list[tuple[int, ...]] = field(default_factory=list)
    events: list[BusEvent] = field(default_factory=list)
    timers: list[Timer] = field(default_factory=list)
    scopes: list[ScopeTable] = field(default_factory=list)
    counters: list[Counter] = field(default_factory=list)
    counted: list[Mark] = field(default_factory=list)
    calls: list[CallTable] = field(default_factory=list)
    called: list[CallSite] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    implicit_end: int = NO_EVENT
    n_parallels: int = 0
    eaches: list[EachTable] = field(default_factory=list)
    each: int = NO_EACH

    def add_node(self, mark: Mark, node: Node) -> int:
        """Return the index of the new *node*.

        Raises:
            SpecError: The automaton has ``MAX_NODES`` nodes already.
        """
        self.check_size(mark, 1)
        self.nodes.append(node)
        return len(self.nodes) - 1

    def check_size(self, mark: Mark, n_more: int) -> None:
        """Refuse the spec where so many more nodes are too many.

        Raises:
            SpecError: They are.
        """
        if len(self.nodes) + n_more > MAX_NODES:
            raise error_at(
                mark,
                "E-TOO-MANY-POSITIONS",
                f"expected at most {MAX_NODES:,} positions in a conversation, got more; "
                "use fewer or shorter parallel branches",
            )

    def add_event(self, event: BusEvent) -> int:
        """Return the index of the new *event*; a name in use gets a number behind it."""
        taken = {one.name for one in self.events}
        name, number = event.name, 2
        while name in taken:
            name, number = f"{event.name}.{number}", number + 1
        self.events.append(replace(event, name=name, each=self.each))
        return len(self.events) - 1

    def add_timer(self, timer: Timer) -> int:
        """Return the index of the new *timer*."""
        self.timers.append(replace(timer, each=self.each))
        return len(self.timers) - 1

    def role(self, mark: Mark, name: str) -> int:
        """Return the index of the role that plays what is called *name*.

        Raises:
            SpecError: There is none of that name.
        """
        if name not in self.roles:
            raise error_at(mark, "E-UNKNOWN-ROLE", f"expected a declared role, got {name!r}; declare it under roles")
        return self.roles[name]

    def add_call(self, call: Call, regions: tuple[tuple[int, int], ...]) -> list[tuple[Branch, int]]:
        """Note a ``call`` step and return each of its branches with the event that leads there."""
        roles = tuple((theirs, self.role(call.mark, ours)) for theirs, ours in call.roles)
        number = len(self.calls)
        name = call.protocol.partition("@")[0]
        told = BusEvent("", EventKind.CALL, f"call {name}", call=number)
        events = [
            self.add_event(replace(told, name=f"call {name}.{branch.name}", outcome=branch.name))
            for branch in call.outcomes
        ]
        names = tuple(branch.name for branch in call.outcomes)
        self.calls.append(CallTable(call.protocol, roles, tuple(zip(names, events, strict=True)), call.within))
        self.called.append(CallSite(call.mark, regions))
        return list(zip(call.outcomes, events, strict=True))

    def address(self, receivers: tuple[int, ...]) -> int:
        """Return the number of this tuple of *receivers*, in the order written."""
        if receivers not in self.addresses:
            self.addresses.append(receivers)
        return self.addresses.index(receivers)

    def ahead(self, node: int) -> int:
        """Return the node in which something is decided, past those that only lead on from *node*."""
        passed = {node}
        while len(self.nodes[node].edges) == 1 and not self.nodes[node].is_position:
            if self.nodes[node].begins != NO_EACH:
                break
            node = self.nodes[node].edges[0].target
            if node in passed:
                break
            passed.add(node)
        return node

    def guard(self, head: int, counter: int) -> None:
        """Let the pass of a loop that begins in *head* only begin while its *counter* is below the limit."""
        for number in closure({head}, self._silently):
            node = self.nodes[number]
            if counter in node.counters:
                node.edges = [_guarded(edge, counter) for edge in node.edges]

    def _silently(self, node: int) -> list[int]:
        return [edge.target for edge in self.nodes[node].edges if edge.silent]


def closure(start: Iterable[int], successors: Callable[[int], Iterable[int]]) -> set[int]:
    """Return everything that *successors* reaches from *start*, which is included."""
    seen = set(start)
    waiting = list(seen)
    while waiting:
        for target in successors(waiting.pop()):
            if target not in seen:
                seen.add(target)
                waiting.append(target)
    return seen


def _guarded(edge: Edge, counter: int) -> Edge:
    exchange = edge.exchange
    if exchange is None or edge.event != NO_EVENT:
        return edge
    return replace(edge, exchange=replace(exchange, guards=tuple(sorted({*exchange.guards, counter}))))
