"""Checks of how steps follow each other: E-UNREACHABLE, E-UNBOUND-LOOP, E-UNKNOWN-LOOP, E-UNGUARDED-LOOP."""

from __future__ import annotations

from dataclasses import dataclass, field

from bus.spec.diagnostic import Report, did_you_mean
from bus.spec.syntax import (
    Block,
    Break,
    Call,
    Choice,
    Continue,
    Each,
    End,
    Loop,
    Mark,
    Parallel,
    Role,
    Scope,
    Send,
    Spec,
    Step,
)
from bus.spec.walk import steps

_FALL = "fall"  # how a block may be left besides by break and continue


def check_flow(spec: Spec, report: Report) -> bool:
    """Report steps that nothing reaches and loops that are left or turned wrongly.

    Returns:
        Whether the conversation can fall off its end.
    """
    flow = _Flow(spec, report)
    falls = flow.block(spec.conversation, ())
    _Silence(spec, report).block(spec.conversation)
    return falls


@dataclass(slots=True)
class _Frame:
    """A loop around a step; *left*: a reachable break leaves it. Barriers stand for parallel and each."""

    name: str | None
    left: bool = False


@dataclass(slots=True)
class _Flow:
    """Which blocks can be fallen off."""

    spec: Spec
    report: Report
    loops: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.loops = {step.name for step in steps(self.spec.conversation) if isinstance(step, Loop)}

    def block(self, block: Block, around: tuple[_Frame, ...]) -> bool:
        """Return whether the end of *block* can be fallen off; report its unreachable steps."""
        reachable = True
        for index, step in enumerate(block):
            if not reachable:
                before = _name(block[index - 1])
                self.report.error(
                    step.mark,
                    "E-UNREACHABLE",
                    f"this step is never reached: {before} before it is never left this way",
                    suggestion="remove it, or give the step before it a way to go on",
                )
                return False
            reachable = self._falls(step, around)
        return reachable

    def _falls(self, step: Step, around: tuple[_Frame, ...]) -> bool:
        match step:
            case Send():
                if step.otherwise is not None:
                    self.block(step.otherwise, around)
                return True
            case Choice():
                ways = [self.block(branch.body, around) for branch in step.branches]
                if step.otherwise is not None:
                    ways.append(self.block(step.otherwise, around))
                return any(ways)
            case Loop():
                return self._loop(step, around)
            case Parallel():
                ways = [self.block(branch.body, (*around, _Frame(None))) for branch in step.branches]
                return all(ways)
            case Scope():
                ways = [self.block(step.body, around)]
                ways += [self.block(interrupt.body, around) for interrupt in step.interrupts]
                return any(ways)
            case Each():
                inside = (*around, _Frame(None))
                ways = [self.block(step.body, inside)]
                if step.late is not None:
                    ways.append(self.block(step.late, inside))
                return any(ways) or may_be_empty(self.spec.roles, step.role)
            case Call():
                ways = [self.block(branch.body, around) for branch in step.outcomes]
                return any(ways)
            case Break() | Continue():
                self._leave(step, around)
                return False
            case End():
                return False
        return True

    def _loop(self, loop: Loop, around: tuple[_Frame, ...]) -> bool:
        frame = _Frame(loop.name)
        self.block(loop.body, (*around, frame))
        goes_on = loop.otherwise is not None and self.block(loop.otherwise, around)
        return frame.left or goes_on

    def _leave(self, step: Break | Continue, around: tuple[_Frame, ...]) -> None:
        word = type(step).__name__.lower()
        for frame in reversed(around):
            if frame.name is None:
                break
            if step.loop in (None, frame.name):
                frame.left = frame.left or isinstance(step, Break)
                return
        if step.loop is not None and step.loop not in self.loops:
            rule, text = "E-UNKNOWN-LOOP", f"{word}: expected a loop, got {step.loop!r}"
        elif step.loop is not None:
            rule, text = "E-UNBOUND-LOOP", f"{word}: the loop {step.loop!r} is not around this step"
        else:
            rule, text = "E-UNBOUND-LOOP", f"{word}: no loop is around this step"
        hint = did_you_mean(step.loop or "", self.loops) or "a parallel branch or each cannot be left from inside"
        self.report.error(step.mark, rule, text, suggestion=hint if step.loop or around else None)


@dataclass(slots=True)
class _Silence:
    """How blocks can be gone through without a message; a loop that can turn so is E-UNGUARDED-LOOP.

    A way out is ``"fall"``, or the (word, loop name) of a break or continue.
    """

    spec: Spec
    report: Report

    def block(self, block: Block) -> set[str | tuple[str, str | None]]:
        """Return the ways out of *block* that need no message."""
        ways: set[str | tuple[str, str | None]] = set()
        silent = True
        for step in block:
            found = self._step(step)
            if silent:
                ways |= found - {_FALL}
                silent = _FALL in found
        return ways | {_FALL} if silent else ways

    def _step(self, step: Step) -> set[str | tuple[str, str | None]]:
        match step:
            case Send():
                if step.otherwise:
                    self.block(step.otherwise)  # behind a deadline: time passes, nothing spins
                return {_FALL} if step.repeat == "*" else set()
            case Choice():
                if step.otherwise:
                    self.block(step.otherwise)
                return set().union(*(self.block(branch.body) for branch in step.branches))
            case Loop():
                return self._loop(step)
            case Parallel():
                found = [self.block(branch.body) for branch in step.branches]
                return {_FALL} if all(_FALL in ways for ways in found) else set()
            case Scope():
                for interrupt in step.interrupts:
                    self.block(interrupt.body)
                return self.block(step.body)
            case Each():
                self.block(step.late or ())
                ways = self.block(step.body) & {_FALL}
                return {_FALL} if may_be_empty(self.spec.roles, step.role) else ways
            case Call():
                for branch in step.outcomes:
                    self.block(branch.body)
                return set()
            case Break():
                return {("break", step.loop)}
            case Continue():
                return {("continue", step.loop)}
            case End():
                return set()
        return {_FALL}

    def _loop(self, loop: Loop) -> set[str | tuple[str, str | None]]:
        ways = self.block(loop.body)
        self.block(loop.otherwise or ())
        if ways & {_FALL, ("continue", loop.name)}:
            self._unguarded(loop.mark, loop.name)
        leaves = bool(ways & {("break", None), ("break", loop.name)})
        mine = {_FALL, ("break", None), ("break", loop.name), ("continue", loop.name)}
        return (ways - mine) | ({_FALL} if leaves else set())

    def _unguarded(self, mark: Mark, name: str) -> None:
        self.report.error(
            mark,
            "E-UNGUARDED-LOOP",
            f"loop {name}: it can turn for ever without a message",
            suggestion="let every pass send at least one message (M* may send none)",
        )


def may_be_empty(roles: tuple[Role, ...], name: str) -> bool:
    """Return whether an ``each`` over the role may find no member; nobody may have been enrolled in a sub-role."""
    for role in roles:
        if role.name == name:
            return role.source is not None or (role.many is not None and role.many[0] == 0)
    return False


def _name(step: Step) -> str:
    match step:
        case Loop():
            return f"the loop {step.name!r}"
        case End():
            return f"'end: {step.outcome}'"
        case Break() | Continue():
            return f"{type(step).__name__.lower()!r}"
    return f"the {type(step).__name__.lower()}"
