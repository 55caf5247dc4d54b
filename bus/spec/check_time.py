"""Checks of deadlines: E-HUMAN-NO-DEADLINE, W-DEADLINE."""

from __future__ import annotations

import math

from bus.spec.check_choice import first_sends
from bus.spec.diagnostic import Report
from bus.spec.syntax import Block, Call, Choice, Each, Loop, Mark, Scope, Send, Spec
from bus.spec.walk import blocks


def check_deadlines(spec: Spec, report: Report) -> None:
    """Report waits on people without an end, and deadlines that can never pass inside a shorter one."""
    _Deadlines(spec, report).block(spec.conversation, math.inf, frozenset())


class _Deadlines:
    def __init__(self, spec: Spec, report: Report) -> None:
        self._default = spec.within
        self._people = {role.name for role in spec.roles if role.human}
        self._report = report

    def block(self, block: Block, bound: float, decided: frozenset[Mark]) -> None:
        """Check the steps of *block*.

        Args:
            bound: Seconds after which something around the block ends it.
            decided: Marks of messages whose wait is that of the choice they decide.
        """
        for step in block:
            inner, covered = bound, decided
            match step:
                case Send():
                    if step.mark not in decided and not step.repeat:  # a stream waits as what ends it (RULES.md 19)
                        self._person(step.mark, step.sender, step.within, step.message)
                    self._shorter(step.mark, step.message, step.within, step.retry, bound)
                case Choice():
                    if step.mark not in decided:
                        self._person(step.mark, step.decider, step.within, "the choice")
                    self._shorter(step.mark, f"choice {step.decider}", step.within, step.retry, bound)
                    covered = decided | self._decided(step)
                case Call():  # what follows an outcome is outside its time
                    self._shorter(step.mark, "call", step.within, 0, bound)
                case Loop() | Each():
                    self._shorter(step.mark, type(step).__name__.lower(), step.within, 0, bound)
                    if step.within is not None:
                        inner = min(bound, step.within)
                case Scope():
                    self._scope(step, bound, decided)
                    continue
            # What follows a deadline (`else`, `late`) is outside it; only the body is inside.
            for index, body in enumerate(blocks(step)):
                self.block(body, inner if index == 0 else bound, covered)

    def _scope(self, scope: Scope, bound: float, decided: frozenset[Mark]) -> None:
        timeouts = [one.timeout for one in scope.interrupts if one.timeout is not None]
        for interrupt in scope.interrupts:
            self._shorter(interrupt.mark, f"scope {scope.name}", interrupt.timeout, 0, bound)
            self.block(interrupt.body, bound, frozenset())
        self.block(scope.body, min([bound, *timeouts]), decided)

    def _decided(self, choice: Choice) -> frozenset[Mark]:
        """Return the marks of what *choice* waits for: the first messages of its branches."""
        firsts = [send for branch in choice.branches for send in first_sends(branch.body)[0]]
        nested = [
            branch.body[0].mark
            for branch in choice.branches
            if branch.body and isinstance(branch.body[0], Choice) and branch.body[0].decider == choice.decider
        ]
        return frozenset(send.mark for send in firsts if send.sender == choice.decider).union(nested)

    def _person(self, mark: Mark, role: str, within: float | None, what: str) -> None:
        if role not in self._people:
            return
        bound = self._default if within is None else within
        if bound is None or math.isinf(bound):
            got = "none" if bound is None else "forever"
            self._report.error(
                mark,
                "E-HUMAN-NO-DEADLINE",
                f"{what}: the bus waits for {role!r}, a person: expected a deadline, got {got}",
                role=role,
                suggestion="give it 'within: 24h', and 'else:' for when nobody answers",
            )

    def _shorter(self, mark: Mark, what: str, within: float | None, retry: int, bound: float) -> None:
        if within is None or math.isinf(within):
            return  # `forever` inside a bound is a way to say: the bound alone decides
        longest = within * (retry + 1)  # RULES.md 19
        if longest > bound:
            self._report.warn(
                mark,
                "W-DEADLINE",
                f"{what}: its deadline of {longest:g} s never passes: what is around it ends after {bound:g} s",
                suggestion="shorten it or lengthen the outer one",
            )
