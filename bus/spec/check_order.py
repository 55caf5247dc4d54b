"""Does every role know when to speak, when to listen and when it is over? Checks over what each role sees.

A role that sees a part of the conversation only must never have to guess. Rules: E-CHOICE-DECIDER,
E-AMBIGUOUS, E-RACE, E-UNAWARE-SENDER, E-MIXED, E-UNAWARE-END, E-LOSSY-CONTROL (LANGUAGE.md, "Static checks").
Messages that interrupt are left out of all of them: the bus decides these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from bus.spec.automaton import Edge, Exchange, closure
from bus.spec.diagnostic import Diagnostic, Report
from bus.spec.projection import Projections, View
from bus.spec.syntax import Delivery, Mark, Spec
from bus.spec.tables import NO_EVENT
from bus.spec.witness import Names, Ways


@dataclass(slots=True)
class Order:
    """The checks of one spec, with what they share.

    Attributes:
        said: Point → the messages, but for interrupts, that may come next there.
    """

    spec: Spec
    found: Projections
    report: Report
    names: Names = field(init=False)
    ways: Ways = field(init=False)
    said: dict[int, tuple[tuple[Edge, Exchange], ...]] = field(init=False)
    _told: set[tuple[str, Mark, int]] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.names = Names(self.spec, self.found.graph)
        self.ways = Ways(self.names, self.found)
        self.said = {point: tuple(ordinary(edges)) for point, edges in self.found.points.items()}

    def takes_part(self, role: int, exchange: Exchange) -> bool:
        """Return whether *role* sends or receives the message."""
        return role == exchange.sender or role in self.found.graph.addresses[exchange.address]

    def trace(self, edge: Edge, goals: Iterable[int] | None = None) -> Callable[[], tuple[str, ...]]:
        """Return what makes the trace that ends with *edge*, gone from one of the points *goals* or from any."""
        return lambda: (
            self.ways.to(self._places_of(edge) if goals is None else frozenset(goals)) + self.ways.say([edge])
        )

    def trace_of_role(self, role: int, state: int, goals: Iterable[int], *edges: Edge) -> Callable[[], tuple[str, ...]]:
        """Return what makes the trace by which *role* is in *state* at one of *goals*, and over *edges*."""
        return lambda: self.ways.to_member(role, state, frozenset(goals)) + self.ways.say(edges)

    def _places_of(self, edge: Edge) -> frozenset[int]:
        return frozenset(point for point, edges in self.found.points.items() if edge in edges)

    def tell(
        self, rule: str, mark: Mark, text: str, *, role: int, trace: Callable[[], tuple[str, ...]], suggestion: str
    ) -> None:
        """Report a finding once for each rule, place and role; *trace* is asked for only then."""
        key = (rule, mark, role)
        if key not in self._told:
            self._told.add(key)
            self.report.add(
                Diagnostic(mark, rule, text, role=self.names.role(role), trace=trace(), suggestion=suggestion)
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
            for edge, exchange in ordinary(edge for node in sorted(ahead) for edge in nodes[node].edges):
                if exchange.sender != decision.decider:
                    text = (
                        f"choice {decider}: where branch {name!r} says nothing, {order.names.exchange(exchange)!r} "
                        f"comes next, and {order.names.role(exchange.sender)!r} cannot know that it was left out"
                    )
                    hint = f"let {decider!r} begin every branch with a message"
                    order.tell(
                        "E-CHOICE-DECIDER", decision.mark, text, role=exchange.sender, suggestion=hint,
                        trace=order.trace(edge, _before(order, first)),
                    )  # fmt: skip


def _before(order: Order, node: int) -> set[int]:
    """Return what leads to *node* without anything that can be seen."""
    back: dict[int, list[int]] = {}
    for number, one in enumerate(order.found.graph.nodes):
        for edge in one.edges:
            if edge.silent:
                back.setdefault(edge.target, []).append(number)
    return closure({node}, lambda one: back.get(one, ()))


def _check_races(order: Order) -> None:
    """E-AMBIGUOUS, E-RACE: at most one role may speak next, and its message says which step it is."""
    for said in order.said.values():
        senders = {exchange.sender for _, exchange in said}
        if len(said) < 2 or (len(senders) == 1 and len({exchange.type for _, exchange in said}) == len(said)):
            continue
        seen: dict[int, list[Exchange]] = {}
        for edge, second in sorted(said, key=lambda one: (one[1].mark.line, one[1].mark.column)):
            for sender, earlier in seen.items():
                for first in earlier:
                    if first != second and not first.beside(second):
                        clash = _compare(order, edge, first, second)
                        if clash and sender != second.sender:
                            break  # the others of this sender say the same
            seen.setdefault(second.sender, []).append(second)


def _compare(order: Order, edge: Edge, first: Exchange, second: Exchange) -> bool:
    """Report two messages that may not both come next; return whether they clash."""
    names, addresses = order.names, order.found.graph.addresses
    trace = order.trace(edge)
    if first.sender == second.sender:
        shared = set(addresses[first.address]) & set(addresses[second.address])
        if first.type != second.type or not shared:
            return False
        text = (
            f"{names.exchange(second)!r} may be one more of this step, or the step at line {first.mark.line}: "
            f"{names.role(min(shared))!r} cannot tell which"
        )
        hint = "give one of the two another message type"
        order.tell("E-AMBIGUOUS", second.mark, text, role=min(shared), trace=trace, suggestion=hint)
        return True
    text = (
        f"{names.role(first.sender)!r} may send {names.exchange(first)!r} and {names.role(second.sender)!r} may send "
        f"{names.exchange(second)!r} at the same point: only one role may speak next"
    )
    hint = "let one of them decide by a message, or put the two into parallel branches"
    order.tell("E-RACE", second.mark, text, role=second.sender, trace=trace, suggestion=hint)
    return True


# -- what a role can know -----------------------------------------------------------------------------


def _moves(order: Order, view: View, state: int) -> list[tuple[int, Edge, Exchange]]:
    """Return (point, edge, message) of every ordinary message of the role in *state*."""
    return [
        (point, edge, exchange)
        for point in sorted(view.points[state])
        for edge, exchange in order.said[point]
        if order.takes_part(view.machine.role, exchange)
    ]


def _check_senders(order: Order) -> None:
    """E-UNAWARE-SENDER: from wherever the conversation may stand for all that the role knows, its turn must come."""
    for view in order.found.views:
        role = view.machine.role
        for state, points in enumerate(view.points):
            if len(points) == 1:
                continue  # the role knows where it is
            origins: dict[tuple[int, int], tuple[set[int], Exchange]] = {}
            for point, _, exchange in _moves(order, view, state):
                if exchange.sender == role:
                    origins.setdefault((exchange.type, exchange.address), (set(), exchange))[0].add(point)
            for starts, exchange in origins.values():
                unaware = points - starts
                if unaware:
                    unaware -= closure(starts, _unseen_before(order, role, points))
                if unaware:
                    _tell_unaware(order, role, state, unaware, exchange)


def _unseen_before(order: Order, role: int, points: frozenset[int]) -> Callable[[int], Iterable[int]]:
    """Return what leads from a point of a state to those before it by messages that the role does not see.

    All of them are points of the same state: what the role does not see does not move it.
    """
    back: dict[int, list[int]] = {}
    for point in points:
        for edge, exchange in order.said[point]:
            if not order.takes_part(role, exchange):
                back.setdefault(edge.target, []).append(point)
    return lambda point: back.get(point, ())


def _tell_unaware(order: Order, role: int, state: int, unaware: frozenset[int], exchange: Exchange) -> None:
    names = order.names
    text = (
        f"{names.role(role)!r} must send {names.exchange(exchange)!r} on one way through the conversation, and cannot "
        f"know that it has not gone the other"
    )
    hint = f"let somebody who knows tell {names.role(role)!r}, on every way, before this message"
    order.tell(
        "E-UNAWARE-SENDER", exchange.mark, text, role=role, suggestion=hint,
        trace=order.trace_of_role(role, state, unaware),
    )  # fmt: skip


def _check_mixed(order: Order) -> None:
    """E-MIXED: a role must know whether to speak or to listen."""
    for view in order.found.views:
        role = view.machine.role
        for state in range(len(view.points)):
            if not view.machine.send[state] or not view.machine.receive[state]:
                continue
            moves = _moves(order, view, state)
            heard = [move for move in moves if move[2].sender != role]
            for _, _, sent in moves:
                if sent.sender == role and _tell_mixed(order, role, state, sent, heard):
                    break  # the others of this state say the same


def _tell_mixed(order: Order, role: int, state: int, sent: Exchange, heard: list[tuple[int, Edge, Exchange]]) -> bool:
    """Report the first of *heard* that may come instead of what the role may send; return whether there is one."""
    names = order.names
    for point, edge, received in heard:
        if not sent.beside(received):
            text = (
                f"{names.role(role)!r} cannot know whether to send {names.exchange(sent)!r} or to wait for "
                f"{names.exchange(received)!r}"
            )
            hint = f"let somebody tell {names.role(role)!r} first which of the two comes"
            order.tell(
                "E-MIXED", sent.mark, text, role=role, suggestion=hint,
                trace=order.trace_of_role(role, state, (point,), edge),
            )  # fmt: skip
            return True
    return False


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
    ends = {
        point: edge for point, edges in points.items() for edge in edges if edge.event == graph.implicit_end
    }  # fmt: skip
    for view in order.found.views:
        role = view.machine.role
        unsure = [(state, here & ends.keys()) for state, here in enumerate(view.points) if here & ends.keys()]
        if not unsure:
            continue
        acting = [
            point for point, said in order.said.items() if any(order.takes_part(role, one) for _, one in said)
        ]  # fmt: skip
        active = closure(acting, lambda one: back.get(one, ()))
        for state, over in unsure:
            still = view.points[state] & active
            if not still:
                continue
            awaited = _nearest(order, role, min(still))
            text = (
                f"{names.role(role)!r} cannot know whether the conversation is over or {names.exchange(awaited)!r} is "
                f"still to come"
            )
            hint = "write 'end: …' at the end of each way: the bus then tells everybody"
            order.tell(
                "E-UNAWARE-END", awaited.mark, text, role=role, suggestion=hint,
                trace=_trace_to_end(order, role, state, {point: ends[point] for point in over}),
            )  # fmt: skip


def _trace_to_end(order: Order, role: int, state: int, over: dict[int, Edge]) -> Callable[[], tuple[str, ...]]:
    def trace() -> tuple[str, ...]:
        # Where it may be over before anything was said, the end itself is what happens.
        return order.ways.to_member(role, state, over) or order.ways.say([over[order.found.graph.start]])

    return trace


def _nearest(order: Order, role: int, point: int) -> Exchange:
    """Return the nearest message from *point* on in which *role* takes part; there is one."""
    waiting, seen = [point], {point}
    for one in waiting:
        for _, exchange in order.said[one]:
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
    if not lossy:
        return
    told: set[Mark] = set()
    for view in order.found.views:
        role = view.machine.role
        for state in range(len(view.points)):
            for _, edge, exchange in _moves(order, view, state):
                if exchange.type not in lossy or exchange.mark in told or not _opens_way(view, state, exchange):
                    continue
                told.add(exchange.mark)
                text = (
                    f"{names.exchange(exchange)!r} is at-most-once and may be lost, but {names.role(role)!r} can go on "
                    f"only after it"
                )
                hint = "make it at-least-once or durable, or part of a stream that another message ends"
                order.tell("E-LOSSY-CONTROL", exchange.mark, text, role=role, trace=order.trace(edge), suggestion=hint)


def _opens_way(view: View, state: int, exchange: Exchange) -> bool:
    """Return whether the role can do more after the message than in *state*, in which it stands before."""
    machine = view.machine
    if exchange.sender == machine.role:
        then = machine.send[state][exchange.type, exchange.address].next
    else:
        then = machine.receive[state][exchange.sender, exchange.type].next
    return bool(
        machine.send[then].keys() - machine.send[state].keys()
        or machine.receive[then].keys() - machine.receive[state].keys()
    )
