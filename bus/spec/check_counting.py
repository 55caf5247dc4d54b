"""Can the passes of a loop with ``max`` be counted by those who speak in it? E-UNCOUNTABLE.

The message that ends a pass is counted when it is sent. Where its sender cannot know whether it is the last
one, because what others say beside it is not for its ears, the pass would be counted twice or not at all.
"""

from __future__ import annotations

from bus.spec.automaton import Edge, Exchange
from bus.spec.check_order import ordinary
from bus.spec.diagnostic import Diagnostic, Report
from bus.spec.projection import Projections, View
from bus.spec.syntax import Spec
from bus.spec.tables import NO_EVENT
from bus.spec.witness import Names, Ways


def check_counting(spec: Spec, found: Projections, report: Report) -> None:
    """Report messages that, for all their sender knows, may or may not end a counted pass or begin one."""
    names = Names(spec, found.graph)
    for view in found.views:
        for state in range(len(view.points)):
            finding = _unclear(found, view, state)
            if finding is None:
                continue
            counter, exchange, point = finding
            role = view.machine.role
            who, loop = names.role(role), found.graph.counters[counter].name
            text = (
                f"{who!r} cannot know whether {names.exchange(exchange)!r} ends a pass of {loop!r}, whose passes are "
                f"counted: others may still have to speak in it"
            )
            trace = Ways(names, found).to_member(role, state, (point,))
            hint = "end every pass with one message by a role that has heard of all that is said in it"
            report.add(Diagnostic(exchange.mark, "E-UNCOUNTABLE", text, role=who, trace=trace, suggestion=hint))
            return  # one finding says it: the others are the same seen from another state


def _unclear(found: Projections, view: View, state: int) -> tuple[int, Exchange, int] | None:
    """Return (counter, message, point) where the role's message touches the counter from some points only, or None."""
    first: dict[tuple[int, int], Edge] = {}
    for point in sorted(view.points[state]):
        for edge, exchange in ordinary(found.points[point]):
            if exchange.sender != view.machine.role:
                continue
            known = first.setdefault((exchange.type, exchange.address), edge)
            differing = {*known.counts} ^ {*edge.counts} | {*known.resets} ^ {*edge.resets}
            loops = [one for one in sorted(differing) if found.graph.counters[one].event != NO_EVENT]
            if loops:
                return loops[0], exchange, point
    return None
