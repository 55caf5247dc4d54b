"""From the global automaton to what each role may do: erase what it takes no part in, then determinise.

A state of a role's machine is the set of positions in which the conversation may stand as far as the
role can know: it sees its own messages and every bus event. Numbers are given in a fixed order, so
that equal specs give equal tables.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from bus.spec.automaton import Automaton, Edge, Exchange, are_beside, closure, error_at
from bus.spec.counting import begun_streams, is_stream, settle
from bus.spec.syntax import Spec
from bus.spec.tables import NO_EACH, NO_EVENT, NO_TIMER, EventKind, Machine, Move, Tables
from bus.spec.unfold import unfold

# What a role can see happen, in the order in which a state's successors are numbered.
_SENT, _RECEIVED, _TOLD = range(3)
_Label: TypeAlias = tuple[int, int, int]  # (_SENT, type, address), (_RECEIVED, sender, type) or (_TOLD, event, 0)
_State: TypeAlias = frozenset[int]


@dataclass(frozen=True, slots=True)
class View:
    """What one role sees of the conversation.

    Attributes:
        machine: The role's machine; its timers index ``Automaton.timers``.
        states: For each of its states the nodes in which the conversation may rest.
        points: For each of its states the points (see ``Projections``) at which the conversation may stand.
    """

    machine: Machine
    states: tuple[frozenset[int], ...]
    points: tuple[frozenset[int], ...]


@dataclass(frozen=True, slots=True)
class Projections:
    """The global automaton and every role's view of it.

    Attributes:
        reachable: The nodes that can be reached from the start.
        views: One for each role that is no sub-role.
        points: Point → every message and bus event that may come next there. A point is the start, or where a
            message or bus event has led; silent moves are the choice of whoever speaks next, and make no point.
            In the order of their distance from the start.
    """

    graph: Automaton
    reachable: frozenset[int]
    points: dict[int, tuple[Edge, ...]]
    views: tuple[View, ...]

    def view(self, role: int) -> View:
        """Return what *role*, which is no sub-role, sees."""
        return next(view for view in self.views if view.machine.role == role)

    def tables(self) -> Tables:
        """Return what broker and SDK step through; a sub-role has the machine of the role that it is from."""
        by_role = {view.machine.role: view.machine for view in self.views}
        return _trimmed(self.graph, tuple(by_role[player] for player in self.graph.roles.values()))


def project(spec: Spec) -> Projections:
    """Return what every role of *spec* sees.

    Raises:
        SpecError: See ``unfold``; or the passes of a loop with ``max`` cannot be counted, or a message
            is at once the next step and an interrupt.
    """
    graph = unfold(spec)
    reachable = closure({graph.start}, lambda node: (edge.target for edge in graph.nodes[node].edges))
    settle(graph, reachable)
    _shorten(graph, reachable)
    scopes: dict[tuple[int, ...], tuple[int, ...]] = {}
    views = tuple(_Projection(graph, reachable, role, scopes).run() for role in sorted(set(graph.roles.values())))
    return Projections(graph, frozenset(reachable), _points(graph), views)


def _shorten(graph: Automaton, reachable: set[int]) -> None:
    """Let messages and bus events lead to where something is decided, past nodes that only lead on, in place.

    What such nodes reset and count is settled already. Ways that lead to the same place then are the same point.
    """
    for number in reachable:
        node = graph.nodes[number]
        node.edges = [edge if edge.silent else replace(edge, target=graph.ahead(edge.target)) for edge in node.edges]


def _points(graph: Automaton) -> dict[int, tuple[Edge, ...]]:
    nodes = graph.nodes
    found: dict[int, tuple[Edge, ...]] = {}
    waiting = deque([graph.start])
    while waiting:
        point = waiting.popleft()
        if point not in found:
            ahead = closure({point}, lambda node: (edge.target for edge in nodes[node].edges if edge.silent))
            found[point] = tuple(edge for node in sorted(ahead) for edge in nodes[node].edges if not edge.silent)
            waiting += [edge.target for edge in found[point]]
    return found


@dataclass(slots=True)
class _Row:
    """One state of a machine while it is made."""

    send: dict[tuple[int, int], Move] = field(default_factory=dict)
    receive: dict[tuple[int, int], Move] = field(default_factory=dict)
    bus: dict[int, int] = field(default_factory=dict)


class _Projection:
    """The subset construction for one role."""

    def __init__(
        self, graph: Automaton, reachable: set[int], role: int, scopes: dict[tuple[int, ...], tuple[int, ...]]
    ) -> None:
        self._graph = graph
        self._role = role
        self._scopes = scopes
        self._unseen = {
            node: [edge.target for edge in graph.nodes[node].edges if not self._sees(edge)] for node in reachable
        }
        self._streams = {
            counter
            for node in reachable
            for edge in graph.nodes[node].edges
            if edge.exchange is not None and edge.exchange.sender == role
            for counter in edge.exchange.guards
            if is_stream(graph, counter)
        }
        self._numbers: dict[_State, int] = {}
        self._reached: dict[frozenset[int], int] = {}  # what was moved to → number
        self._points: list[set[int]] = []  # by number
        self._begins: list[set[int]] = []  # by number
        self._waiting: deque[_State] = deque()

    def run(self) -> View:
        start = self._number({self._graph.start})
        rows: list[_Row] = []
        while self._waiting:
            rows.append(self._row(self._waiting.popleft()))
        states = [*self._numbers]
        due = tuple(self._due(row) for row in rows)
        timers = [self._timers(state) for state in states]
        machine = Machine(
            role=self._role,
            start=start,
            send=tuple(row.send for row in rows),
            receive=tuple(row.receive for row in rows),
            bus=tuple(row.bus for row in rows),
            due=due,
            timer=tuple(next(iter(one), NO_TIMER) for one in timers),
            others=tuple(one[1:] for one in timers),
            scopes=tuple(self._certain(state) for state in states),
            owes=tuple(self._owes(row, events) for row, events in zip(rows, due, strict=True)),
            final=tuple(not row.send and not row.receive for row in rows),
            begins=tuple(tuple(sorted(one)) for one in self._begins),
        )
        return View(machine, tuple(states), tuple(map(frozenset, self._points)))

    def _sees(self, edge: Edge) -> bool:
        if edge.event != NO_EVENT:
            return True
        exchange = edge.exchange
        return exchange is not None and self._role in (
            exchange.sender,
            *self._graph.addresses[exchange.address],
        )

    def _number(self, targets: set[int]) -> int:
        """Return the number of the state in which the role is once one of *targets* is reached."""
        known = self._reached.get(frozenset(targets))
        if known is not None:
            return known
        nodes = self._graph.nodes
        around = closure(targets, self._unseen.__getitem__)
        state = frozenset(n for n in around if nodes[n].is_position)
        number = self._numbers.get(state)
        if number is None:
            number = self._numbers[state] = len(self._numbers)
            self._waiting.append(state)
            self._points.append(set())
            self._begins.append(set())
        self._begins[number] |= {nodes[n].begins for n in around} - {NO_EACH}
        self._points[number] |= targets
        self._points[number] |= {
            edge.target for n in around for edge in nodes[n].edges if not edge.silent and not self._sees(edge)
        }
        self._reached[frozenset(targets)] = number
        return number

    def _row(self, state: _State) -> _Row:
        seen: dict[_Label, list[Edge]] = {}
        raised: list[tuple[int, Exchange]] = []
        for node in sorted(state):
            for edge in self._graph.nodes[node].edges:
                if self._sees(edge):
                    seen.setdefault(self._label(edge), []).append(edge)
                exchange = edge.exchange
                if edge.event != NO_EVENT and exchange is not None and exchange.sender == self._role:
                    raised.append((edge.event, exchange))
        row = _Row()
        for label in sorted(seen):
            edges = seen[label]
            kind, first, second = label
            following = self._number({edge.target for edge in edges})
            if kind == _SENT:
                row.send[first, second] = self._sent(edges, following)
            elif kind == _RECEIVED:
                row.receive[first, second] = self._moved(edges, following)
            else:
                row.bus[first] = following
                self._begin_behind(first, edges)
        self._interrupts(raised, row)
        return row

    def _label(self, edge: Edge) -> _Label:
        exchange = edge.exchange
        if edge.event != NO_EVENT or exchange is None:
            return _TOLD, edge.event, 0
        if exchange.sender == self._role:
            return _SENT, exchange.type, exchange.address
        return _RECEIVED, exchange.sender, exchange.type

    def _moved(self, edges: list[Edge], following: int) -> Move:
        exchanges = [edge.exchange for edge in edges if edge.exchange is not None]
        return Move(
            following,
            keeps_timer=any(one.stream for one in exchanges),
            runs_on=self._running_on(exchanges),
            scopes=self._interned({scope for one in exchanges for scope in one.scopes}),
            resets=self._begun(edges),
            each=min((one.each for one in exchanges), default=NO_EACH),
        )

    def _running_on(self, exchanges: list[Exchange]) -> tuple[int, ...]:
        """Return the role's deadlines in other branches of a parallel than these messages."""
        if not any(one.regions for one in exchanges):
            return ()
        return tuple(
            number
            for number, timer in enumerate(self._graph.timers)
            if timer.role == self._role and all(are_beside(timer.regions, one.regions) for one in exchanges)
        )

    def _begin_behind(self, event: int, edges: list[Edge]) -> None:
        """Let the bus event begin the count of the role's own streams behind it."""
        begun = self._begun(edges)
        if begun:
            told = self._graph.events[event]
            self._graph.events[event] = replace(told, resets=tuple(sorted({*told.resets, *begun})))

    def _begun(self, edges: list[Edge]) -> tuple[int, ...]:
        """Return the counters of the role's own streams that begin behind *edges*."""
        targets = [edge.target for edge in edges]
        return tuple(sorted(begun_streams(self._graph, targets, self._sees, self._streams)))

    def _sent(self, edges: list[Edge], following: int) -> Move:
        move = self._moved(edges, following)
        move.resets = tuple(sorted({*move.resets, *(counter for edge in edges for counter in edge.resets)}))
        move.counts = tuple(sorted({counter for edge in edges for counter in edge.counts}))
        guards = {counter for edge in edges if edge.exchange is not None for counter in edge.exchange.guards}
        move.guards = tuple(sorted(guards))
        move.voice = self._role
        return move

    def _interrupts(self, raised: list[tuple[int, Exchange]], row: _Row) -> None:
        """Let the role send what interrupts; of nested scopes with one message the innermost is meant."""
        # An inner scope is numbered after the one around it.
        for event, exchange in sorted(raised, key=lambda one: -self._graph.events[one[0]].scope):
            label = exchange.type, exchange.address
            if label not in row.send:
                row.send[label] = Move(
                    row.bus[event], interrupt=event, scopes=self._interned(set(exchange.scopes)), each=exchange.each,
                    voice=self._role,
                )  # fmt: skip
            elif row.send[label].interrupt == NO_EVENT:
                raise error_at(
                    exchange.mark,
                    "E-AMBIGUOUS",
                    "this message interrupts a scope in which it is also an ordinary step of the same role; "
                    "use two message types",
                )

    def _due(self, row: _Row) -> tuple[int, ...]:
        kinds = (EventKind.END, EventKind.MAX, EventKind.JOINED, EventKind.CALL)
        return tuple(event for event in sorted(row.bus) if self._graph.events[event].kind in kinds)

    def _owes(self, row: _Row, due: tuple[int, ...]) -> bool:
        speaks = any(move.interrupt == NO_EVENT for move in row.send.values())
        ends = any(self._graph.events[event].kind is EventKind.END for event in due)
        return speaks and not row.receive and not ends

    def _timers(self, state: _State) -> tuple[int, ...]:
        """Return the deadlines that run for the role, one for each branch of a parallel that it is awaited in.

        Of those of one place the lowest rank runs, then the one written first; the first of all stands first.
        """
        table = self._graph.timers
        mine = sorted(
            (rank, timer)
            for node in state
            for rank, timer in self._graph.nodes[node].deadlines
            if table[timer].role == self._role
        )
        chosen: list[int] = []
        for _, timer in mine:
            if all(are_beside(table[timer].regions, table[one].regions) for one in chosen):
                chosen.append(timer)
        return tuple(one for one in chosen if table[one].within != math.inf or table[one].remind is not None)

    def _certain(self, state: _State) -> tuple[int, ...]:
        nodes = self._graph.nodes
        # Where an `each` begins there is no resting: its block has begun, or it has no members and is over.
        around = [set(nodes[node].scopes) for node in state if nodes[node].begins == NO_EACH]
        return self._interned(set.intersection(*around) if around else set())

    def _interned(self, scopes: set[int]) -> tuple[int, ...]:
        ordered = tuple(sorted(scopes))
        return self._scopes.setdefault(ordered, ordered)


