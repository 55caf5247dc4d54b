"""What `each` and `enroll` mean for the global automaton.

The automaton has the block of an `each` once: members do not see each other, so what holds for one
holds for any number of them. Two bus events stand around it: JOINED, when enough members are through,
and LATE, which cuts off those that are not. ``gathering`` steps the block for every member apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from bus.spec.automaton import Edge, error_at
from bus.spec.check_flow import may_be_empty
from bus.spec.growth import Around, Growth
from bus.spec.syntax import Block, Each, Enroll
from bus.spec.tables import NO_EACH, NO_EVENT, BusEvent, EachTable, EventKind
from bus.spec.walk import steps


def unfold_each(
    grow: Growth, block: Callable[[Block, int, Around], int | None], each: Each, here: int, around: Around
) -> int | None:
    """Add *each* behind the node *here*; return the node behind it, or None where it is never left.

    Args:
        block: Unfolds a block: (steps, node where it is enabled, what is around) → node behind it.
    """
    graph, mark = grow.graph, each.mark
    number = len(graph.eaches)
    after = grow.node(mark, around)
    begin = grow.node(mark, around)
    graph.nodes[begin].begins = number
    grow.edge(here, Edge(begin))
    table = _table(grow, each)
    if table.none != NO_EVENT:
        grow.edge(begin, Edge(after, event=table.none))

    graph.eaches.append(table)
    graph.each = number
    strand = replace(around, counters=(*around.counters, *_enrollments(grow, each)))
    bounded = _is_bounded(each)
    grow.scope(f"each {each.role}", around)
    if bounded:
        assert each.within is not None  # else nothing bounds it
        graph.scopes[table.scope] = replace(graph.scopes[table.scope], timeouts=((each.within, table.late),))
    inside = replace(strand, scopes=(*around.scopes, table.scope), covered=around.covered or bounded)
    first = grow.node(mark, inside)
    grow.edge(begin, Edge(first))
    ways = [block(each.body, first, inside)]
    inner = grow.positions(first)
    if table.late != NO_EVENT:
        ways.append(_cut_off(grow, block, each, inner, table.late, strand))
    graph.each = NO_EACH
    graph.eaches[number] = _join(grow, each, table, [way for way in ways if way is not None], inner, strand, after)
    return grow.reached(after)


def _table(grow: Growth, each: Each) -> EachTable:
    """Return what the bus knows of *each* before its block is unfolded."""
    graph, step = grow.graph, f"each {each.role}"
    role = next(index for index, role in enumerate(grow.spec.roles) if role.name == each.role)
    table = EachTable(role, scope=len(graph.scopes), needs=_needs(each), on_join=each.late is not None)
    if may_be_empty(grow.spec.roles, each.role):
        none = graph.add_event(BusEvent(f"{each.role}.none", EventKind.JOINED, step))
        table = replace(table, none=none)
    if _is_bounded(each) or (table.needs > 0 and table.on_join):
        late = BusEvent(f"{each.role}.late", EventKind.LATE, step, discards=True, scope=table.scope)
        table = replace(table, late=graph.add_event(late))
    return table


def _join(
    grow: Growth, each: Each, table: EachTable, through: list[int], inner: list[int], strand: Around, after: int
) -> EachTable:
    """Let JOINED lead from where members are through, and from everywhere where others are left behind."""
    graph, step = grow.graph, f"each {each.role}"
    leaves_behind = table.needs > 0 and not table.on_join
    if through or leaves_behind:
        joined = graph.add_event(BusEvent(f"{each.role}.joined", EventKind.JOINED, step))
        table = replace(table, joined=joined)
    if through:
        done = grow.node(each.mark, strand)
        for way in through:
            grow.edge(way, Edge(done))
        grow.edge(done, Edge(after, event=table.joined))
    if leaves_behind:  # another event, for it strikes in other places; in a conversation JOINED stands for it
        left = graph.add_event(BusEvent(f"{each.role}.left", EventKind.JOINED, step))
        table = replace(table, left=left)
        for node in inner:
            grow.edge(node, Edge(after, event=left))
    return table


def _is_bounded(each: Each) -> bool:
    return each.within is not None and each.within != math.inf


def _cut_off(
    grow: Growth,
    block: Callable[[Block, int, Around], int | None],
    each: Each,
    inner: list[int],
    late: int,
    strand: Around,
) -> int | None:
    """Let LATE strike a member wherever it stands, and go on with `late`; return the node behind that."""
    aside = grow.node(each.mark, strand)
    for node in inner:
        grow.edge(node, Edge(aside, event=late))
    if each.late is not None:
        return block(each.late, aside, strand)
    grow.end(each.mark, aside, "failed")
    return None


def unfold_enroll(grow: Growth, enroll: Enroll, here: int, around: Around) -> int:
    """Count the member into the sub-role; return the node behind the step."""
    role = grow.spec.role(enroll.role)
    if role is None or grow.graph.each == NO_EACH:
        raise error_at(enroll.mark, "E-ENROLL", "expected this step inside an 'each', whose member it enrolls")
    after = grow.node(enroll.mark, around)
    grow.edge(here, Edge(after, counts=(grow.enrollment(enroll.mark, role),)))
    return after


def _enrollments(grow: Growth, each: Each) -> tuple[int, ...]:
    """Return the counters of the sub-roles into which the block, or `late`, enrolls."""
    found = {
        step.role: grow.enrollment(step.mark, role)
        for step in steps((*each.body, *(each.late or ())))
        if isinstance(step, Enroll) and (role := grow.spec.role(step.role)) is not None
    }
    return tuple(found.values())


def _needs(each: Each) -> int:
    return {"all": 0, "any": 1}.get(each.until) or (int(each.until) if each.until.isdigit() else 0)
