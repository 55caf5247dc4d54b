"""What may arrive while a role has not moved: E-RECEIVE-RACE, W-UNBOUNDED.

Both follow the conversation on while one role stands still. What that role would have sent is not sent,
so whoever waits for it stands still, too, and so on; everything else can still happen.
"""

from __future__ import annotations

from collections.abc import Iterator

from bus.spec.automaton import Automaton, Edge, Exchange
from bus.spec.check_order import ordinary
from bus.spec.diagnostic import Diagnostic, Report, Severity
from bus.spec.projection import Projections
from bus.spec.syntax import Delivery, Spec
from bus.spec.tables import NO_EVENT
from bus.spec.witness import Names, way_to, way_to_member

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
                    arrivals[key] = list(_arrivals(graph, edge.target, role))
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


def _arrivals(graph: Automaton, node: int, role: int) -> Iterator[Exchange]:
    """Yield every message to *role* that can be sent from *node* on without *role* doing anything."""
    for _, exchange, blocked in _onward(graph, node, frozenset({role})):
        if exchange.sender not in blocked and role in graph.addresses[exchange.address]:
            yield exchange


def _onward(graph: Automaton, node: int, blocked: frozenset[int]) -> Iterator[tuple[Edge, Exchange, frozenset[int]]]:
    """Yield each message that lies ahead with the roles that stand still when it is due; bus events end the search."""
    start = (node, blocked)
    seen, waiting = {start}, [start]
    while waiting and len(seen) < _MOST_PLACES:
        here, still = waiting.pop()
        for edge in graph.nodes[here].edges:
            if edge.event != NO_EVENT:
                continue
            then = still
            if edge.exchange is not None:
                yield edge, edge.exchange, still
                if edge.exchange.sender in still:
                    then = still | set(graph.addresses[edge.exchange.address])
            if len(then) < len(graph.roles) and (edge.target, then) not in seen:
                seen.add((edge.target, then))
                waiting.append((edge.target, then))


def check_bounds(spec: Spec, found: Projections, report: Report) -> None:
    """Warn of messages that can be sent again and again while their receiver does nothing: W-UNBOUNDED."""
    graph, names = found.graph, Names(spec, found.graph)
    told = set()
    for node in sorted(found.reachable):
        for edge, exchange in ordinary(graph.nodes[node].edges):
            if exchange.mark in told or _is_bounded(spec, graph, node, exchange):
                continue
            for receiver in graph.addresses[exchange.address]:
                if _comes_again(graph, edge, exchange, receiver):
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
    return bool(exchange.guards or graph.nodes[node].counters)


def _comes_again(graph: Automaton, edge: Edge, exchange: Exchange, receiver: int) -> bool:
    """Return whether the same message can be sent again with *receiver* standing still all the while."""
    return any(
        again.mark == exchange.mark and exchange.sender not in blocked
        for _, again, blocked in _onward(graph, edge.target, frozenset({receiver}))
    )
