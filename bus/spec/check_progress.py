"""Does everybody who waits get on, and can the conversation end? E-STARVED, E-STARVED-UNBOUNDED, W-NO-END.

Mishaps do not count as progress: a missed deadline, a lost or a failed role. The bus's own bounds do: a
loop's ``max`` and ``within``, a scope's ``timeout``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bus.spec.automaton import Automaton, Edge
from bus.spec.check_order import ordinary
from bus.spec.components import components
from bus.spec.diagnostic import Diagnostic, Report, Severity
from bus.spec.projection import Projections, View
from bus.spec.syntax import Loop, Mark, Spec
from bus.spec.tables import NO_EVENT, EventKind
from bus.spec.walk import sends, steps
from bus.spec.witness import Names, Ways

_MISHAPS = frozenset({EventKind.ELSE, EventKind.LOST, EventKind.FAILED})
_BOUNDS = frozenset({EventKind.MAX, EventKind.TIMEOUT})


def check_progress(spec: Spec, found: Projections, report: Report) -> None:
    """Report roles that may wait for ever while others go on without them."""
    graph = found.graph
    rounds = components(found.reachable, lambda node: [edge.target for edge in _going_on(graph, node)])
    for view in found.views:
        if _starved(spec, found, report, view, [one for one in rounds if _is_bottom(graph, one)], "E-STARVED"):
            continue
        role = view.machine.role

        def without(node: int, role: int = role) -> list[int]:
            return [edge.target for edge in graph.nodes[node].edges if _passes_by(graph, edge, role)]

        loops = [
            one for one in components(found.reachable, without) if _turns(one, without) and not _is_bounded(graph, one)
        ]
        _starved(spec, found, report, view, loops, "E-STARVED-UNBOUNDED")


def check_end(spec: Spec, found: Projections, report: Report) -> None:
    """Warn of ways that never end, unless a loop around them is said to be endless: W-NO-END."""
    graph, names = found.graph, Names(spec, found.graph)
    endless = {
        send.mark
        for step in steps(spec.conversation)
        if isinstance(step, Loop) and step.endless
        for send in sends(step.body)
    }
    for nodes in components(found.reachable, lambda node: [edge.target for edge in _going_on(graph, node)]):
        marks = _marks(graph, nodes)
        if not marks or not _is_bottom(graph, nodes) or set(marks) <= endless:
            continue
        trace = Ways(names, found).to(_turns_into(graph, nodes))
        text = "from here on the conversation can never end"
        hint = "leave the loop by 'break' or 'end', bound it by 'max' or 'within', or write 'endless: true'"
        report.add(Diagnostic(marks[0], "W-NO-END", text, Severity.WARNING, None, trace, hint))


def _starved(
    spec: Spec, found: Projections, report: Report, view: View, rounds: Iterable[frozenset[int]], rule: str
) -> bool:
    """Report the first of *rounds* in which the role takes no part although it may be waiting there."""
    graph, names, role = found.graph, Names(spec, found.graph), view.machine.role
    waiting = {
        node
        for state, nodes in enumerate(view.states)
        if any(move.interrupt == NO_EVENT for move in view.machine.send[state].values()) or view.machine.receive[state]
        for node in nodes
    }
    for nodes in rounds:
        marks = _marks(graph, nodes)
        if not marks or not nodes & waiting or role in _speakers_and_hearers(graph, nodes):
            continue
        trace = Ways(names, found).to(_turns_into(graph, nodes))
        who = names.role(role)
        if rule == "E-STARVED":
            text = f"{who!r} may wait for ever: this way goes on without it and never comes back to it"
            hint = f"tell {who!r} that nothing more comes, or let it take part"
        else:
            text = f"{who!r} may wait for ever: this loop need not end, and goes on without it"
            hint = "give the loop 'max' or 'within' with an 'else'"
        report.add(Diagnostic(marks[0], rule, text, role=who, trace=trace, suggestion=hint))
        return True
    return False


def _going_on(graph: Automaton, node: int) -> list[Edge]:
    """Return the edges of *node* that are no mishaps."""
    return [
        edge
        for edge in graph.nodes[node].edges
        if edge.event == NO_EVENT or graph.events[edge.event].kind not in _MISHAPS
    ]


def _passes_by(graph: Automaton, edge: Edge, role: int) -> bool:
    """Return whether *edge* is silent or a message in which *role* takes no part."""
    exchange = edge.exchange
    if edge.event != NO_EVENT:
        return False
    return exchange is None or (role != exchange.sender and role not in graph.addresses[exchange.address])


def _is_bottom(graph: Automaton, nodes: frozenset[int]) -> bool:
    return all(edge.target in nodes for node in nodes for edge in _going_on(graph, node))


def _is_bounded(graph: Automaton, nodes: frozenset[int]) -> bool:
    return any(
        edge.event != NO_EVENT and graph.events[edge.event].kind in _BOUNDS
        for node in nodes
        for edge in graph.nodes[node].edges
    ) or any(exchange.guards for node in nodes for _, exchange in ordinary(graph.nodes[node].edges))


def _turns(nodes: frozenset[int], successors: Callable[[int], Iterable[int]]) -> bool:
    return len(nodes) > 1 or any(target in nodes for node in nodes for target in successors(node))


def _turns_into(graph: Automaton, nodes: frozenset[int]) -> frozenset[int]:
    """Return the nodes to which a message inside *nodes* leads."""
    return frozenset(
        edge.target for node in nodes for edge, _ in ordinary(graph.nodes[node].edges) if edge.target in nodes
    )


def _marks(graph: Automaton, nodes: frozenset[int]) -> list[Mark]:
    """Return where the messages inside *nodes* are written, in the order of the file."""
    found = {
        exchange.mark for node in nodes for edge, exchange in ordinary(graph.nodes[node].edges) if edge.target in nodes
    }
    return sorted(found, key=lambda one: (one.line, one.column))


def _speakers_and_hearers(graph: Automaton, nodes: frozenset[int]) -> set[int]:
    inside = [
        exchange for node in nodes for edge, exchange in ordinary(graph.nodes[node].edges) if edge.target in nodes
    ]
    return {role for one in inside for role in (one.sender, *graph.addresses[one.address])}
