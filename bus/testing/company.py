"""The reference for conversations with members: one judge for every member, and the bus around them.

Members do not see each other. What is legal about one member is what would be legal if it were the only one;
what stands outside every `each` must be legal for all of them at once. So the company holds one place of the
plain judge for each member, and one for nobody, who passes by every `each`. Knows nothing of ``bus.spec.strand``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from bus.spec.automaton import Edge
from bus.spec.members import Members
from bus.spec.protocol import Protocol
from bus.spec.tables import NO_EACH, NO_EVENT, EachTable, EventKind
from bus.testing.judge import Judge, Label, Place, Ruling
from bus.testing.member_view import as_seen_by, enrolls, told_apart

_NOBODY = (-1, -1)
_MOST_PLACES = 20_000


class Standing(NamedTuple):
    """Where a conversation with members stands.

    Attributes:
        places: For each copy, that of nobody first, its place as the plain judge has it.
        enrolled: (counter, copy) of everybody who was enrolled.
        is_over: The bus has announced the end.
    """

    places: tuple[Place, ...]
    enrolled: frozenset[tuple[int, int]]
    is_over: bool = False

    @property
    def is_even(self) -> bool:
        """Whether nobody is ahead in any copy."""
        return all(place.is_even for place in self.places)


class Company:
    """What ``Judge`` is for a protocol without members; players, addresses and events are those of the conversation.

    Args:
        protocol: One with members.
        names: Role → its members, for every role that has many.

    Attributes:
        copies: (role, member) of each copy; the first is nobody's.
        events: Name of each event as a transcript has it → its number here.
    """

    def __init__(self, protocol: Protocol, names: Mapping[str, Sequence[str]]) -> None:
        self._protocol = protocol
        self._members = Members(protocol, names)
        self.players = [(one.role, one.member) for one in self._members.players]
        self.copies = [_NOBODY, *(one for one in self.players if one[1] >= 0)]
        self.graph, self._said_in = told_apart(Judge(protocol.spec).graph)
        self._judges: dict[frozenset[int], Judge] = {}
        self._events: list[tuple[int, int]] = []
        self.events: dict[str, int] = {}
        self._name_events(names)
        self._begin()

    def _name_events(self, names: Mapping[str, Sequence[str]]) -> None:
        for number, event in enumerate(self.graph.events):
            self._note_event(event.name, number, -1)
            for copy, (role, member) in enumerate(self.copies):
                if event.each != NO_EACH and role == self._family(event.each):
                    name = names[self._protocol.roles[role].name][member]
                    self._note_event(f"{event.name}[{name}]", number, copy)

    def _note_event(self, name: str, number: int, copy: int) -> None:
        self.events[name] = len(self._events)
        self._events.append((number, copy))

    def _begin(self) -> None:
        self._standings: list[Standing] = []
        self._numbers: dict[Standing, int] = {}
        self._rulings: dict[int, Ruling] = {}
        self._after: dict[tuple[int, int, int, int], int | None] = {}

    # -- as ``Judge`` --------------------------------------------------------------------------------

    def begin(self) -> int:
        """Return the place in which every conversation begins."""
        if len(self._standings) > _MOST_PLACES:
            self._begin()
        graph = self.graph
        start = Place(graph.start, (0,) * len(graph.counters), ((),) * len(graph.roles))
        return self.number(Standing((start,) * len(self.copies), frozenset()))

    def place(self, number: int) -> Standing:
        """Return the place of that number."""
        return self._standings[number]

    def ruling(self, number: int) -> Ruling:
        """Return what may happen in a place."""
        known = self._rulings.get(number)
        if known is None:
            known = self._rulings[number] = self._rule(self._standings[number])
        return known

    def send(self, number: int, player: int, type: int, address: int) -> int | None:
        """Return the place after *player* has sent the message, or None where it may not."""
        key = (number, player, type, address)
        if key not in self._after:
            then = self._sent(self._standings[number], player, (type, address))
            self._after[key] = None if then is None else self.number(then)
        return self._after[key]

    def fire(self, number: int, event: int) -> int | None:
        """Return the place after the bus event, or None where it may not come."""
        key = (number, -1, event, 0)
        if key not in self._after:
            then = self._fired(self._standings[number], *self._events[event])
            self._after[key] = None if then is None else self.number(then)
        return self._after[key]

    def is_members_own(self, event: str) -> bool:
        """Return whether the event befell one member alone."""
        return self._events[self.events.get(event, 0)][1] >= 0

    def passes_by(self, number: int, copy: int) -> bool:
        """Return whether the copy waits at an `each` in which it takes no part."""
        standing = self._standings[number]
        each = self.graph.nodes[self.graph.ahead(standing.places[copy].point)].begins
        return each != NO_EACH and not self._takes_part(standing, copy, self.graph.eaches[each])

    def event_name(self, event: int) -> str:
        """Return the name that a transcript has."""
        return next(name for name, number in self.events.items() if number == event)

    # -- one step ------------------------------------------------------------------------------------

    def number(self, standing: Standing) -> int:
        """Return the number of *standing*."""
        if standing not in self._numbers:
            self._numbers[standing] = len(self._standings)
            self._standings.append(standing)
        return self._numbers[standing]

    def _sent(self, standing: Standing, player: int, label: Label) -> Standing | None:
        role, _ = self.players[player]
        for copies, inner in self._means(player, label):
            then = standing
            for copy in copies:
                found = self._sent_in(then, copy, role, inner)
                if found is None:
                    break
                then = found
            else:
                return then
        return None

    def _sent_in(self, standing: Standing, copy: int, role: int, label: Label) -> Standing | None:
        """Let *role* say the message in one copy."""
        if standing.is_over:
            return None
        judge, place = self._judge(standing, copy), standing.places[copy]
        enrolled = standing.enrolled
        for way in judge.sendable(place, role):
            exchange = way.edge.exchange
            if exchange is not None and (exchange.type, exchange.address) == label:
                if self._is_full(standing, way.edge):
                    return None
                enrolled |= self._enrolls(way.edge, copy)
                break
        number = judge.send(judge.number(place), role, *label)
        return None if number is None else self._moved(standing, {copy: judge.place(number)}, enrolled)

    def _fired(self, standing: Standing, event: int, copy: int) -> Standing | None:
        if standing.is_over:
            return None
        told = self.graph.events[event]
        if told.kind in (EventKind.JOINED, EventKind.LATE):
            each = next(one for one in self.graph.eaches if event in (one.joined, one.none, one.late))
            if told.kind is EventKind.JOINED:
                return self._joined(standing, event, each)
            return self._cut_off(standing, each)
        then = standing
        for one in range(len(self.copies)) if copy < 0 else (copy,):
            found = self._fired_in(then, one, event)
            if found is None:
                return None
            then = found
        if told.kind is not EventKind.END:
            return then
        if copy >= 0:  # one member's way ends it for all, wherever the others stand
            nothing = tuple(() for _ in self.graph.roles)
            places = [place if one == copy else place._replace(ahead=nothing) for one, place in enumerate(then.places)]
            then = then._replace(places=tuple(places))
        return then._replace(is_over=True)

    def _fired_in(self, standing: Standing, copy: int, event: int) -> Standing | None:
        """Let the event befall one copy."""
        judge, place = self._judge(standing, copy), standing.places[copy]
        ways = [way for way in judge.ways_from(place.point) if way.edge.event == event]
        number = judge.fire(judge.number(place), event)
        if number is None:
            return None
        enrolled = standing.enrolled | self._enrolls(ways[0].edge, copy)
        return self._moved(standing, {copy: judge.place(number)}, enrolled)

    def _moved(self, standing: Standing, places: dict[int, Place], enrolled: frozenset[tuple[int, int]]) -> Standing:
        found = tuple(places.get(copy, place) for copy, place in enumerate(standing.places))
        return Standing(found, enrolled, standing.is_over)

    # -- members joined and cut off ------------------------------------------------------------------

    def _joined(self, standing: Standing, event: int, each: EachTable) -> Standing | None:
        if not self._is_joined(standing, event, each):
            return None
        then = standing
        for copy in range(len(self.copies)):
            if not self._takes_part(standing, copy, each):
                passing = event
            elif self._may(then, copy, each.joined):
                passing = each.joined
            else:
                passing = each.left
                place = then.places[copy]
                ahead = tuple(tuple(one for one in sent if each.scope not in one.scopes) for sent in place.ahead)
                then = self._moved(then, {copy: place._replace(ahead=ahead)}, then.enrolled)
            found = self._fired_in(then, copy, passing)
            if found is None:
                return None
            then = found
        return then

    def _is_joined(self, standing: Standing, event: int, each: EachTable) -> bool:
        """Return whether JOINED is due."""
        active = self._active(standing, each)
        if not all(
            self._may(standing, copy, each.none if each.none != NO_EVENT else each.joined)
            for copy in range(len(self.copies))
            if copy not in active
        ):
            return False
        if not active or event == each.none:
            return not active and event == each.none
        through = [copy for copy in active if self._may(standing, copy, each.joined)]
        behind = [copy for copy in active if copy not in through]
        if not behind:
            return True
        can_leave = each.left != NO_EVENT and all(self._may(standing, copy, each.left) for copy in behind)
        return can_leave and len(through) >= min(each.needs, len(active))

    def _cut_off(self, standing: Standing, each: EachTable) -> Standing | None:
        then, n = standing, 0
        for copy in self._to_cut(standing, each):
            found = self._fired_in(then, copy, each.late)
            if found is None:
                return None
            then, n = found, n + 1
        return then if n else None

    def _to_cut(self, standing: Standing, each: EachTable) -> list[int]:
        return [
            copy
            for copy in self._active(standing, each)
            if not self._may(standing, copy, each.joined) and self._may(standing, copy, each.late)
        ]

    def _is_late(self, standing: Standing, each: EachTable) -> bool:
        """Return whether enough are through, so that the others are cut off at once."""
        active = self._active(standing, each)
        n_through = sum(self._may(standing, copy, each.joined) for copy in active)
        enough = min(each.needs, len(active))
        return each.on_join and 0 < enough <= n_through < len(active) and bool(self._to_cut(standing, each))

    def _active(self, standing: Standing, each: EachTable) -> list[int]:
        return [copy for copy in range(len(self.copies)) if self._takes_part(standing, copy, each)]

    def _takes_part(self, standing: Standing, copy: int, each: EachTable) -> bool:
        role, _ = self.copies[copy]
        if role != self._protocol.played_by[each.role]:
            return False
        if each.role == role:
            return True
        return any(
            self.graph.counters[counter].enrolls == each.role for counter, one in standing.enrolled if one == copy
        )

    def _may(self, standing: Standing, copy: int, event: int) -> bool:
        """Return whether the event may befall the copy where it stands."""
        place = standing.places[copy]
        return event != NO_EVENT and any(
            way.edge.event == event for way in self._judge(standing, copy).ways_from(place.point)
        )

    # -- enrolling -----------------------------------------------------------------------------------

    def _enrolls(self, edge: Edge, copy: int) -> frozenset[tuple[int, int]]:
        return frozenset((counter, copy) for counter in enrolls(self.graph, edge))

    def _is_full(self, standing: Standing, edge: Edge) -> bool:
        """Return whether the sub-role into which the message enrolls has room for nobody."""
        into = [counter for counter, _ in standing.enrolled]
        return any(into.count(one) >= self.graph.counters[one].limit for one in enrolls(self.graph, edge))

    # -- what may come -------------------------------------------------------------------------------

    def _rule(self, standing: Standing) -> Ruling:
        players = range(len(self.players))
        if standing.is_over:
            nothing: tuple[frozenset[Label], ...] = (frozenset(),) * len(players)
            return Ruling(nothing, nothing, NO_EVENT, frozenset())
        sends = tuple(frozenset(self._said_by(standing, player, raised=False)) for player in players)
        raises = tuple(frozenset(self._said_by(standing, player, raised=True)) for player in players)
        return Ruling(sends, raises, self._due(standing), self._sudden(standing))

    def _said_by(self, standing: Standing, player: int, *, raised: bool) -> set[Label]:
        """Return what the player may say, or raise: in a copy about its member, outside any `each` in all of them."""
        role, member = self.players[player]
        found: set[Label] = set()
        outside: list[set[Label]] = []
        for copy, about in enumerate(self.copies):
            if member >= 0 and about != (role, member):
                continue
            shared: set[Label] = set()
            for edge in self._spoken(standing, copy, role, raised=raised):
                assert edge.exchange is not None  # what is spoken is a message
                base, each = self._said_in[edge.exchange.address]
                if each == NO_EACH:
                    shared.add((edge.exchange.type, self._members.address(base, NO_EACH, -1)))
                elif raised or not self._is_full(standing, edge):
                    found.add((edge.exchange.type, self._members.address(base, each, about[1])))
            outside.append(shared)
        return found | (set.intersection(*outside) if member < 0 else set())

    def _spoken(self, standing: Standing, copy: int, role: int, *, raised: bool) -> Iterator[Edge]:
        judge, place = self._judge(standing, copy), standing.places[copy]
        if not raised:
            yield from (way.edge for way in judge.sendable(place, role))
            return
        for way in judge.ways_from(place.point):
            if way.edge.event != NO_EVENT and way.edge.exchange is not None and way.edge.exchange.sender == role:
                yield way.edge

    def _due(self, standing: Standing) -> int:
        """Return an event that the bus has to fire at once."""
        for each in self.graph.eaches:
            for event in {each.joined, each.none} - {NO_EVENT}:
                if self._is_joined(standing, event, each):
                    return self._events.index((event, -1))
            if self._is_late(standing, each):
                return self._events.index((each.late, -1))
        dues = [self._alone(standing, copy).due for copy in range(len(self.copies))]
        for copy, due in enumerate(dues):
            if due == NO_EVENT:
                continue
            if self.graph.events[due].each != NO_EACH:
                return self._events.index((due, copy))
            if all(one == due for one in dues):
                return self._events.index((due, -1))
        return NO_EVENT

    def _sudden(self, standing: Standing) -> frozenset[int]:
        """Return the events outside every `each` that may strike, calls that may end above all."""
        struck = [self._alone(standing, copy).sudden for copy in range(len(self.copies))]
        return frozenset(self._events.index((event, -1)) for event in frozenset.intersection(*struck))

    def _alone(self, standing: Standing, copy: int) -> Ruling:
        judge = self._judge(standing, copy)
        return judge.ruling(judge.number(standing.places[copy]))

    # -- whom it is about ----------------------------------------------------------------------------

    def _means(self, player: int, label: Label) -> Iterator[tuple[Sequence[int], Label]]:
        """Yield the copies in which a message happens, and what it is there."""
        role, member = self.players[player]
        type, address = label
        for inner, (base, each) in enumerate(self._said_in):
            if each == NO_EACH:
                if self._members.address(base, NO_EACH, -1) == address and member < 0:
                    yield range(len(self.copies)), (type, inner)
                continue
            for copy, about in enumerate(self.copies):
                is_meant = about[0] == self._family(each) and (member < 0 or about == (role, member))
                if is_meant and self._members.address(base, each, about[1]) == address:
                    yield (copy,), (type, inner)

    def _family(self, each: int) -> int:
        return self._protocol.played_by[self.graph.eaches[each].role]

    def _judge(self, standing: Standing, copy: int) -> Judge:
        """Return the plain judge of the automaton as the copy sees it: with the `each`es that it takes part in."""
        mine = frozenset(
            number for number, each in enumerate(self.graph.eaches) if self._takes_part(standing, copy, each)
        )
        judge = self._judges.get(mine)
        if judge is None:
            judge = self._judges[mine] = Judge(self._protocol.spec)
            judge.graph = as_seen_by(self.graph, mine)
        return judge
