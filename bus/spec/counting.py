"""Which counters a move resets and counts: what lies on the silent way behind it.

A loop's pass is counted, and its counter reset on entry, by the move that leads there: the bus must
know at once that a loop is exhausted, not only with the next message. That is only possible where the
silent ways behind a move agree; where a pass may or may not be over, the spec is refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from bus.errors import SpecError
from bus.spec.automaton import Automaton, Edge, Node, error_at
from bus.spec.tables import NO_EVENT

# Counter → (begins again at zero, adds so much); sorted, so that equal effects are equal values.
_Effect: TypeAlias = tuple[tuple[int, tuple[bool, int]], ...]
_UNTOUCHED = (False, 0)


def settle(graph: Automaton, reachable: set[int]) -> None:
    """Move what silent edges reset and count onto the messages and bus events before them, in place.

    Args:
        reachable: The nodes that can be reached from the start; no others are looked at.

    Raises:
        SpecError: A message may or may not be the last of a counted pass, or such a pass may be empty.
    """
    if not graph.counters:
        return
    for number in sorted(reachable):
        node = graph.nodes[number]
        node.edges = [edge if edge.silent else _settled(graph, edge) for edge in node.edges]


def _settled(graph: Automaton, edge: Edge) -> Edge:
    resets, counts = _behind(graph, edge)
    if edge.event == NO_EVENT:
        return replace(edge, resets=resets, counts=counts)
    event = graph.events[edge.event]
    graph.events[edge.event] = replace(
        event,
        resets=tuple(sorted({*event.resets, *resets})),
        counts=tuple(sorted({*event.counts, *counts})),
    )
    return edge


def _behind(graph: Automaton, edge: Edge) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the counters that *edge* resets and counts, those on the silent ways behind it included."""
    found: dict[int, tuple[bool, int]] = {}
    first = (edge.target, _after((), edge))
    seen, waiting = {first}, [first]
    # This ends: going round a counted loop silently meets its head, a position, with another effect.
    while waiting:
        number, effect = waiting.pop()
        node = graph.nodes[number]
        if node.is_position:
            _agree(graph, edge, node, dict(effect), found)
        for onward in node.edges:
            if onward.silent:
                then = (onward.target, _after(effect, onward))
                if then not in seen:
                    seen.add(then)
                    waiting.append(then)
    resets = tuple(sorted(counter for counter, (reset, _) in found.items() if reset))
    counts = tuple(sorted(counter for counter, (_, n) in found.items() if n))
    return resets, counts


def _agree(
    graph: Automaton,
    edge: Edge,
    node: Node,
    effect: dict[int, tuple[bool, int]],
    found: dict[int, tuple[bool, int]],
) -> None:
    # Outside its loop a counter means nothing: entering the loop sets it to zero.
    for counter in node.counters:
        mine = effect.get(counter, _UNTOUCHED)
        if found.setdefault(counter, mine) != mine:
            raise _error(graph, edge, counter, "may or may not be over")


def _error(graph: Automaton, edge: Edge, counter: int, problem: str) -> SpecError:
    exchange = edge.exchange
    what = f"the message at {exchange.mark}" if exchange is not None else graph.events[edge.event].name
    return error_at(
        graph.counted[counter],
        "E-UNCOUNTABLE",
        f"after {what} a pass of {graph.counters[counter].name!r}, which has max, {problem}; "
        "end every pass with a message behind which nothing is optional",
    )


def _after(effect: _Effect, edge: Edge) -> _Effect:
    if not edge.resets and not edge.counts:
        return effect
    changed = dict(effect)
    changed.update(dict.fromkeys(edge.resets, (True, 0)))
    for counter in edge.counts:
        reset, n = changed.get(counter, _UNTOUCHED)
        changed[counter] = (reset, n + 1)
    return tuple(sorted(changed.items()))
