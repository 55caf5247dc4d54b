"""Can a sub-role be full where the only way on enrolls into it? E-FULL.

The bus refuses a message that would exceed a sub-role's ``many``; who may send nothing else then is stuck.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from bus.spec.automaton import Edge, Exchange
from bus.spec.check_order import ordinary
from bus.spec.diagnostic import Diagnostic, Report, Severity
from bus.spec.projection import Projections
from bus.spec.syntax import Role, Spec
from bus.spec.witness import Names, Ways


def check_full(spec: Spec, found: Projections, report: Report) -> None:
    """Report the first message of each sub-role that enrolls into it with nothing beside it, and events that do."""
    graph, names = found.graph, Names(spec, found.graph)
    limited = {
        number
        for number, one in enumerate(graph.counters)
        if one.enrolls >= 0 and one.limit < _most(spec, spec.roles[one.enrolls])
    }
    told: set[int] = set()
    for number in sorted(limited):
        _check_events(found, number, report)
    for point, edges in sorted(found.points.items()):
        for _, exchange in ordinary(edges):
            for number in limited.intersection(exchange.guards) - told:
                if _has_another(edges, exchange, limited):
                    continue
                counter = graph.counters[number]
                told.add(number)
                what = names.exchange(exchange)
                text = f"{what}: {counter.name!r} may be full ({counter.limit}), and then nobody can go on here"
                hint = f"let {names.role(exchange.sender)!r} choose between it and a message that enrolls nobody"
                trace = (*Ways(names, found).to({point}), what)
                role = names.role(exchange.sender)
                report.add(Diagnostic(exchange.mark, "E-FULL", text, Severity.ERROR, role, trace, hint))


def _check_events(found: Projections, counter: int, report: Report) -> None:
    """A bus event asks nobody: what it leads to enrolls however full the sub-role is."""
    graph = found.graph
    for event in graph.events:
        if counter in event.counts:
            name = graph.counters[counter].name
            limit = graph.counters[counter].limit
            text = f"enroll {name}: {event.name!r} leads here even where {name!r} is full ({limit})"
            hint = "enroll behind a message, which the bus can refuse"
            report.error(graph.counted[counter], "E-FULL", text, role=name, suggestion=hint)
            return


def _has_another(edges: Iterable[Edge], exchange: Exchange, limited: set[int]) -> bool:
    """Return whether the sender may say something else there, which no full sub-role or stream can forbid."""
    return any(
        other.sender == exchange.sender
        and other.each == exchange.each
        and limited.isdisjoint(other.guards)
        and not (other.stream and other.guards)
        for _, other in ordinary(edges)
    )


def _most(spec: Spec, role: Role) -> float:
    """Return how many members the role from which *role* takes its own may have."""
    source = spec.role(role.source or "")
    if source is None:
        return inf
    most = inf if source.many is None or source.many[1] is None else source.many[1]
    return min(most, _most(spec, source)) if source.source is not None else most
