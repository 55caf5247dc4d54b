"""What may happen while a role has not moved: E-RECEIVE-RACE, E-UNAWARE-SENDER (of a bus event), W-UNBOUNDED.

All follow the conversation on while one role stands still. What that role would have sent is not sent,
so whoever waits for it stands still, too, and so on; everything else can still happen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bus.spec.automaton import Automaton, Edge, Exchange
from bus.spec.check_order import ordinary
from bus.spec.diagnostic import Diagnostic, Report, Severity
from bus.spec.projection import Projections
from bus.spec.syntax import Delivery, Spec
from bus.spec.tables import NO_EVENT, EventKind
from bus.spec.witness import Names, way_to, way_to_member

_SUDDEN = frozenset({EventKind.TIMEOUT, EventKind.LOST, EventKind.FAILED, EventKind.LATE})
# Places looked at from one message; only products of large parallels have more, and there the search stops.
_MOST_PLACES = 20_000


def check_overtaking(spec: Spec, found: Projections, report: Report) -> None:
    """Report messages that can overtake another and be mistaken for one of another branch."""
    names, graph = Names(spec, found.graph), found.graph
    arrivals: dict[tuple[int, int], list[Exchange]] = {}
    for view in found.views:
        role = view.machine.role
        for state, points in enumerate(view.points):
            if len({sender for sender, _ in view.machine.receive[state]}) < 2:
                continue
            heard = [
                (point, edge, exchange)
                for point in sorted(points)
                for edge, exchange in ordinary(found.points[point])
                if role in graph.addresses[exchange.address]
            ]
            for node, edge, first in heard:
                key = (edge.target, role)
                if key not in arrivals:
                    arrivals[key] = list(_arrivals(found, edge.target, role))
                for _, _, second in heard:
                    later = _mistaken(first, second, arrivals[key])
                    if later is not None:
                        _tell(names, found, report, role, state, node, first, second, later)
                        return  # one finding says it: the others are the same seen from another side


def _mistaken(first: Exchange, second: Exchange, arrivals: list[Exchange]) -> Exchange | None:
    """Return the message behind *first* that looks like *second* and may arrive before it, or None."""
    if first.sender == second.sender or first.beside(second):
        return None
    for exchange in arrivals:
        if (exchange.sender, exchange.type) == (second.sender, second.type) and not exchange.beside(first):
            return exchange
    return None


def _tell(
    names: Names, found: Projections, report: Report, role: int, state: int, node: int, first: Exchange,
    second: Exchange, later: Exchange,
) -> None:  # fmt: skip
    text = (
        f"{names.role(role)!r} waits for {names.exchange(first)!r} or {names.exchange(second)!r}; after the first, "
        f"{names.exchange(later)!r} (line {later.mark.line}) may arrive before it and be mistaken for the second"
    )
    trace = (*way_to_member(found, names, role, state, node), names.exchange(first), names.exchange(later))
    hint = f"use another message type, or let {names.role(role)!r} answer in between"
    report.add(
        Diagnostic(later.mark, "E-RECEIVE-RACE", text, role=names.role(role), trace=trace, suggestion=hint)
    )  # fmt: skip


def _arrivals(found: Projections, point: int, role: int) -> Iterator[Exchange]:
    """Yield every message to *role* that can be sent from *point* on without *role* doing anything."""
    for _, edge, blocked in _onward(found, point, frozenset({role})):
        exchange = edge.exchange
        if exchange is None or exchange.sender in blocked:
            continue
        if role in found.graph.addresses[exchange.address]:
            yield exchange


def _onward(found: Projections, point: int, blocked: frozenset[int]) -> Iterator[tuple[int, Edge, frozenset[int]]]:
    """Yield (point, edge, roles that stand still by then) of each message ahead; bus events end the search."""
    n_roles, addresses = len(found.views), found.graph.addresses
    seen, waiting = {(point, blocked)}, [(point, blocked)]
    while waiting and len(seen) < _MOST_PLACES:
        here, still = waiting.pop()
        for edge, exchange in ordinary(found.points[here]):
            yield here, edge, still
            then = (edge.target, still | set(addresses[exchange.address]) if exchange.sender in still else still)
            if len(then[1]) < n_roles and then not in seen:
                seen.add(then)
                waiting.append(then)


def check_running_ahead(spec: Spec, found: Projections, report: Report) -> None:
    """Report messages that may be sent ahead of a point at which the bus can still turn the conversation elsewhere.

    Who has sent or read such a message has left the place where the bus event would have met it.
    """
    names, told = Names(spec, found.graph), set()
    for point, edges in found.points.items():
        events = _events(edges)
        for first, awaited in ordinary(edges):
            still = frozenset({awaited.sender, *found.graph.addresses[awaited.address]})
            for place, edge, blocked in _onward(found, first.target, still):
                exchange = edge.exchange
                if exchange is None or exchange.sender in blocked or exchange.mark in told:
                    continue
                if exchange.beside(awaited):
                    continue
                missed = _missed(found, edge, exchange, events, place)
                if missed:
                    told.add(exchange.mark)
                    trace = way_to(found, names, lambda one, point=point: one == point)  # type: ignore[misc]  # bound now
                    report.add(_unaware(names, exchange, awaited, min(missed), trace))


def _events(edges: Iterable[Edge]) -> frozenset[int]:
    return frozenset(edge.event for edge in edges if edge.event != NO_EVENT)


def _missed(found: Projections, edge: Edge, exchange: Exchange, events: frozenset[int], place: int) -> frozenset[int]:
    """Return the bus events that can strike where the others are, or where *edge* leads, but not in both.

    One that discards the message, as of its scope, brings everybody to one place, also those who were ahead. Behind
    any other the message would still stand, and its sender be led back to before it.

    Args:
        events: Those that can strike where the others are; *place* is where *edge* stands.
    """
    graph = found.graph
    table, here, there = graph.events, _events(found.points[place]), _events(found.points[edge.target])
    own = {one for one in events | here if table[one].kind is EventKind.ELSE and table[one].role == exchange.sender}
    # END, MAX and deadlines wait until everybody is there, and so do interrupts.
    sudden = {one for one in (here | there) - events if table[one].kind in _SUDDEN}
    # A pass that is counted before it was gone through would end its loop too early.
    counted = {graph.counters[counter].event for counter in edge.counts} - {NO_EVENT}
    kept = {one for one in events | here if not table[one].discards or table[one].scope not in exchange.scopes} - own
    return frozenset(kept) | ((events | here) - own - there) | sudden | counted


def _unaware(names: Names, exchange: Exchange, awaited: Exchange, event: int, trace: tuple[str, ...]) -> Diagnostic:
    who = names.role(exchange.sender)
    text = (
        f"{who!r} may send {names.exchange(exchange)!r} before {names.exchange(awaited)!r}, and cannot know whether "
        f"{names.graph.events[event].name!r} comes in between, which everybody must be there for"
    )
    hint = f"let {who!r} hear from {names.role(awaited.sender)!r} first"
    return Diagnostic(exchange.mark, "E-UNAWARE-SENDER", text, role=who, trace=trace, suggestion=hint)


def check_bounds(spec: Spec, found: Projections, report: Report) -> None:
    """Warn of messages that can be sent again and again while their receiver does nothing: W-UNBOUNDED."""
    graph, names = found.graph, Names(spec, found.graph)
    told = set()
    for node in sorted(found.reachable):
        for edge, exchange in ordinary(graph.nodes[node].edges):
            if exchange.mark in told or _is_bounded(spec, graph, node, exchange):
                continue
            for receiver in graph.addresses[exchange.address]:
                if _comes_again(found, edge, exchange, receiver):
                    told.add(exchange.mark)
                    text = (
                        f"{names.exchange(exchange)!r} can be sent without end while {names.role(receiver)!r} has read "
                        f"none of it"
                    )
                    trace = way_to(found, names, lambda one, node=node: one == node)  # type: ignore[misc]  # bound at once
                    finding = Diagnostic(
                        exchange.mark, "W-UNBOUNDED", text, Severity.WARNING, names.role(receiver), trace,
                        "give it 'max' (of a stream or loop), its type a 'window', or let the receiver answer",
                    )  # fmt: skip
                    report.add(finding)
                    break


def _is_bounded(spec: Spec, graph: Automaton, node: int, exchange: Exchange) -> bool:
    message = spec.messages[exchange.type]
    if message.window is not None or (message.delivery or spec.delivery) == Delivery.AT_MOST_ONCE:
        return True
    counting = (*exchange.guards, *graph.nodes[node].counters)
    return any(graph.counters[counter].enrolls < 0 for counter in counting)


def _comes_again(found: Projections, edge: Edge, exchange: Exchange, receiver: int) -> bool:
    """Return whether the same message can be sent again with *receiver* standing still all the while."""
    return any(
        again.exchange is not None and again.exchange.mark == exchange.mark and exchange.sender not in blocked
        for _, again, blocked in _onward(found, edge.target, frozenset({receiver}))
    )
