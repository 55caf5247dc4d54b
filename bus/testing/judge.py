"""What is legal in a conversation, by the global automaton alone: the reference that the monitor is held to.

Knows nothing of projection, of the tables' states or of the broker. The judge keeps one place of the whole
conversation and, for each role, what it has sent *ahead*: messages that stand behind one which nobody has
sent yet. A role may send whatever it can reach from the place without hearing of anything that has not
happened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from bus.spec.automaton import Automaton, Edge, Exchange
from bus.spec.syntax import Spec
from bus.spec.tables import NO_EVENT, EventKind
from bus.spec.unfold import unfold

Label: TypeAlias = tuple[int, int]  # (message type, address)
_Effect: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]  # counters set to zero, counters increased

NOBODY = -1  # the sender of a bus event
_MOST_PLACES = 20_000  # remembered of one protocol; loops that count far would fill the memory


class Sent(NamedTuple):
    """A message that a role has sent ahead."""

    label: Label
    scopes: tuple[int, ...]
    regions: tuple[tuple[int, int], ...]

    def is_beside(self, exchange: Exchange) -> bool:
        """Return whether the two stand in different branches of one parallel."""
        for (mine, branch), (theirs, other) in zip(self.regions, exchange.regions, strict=False):
            if mine != theirs:
                return False
            if branch != other:
                return True
        return False


class Place(NamedTuple):
    """Where a conversation stands.

    Attributes:
        point: The node to which the last message or bus event led that everything before it precedes.
        counters: Passes of loops and messages of streams so far.
        ahead: For each role what it has sent beyond *point*, oldest first.
        is_over: The bus has announced the end.
    """

    point: int
    counters: tuple[int, ...]
    ahead: tuple[tuple[Sent, ...], ...]
    is_over: bool = False

    @property
    def is_even(self) -> bool:
        """Whether nobody is ahead: everything that was sent stands before the point."""
        return not any(self.ahead)


@dataclass(frozen=True, slots=True)
class Ruling:
    """What may happen in one place.

    Attributes:
        sends: For each role the messages that it may send as ordinary steps.
        raises: For each role the messages by which it may interrupt.
        due: The END or MAX event that the bus fires at once, or ``NO_EVENT``.
        sudden: Bus events that may strike: missed deadlines, timeouts, lost and failed roles.
    """

    sends: tuple[frozenset[Label], ...]
    raises: tuple[frozenset[Label], ...]
    due: int
    sudden: frozenset[int]

    def allowed(self, role: int) -> frozenset[Label]:
        """Return everything that *role* may send."""
        return self.sends[role] | self.raises[role]


@dataclass(frozen=True, slots=True)
class Way:
    """A message or event that may come next at a point, and the counters touched silently before it."""

    edge: Edge
    effects: tuple[_Effect, ...]


@dataclass(slots=True)
class Judge:
    """The reference for one spec. Places are small numbers; what was found out about each is remembered."""

    spec: Spec
    graph: Automaton = field(init=False)
    places: list[Place] = field(init=False, default_factory=list)
    _numbers: dict[Place, int] = field(init=False, default_factory=dict)
    _ways: dict[int, tuple[Way, ...]] = field(init=False, default_factory=dict)
    _rulings: dict[int, Ruling] = field(init=False, default_factory=dict)
    _after: dict[tuple[int, int, int, int], int | None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.graph = unfold(self.spec)
        self.begin()

    def begin(self) -> int:
        """Return the place in which every conversation begins."""
        if len(self.places) > _MOST_PLACES:
            for known in (self.places, self._numbers, self._rulings, self._after):
                known.clear()
        graph = self.graph
        start = Place(graph.start, (0,) * len(graph.counters), ((),) * len(graph.roles))
        return self.number(start)

    def place(self, number: int) -> Place:
        """Return the place of that number."""
        return self.places[number]

    def ruling(self, number: int) -> Ruling:
        """Return what may happen in a place."""
        known = self._rulings.get(number)
        if known is None:
            known = self._rulings[number] = self._rule(self.places[number])
        return known

    def send(self, number: int, role: int, type: int, address: int) -> int | None:
        """Return the place after *role* has sent the message, or None where it may not."""
        key = (number, role, type, address)
        if key not in self._after:
            self._after[key] = self._sent(self.places[number], role, (type, address))
        return self._after[key]

    def fire(self, number: int, event: int) -> int | None:
        """Return the place after the bus event, or None where it may not come."""
        key = (number, NOBODY, event, 0)
        if key not in self._after:
            self._after[key] = self._fired(self.places[number], event)
        return self._after[key]

    # -- one step ----------------------------------------------------------------------------------

    def number(self, place: Place) -> int:
        """Return the number of *place*, once the point has passed everything that was sent."""
        place = self.caught_up(place)
        if place not in self._numbers:
            self._numbers[place] = len(self.places)
            self.places.append(place)
        return self._numbers[place]

    def caught_up(self, place: Place) -> Place:
        """Let the point pass everything that was sent already."""
        while not place.is_even:
            for way in self.ways_from(place.point):
                exchange = _ordinary(way.edge)
                index = None if exchange is None else _index(place.ahead[exchange.sender], exchange)
                if exchange is None or index is None or index < 0:
                    continue
                counters = self._count(place.counters, way, guards=exchange.guards)
                if counters is not None:
                    place = Place(way.edge.target, counters, _without(place.ahead, exchange.sender, index))
                    break
            else:
                return place
        return place

    def _sent(self, place: Place, role: int, label: Label) -> int | None:
        if place.is_over:
            return None
        for way in self.sendable(place, role):
            exchange = way.edge.exchange
            assert exchange is not None  # what can be sent is a message
            if (exchange.type, exchange.address) == label:
                sent = (*place.ahead[role], Sent(label, exchange.scopes, exchange.regions))
                return self.number(place._replace(ahead=_with(place.ahead, role, sent)))
        raised = [
            way.edge.event
            for way in self.ways_from(place.point)
            if way.edge.exchange is not None
            and way.edge.event != NO_EVENT
            and way.edge.exchange.sender == role
            and (way.edge.exchange.type, way.edge.exchange.address) == label
        ]
        # An inner scope is numbered after the one around it, and is the one meant.
        return self._fired(place, max(raised, key=lambda event: self.graph.events[event].scope)) if raised else None

    def _fired(self, place: Place, event: int) -> int | None:
        if place.is_over:
            return None
        told = self.graph.events[event]
        for way in self.ways_from(place.point):
            if way.edge.event != event:
                continue
            counters = self._count(place.counters, way)
            if counters is None or not self._is_full(event, self._before(place.counters, way)):
                continue
            ahead = place.ahead
            if told.discards:
                ahead = tuple(tuple(one for one in sent if told.scope not in one.scopes) for sent in ahead)
            return self.number(Place(way.edge.target, counters, ahead, told.kind is EventKind.END))
        return None

    # -- what may come -----------------------------------------------------------------------------

    def _rule(self, place: Place) -> Ruling:
        n_roles = len(self.graph.roles)
        if place.is_over:
            nothing: tuple[frozenset[Label], ...] = (frozenset(),) * n_roles
            return Ruling(nothing, nothing, NO_EVENT, frozenset())
        sends = tuple(
            frozenset(_label(way.edge.exchange) for way in self.sendable(place, role)) for role in range(n_roles)
        )
        raises: list[set[Label]] = [set() for _ in range(n_roles)]
        due, sudden = NO_EVENT, set()
        for way in self.ways_from(place.point):
            event, exchange = way.edge.event, way.edge.exchange
            if event == NO_EVENT:
                continue
            if exchange is not None:
                raises[exchange.sender].add(_label(exchange))
            elif self.graph.events[event].kind not in (EventKind.END, EventKind.MAX):
                sudden.add(event)
            elif due == NO_EVENT and self._is_full(event, self._before(place.counters, way)):
                due = event
        return Ruling(sends, tuple(frozenset(one) for one in raises), due, frozenset(sudden))

    def sendable(self, place: Place, role: int) -> Iterator[Way]:
        """Yield the ways on which *role* may send now: all before them is sent, or does not concern it.

        Breadth first; passes of loops gone through on the way are not counted twice, so the search ends.
        """
        begin = (place.point, tuple(map(len, place.ahead)))
        seen = {begin}
        waiting = deque([(place, begin)])
        while waiting:
            here, (point, _) = waiting.popleft()
            for way in self.ways_from(point):
                exchange = _ordinary(way.edge)
                if exchange is None:
                    continue
                counters = self._count(here.counters, way, guards=exchange.guards)
                if counters is None:
                    continue
                ahead = here.ahead
                index = _index(ahead[exchange.sender], exchange)
                if index is None:
                    continue
                if index >= 0:
                    ahead = _without(ahead, exchange.sender, index)
                elif exchange.sender == role:
                    yield way
                    continue
                elif role in self.graph.addresses[exchange.address]:
                    continue
                then = (way.edge.target, tuple(map(len, ahead)))
                if then not in seen:
                    seen.add(then)
                    waiting.append((Place(way.edge.target, counters, ahead), then))

    def ways_from(self, point: int) -> tuple[Way, ...]:
        known = self._ways.get(point)
        if known is None:
            known = self._ways[point] = tuple(self._find_ways(point))
        return known

    def _find_ways(self, point: int) -> Iterator[Way]:
        nodes = self.graph.nodes
        seen = {point}
        waiting: deque[tuple[int, tuple[_Effect, ...]]] = deque([(point, ())])
        while waiting:
            number, effects = waiting.popleft()
            for edge in nodes[number].edges:
                touched = ((edge.resets, edge.counts),) if edge.resets or edge.counts else ()
                if not edge.silent:
                    yield Way(edge, effects)
                elif edge.target not in seen:
                    seen.add(edge.target)
                    waiting.append((edge.target, effects + touched))

    # -- counters ----------------------------------------------------------------------------------

    def _before(self, counters: tuple[int, ...], way: Way) -> tuple[int, ...]:
        """Return the counters just before the way's message or event."""
        for effect in way.effects:
            counters = _touched(counters, effect)
        return counters

    def _count(self, counters: tuple[int, ...], way: Way, *, guards: tuple[int, ...] = ()) -> tuple[int, ...] | None:
        """Return the counters behind the way, or None where one of *guards* is at its limit."""
        counters = self._before(counters, way)
        if any(counters[guard] >= self.graph.counters[guard].limit for guard in guards):
            return None
        return _touched(counters, (way.edge.resets, way.edge.counts))

    def _is_full(self, event: int, counters: tuple[int, ...]) -> bool:
        counter = self.graph.events[event].counter
        return counter < 0 or counters[counter] >= self.graph.counters[counter].limit


