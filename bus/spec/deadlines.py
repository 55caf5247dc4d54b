"""Every deadline that a spec writes: who is waited for, how long, and what follows where it passes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from bus.spec.draw import show_span
from bus.spec.syntax import Block, Call, Choice, Each, End, Loop, Scope, Send, Spec
from bus.spec.walk import steps


@dataclass(frozen=True, slots=True)
class Deadline:
    """One wait.

    Attributes:
        what: ``FindingsDone by researcher``, ``choice of editor``, ``loop steps``, ``scope run``.
        within: As a spec writes it.
        then: What follows: ``ends as spiked``, ``Spiked, then ends as spiked``.
    """

    what: str
    within: str
    then: str


def deadlines_of(spec: Spec) -> list[Deadline]:
    """Return the deadlines that *spec* writes, in the order of the file."""
    return list(_deadlines(spec.conversation))


def _deadlines(block: Block) -> Iterator[Deadline]:
    for step in steps(block):
        match step:
            case Send(within=float() as within):
                what = f"{step.message} by {step.sender}"
                yield Deadline(what, _times(within, step.retry, step.remind), _then(step.otherwise))
            case Choice(within=float() as within):
                what = f"choice of {step.decider}"
                yield Deadline(what, _times(within, step.retry, step.remind), _then(step.otherwise))
            case Loop(within=float() as within):
                yield Deadline(f"loop {step.name}", _span(within), _then(step.otherwise))
            case Each(within=float() as within):
                yield Deadline(f"each {step.role}", _span(within), _then(step.late, empty="goes on without the late"))
            case Call(within=float() as within):
                yield Deadline(f"call of {step.protocol}", _span(within), "the call fails")
            case Scope():
                for interrupt in step.interrupts:
                    if interrupt.timeout is not None:
                        yield Deadline(f"scope {step.name}", _span(interrupt.timeout), _then(interrupt.body))


def _times(within: float, retry: int, remind: float | None) -> str:
    """Return the deadline with what happens before it passes (RULES.md 19, 20)."""
    text = _span(within)
    if retry:
        text += f", asked {retry} more time{'s' if retry > 1 else ''}"
    return f"{text}, reminded every {show_span(remind)}" if remind is not None else text


def _span(within: float) -> str:
    return "forever" if within == inf else show_span(within)


def _then(block: Block | None, *, empty: str = "goes on") -> str:
    """Return what *block* does first: its messages up to a step of another kind, and the end where it is one."""
    if block is None:
        return "ends as failed"
    parts: list[str] = []
    for step in block:
        if isinstance(step, Send):
            parts.append(f"{step.message} by {step.sender}")
        elif isinstance(step, End):
            parts.append(f"ends as {step.outcome}")
        else:
            parts.append("goes on as the conversation says")
            break
    return ", then ".join(parts) or empty
