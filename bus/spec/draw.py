"""Draw a protocol as a Mermaid sequence diagram, from its spec.

Names of a spec never need escapes in Mermaid's text, but its words (``end``, ``loop``) cannot be ids of
participants, nor can names with ``-`` or ``_``: such roles get an id of their own and show their name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import inf

from bus.spec.syntax import (
    Block,
    Branch,
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

INDENT = "    "
_UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "m"), (1.0, "s"))
_PLAIN = re.compile(r"[a-z][a-z0-9]*")
_WORDS = re.compile(
    "activate|actor|alt|and|as|autonumber|box|break|create|critical|deactivate|destroy|details|else|end|left|links?"
    "|loop|note|off|opt|option|over|par|participant|properties|rect|right|title"
)


def draw_sequence(spec: Spec) -> str:
    """Return *spec* as the text of a Mermaid ``sequenceDiagram``; the same spec always gives the same text."""
    drawing = _Drawing(spec)
    lines = ["sequenceDiagram"]
    for role in spec.roles:
        kind = "actor" if role.human else "participant"
        shown = drawing.ids[role.name]
        lines.append(f"{INDENT}{kind} {shown}" + (f" as {role.name}" if shown != role.name else ""))
    lines += _indented(drawing.block(spec.conversation))
    return "\n".join(lines) + "\n"


def show_span(seconds: float) -> str:
    """Return a span as a spec writes it: ``10m``, ``0.25s``."""
    for size, unit in _UNITS:
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"


class _Drawing:
    """The lines of one diagram. *ids* are the participants' names in Mermaid, by role."""

    def __init__(self, spec: Spec) -> None:
        self.ids = {
            role.name: role.name if _PLAIN.fullmatch(role.name) and not _WORDS.fullmatch(role.name) else f"role{number}"
            for number, role in enumerate(spec.roles)
        }
        self._everybody = [role.name for role in spec.roles]
        self._member = ""  # the role whose members the `each` around a step goes through

    def block(self, block: Block) -> Iterator[str]:
        """Yield the lines of *block*."""
        for step in block:
            yield from self._step(step)

    def _step(self, step: Step) -> Iterator[str]:
        match step:
            case Send():
                yield from self._send(step)
            case Choice():
                yield from self._choice(step)
            case Loop():
                yield from self._loop(step)
            case Parallel():
                yield from self._branches("par", "and", [(one.name, one.body) for one in step.branches])
            case Scope():
                yield from self._scope(step)
            case Each():
                yield from self._each(step)
            case Enroll():
                yield self._note(f"this {self._member} becomes {step.role}", self._member, step.role)
            case Call():
                yield from self._call(step)
            case End():
                yield self._note(step.outcome)
            case Break():
                yield self._note(f"leave {step.loop}" if step.loop else "leave the loop")
            case Continue():
                yield self._note(f"again {step.loop}")

    def _send(self, step: Send) -> Iterator[str]:
        yield from self._arrows(step)
        if step.otherwise:
            yield from self._framed(f"opt {step.sender}: nothing{_after(step.within)}", step.otherwise)

    def _arrows(self, step: Send) -> Iterator[str]:
        count = {"": "", "*": " (any number)", "+": " (one or more)"}[step.repeat]
        for receiver in step.receivers:
            yield f"{self.ids[step.sender]}->>{self.ids[receiver]}: {step.message}{count}"

    def _choice(self, step: Choice) -> Iterator[str]:
        branches = [(f"{step.decider}: {branch.name}", branch.body) for branch in step.branches]
        if step.otherwise is not None:
            branches.append((f"{step.decider}: no answer{_after(step.within)}", step.otherwise))
        yield from self._branches("alt", "else", branches)

    def _loop(self, step: Loop) -> Iterator[str]:
        limit = f", at most {step.max} times" if step.max is not None else ""
        yield from self._framed(f"loop {step.name}{limit}{_within(step.within)}", step.body)
        if step.otherwise:
            over = "had its passes" if step.max is not None else f"not done{_after(step.within)}"
            yield from self._framed(f"opt {step.name}: {over}", step.otherwise)

    def _scope(self, step: Scope) -> Iterator[str]:
        yield f"critical {step.name}"
        yield from _indented(self.block(step.body))
        for interrupt in step.interrupts:
            yield f"option {_trigger(interrupt)}"
            if interrupt.message is not None:
                yield from _indented(self._arrows(interrupt.message))
            yield from _indented(self.block(interrupt.body))
        yield "end"

    def _each(self, step: Each) -> Iterator[str]:
        until = {"all": "", "any": ", until one is done"}.get(step.until, f", until {step.until} are done")
        outer, self._member = self._member, step.role
        yield from self._framed(f"loop each {step.role}{until}{_within(step.within)}", step.body)
        self._member = outer
        if step.late:
            yield from self._framed(f"opt {step.role}: late{_after(step.within)}", step.late)

    def _call(self, step: Call) -> Iterator[str]:
        ours = [mine for _, mine in step.roles]
        yield self._note(f"call {step.protocol}{_within(step.within)}", *(ours or self._everybody))
        outcomes: list[Branch] = list(step.outcomes)
        if outcomes:
            yield from self._branches("alt", "else", [(f"the call ended as {one.name}", one.body) for one in outcomes])

    def _branches(self, first: str, others: str, branches: list[tuple[str, Block]]) -> Iterator[str]:
        for index, (name, body) in enumerate(branches):
            yield f"{others if index else first} {name}"
            yield from _indented(self.block(body))
        yield "end"

    def _framed(self, head: str, body: Block) -> Iterator[str]:
        yield head
        yield from _indented(self.block(body))
        yield "end"

    def _note(self, text: str, *roles: str) -> str:
        """Return a note over *roles*, over everybody where none is named; Mermaid wants the outermost two."""
        order = sorted(set(roles or self._everybody), key=self._everybody.index)
        ends = dict.fromkeys((order[0], order[-1]))
        return f"Note over {','.join(self.ids[role] for role in ends)}: {text}"


def _indented(lines: Iterator[str]) -> Iterator[str]:
    return (INDENT + line for line in lines)


def _trigger(interrupt: Interrupt) -> str:
    if interrupt.message is not None:
        return f"{interrupt.message.message} by {interrupt.message.sender}"
    if interrupt.timeout is not None:
        return f"timeout{_after(interrupt.timeout)}"
    return f"{interrupt.lost} lost" if interrupt.lost is not None else f"{interrupt.failed} failed"


def _after(seconds: float | None) -> str:
    return "" if seconds is None or seconds == inf else f" after {show_span(seconds)}"


def _within(seconds: float | None) -> str:
    return "" if seconds is None or seconds == inf else f", within {show_span(seconds)}"