def _ordinary(edge: Edge) -> Exchange | None:
    """Return the message of an edge that is a step of the conversation, not an interrupt."""
    return edge.exchange if edge.event == NO_EVENT else None


def _label(exchange: Exchange | None) -> Label:
    assert exchange is not None  # the caller has a message
    return exchange.type, exchange.address


def _touched(counters: tuple[int, ...], effect: _Effect) -> tuple[int, ...]:
    resets, counts = effect
    if not resets and not counts:
        return counters
    changed = [0 if number in resets else value for number, value in enumerate(counters)]
    for counter in counts:
        changed[counter] += 1
    return tuple(changed)


def _with(ahead: tuple[tuple[Sent, ...], ...], role: int, sent: tuple[Sent, ...]) -> tuple[tuple[Sent, ...], ...]:
    return (*ahead[:role], sent, *ahead[role + 1 :])


def _without(ahead: tuple[tuple[Sent, ...], ...], role: int, index: int) -> tuple[tuple[Sent, ...], ...]:
    return _with(ahead, role, ahead[role][:index] + ahead[role][index + 1 :])


def _index(sent: tuple[Sent, ...], exchange: Exchange) -> int | None:
    """Return which of *sent* is the message; -1 where it is still to be sent; None where its sender went another way.

    Messages of other branches of a parallel are passed over: each branch has an order of its own.
    """
    label = (exchange.type, exchange.address)
    for index, one in enumerate(sent):
        if one.label == label:
            return index
        if not one.is_beside(exchange):
            return None
    return -1