def _trimmed(graph: Automaton, machines: tuple[Machine, ...]) -> Tables:
    """Return the tables with only the timers that run in some state, numbered in the order written."""
    running = ((*machine.timer, *(timer for others in machine.others for timer in others)) for machine in machines)
    used = sorted({timer for timers in running for timer in timers} - {NO_TIMER})
    numbers = {NO_TIMER: NO_TIMER, **{timer: number for number, timer in enumerate(used)}}
    return Tables(
        machines=tuple(_renumbered(one, numbers, has_regions=graph.n_parallels > 0) for one in machines),
        addresses=tuple(graph.addresses),
        events=tuple(graph.events),
        timers=tuple(graph.timers[timer] for timer in used),
        scopes=tuple(graph.scopes),
        counters=tuple(graph.counters),
        eaches=tuple(graph.eaches),
        calls=tuple(graph.calls),
    )


def _renumbered(machine: Machine, numbers: dict[int, int], *, has_regions: bool) -> Machine:
    """Return the machine with its deadlines under their new *numbers*."""

    def moves(row: dict[tuple[int, int], Move]) -> dict[tuple[int, int], Move]:
        return {
            label: replace(move, runs_on=tuple(numbers[one] for one in move.runs_on if one in numbers))
            for label, move in row.items()
        }

    return replace(
        machine,
        timer=tuple(numbers[timer] for timer in machine.timer),
        others=tuple(tuple(numbers[timer] for timer in others) for others in machine.others),
        send=tuple(map(moves, machine.send)) if has_regions else machine.send,
        receive=tuple(map(moves, machine.receive)) if has_regions else machine.receive,
    )
