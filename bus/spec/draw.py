"""Draw a protocol as a Mermaid sequence diagram, from its spec."""

from collections.abc import Iterator
from math import inf

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

_INDENT = "    "
_UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "m"), (1.0, "s"))


def draw_sequence(spec: Spec) -> str:
    """Return *spec* as the text of a Mermaid ``sequenceDiagram``; the same spec always gives the same text."""
    lines = ["sequenceDiagram"]
    for role in spec.roles:
        kind = "actor" if role.human else "participant"
        lines.append(f"{_INDENT}{kind} {role.name}")
    lines += (_INDENT + line for line in _block(spec, spec.conversation))
    return "\n".join(lines) + "\n"


def _block(spec: Spec, block: Block) -> Iterator[str]:
    for step in block:
        yield from _step(spec, step)


def _step(spec: Spec, step: Step) -> Iterator[str]:
    match step:
        case Send():
            yield from _send(spec, step)
        case Choice():
            yield from _choice(spec, step)
        case Loop():
            limit = f", at most {step.max} times" if step.max is not None else ""
            yield from _framed(spec, f"loop {step.name}{limit}", step.body)
            if step.otherwise:
                yield from _framed(spec, f"opt {step.name}: had its passes", step.otherwise)
        case Parallel():
            for index, branch in enumerate(step.branches):
                yield f"{'and' if index else 'par'} {branch.name}"
                yield from (_INDENT + line for line in _block(spec, branch.body))
            yield "end"
        case Scope():
            yield from _scope(spec, step)
        case Each():
            yield from _framed(spec, f"loop each {step.role}", step.body)
        case Call():
            yield f"Note over {_everybody(spec)}: call {step.protocol}"
        case End():
            yield f"Note over {_everybody(spec)}: {step.outcome}"
        case Enroll() | Break() | Continue():
            yield from ()


def _send(spec: Spec, step: Send) -> Iterator[str]:
    count = {"": "", "*": " (any number)", "+": " (one or more)"}[step.repeat]
    for receiver in step.receivers:
        yield f"{step.sender}->>{receiver}: {step.message}{count}"
    yield from _late(spec, step.sender, step.within, step.otherwise)


def _choice(spec: Spec, step: Choice) -> Iterator[str]:
    for index, branch in enumerate(step.branches):
        yield f"{'else' if index else 'alt'} {step.decider}: {branch.name}"
        yield from (_INDENT + line for line in _block(spec, branch.body))
    if step.otherwise is not None:
        yield f"else {step.decider}: no answer{_in(step.within)}"
        yield from (_INDENT + line for line in _block(spec, step.otherwise))
    yield "end"


def _scope(spec: Spec, step: Scope) -> Iterator[str]:
    yield f"critical {step.name}"
    yield from (_INDENT + line for line in _block(spec, step.body))
    for interrupt in step.interrupts:
        yield f"option {_trigger(interrupt)}"
        yield from (_INDENT + line for line in _block(spec, interrupt.body))
    yield "end"


def _trigger(interrupt: Interrupt) -> str:
    if interrupt.message is not None:
        return f"{interrupt.message.message} by {interrupt.message.sender}"
    if interrupt.timeout is not None:
        return f"timeout{_in(interrupt.timeout)}"
    return f"{interrupt.lost} lost" if interrupt.lost is not None else f"{interrupt.failed} failed"


def _late(spec: Spec, who: str, within: float | None, otherwise: Block | None) -> Iterator[str]:
    if otherwise is not None:
        yield from _framed(spec, f"opt {who}: nothing{_in(within)}", otherwise)


def _framed(spec: Spec, head: str, body: Block) -> Iterator[str]:
    yield head
    yield from (_INDENT + line for line in _block(spec, body))
    yield "end"


def _everybody(spec: Spec) -> str:
    return f"{spec.roles[0].name},{spec.roles[-1].name}"


def _in(seconds: float | None) -> str:
    if seconds is None or seconds == inf:
        return ""
    for size, unit in _UNITS:
        if seconds >= size and seconds % size == 0:
            return f" after {seconds / size:.0f}{unit}"
    return f" after {seconds:g}s"
