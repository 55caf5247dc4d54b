"""From the syntax tree to the global automaton.

Built forwards, in the order in which a spec is read: each step leads from the node where it is
enabled to the node behind it, or to nowhere after ``end``, ``break`` and the like. The spec is taken
as well-formed (``check``); what is not is refused with ``SpecError``, never with another exception.
"""

from __future__ import annotations

import math
from dataclasses import replace

from bus.spec.automaton import (
    DEFAULT,
    STREAM_DEFAULT,
    STREAM_WRITTEN,
    WRITTEN,
    Automaton,
    Decision,
    Edge,
    Exchange,
    error_at,
)
from bus.spec.growth import Around, Frame, Growth
from bus.spec.interleave import Strand, interleave
from bus.spec.syntax import (
    Block,
    Break,
    Call,
    Choice,
    Continue,
    Each,
    End,
    Enroll,
    Interrupt,
    Loop,
    Parallel,
    Scope,
    Send,
    Spec,
    Step,
)
from bus.spec.tables import NO_EVENT, BusEvent, EventKind, Timer
from bus.spec.unfold_each import unfold_each, unfold_enroll


def unfold(spec: Spec) -> Automaton:
    """Return the global automaton of *spec*.

    Raises:
        SpecError: A step cannot be reached, names something undeclared, has no meaning where it
            stands, or there are too many positions.
    """
    return _Unfolding(spec).run()


