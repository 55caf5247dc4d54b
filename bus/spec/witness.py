"""The shortest way to a fault: a series of messages and bus events that people can follow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from bus.spec.automaton import Automaton, Edge, Exchange
from bus.spec.projection import Projections
from bus.spec.syntax import Spec
from bus.spec.tables import NO_EVENT


@dataclass(frozen=True, slots=True)
class Names:
    """Says the edges of an automaton in the words of its spec."""

    spec: Spec
    graph: Automaton

    def role(self, role: int) -> str:
        """Return the name of a role."""
        return self.spec.roles[role].name

    def exchange(self, exchange: Exchange) -> str:
        """Return ``a -> b: M``."""
        receivers = ", ".join(self.role(role) for role in self.graph.addresses[exchange.address])
        return f"{self.role(exchange.sender)} -> {receivers}: {self.spec.messages[exchange.type].name}"

    def edge(self, edge: Edge) -> str:
        """Return what happens on an edge that is not silent."""
        if edge.exchange is not None:
            return self.exchange(edge.exchange)
        return f"the bus: {self.graph.events[edge.event].name}"


def way_to(found: Projections, names: Names, is_there: Callable[[int], bool]) -> tuple[str, ...]:
    """Return the shortest way from the start to a node that *is_there*; () where there is none."""
    return _search(found.graph, names, (found.graph.start, 0), lambda at, edge: 0, lambda at: is_there(at[0]))


def way_to_member(found: Projections, names: Names, role: int, state: int, node: int) -> tuple[str, ...]:
    """Return the shortest way to *node* by which *role* comes to stand in *state* of its machine."""
    machine = found.view(role).machine
    graph = found.graph

    def step(at: int, edge: Edge) -> int:
        exchange = edge.exchange
        if edge.event != NO_EVENT:
            return machine.bus[at][edge.event]
        if exchange is None:
            return at
        if exchange.sender == role:
            return machine.send[at][exchange.type, exchange.address].next
        if role in graph.addresses[exchange.address]:
            return machine.receive[at][exchange.sender, exchange.type].next
        return at

    return _search(graph, names, (graph.start, machine.start), step, lambda at: at == (node, state))


def _search(
    graph: Automaton,
    names: Names,
    start: tuple[int, int],
    step: Callable[[int, Edge], int],
    is_there: Callable[[tuple[int, int]], bool],
) -> tuple[str, ...]:
    """Search breadth first over (node, local state); silent edges cost nothing."""
    before: dict[tuple[int, int], tuple[tuple[int, int], str | None] | None] = {start: None}
    waiting = deque([start])
    while waiting:
        at = waiting.popleft()
        if is_there(at):
            return _path(before, at)
        for edge in graph.nodes[at[0]].edges:
            then = (edge.target, step(at[1], edge))
            if then in before:
                continue
            before[then] = (at, None if edge.silent else names.edge(edge))
            if edge.silent:
                waiting.appendleft(then)
            else:
                waiting.append(then)
    return ()


def _path(
    before: dict[tuple[int, int], tuple[tuple[int, int], str | None] | None], at: tuple[int, int]
) -> tuple[str, ...]:
    path: list[str] = []
    step = before[at]
    while step is not None:
        at, said = step
        if said is not None:
            path.append(said)
        step = before[at]
    return tuple(reversed(path))
