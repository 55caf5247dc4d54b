"""Going through the steps of a conversation, whatever holds them."""

from __future__ import annotations

from collections.abc import Iterator

from bus.spec.syntax import Block, Call, Choice, Each, Interrupt, Loop, Parallel, Scope, Send, Step


def blocks(step: Step) -> Iterator[Block]:
    """Yield the blocks directly inside *step*, in the order of the file."""
    match step:
        case Send(otherwise=otherwise):
            yield otherwise or ()
        case Choice():
            yield from (branch.body for branch in step.branches)
            yield step.otherwise or ()
        case Loop():
            yield step.body
            yield step.otherwise or ()
        case Parallel():
            yield from (branch.body for branch in step.branches)
        case Scope():
            yield step.body
            yield from (interrupt.body for interrupt in step.interrupts)
        case Each():
            yield step.body
            yield step.late or ()
        case Call():
            yield from (branch.body for branch in step.outcomes)
        case _:
            return


def steps(block: Block) -> Iterator[Step]:
    """Yield every step of *block*, nested ones too; a step comes before what it holds."""
    for step in block:
        yield step
        for inner in blocks(step):
            yield from steps(inner)


def sends(block: Block) -> Iterator[Send]:
    """Yield every message of *block*, those of interrupts too."""
    for step in steps(block):
        if isinstance(step, Send):
            yield step
        elif isinstance(step, Scope):
            yield from messages_of(step.interrupts)


def messages_of(interrupts: tuple[Interrupt, ...]) -> Iterator[Send]:
    """Yield the messages among *interrupts*."""
    for interrupt in interrupts:
        if interrupt.message is not None:
            yield interrupt.message
