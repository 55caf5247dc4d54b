"""Which counters a move resets and counts: what lies on the silent way behind it.

A loop's pass is counted, and its counter reset on entry, by the move that leads there: the bus must
know at once that a loop is exhausted, not only with the next message. That is only possible where the
silent ways behind a move agree; where a pass may or may not be over, the spec is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeAlias

from bus.errors import SpecError
from bus.spec.automaton import Automaton, Edge, Node, error_at
from bus.spec.tables import NO_EACH, NO_EVENT, EventKind

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


def begun_streams(
    graph: Automaton, targets: Iterable[int], sees: Callable[[Edge], bool], streams: Iterable[int]
) -> set[int]:
    """Return those of a role's own *streams*, as counters, that begin once it is led to *targets*.

    A stream is counted by what its sender sees: others may be ahead of it or behind, and what they say must not
    begin its count again.

    Args:
        sees: Whether the role can see an edge.
    """
    begun = set()
    for counter in streams:
        found: set[bool] = set()
        seen = {(target, False) for target in targets}
        waiting = list(seen)
        while waiting:
            number, entered = waiting.pop()
            for edge in graph.nodes[number].edges:
                if not sees(edge):
                    then = (edge.target, entered or counter in edge.resets)
                    if then not in seen:
                        seen.add(then)
                        waiting.append(then)
                elif edge.exchange is not None and counter in edge.exchange.guards:
                    found.add(entered)
        if found == {True}:  # where it may have begun before, it was counted from then on
            begun.add(counter)
    return begun


def _settled(graph: Automaton, edge: Edge) -> Edge:
    resets, counts = _behind(graph, edge)
    enrolling = {counter for counter in counts if graph.counters[counter].enrolls >= 0}
    if enrolling:
        _check_enrolling(graph, edge, enrolling)
    if edge.event == NO_EVENT:
        exchange = edge.exchange
        if enrolling and exchange is not None:  # refused where the sub-role is full
            exchange = replace(exchange, guards=tuple(sorted({*exchange.guards, *enrolling})))
        # What a message itself says of a stream stands; where a stream begins silently is its sender's to see.
        return replace(
            edge,
            exchange=exchange,
            resets=tuple(sorted({*resets, *(one for one in edge.resets if is_stream(graph, one))})),
            counts=tuple(sorted({*counts, *(one for one in edge.counts if is_stream(graph, one))})),
        )
    event = graph.events[edge.event]
    graph.events[edge.event] = replace(
        event,
        resets=tuple(sorted({*event.resets, *resets})),
        counts=tuple(sorted({*event.counts, *counts})),
    )
    return edge


def is_stream(graph: Automaton, counter: int) -> bool:
    """Return whether *counter* counts the messages of a stream."""
    return graph.counters[counter].event == NO_EVENT and graph.counters[counter].enrolls < 0


def _check_enrolling(graph: Automaton, edge: Edge, enrolling: set[int]) -> None:
    """Refuse an `enroll` with nothing before it that says which member is meant."""
    inside = edge.exchange.each if edge.exchange is not None else graph.events[edge.event].each
    if inside == NO_EACH and (edge.event == NO_EVENT or graph.events[edge.event].kind is not EventKind.LATE):
        raise error_at(
            graph.counted[min(enrolling)],
            "E-ENROLL",
            f"expected a message of the member before it is enrolled as {graph.counters[min(enrolling)].name!r}, "
            "got none in this block; put 'enroll' behind one",
        )


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
        if edge.event == NO_EVENT and is_stream(graph, counter):
            continue  # ``begun_streams``
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
