"""The global automaton as one member of a conversation sees it, for ``company``: whole, or without an `each`."""

from __future__ import annotations

from dataclasses import replace

from bus.spec.automaton import Automaton, Edge, closure
from bus.spec.tables import NO_EACH, NO_EVENT, EachTable


def told_apart(graph: Automaton) -> tuple[Automaton, list[tuple[int, int]]]:
    """Return the automaton with an address for each place in which one is used, and what those are: (address, each).

    What is said inside an `each` and what is said to all outside are different messages. Who is enrolled behind a
    message, or by a bus event, is enrolled by it.
    """
    said_in = [(address, NO_EACH) for address in range(len(graph.addresses))]

    def apart(edge: Edge) -> Edge:
        exchange = edge.exchange
        if exchange is None or exchange.each == NO_EACH:
            return edge
        place = exchange.address, exchange.each
        if place not in said_in:
            said_in.append(place)
        return replace(edge, exchange=replace(exchange, address=said_in.index(place)))

    nodes = [
        replace(node, edges=[edge if edge.silent else apart(_enrolling(graph, edge)) for edge in node.edges])
        for node in graph.nodes
    ]
    return replace(graph, nodes=nodes, addresses=[graph.addresses[address] for address, _ in said_in]), said_in


def _enrolling(graph: Automaton, edge: Edge) -> Edge:
    """Return *edge* with the `enroll` steps that surely follow it."""
    found, then, passed = edge, edge, {edge.target}
    while len(graph.nodes[then.target].edges) == 1 and graph.nodes[then.target].edges[0].silent:
        [onward] = graph.nodes[then.target].edges
        then = replace(
            then, target=onward.target, resets=(*then.resets, *onward.resets), counts=(*then.counts, *onward.counts)
        )
        if enrolls(graph, onward):
            found = then
        if onward.target in passed:
            break
        passed.add(onward.target)
    return found


def as_seen_by(graph: Automaton, mine: frozenset[int]) -> Automaton:
    """Return the automaton with the `each`es in *mine* only; the others are passed by once they are over."""
    nodes = list(graph.nodes)
    for number, node in enumerate(nodes):
        if node.begins == NO_EACH:
            continue
        each = graph.eaches[node.begins]
        if node.begins in mine:
            edges = [edge for edge in node.edges if edge.event != each.none or edge.silent]
        else:
            after = _behind(graph, each)
            edges = [Edge(after, event=event) for event in (each.joined, each.none) if event != NO_EVENT and after >= 0]
            edges += _around(graph, number, each)
        nodes[number] = replace(node, edges=edges)
    return replace(graph, nodes=nodes)


def _behind(graph: Automaton, each: EachTable) -> int:
    """Return the node behind the `each`, -1 where nothing leads there."""
    over = {each.joined, each.none, each.left} - {NO_EVENT}
    targets = [edge.target for node in graph.nodes for edge in node.edges if edge.event in over]
    return targets[0] if targets else -1


def _around(graph: Automaton, begin: int, each: EachTable) -> list[Edge]:
    """Return what may strike from outside where the block begins: it strikes those who pass by, too."""
    own = (each.joined, each.none, each.left, each.late, NO_EVENT)
    found: list[Edge] = []
    for number in closure({begin}, lambda one: [edge.target for edge in graph.nodes[one].edges if edge.silent]):
        for edge in graph.nodes[number].edges:
            if edge.event not in own and graph.events[edge.event].each == NO_EACH and edge not in found:
                found.append(edge)
    return found


def enrolls(graph: Automaton, edge: Edge) -> list[int]:
    """Return the counters of the sub-roles into which *edge* puts the member."""
    return [counter for counter in edge.counts if graph.counters[counter].enrolls >= 0]
