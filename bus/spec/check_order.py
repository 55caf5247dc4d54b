"""Does every role know when to speak, when to listen and when it is over? Checks over what each role sees.

A role that sees a part of the conversation only must never have to guess. Rules: E-CHOICE-DECIDER,
E-AMBIGUOUS, E-RACE, E-UNAWARE-SENDER, E-MIXED, E-UNAWARE-END, E-LOSSY-CONTROL (LANGUAGE.md, "Static checks").
Messages that interrupt are left out of all of them: the bus decides these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from bus.spec.automaton import Edge, Exchange, closure
from bus.spec.diagnostic import MAX_FINDINGS, Diagnostic, Report, Severity
from bus.spec.projection import Projections, View
from bus.spec.syntax import Delivery, Mark, Spec
from bus.spec.tables import NO_EVENT
from bus.spec.witness import Names, Ways

_MOST_PLACES = 1_000  # of one fault, among which the nearest is looked for


@dataclass(slots=True)
class _Fault:
    """A finding while its places are gathered: the nearest of them is shown.

    Attributes:
        places: (point, state of the role or 0) → what is said of the fault there, and the message that ends its trace.
    """

    suggestion: str
    is_of_state: bool
    places: dict[tuple[int, int], tuple[str, Edge | None]] = field(default_factory=dict)


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
    _faults: dict[tuple[str, Mark, int], _Fault] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.names = Names(self.spec, self.found.graph)
        self.ways = Ways(self.names, self.found)
        self.said = {point: tuple(ordinary(edges)) for point, edges in self.found.points.items()}

    def takes_part(self, role: int, exchange: Exchange) -> bool:
        """Return whether *role* sends or receives the message."""
        return role == exchange.sender or role in self.found.graph.addresses[exchange.address]

    @property
    def is_full(self) -> bool:
        """Whether more faults would not be reported."""
        return len(self._faults) >= MAX_FINDINGS

    def places_of(self, mark: Mark) -> list[int]:
        """Return the points at which the message at *mark* may come next, in every product that it is part of."""
        return [point for point, said in self.said.items() if any(one.mark == mark for _, one in said)]

    def note(
        self, rule: str, mark: Mark, text: str, *, role: int, suggestion: str, goals: Iterable[int],
        state: int | None = None, edge: Edge | None = None,
    ) -> None:  # fmt: skip
        """Note a fault; there is one finding for each rule, mark and role, with the shortest trace.

        Args:
            goals: Points at which the fault shows.
            state: The state of *role* in which it does; None where that does not matter.
            edge: The message, possible at each of *goals*, that the trace ends with.
        """
        fault = self._faults.get((rule, mark, role))
        if fault is None:
            if self.is_full:
                return
            fault = self._faults[rule, mark, role] = _Fault(suggestion, state is not None)
        if len(fault.places) < _MOST_PLACES:
            for point in goals:
                fault.places.setdefault((point, state or 0), (text, edge))

    def tell(self) -> None:
        """Report what was noted."""
        for (rule, mark, role), fault in self._faults.items():
            place, trace = self.ways.to_first(fault.places, role if fault.is_of_state else None)
            text, edge = fault.places[place]
            trace += self.ways.say([edge] if edge is not None else [])
            self.report.add(
                Diagnostic(mark, rule, text, Severity.ERROR, self.names.role(role), trace, fault.suggestion)
            )
        self._faults.clear()


def check_order(spec: Spec, found: Projections, report: Report) -> None:
    """Report the faults of the first kind that *spec* has: later kinds would mostly repeat it in other words."""
    order = Order(spec, found, report)
    for check in (_check_deciders, _check_races, _check_senders, _check_mixed, _check_ends, _check_lossy):
        check(order)
        order.tell()
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
    back: dict[int, list[int]] = {}
    for number, node in enumerate(nodes):
        for edge in node.edges:
            if edge.silent:
                back.setdefault(edge.target, []).append(number)
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
                    goals = closure({first}, lambda node: back.get(node, ())) & order.said.keys()
                    order.note(
                        "E-CHOICE-DECIDER", decision.mark, text, role=exchange.sender, suggestion=hint,
                        goals=goals or order.places_of(exchange.mark), edge=edge,
                    )  # fmt: skip


def _check_races(order: Order) -> None:
    """E-AMBIGUOUS, E-RACE: at most one role may speak next, and its message says which step it is."""
    for point, said in order.said.items():
        senders = {exchange.sender for _, exchange in said}
        if len(said) < 2 or (len(senders) == 1 and len({exchange.type for _, exchange in said}) == len(said)):
            continue
        seen: dict[int, list[Exchange]] = {}
        for edge, second in sorted(said, key=lambda one: (one[1].mark.line, one[1].mark.column)):
            for sender, earlier in seen.items():
                for first in earlier:
                    if first != second and not first.beside(second):
                        clash = _compare(order, point, edge, first, second)
                        if clash and sender != second.sender:
                            break  # the others of this sender say the same
            seen.setdefault(second.sender, []).append(second)


def _compare(order: Order, point: int, edge: Edge, first: Exchange, second: Exchange) -> bool:
    """Note two messages that may not both come next; return whether they clash."""
    names, addresses = order.names, order.found.graph.addresses
    goals = (point,)
    if first.sender == second.sender:
        shared = set(addresses[first.address]) & set(addresses[second.address])
        if first.type != second.type or not shared:
            return False
        text = (
            f"{names.exchange(second)!r} may be one more of this step, or the step at line {first.mark.line}: "
            f"{names.role(min(shared))!r} cannot tell which"
        )
        hint = "give one of the two another message type"
        order.note("E-AMBIGUOUS", second.mark, text, role=min(shared), suggestion=hint, goals=goals, edge=edge)
        return True
    text = (
        f"{names.role(first.sender)!r} may send {names.exchange(first)!r} and {names.role(second.sender)!r} may send "
        f"{names.exchange(second)!r} at the same point: only one role may speak next"
    )
    hint = "let one of them decide by a message, or put the two into parallel branches"
    order.note("E-RACE", second.mark, text, role=second.sender, suggestion=hint, goals=goals, edge=edge)
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
            if len(points) == 1 or order.is_full:
                continue  # the role knows where it is, or enough was found
            origins: dict[tuple[int, int], tuple[set[int], Exchange]] = {}
            for point, _, exchange in _moves(order, view, state):
                if exchange.sender == role:
                    origins.setdefault((exchange.type, exchange.address), (set(), exchange))[0].add(point)
            before = _unseen_before(order, role, points) if origins else None
            for starts, exchange in origins.values():
                unaware = points - starts
                if unaware and before is not None:
                    unaware -= closure(starts, before)
                if unaware:
                    _note_unaware(order, role, state, unaware, exchange)


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


def _note_unaware(order: Order, role: int, state: int, unaware: frozenset[int], exchange: Exchange) -> None:
    names = order.names
    text = (
        f"{names.role(role)!r} must send {names.exchange(exchange)!r} on one way through the conversation, and cannot "
        f"know that it has not gone the other"
    )
    hint = f"let somebody who knows tell {names.role(role)!r}, on every way, before this message"
    order.note("E-UNAWARE-SENDER", exchange.mark, text, role=role, suggestion=hint, goals=unaware, state=state)


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
                if sent.sender == role and _note_mixed(order, role, state, sent, heard):
                    break  # the others of this state say the same


def _note_mixed(order: Order, role: int, state: int, sent: Exchange, heard: list[tuple[int, Edge, Exchange]]) -> bool:
    """Note the first of *heard* that may come instead of what the role may send; return whether there is one."""
    names = order.names
    for point, edge, received in heard:
        if not sent.beside(received):
            text = (
                f"{names.role(role)!r} cannot know whether to send {names.exchange(sent)!r} or to wait for "
                f"{names.exchange(received)!r}"
            )
            hint = f"let somebody tell {names.role(role)!r} first which of the two comes"
            order.note(
                "E-MIXED", sent.mark, text, role=role, suggestion=hint, goals=(point,), state=state, edge=edge
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
            for point in over:  # where it may be over before anything was said, the end itself is what happens
                last = ends[point] if point == graph.start else None
                order.note(
                    "E-UNAWARE-END", awaited.mark, text, role=role, suggestion=hint,
                    goals=(point,), state=state, edge=last,
                )  # fmt: skip


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
    _check_lossy_interrupts(order, lossy)
    told: dict[Mark, int] = {}
    for view in order.found.views:
        role = view.machine.role
        for state in range(len(view.points)):
            for point, edge, exchange in _moves(order, view, state):
                if exchange.type not in lossy or not _opens_way(view, state, exchange):
                    continue
                if told.setdefault(exchange.mark, role) != role:
                    continue
                text = (
                    f"{names.exchange(exchange)!r} is at-most-once and may be lost, but {names.role(role)!r} can go on "
                    f"only after it"
                )
                hint = "make it at-least-once or durable, or part of a stream that another message ends"
                order.note(
                    "E-LOSSY-CONTROL", exchange.mark, text, role=role, suggestion=hint,
                    goals=(point,), state=state, edge=edge,
                )  # fmt: skip


def _check_lossy_interrupts(order: Order, lossy: set[int]) -> None:
    for point, edges in order.found.points.items():
        for edge in edges:
            interrupt = edge.exchange
            if interrupt is not None and edge.event != NO_EVENT and interrupt.type in lossy:
                text = f"{order.names.exchange(interrupt)!r} is at-most-once and may be lost, but it interrupts"
                order.note(
                    "E-LOSSY-CONTROL", interrupt.mark, text, role=interrupt.sender,
                    suggestion="make it at-least-once or durable", goals=(point,), edge=edge,
                )  # fmt: skip


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
