"""The product of parallel branches: every order in which their steps can follow one another."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from bus.spec.automaton import Automaton, Edge, Node, closure
from bus.spec.syntax import Mark


@dataclass(frozen=True, slots=True)
class Strand:
    """One branch as it stands in the automaton: the nodes ``first`` to ``stop`` - 1 are its own.

    Attributes:
        first: Where it begins.
        last: Where it is done, or None where it never is.
    """

    first: int
    last: int | None
    stop: int


def interleave(graph: Automaton, mark: Mark, strands: tuple[Strand, ...], after: int) -> tuple[int, bool]:
    """Add the product of *strands* to *graph*.

    Silent moves of a branch that cannot rest are taken before anything else: what they reset or count
    belongs to the message before them, and must not be taken for a consequence of another branch's.

    Args:
        graph: Holds the branches already; their own nodes are left behind, unreachable.
        mark: The parallel's place, for the error of a product that is too large.
        after: Where the conversation goes on when all branches are done.

    Returns:
        The node in which the parallel begins, and whether all branches can be done together.

    Raises:
        SpecError: There are too many positions.
    """
    _check_size(graph, mark, strands)
    begin = tuple(strand.first for strand in strands)
    numbers: dict[tuple[int, ...], int] = {}
    waiting: deque[tuple[int, ...]] = deque()

    def number(places: tuple[int, ...]) -> int:
        if places not in numbers:
            numbers[places] = graph.add_node(mark, _merged(graph, places))
            waiting.append(places)
        return numbers[places]

    joined = False
    start = number(begin)
    while waiting:
        places = waiting.popleft()
        edges = graph.nodes[numbers[places]].edges
        if all(place == strand.last for place, strand in zip(places, strands, strict=True)):
            edges.append(Edge(after))
            joined = True
            continue
        for index in _movers(graph, places):
            strand = strands[index]
            for edge in graph.nodes[places[index]].edges:
                if strand.first <= edge.target < strand.stop:
                    target = number((*places[:index], edge.target, *places[index + 1 :]))
                else:  # `end`, or a `break` or `continue` out of the parallel: the other branches are over
                    target = edge.target
                edges.append(replace(edge, target=target))
    return start, joined


def _check_size(graph: Automaton, mark: Mark, strands: tuple[Strand, ...]) -> None:
    """Refuse a product that is too large, before any of it is made: each place goes with each of the others."""
    n_places = 1
    for strand in strands:
        inside = range(strand.first, strand.stop)
        places = closure(
            {strand.first},
            lambda node, inside=inside: (edge.target for edge in graph.nodes[node].edges if edge.target in inside),  # type: ignore[misc]  # bound at once
        )
        n_places *= sum(not _is_passing(graph.nodes[place]) for place in places) or 1
        graph.check_size(mark, n_places)


def _movers(graph: Automaton, places: tuple[int, ...]) -> tuple[int, ...]:
    """Return the branches that may move: the first one that cannot rest alone, else all."""
    for index, place in enumerate(places):
        if _is_passing(graph.nodes[place]):
            return (index,)
    return tuple(range(len(places)))


def _merged(graph: Automaton, places: tuple[int, ...]) -> Node:
    nodes = [graph.nodes[place] for place in places]
    rests = not any(_is_passing(node) for node in nodes)
    return Node(
        scopes=tuple(sorted({scope for node in nodes for scope in node.scopes})),
        counters=tuple(sorted({counter for node in nodes for counter in node.counters})),
        deadlines=[deadline for node in nodes for deadline in node.deadlines] if rests else [],
    )


def _is_passing(node: Node) -> bool:
    """Return whether a branch cannot rest in *node*, but goes on silently."""
    return bool(node.edges) and not node.is_position
