"""What a role may take for something else because of when a bus event struck: E-RECEIVE-RACE.

A bus event tells a role its name and no more. Where it could have struck in one of two places, for all that the role
knows, the others may meanwhile have gone on from the first and say what the role would expect behind the second.
"""

from __future__ import annotations

from collections.abc import Iterable

from bus.spec.automaton import Edge, Exchange, closure
from bus.spec.check_overtaking import Onward, arrivals_at
from bus.spec.diagnostic import Diagnostic, Report
from bus.spec.projection import Projections, View
from bus.spec.syntax import Spec
from bus.spec.tables import NO_EVENT
from bus.spec.witness import Names, Ways


def check_mistaken_events(spec: Spec, found: Projections, report: Report) -> None:
    """Report the first message that a role can mistake for one behind another pass of a bus event."""
    onward = Onward(found)
    for view in found.views:
        for state, points in enumerate(view.points):
            for point, edge in _split_events(found, points):
                mistaken = _mistaken(onward, view, view.machine.bus[state].get(edge.event), edge)
                if mistaken is not None:
                    names = Names(spec, found.graph)
                    later, way = mistaken
                    trace = Ways(names, found).to_member(view.machine.role, state, (point,))
                    trace += Ways(names, found).say([edge, *way])
                    report.add(_race(names, view.machine.role, edge.event, later, trace))
                    return  # one finding says it: the others are the same seen from another side


def _split_events(found: Projections, points: frozenset[int]) -> list[tuple[int, Edge]]:
    """Return the edges of bus events that lead from *points* to more than one place, with their points."""
    by_event: dict[int, list[tuple[int, Edge]]] = {}
    for point in sorted(points):
        for edge in found.points[point]:
            if edge.event != NO_EVENT and edge.exchange is None:
                by_event.setdefault(edge.event, []).append((point, edge))
    return [one for edges in by_event.values() if len({edge.target for _, edge in edges}) > 1 for one in edges]


def _mistaken(onward: Onward, view: View, behind: int | None, edge: Edge) -> tuple[Exchange, list[Edge]] | None:
    """Return a message that may come behind *edge* though the role would take it for another, with the way to it."""
    if behind is None:
        return None
    role = view.machine.role
    expected = _expected(onward, role, edge.target)
    for said, exchanges in arrivals_at(onward, edge.target, role).items():
        if said in view.machine.receive[behind] and said not in expected:
            return exchanges[0]
    return None


def _expected(onward: Onward, role: int, point: int) -> set[tuple[int, int]]:
    """Return what *role* may be told first from *point* on, as (sender, type)."""

    def unseen(at: int) -> Iterable[int]:
        for edge, exchange in onward.said[at]:
            if exchange.sender != role and not onward.involved[exchange.address] >> role & 1:
                yield edge.target

    return {
        (exchange.sender, exchange.type)
        for at in closure({point}, unseen)
        for _, exchange in onward.said[at]
        if onward.involved[exchange.address] >> role & 1
    }


def _race(names: Names, role: int, event: int, later: Exchange, trace: tuple[str, ...]) -> Diagnostic:
    text = (
        f"{names.role(role)!r} cannot know in which pass {names.graph.events[event].name!r} struck; behind it "
        f"{names.exchange(later)!r} may come from a later pass and be mistaken for that of this one"
    )
    hint = f"let {names.role(role)!r} be heard before the next pass begins"
    return Diagnostic(later.mark, "E-RECEIVE-RACE", text, role=names.role(role), trace=trace, suggestion=hint)
