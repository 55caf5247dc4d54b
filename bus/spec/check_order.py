"""Does every role know when to speak, when to listen and when it is over? Checks over what each role sees.

A role that sees a part of the conversation only must never have to guess. Rules: E-CHOICE-DECIDER,
E-AMBIGUOUS, E-RACE, E-UNAWARE-SENDER, E-MIXED, E-UNAWARE-END, E-LOSSY-CONTROL (LANGUAGE.md, "Static checks").
Messages that interrupt are left out of all of them: the bus decides these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bus.spec.automaton import Edge, Exchange, closure
from bus.spec.diagnostic import Diagnostic, Report
from bus.spec.projection import Projections, View
from bus.spec.syntax import Delivery, Mark, Spec
from bus.spec.tables import NO_EVENT
from bus.spec.witness import Names, way_to, way_to_member


@dataclass(slots=True)
class Order:
    """The checks of one spec, with what they share."""

    spec: Spec
    found: Projections
    report: Report
    names: Names = field(init=False)
    _told: set[tuple[str, Mark, int]] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.names = Names(self.spec, self.found.graph)

    def takes_part(self, role: int, exchange: Exchange) -> bool:
        """Return whether *role* sends or receives the message."""
        return role == exchange.sender or role in self.found.graph.addresses[exchange.address]

    def tell(
        self, rule: str, mark: Mark, text: str, *, role: int, trace: tuple[str, ...] = (), suggestion: str = ""
    ) -> None:
        """Report a finding once for each rule, place and role."""
        key = (rule, mark, role)
        if key not in self._told:
            self._told.add(key)
            self.report.add(
                Diagnostic(mark, rule, text, role=self.names.role(role), trace=trace, suggestion=suggestion or None)
            )


def check_order(spec: Spec, found: Projections, report: Report) -> None:
    """Report the faults of the first kind that *spec* has: later kinds would mostly repeat it in other words."""
    order = Order(spec, found, report)
    for check in (_check_deciders, _check_races, _check_senders, _check_mixed, _check_ends, _check_lossy):
        check(order)
        if report.has_errors:
            return


def ordinary(edges: Iterable[Edge]) -> Iterator[tuple[Edge, Exchange]]:
    """Yield the edges that are messages and no interrupts, each with its message."""
    for edge in edges:
        if edge.exchange is not None and edge.event == NO_EVENT:
            yield edge, edge.exchange


# -- who may speak ------------------------------------------------------------------------------------


def _check_deciders(order: Order) -> None:
    """E-CHOICE-DECIDER: a branch that is left out lets somebody else speak, or ends the conversation."""
    nodes = order.found.graph.nodes
    for decision in order.found.graph.decisions:
        decider = order.names.role(decision.decider)
        for name, first in decision.branches:
            ahead = closure({first}, lambda node: (edge.target for edge in nodes[node].edges if edge.silent))
            for _, exchange in ordinary(edge for node in sorted(ahead) for edge in nodes[node].edges):
                if exchange.sender != decision.decider:
                    text = (
                        f"choice {decider}: where branch {name!r} says nothing, {order.names.exchange(exchange)!r} "
                        f"comes next, and {order.names.role(exchange.sender)!r} cannot know that it was left out"
                    )
                    hint = f"let {decider!r} begin every branch with a message"
                    order.tell("E-CHOICE-DECIDER", decision.mark, text, role=exchange.sender, suggestion=hint)


def _check_races(order: Order) -> None:
    """E-AMBIGUOUS, E-RACE: at most one role may speak next, and its message says which step it is."""
    for point, edges in order.found.points.items():
        exchanges = {exchange for _, exchange in ordinary(edges)}
        ordered = sorted(exchanges, key=lambda one: (one.mark.line, one.mark.column))
        for index, second in enumerate(ordered):
            for first in ordered[:index]:
                if not first.beside(second):
                    _compare(order, point, first, second)


def _compare(order: Order, point: int, first: Exchange, second: Exchange) -> None:
    names, addresses = order.names, order.found.graph.addresses
    if first.sender == second.sender:
        shared = set(addresses[first.address]) & set(addresses[second.address])
        if first.type == second.type and shared:
            text = (
                f"{names.exchange(second)!r} may be one more of this step, or the step at line {first.mark.line}: "
                f"{names.role(min(shared))!r} cannot tell which"
            )
            trace = way_to(order.found, names, lambda one: one == point)
            hint = "give one of the two another message type"
            order.tell("E-AMBIGUOUS", second.mark, text, role=min(shared), trace=trace, suggestion=hint)
        return
    text = (
        f"{names.role(first.sender)!r} may send {names.exchange(first)!r} and {names.role(second.sender)!r} may send "
        f"{names.exchange(second)!r} at the same point: only one role may speak next"
    )
    trace = way_to(order.found, names, lambda one: one == point)
    hint = "let one of them decide by a message, or put the two into parallel branches"
    order.tell("E-RACE", second.mark, text, role=second.sender, trace=trace, suggestion=hint)


# -- what a role can know -----------------------------------------------------------------------------


def _moves(order: Order, view: View, state: int) -> list[tuple[int, Edge, Exchange]]:
    """Return (point, edge, message) of every ordinary message of the role in *state*."""
    return [
        (point, edge, exchange)
        for point in sorted(view.points[state])
        for edge, exchange in ordinary(order.found.points[point])
        if order.takes_part(view.machine.role, exchange)
    ]


def _check_senders(order: Order) -> None:
    """E-UNAWARE-SENDER: from wherever the conversation may stand for all that the role knows, its turn must come."""
    for view in order.found.views:
        role = view.machine.role
        back: dict[int, list[int]] = {}
        for point, edges in order.found.points.items():
            for edge, exchange in ordinary(edges):
                if not order.takes_part(role, exchange):
                    back.setdefault(edge.target, []).append(point)
        for state, points in enumerate(view.points):
            origins: dict[tuple[int, int], tuple[set[int], Exchange]] = {}
            for point, _, exchange in _moves(order, view, state):
                if exchange.sender == role:
                    origins.setdefault((exchange.type, exchange.address), (set(), exchange))[0].add(point)
            for starts, exchange in origins.values():
                unaware = points - closure(starts, lambda one, back=back: back.get(one, ()))  # type: ignore[misc]
                if unaware:
                    _tell_unaware(order, role, state, sorted(unaware), exchange)


def _tell_unaware(order: Order, role: int, state: int, unaware: list[int], exchange: Exchange) -> None:
    names = order.names
    ways = [way_to_member(order.found, names, role, state, node) for node in unaware]
    text = (
        f"{names.role(role)!r} must send {names.exchange(exchange)!r} on one way through the conversation, and cannot "
        f"know that it has not gone the other"
    )
    hint = f"let somebody who knows tell {names.role(role)!r}, on every way, before this message"
    order.tell("E-UNAWARE-SENDER", exchange.mark, text, role=role, trace=min(ways, key=len), suggestion=hint)


def _check_mixed(order: Order) -> None:
    """E-MIXED: a role must know whether to speak or to listen."""
    for view in order.found.views:
        role, names = view.machine.role, order.names
        for state in range(len(view.points)):
            moves = _moves(order, view, state)
            said = [exchange for _, _, exchange in moves if exchange.sender == role]
            heard = [(node, exchange) for node, _, exchange in moves if exchange.sender != role]
            for sent in said:
                for node, received in heard:
                    if not sent.beside(received):
                        text = (
                            f"{names.role(role)!r} cannot know whether to send {names.exchange(sent)!r} or to wait for "
                            f"{names.exchange(received)!r}"
                        )
                        trace = way_to_member(order.found, names, role, state, node)
                        hint = f"let somebody tell {names.role(role)!r} first which of the two comes"
                        order.tell("E-MIXED", sent.mark, text, role=role, trace=trace, suggestion=hint)


def _check_ends(order: Order) -> None:
    """E-UNAWARE-END: where the conversation falls off its end, every role must see that nothing more comes for it."""
    graph, names = order.found.graph, order.names
    if graph.implicit_end == NO_EVENT:
        return
    points = order.found.points
    back: dict[int, list[int]] = {}
    for point, edges in points.items():
        for edge in edges:
            back.setdefault(edge.target, []).append(point)
    over = {point for point, edges in points.items() if any(edge.event == graph.implicit_end for edge in edges)}
    for view in order.found.views:
        role = view.machine.role
        acting = [
            point
            for point, edges in points.items()
            if any(order.takes_part(role, exchange) for _, exchange in ordinary(edges))
        ]
        active = closure(acting, lambda one: back.get(one, ()))
        for state, standing in enumerate(view.points):
            if not standing & over or not standing & active:
                continue
            awaited = _nearest(order, role, min(standing & active))
            text = (
                f"{names.role(role)!r} cannot know whether the conversation is over or {names.exchange(awaited)!r} is "
                f"still to come"
            )
            ways = [way_to_member(order.found, names, role, state, point) for point in standing & over]
            hint = "write 'end: …' at the end of each way: the bus then tells everybody"
            trace = min(ways, key=len)
            order.tell("E-UNAWARE-END", awaited.mark, text, role=role, trace=trace, suggestion=hint)


def _nearest(order: Order, role: int, point: int) -> Exchange:
    """Return the nearest message from *point* on in which *role* takes part; there is one."""
    waiting, seen = [point], {point}
    for one in waiting:
        for _, exchange in ordinary(order.found.points[one]):
            if order.takes_part(role, exchange):
                return exchange
        for edge in order.found.points[one]:
            if edge.target not in seen:
                seen.add(edge.target)
                waiting.append(edge.target)
    raise AssertionError("the caller knows that there is one")


def _check_lossy(order: Order) -> None:
    """E-LOSSY-CONTROL: what follows an at-most-once message must be possible without it, too."""
    spec, names = order.spec, order.names
    lossy = {
        index
        for index, message in enumerate(spec.messages)
        if (message.delivery or spec.delivery) == Delivery.AT_MOST_ONCE
    }
    told: set[Mark] = set()
    for node in order.found.graph.nodes:
        for edge in node.edges:
            interrupt = edge.exchange
            if interrupt is not None and edge.event != NO_EVENT and interrupt.type in lossy:
                text = f"{names.exchange(interrupt)!r} is at-most-once and may be lost, but it interrupts"
                hint = "make it at-least-once or durable"
                order.tell("E-LOSSY-CONTROL", interrupt.mark, text, role=interrupt.sender, suggestion=hint)
    for view in order.found.views:
        machine = view.machine
        for state in range(len(view.points)):
            for _, _, exchange in _moves(order, view, state):
                if exchange.type not in lossy or exchange.mark in told:
                    continue
                if exchange.sender == machine.role:
                    then = machine.send[state][exchange.type, exchange.address].next
                else:
                    then = machine.receive[state][exchange.sender, exchange.type].next
                new = (machine.send[then].keys() - machine.send[state].keys()) or (
                    machine.receive[then].keys() - machine.receive[state].keys()
                )
                if new:
                    told.add(exchange.mark)
                    text = (
                        f"{names.exchange(exchange)!r} is at-most-once and may be lost, but "
                        f"{names.role(machine.role)!r} can go on only after it"
                    )
                    hint = "make it at-least-once or durable, or part of a stream that another message ends"
                    order.tell("E-LOSSY-CONTROL", exchange.mark, text, role=machine.role, suggestion=hint)