class _Unfolding:
    """What each step of the language means for the automaton that grows."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._grow = Growth(spec)
        self._graph = self._grow.graph

    def run(self) -> Automaton:
        outermost = Around()
        mark = self._spec.mark
        self._graph.start = self._grow.node(mark, outermost)
        last = self._block(self._spec.conversation, self._graph.start, outermost)
        if last is not None:
            self._graph.implicit_end = self._grow.end(mark, last, "done")
        return self._graph

    # -- steps: each takes the node where it is enabled and returns the node behind it, or None -----

    def _block(self, block: Block, here: int, around: Around) -> int | None:
        current: int | None = here
        waits: tuple[int, ...] = ()
        for step in block:
            if current is None:
                raise error_at(
                    step.mark,
                    "E-UNREACHABLE",
                    "this step can never be reached; remove it, or the end of the way before it",
                )
            enabled = current
            # RULES.md 19: `M+` has the deadline of the message that ends it from its first message on.
            current = self._step(step, enabled, waits, around)
            waits = (enabled,) if isinstance(step, Send) and step.repeat == "+" else ()
        return current

    def _step(self, step: Step, here: int, waits: tuple[int, ...], around: Around) -> int | None:
        match step:
            case Send():
                return self._send(step, here, waits, around)
            case Choice():
                return self._choice(step, here, waits, around)
            case Loop():
                return self._loop(step, here, around)
            case Scope():
                return self._scoped(step, here, around)
            case Parallel():
                return self._parallel(step, here, around)
            case End():
                self._grow.end(step.mark, here, step.outcome)
            case Break():
                self._grow.edge(here, Edge(self._frame_of(step, around).after))
            case Continue():
                self._again(here, self._frame_of(step, around))
            case Each():
                return unfold_each(self._grow, self._block, step, here, around)
            case Enroll():
                return unfold_enroll(self._grow, step, here, around)
            case Call():
                return self._call(step, here, around)
        return None

    def _send(self, send: Send, here: int, waits: tuple[int, ...], around: Around) -> int:
        exchange = self._grow.exchange(send, around)
        if send.repeat:
            after = self._stream(send, exchange, here, around)
        else:
            after = self._grow.node(send.mark, around)
            self._grow.edge(here, Edge(after, exchange))
        self._arm(send, exchange.sender, (here, *self._same_speaker(waits, exchange.sender)), after, around)
        return after

    def _stream(self, send: Send, exchange: Exchange, here: int, around: Around) -> int:
        counter: tuple[int, ...] = ()
        if send.max is not None:
            counter = (self._grow.counter(send.mark, send.message, send.max),)
        head = self._grow.node(send.mark, replace(around, counters=around.counters + counter))
        after = self._grow.node(send.mark, around)
        if send.repeat == "+":
            self._grow.edge(here, Edge(head, exchange, resets=counter, counts=counter))
        else:
            self._grow.edge(here, Edge(head, resets=counter))
        self._grow.edge(head, Edge(head, replace(exchange, guards=counter), counts=counter))
        self._grow.edge(head, Edge(after))
        return after

    def _choice(self, choice: Choice, here: int, waits: tuple[int, ...], around: Around) -> int | None:
        decider = self._grow.role(choice.mark, choice.decider)
        after = self._grow.node(choice.mark, around)
        self._arm(choice, decider, (here, *self._same_speaker(waits, decider)), after, around)
        branches = []
        for branch in choice.branches:
            first = self._grow.node(branch.mark, around)
            branches.append((branch.name, first))
            self._grow.edge(here, Edge(first))
            self._grow.leads(self._block(branch.body, first, around), after)
        self._graph.decisions.append(Decision(choice.mark, decider, tuple(branches)))
        return self._grow.reached(after)

    def _loop(self, loop: Loop, here: int, around: Around) -> int | None:
        graph = self._graph
        after = self._grow.node(loop.mark, around)
        inside, exhausted, late = around, NO_EVENT, NO_EVENT
        frame = Frame(loop.name, -1, after, -1)
        if loop.within is not None and loop.within != math.inf:
            scope = self._grow.scope(loop.name, around)
            late = graph.add_event(
                BusEvent(f"{loop.name}.timeout", EventKind.TIMEOUT, loop.name, discards=True, scope=scope)
            )
            graph.scopes[scope] = replace(graph.scopes[scope], timeouts=((loop.within, late),))
            inside = replace(inside, scopes=(*around.scopes, scope), covered=True)
        if loop.max is not None:
            exhausted = graph.add_event(
                BusEvent(f"{loop.name}.max", EventKind.MAX, loop.name, counter=len(graph.counters))
            )
            frame = replace(frame, counter=self._grow.counter(loop.mark, loop.name, loop.max, exhausted))
            inside = replace(inside, counters=(*around.counters, frame.counter))
        frame = replace(frame, head=self._grow.node(loop.mark, inside))
        inside = replace(inside, frames=(*around.frames, frame))
        counted = (frame.counter,) if exhausted != NO_EVENT else ()
        self._grow.edge(here, Edge(frame.head, resets=counted))
        last = self._block(loop.body, frame.head, inside)
        if last is not None:
            self._again(last, frame)
        if exhausted != NO_EVENT:
            self._graph.guard(frame.head, frame.counter)
        if exhausted != NO_EVENT or late != NO_EVENT:
            self._leave(loop, frame, exhausted, late, around)
        return self._grow.reached(after)

    def _leave(self, loop: Loop, frame: Frame, exhausted: int, late: int, around: Around) -> None:
        """Let the bus end the loop by its passes or its time, and go on with its ``else``."""
        aside = self._grow.node(loop.mark, around)
        if exhausted != NO_EVENT:
            self._grow.edge(frame.head, Edge(aside, event=exhausted))
        if late != NO_EVENT:
            for node in self._grow.positions(frame.head):
                self._grow.edge(node, Edge(aside, event=late))
        if loop.otherwise is None:
            self._grow.end(loop.mark, aside, "failed")
        else:
            self._grow.leads(self._block(loop.otherwise, aside, around), frame.after)

    def _again(self, source: int, frame: Frame) -> None:
        self._grow.edge(source, Edge(frame.head, counts=(frame.counter,) if frame.counter >= 0 else ()))

    def _frame_of(self, step: Break | Continue, around: Around) -> Frame:
        for frame in reversed(around.frames):
            if step.loop in (None, frame.name):
                return frame
        wanted = f"the loop {step.loop!r}" if step.loop else "a loop"
        raise error_at(
            step.mark,
            "E-UNBOUND-LOOP",
            f"expected {wanted} around this {type(step).__name__.lower()}, got none",
        )

    def _scoped(self, scope: Scope, here: int, around: Around) -> int | None:
        number = self._grow.scope(scope.name, around)
        after = self._grow.node(scope.mark, around)
        timed = any(interrupt.timeout not in (None, math.inf) for interrupt in scope.interrupts)
        inside = replace(around, scopes=(*around.scopes, number), covered=around.covered or timed)
        first = self._grow.node(scope.mark, inside)
        self._grow.edge(here, Edge(first))
        self._grow.leads(self._block(scope.body, first, inside), after)
        positions = self._grow.positions(first)
        for interrupt in scope.interrupts:
            aside = self._grow.node(interrupt.mark, around)
            edge = self._interrupt(interrupt, scope.name, number, aside, around)
            for node in positions:
                self._grow.edge(node, edge)
            self._grow.leads(self._block(interrupt.body, aside, around), after)
        return self._grow.reached(after)

    def _interrupt(self, interrupt: Interrupt, name: str, scope: int, target: int, around: Around) -> Edge:
        """Return the edge that cuts the scope short wherever it stands, and note it in the scope's table."""
        graph, mark, table = self._graph, interrupt.mark, self._graph.scopes[scope]

        def event(kind: EventKind, suffix: str, role: int = -1) -> int:
            return graph.add_event(BusEvent(f"{name}.{suffix}", kind, name, discards=True, scope=scope, role=role))

        if interrupt.message is not None:
            exchange = self._grow.exchange(interrupt.message, around)
            return Edge(target, exchange, event(EventKind.INTERRUPT, interrupt.message.message))
        if interrupt.timeout is not None:
            number = event(EventKind.TIMEOUT, "timeout")
            graph.scopes[scope] = replace(table, timeouts=(*table.timeouts, (interrupt.timeout, number)))
        elif interrupt.lost is not None:
            role = self._grow.role(mark, interrupt.lost)
            number = event(EventKind.LOST, f"lost.{interrupt.lost}", role)
            graph.scopes[scope] = replace(table, lost=(*table.lost, (role, number)))
        elif interrupt.failed is not None:
            role = self._grow.role(mark, interrupt.failed)
            number = event(EventKind.FAILED, f"failed.{interrupt.failed}", role)
            graph.scopes[scope] = replace(table, failed=(*table.failed, (role, number)))
        else:
            raise error_at(
                mark,
                "E-SYNTAX",
                "expected a message, timeout, lost or failed as the interrupt's trigger, got none",
            )
        return Edge(target, event=number)

    def _parallel(self, parallel: Parallel, here: int, around: Around) -> int | None:
        after = self._grow.node(parallel.mark, around)
        strands = []
        number = self._graph.n_parallels
        self._graph.n_parallels += 1
        for index, branch in enumerate(parallel.branches):
            inside = replace(around, regions=(*around.regions, (number, index)))
            first = self._grow.node(branch.mark, inside)
            last = self._block(branch.body, first, inside)
            strands.append(Strand(first, last, len(self._graph.nodes)))
        start, joined = interleave(self._graph, parallel.mark, tuple(strands), after)
        self._grow.edge(here, Edge(start))
        return after if joined else None

    def _call(self, call: Call, here: int, around: Around) -> int | None:
        """Wait for what is called: nothing but its outcomes, which the bus tells to all, leads on from here."""
        after = self._grow.node(call.mark, around)
        for branch, event in self._graph.add_call(call, around.regions):
            aside = self._grow.node(branch.mark, around)
            self._grow.edge(here, Edge(aside, event=event))
            self._grow.leads(self._block(branch.body, aside, around), after)
        return self._grow.reached(after)

    # -- deadlines ---------------------------------------------------------------------------------

    def _same_speaker(self, waits: tuple[int, ...], role: int) -> tuple[int, ...]:
        """Return those of *waits* in which the same role is to speak."""
        graph = self._graph
        return tuple(
            node
            for node in waits
            if any(edge.exchange is not None and edge.exchange.sender == role for edge in graph.nodes[node].edges)
        )

    def _arm(self, step: Send | Choice, role: int, nodes: tuple[int, ...], after: int, around: Around) -> None:
        """Start the deadline of *step* in *nodes*; what follows a missed one leads to *after*."""
        place = step.message if isinstance(step, Send) else f"choice {step.decider}"
        stream = isinstance(step, Send) and bool(step.repeat)
        written = step.within is not None
        rank = (STREAM_WRITTEN if written else STREAM_DEFAULT) if stream else (WRITTEN if written else DEFAULT)
        event = NO_EVENT
        if step.otherwise is not None:
            event = self._graph.add_event(BusEvent(f"{place}.else", EventKind.ELSE, place, role=role))
            aside = self._grow.node(step.mark, around)
            for node in nodes:
                self._grow.edge(node, Edge(aside, event=event))
            self._grow.leads(self._block(step.otherwise, aside, around), after)
        timer = Timer(role, place, self._within(step, around), event, step.retry, step.remind, regions=around.regions)
        self._graph.add_timer(timer)
        for node in nodes:
            self._graph.nodes[node].deadlines.append((rank, len(self._graph.timers) - 1))

    def _within(self, step: Send | Choice, around: Around) -> float | None:
        if step.within is not None:
            return step.within
        if self._spec.within is not None:
            return self._spec.within
        # Only an uncovered wait takes the setting (RULES.md 19); `else` says that a deadline is meant.
        return math.inf if around.covered and step.otherwise is None else None
