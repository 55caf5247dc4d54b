"""The shortest way to a fault: a series of messages and bus events that people can follow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from bus.spec.automaton import Automaton, Edge, Exchange
from bus.spec.projection import Projections
from bus.spec.syntax import Spec
from bus.spec.tables import NO_EVENT, Machine

T = TypeVar("T")
# (point, local state of a role) → where from and by which edge it is reached first; None at the start.
_Steps: TypeAlias = dict[tuple[int, int], tuple[tuple[int, int], Edge] | None]


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


class Ways:
    """The shortest ways through a conversation; each search is made once, when it is first asked for."""

    def __init__(self, names: Names, found: Projections) -> None:
        self._names = names
        self._found = found
        self._points: _Steps | None = None
        self._members: dict[int, _Steps] = {}

    def to(self, goals: Container[int]) -> tuple[str, ...]:
        """Return the shortest way from the start to one of the points *goals*; () where there is none."""
        return self._way(self._to_points(), lambda at: at[0] in goals)[1]

    def to_member(self, role: int, state: int, goals: Container[int]) -> tuple[str, ...]:
        """Return the shortest way to one of the points *goals* by which *role* comes to stand in *state*."""
        return self._way(self._to_members(role), lambda at: at[1] == state and at[0] in goals)[1]

    def to_first(self, goals: Container[tuple[int, int]], role: int | None) -> tuple[tuple[int, int], tuple[str, ...]]:
        """Return the nearest of *goals*, one of which can be reached, and the shortest way to it.

        Args:
            goals: (point, state of *role*), or (point, 0) without a role.
        """
        return self._way(self._to_points() if role is None else self._to_members(role), goals.__contains__)

    def say(self, edges: Iterable[Edge]) -> tuple[str, ...]:
        """Return what happens on *edges*."""
        return tuple(map(self._names.edge, edges))

    def _stepper(self, machine: Machine) -> Callable[[int, Edge], int]:
        addresses = self._found.graph.addresses

        def step(at: int, edge: Edge) -> int:
            exchange = edge.exchange
            if edge.event != NO_EVENT:
                return machine.bus[at][edge.event]
            if exchange is None:
                return at
            if exchange.sender == machine.role:
                return machine.send[at][exchange.type, exchange.address].next
            if machine.role in addresses[exchange.address]:
                return machine.receive[at][exchange.sender, exchange.type].next
            return at

        return step

    def _to_points(self) -> _Steps:
        if self._points is None:
            self._points = _steps(self._found, (self._found.graph.start, 0), lambda at, edge: 0)
        return self._points

    def _to_members(self, role: int) -> _Steps:
        if role not in self._members:
            machine = self._found.view(role).machine
            start = (self._found.graph.start, machine.start)
            self._members[role] = _steps(self._found, start, self._stepper(machine))
        return self._members[role]

    def _way(
        self, steps: _Steps, is_there: Callable[[tuple[int, int]], bool]
    ) -> tuple[tuple[int, int], tuple[str, ...]]:
        for at in steps:  # nearest first
            if is_there(at):
                return at, self.say(path(steps, at))
        return (-1, -1), ()


def _steps(found: Projections, start: tuple[int, int], step: Callable[[int, Edge], int]) -> _Steps:
    """Search breadth first over (point, local state)."""
    steps: _Steps = {start: None}
    waiting = deque([start])
    while waiting:
        at = waiting.popleft()
        for edge in found.points[at[0]]:
            then = (edge.target, step(at[1], edge))
            if then not in steps:
                steps[then] = (at, edge)
                waiting.append(then)
    return steps


def path(steps: Mapping[T, tuple[T, Edge] | None], at: T) -> list[Edge]:
    """Return the edges that lead to *at*, of which *steps* holds the last one and where it came from."""
    edges: list[Edge] = []
    step = steps[at]
    while step is not None:
        at, edge = step
        edges.append(edge)
        step = steps[at]
    return edges[::-1]
