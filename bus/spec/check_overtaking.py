"""What may happen while a role has not moved: E-RECEIVE-RACE, E-UNAWARE-SENDER (of a bus event), W-UNBOUNDED.

All follow the conversation on while one role stands still. What that role would have sent is not sent,
so whoever waits for it stands still, too, and so on; everything else can still happen. Sets of roles are
the bits of an integer here, and a place is a point together with the roles that stand still there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from bus.spec.automaton import Edge, Exchange
from bus.spec.check_order import ordinary
from bus.spec.components import components
from bus.spec.diagnostic import MAX_FINDINGS, Diagnostic, Report, Severity
from bus.spec.projection import Projections
from bus.spec.syntax import Delivery, Mark, Spec
from bus.spec.tables import NO_EVENT, EventKind
from bus.spec.witness import Names, Ways, path

_SUDDEN = frozenset({EventKind.TIMEOUT, EventKind.LOST, EventKind.FAILED, EventKind.LATE})
# Places looked at from one message; only products of large parallels have more, and there the search stops.
_MOST_PLACES = 20_000

_Place: TypeAlias = tuple[int, int]  # (point, roles that stand still)


@dataclass(slots=True)
class Onward:
    """The conversation, followed on from somewhere while some roles stand still.

    Attributes:
        said: Point → the messages, but for interrupts, that may come next there.
        involved: Address → its receivers, as bits.
    """

    found: Projections
    said: dict[int, tuple[tuple[Edge, Exchange], ...]] = field(init=False)
    involved: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.said = {point: tuple(ordinary(edges)) for point, edges in self.found.points.items()}
        self.involved = tuple(sum(1 << role for role in one) for one in self.found.graph.addresses)

    def from_place(
        self, start: _Place, steps: dict[_Place, tuple[_Place, Edge] | None], parts: Mapping[int, int] | None = None
    ) -> Iterator[tuple[_Place, Edge, Exchange]]:
        """Yield (place, edge, message) of each message that can be sent ahead, nearest first.

        Args:
            steps: Is filled with how each place is reached first, for ``path``.
            parts: Point → its part of the conversation; what leads out of the part of *start* is left out.
        """
        steps[start] = None
        waiting = deque([start])
        while waiting and len(steps) < _MOST_PLACES:
            here = waiting.popleft()
            for edge, exchange in self.said[here[0]]:
                if parts is not None and parts[edge.target] != parts[start[0]]:
                    continue
                if not here[1] >> exchange.sender & 1:
                    yield here, edge, exchange
                then = (edge.target, self.still(here[1], exchange))
                if not self.is_over(then[1]) and then not in steps:
                    steps[then] = (here, edge)
                    waiting.append(then)

    def still(self, blocked: int, exchange: Exchange) -> int:
        """Return who stands still behind a message: whoever waits for somebody who does."""
        return blocked | self.involved[exchange.address] if blocked >> exchange.sender & 1 else blocked

    def is_over(self, blocked: int) -> bool:
        """Return whether nobody is left who moves."""
        return blocked == (1 << len(self.found.views)) - 1


def check_overtaking(spec: Spec, found: Projections, report: Report) -> None:
    """Report messages that can overtake another and be mistaken for one of another branch."""
    onward = Onward(found)
    arrivals: dict[tuple[int, int], dict[tuple[int, int], list[tuple[Exchange, list[Edge]]]]] = {}
    for view in found.views:
        role = view.machine.role
        for state, points in enumerate(view.points):
            if len({sender for sender, _ in view.machine.receive[state]}) < 2:
                continue
            heard = [
                (point, edge, exchange)
                for point in sorted(points)
                for edge, exchange in onward.said[point]
                if onward.involved[exchange.address] >> role & 1
            ]
            for point, edge, first in heard:
                key = (edge.target, role)
                if key not in arrivals:
                    arrivals[key] = arrivals_at(onward, edge.target, role)
                for _, _, second in heard:
                    mistaken = _mistaken(first, second, arrivals[key])
                    if mistaken is not None:
                        names = Names(spec, found.graph)
                        ways = Ways(names, found)
                        trace = ways.to_member(role, state, (point,)) + ways.say([edge, *mistaken[1]])
                        report.add(_race(names, role, first, second, mistaken[0], trace))
                        return  # one finding says it: the others are the same seen from another side


def _mistaken(
    first: Exchange, second: Exchange, arrivals: dict[tuple[int, int], list[tuple[Exchange, list[Edge]]]]
) -> tuple[Exchange, list[Edge]] | None:
    """Return the message behind *first* that looks like *second* and may arrive before it, with the way to it."""
    if first.sender == second.sender or first.beside(second):
        return None
    for exchange, edges in arrivals.get((second.sender, second.type), ()):
        if not exchange.beside(first):
            return exchange, edges
    return None


def _race(
    names: Names, role: int, first: Exchange, second: Exchange, later: Exchange, trace: tuple[str, ...]
) -> Diagnostic:
    text = (
        f"{names.role(role)!r} waits for {names.exchange(first)!r} or {names.exchange(second)!r}; after the first, "
        f"{names.exchange(later)!r} (line {later.mark.line}) may arrive before it and be mistaken for the second"
    )
    hint = f"use another message type, or let {names.role(role)!r} answer in between"
    return Diagnostic(later.mark, "E-RECEIVE-RACE", text, role=names.role(role), trace=trace, suggestion=hint)


def arrivals_at(
    onward: Onward, point: int, role: int
) -> dict[tuple[int, int], list[tuple[Exchange, list[Edge]]]]:  # fmt: skip
    """Return every message to *role* that can be sent from *point* on without *role* doing anything.

    They stand under (sender, type), nearest first, each with the edges that lead to it and itself.
    """
    found: dict[tuple[int, int], list[tuple[Exchange, list[Edge]]]] = {}
    steps: dict[_Place, tuple[_Place, Edge] | None] = {}
    told: set[tuple[Mark, tuple[tuple[int, int], ...]]] = set()
    for place, edge, exchange in onward.from_place((point, 1 << role), steps):
        if onward.involved[exchange.address] >> role & 1 and (exchange.mark, exchange.regions) not in told:
            told.add((exchange.mark, exchange.regions))
            found.setdefault((exchange.sender, exchange.type), []).append((exchange, [*path(steps, place), edge]))
    return found


# -- bus events ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Stand:
    """Where the conversation stands while it is looked for who runs ahead.

    Attributes:
        still: The roles that wait for a message that has not been sent, as bits; 0: everybody is there.
        events: The bus events that can strike where these roles are.
        regions: The parallel branches in which they wait.
    """

    point: int
    still: int = 0
    events: frozenset[int] = frozenset()
    regions: tuple[tuple[int, int], ...] = ()


def check_running_ahead(spec: Spec, found: Projections, report: Report) -> None:
    """Report messages that may be sent ahead of a point at which the bus can still turn the conversation elsewhere.

    Who has sent or read such a message has left the place where the bus event would have met it.
    """
    names, told, onward = Names(spec, found.graph), set(), Onward(found)
    events = {point: _events(edges) for point, edges in found.points.items()}
    start = _Stand(found.graph.start)
    steps: dict[_Stand, tuple[_Stand, Edge] | None] = {start: None}
    awaited: dict[_Stand, Exchange] = {}
    waiting = deque([start])
    quiet = not any(
        _missed(found, edge, exchange, frozenset(), events[point], events[edge.target])
        for point, said in onward.said.items()
        for edge, exchange in said
    )
    while waiting and len(awaited) < _MOST_PLACES:
        here = waiting.popleft()
        at = here.point
        following: list[tuple[_Stand, Edge, Exchange | None]] = []
        if not here.still:
            following += [(_Stand(edge.target), edge, None) for edge in found.points[at]]
            for edge, exchange in onward.said[at] if events[at] or not quiet else ():
                still = 1 << exchange.sender | onward.involved[exchange.address]
                following.append((_Stand(edge.target, still, events[at], exchange.regions), edge, exchange))
        else:
            for edge, exchange in onward.said[at]:
                if not here.still >> exchange.sender & 1 and exchange.mark not in told:
                    missed = _missed(found, edge, exchange, here.events, events[at], events[edge.target])
                    if missed and not exchange.beside(awaited[here]):
                        told.add(exchange.mark)
                        trace = Ways(names, found).say([*path(steps, here), edge])
                        report.add(_unaware(names, exchange, awaited[here], min(missed), trace))
                then = _Stand(edge.target, onward.still(here.still, exchange), here.events, here.regions)
                following.append((then, edge, awaited[here]))
        for then, edge, behind in following:
            if then not in steps and not onward.is_over(then.still):
                steps[then] = (here, edge)
                waiting.append(then)
                if behind is not None:
                    awaited[then] = behind


def _events(edges: Iterable[Edge]) -> frozenset[int]:
    return frozenset(edge.event for edge in edges if edge.event != NO_EVENT)


def _missed(
    found: Projections, edge: Edge, exchange: Exchange, events: frozenset[int], here: frozenset[int],
    there: frozenset[int],
) -> frozenset[int]:  # fmt: skip
    """Return the bus events that can strike where the others are, or where *edge* leads, but not in both.

    One that discards the message, as of its scope, brings everybody to one place, also those who were ahead. Behind
    any other the message would still stand, and its sender be led back to before it.

    Args:
        events: Those that can strike where the others are.
        here: Those that can strike where *edge* stands.
        there: Those that can strike where it leads.
    """
    if not events and not here and not there and not edge.counts:
        return frozenset()
    graph = found.graph
    table = graph.events
    own = {one for one in events | here if table[one].kind is EventKind.ELSE and table[one].role == exchange.sender}
    # END, MAX and deadlines wait until everybody is there, and so do interrupts.
    sudden = {one for one in (here | there) - events if table[one].kind in _SUDDEN}
    # A pass that is counted before it was gone through would end its loop too early.
    counted = {graph.counters[counter].event for counter in edge.counts} - {NO_EVENT}
    kept = {one for one in events | here if not table[one].discards or table[one].scope not in exchange.scopes} - own
    return frozenset(kept | ((events | here) - own - there) | sudden | counted)


def _unaware(names: Names, exchange: Exchange, awaited: Exchange, event: int, trace: tuple[str, ...]) -> Diagnostic:
    who = names.role(exchange.sender)
    text = (
        f"{who!r} may send {names.exchange(exchange)!r} before {names.exchange(awaited)!r}, and cannot know whether "
        f"{names.graph.events[event].name!r} comes in between, which everybody must be there for"
    )
    hint = f"let {who!r} hear from {names.role(awaited.sender)!r} first"
    return Diagnostic(exchange.mark, "E-UNAWARE-SENDER", text, role=who, trace=trace, suggestion=hint)


# -- buffers ------------------------------------------------------------------------------------------


def check_bounds(spec: Spec, found: Projections, report: Report) -> None:
    """Warn of messages that can be sent again and again while their receiver does nothing: W-UNBOUNDED."""
    onward, names = Onward(found), Names(spec, found.graph)
    circles = _Circles.of(onward)
    counted = _counted(found)
    told: set[Mark] = set()
    for point, said in onward.said.items():  # nearest first
        for edge, exchange in said:
            mark = exchange.mark
            if (
                len(told) >= MAX_FINDINGS
                or mark in told
                or counted[mark]
                or _is_bounded(spec, exchange)
                or not circles.has(edge.target, mark)
            ):
                continue
            for receiver in found.graph.addresses[exchange.address]:
                again = circles.again(onward, edge, mark, receiver)
                if again:
                    told.add(mark)
                    ways = Ways(names, found)
                    trace = ways.to((point,)) + ways.say([edge, *again])
                    report.add(_unbounded(names, exchange, receiver, trace))
                    break


@dataclass(slots=True)
class _Circles:
    """Where the conversation can go round by messages alone.

    Attributes:
        number: Point → the circle that it is part of.
        marks: Circle → where the messages inside it are written.
        last: Where the last search began; *steps* and *ahead* are what it found.
    """

    number: dict[int, int]
    marks: dict[int, set[Mark]]
    last: _Place | None = None
    steps: dict[_Place, tuple[_Place, Edge] | None] = field(default_factory=dict)
    ahead: dict[Mark, tuple[_Place, Edge]] = field(default_factory=dict)

    @classmethod
    def of(cls, onward: Onward) -> _Circles:
        found = components(onward.said, lambda point: [edge.target for edge, _ in onward.said[point]])
        number = {point: index for index, points in enumerate(found) for point in points}
        marks: dict[int, set[Mark]] = {}
        for point, said in onward.said.items():
            for edge, exchange in said:
                if number[edge.target] == number[point]:
                    marks.setdefault(number[point], set()).add(exchange.mark)
        return cls(number, marks)

    def has(self, point: int, mark: Mark) -> bool:
        """Return whether the message at *mark* belongs to the circle of *point*."""
        return mark in self.marks.get(self.number[point], ())

    def again(self, onward: Onward, edge: Edge, mark: Mark, receiver: int) -> list[Edge]:
        """Return how the message of *edge* comes again while *receiver* stands still; empty where it does not."""
        start = (edge.target, 1 << receiver)
        if self.last != start:  # the messages that lead to one place are looked at one after the other
            self.last = start
            self.steps = {}
            self.ahead = {}
            for place, following, exchange in onward.from_place(start, self.steps, self.number):
                self.ahead.setdefault(exchange.mark, (place, following))
        if mark not in self.ahead:
            return []
        place, following = self.ahead[mark]
        return [*path(self.steps, place), following]


def _counted(found: Projections) -> dict[Mark, frozenset[int]]:
    """Return the counters around each message."""
    counted: dict[Mark, frozenset[int]] = {}
    for node in found.reachable:
        one = found.graph.nodes[node]
        for _, exchange in ordinary(one.edges):
            # In a product the counters of other branches stand there, too, in some of the places.
            around = frozenset(
                counter
                for counter in (*one.counters, *exchange.guards)
                if found.graph.counters[counter].enrolls < 0  # who may be enrolled bounds no stream
            )
            counted[exchange.mark] = counted.get(exchange.mark, around) & around
    return counted


def _is_bounded(spec: Spec, exchange: Exchange) -> bool:
    message = spec.messages[exchange.type]
    return message.window is not None or (message.delivery or spec.delivery) == Delivery.AT_MOST_ONCE


def _unbounded(names: Names, exchange: Exchange, receiver: int, trace: tuple[str, ...]) -> Diagnostic:
    text = f"{names.exchange(exchange)!r} can be sent without end while {names.role(receiver)!r} has read none of it"
    hint = "give it 'max' (of a stream or loop), its type a 'window', or let the receiver answer"
    return Diagnostic(exchange.mark, "W-UNBOUNDED", text, Severity.WARNING, names.role(receiver), trace, hint)
