"""The meaning of a conversation in its plainest form: the syntax tree itself, eaten up message by message.

Knows no automaton and no projection: what is left to do is a tuple of steps, and a message takes the first
of them away. Counts are not kept (a loop with ``max`` may be ended by the bus at any pass), which is as much
as a trace says.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import assert_never

from bus.spec.syntax import Block, Break, Choice, Continue, End, Loop, Mark, Parallel, Scope, Send, Spec

OVER = ("over",)  # nothing is left: the conversation has ended


@dataclass(frozen=True)
class Again:
    """The end of a loop's body."""

    loop: Loop


@dataclass(frozen=True)
class Leave:
    """The end of a scope's body."""

    scope: Scope


@dataclass(frozen=True)
class More:
    """One more message of a stream, or what follows it."""

    send: Send


@dataclass(frozen=True)
class Beside:
    """What is left of each branch of a parallel."""

    branches: tuple[tuple, ...]


@dataclass(frozen=True)
class Move:
    """Something that can happen. *via*: choices that were passed on the way to it without a message."""

    label: str
    then: tuple
    send: Send | None = None
    via: frozenset[Mark] = field(default=frozenset(), compare=False)


def start(spec: Spec) -> tuple:
    """Return all that is to do."""
    return spec.conversation


def moves(left: tuple) -> list[Move]:
    """Return what can happen next."""
    if left == OVER:
        return []
    found = list(_moves(left, frozenset()))
    for index, item in enumerate(left):
        if isinstance(item, Leave):
            found += _interrupts(item.scope, left[index + 1 :])
    return found


def _moves(left: tuple, via: frozenset[Mark]) -> Iterator[Move]:
    if not left:
        yield Move("the bus: done.end", OVER, via=via)
        return
    first, rest = left[0], left[1:]
    match first:
        case Send():
            yield from _said(first, rest, via)
        case More():
            yield Move(_label(first.send), left, first.send, via)
            yield from _moves(rest, via)
        case Choice():
            for branch in first.branches:
                yield from _moves((*branch.body, *rest), via | {first.mark})
            if first.otherwise is not None:
                yield Move(f"the bus: choice {first.decider}.else", (*first.otherwise, *rest), via=via)
        case Loop() | Again():
            loop = first.loop if isinstance(first, Again) else first
            yield from _moves((*loop.body, Again(loop), *rest), via)
            if loop.max is not None:
                yield Move(f"the bus: {loop.name}.max", (*_or_failed(loop), *rest), via=via)
        case Scope():
            yield from _moves((*first.body, Leave(first), *rest), via)
            yield from _interrupts(first, rest)
        case Leave():
            yield from _moves(rest, via)
        case Parallel():
            yield from _moves((Beside(tuple(branch.body for branch in first.branches)), *rest), via)
        case Beside():
            yield from _beside(first, rest, via)
        case Break() | Continue():
            loops = [number for number, item in enumerate(rest) if isinstance(item, Again)]
            at = next(number for number in loops if first.loop in (None, rest[number].loop.name))
            yield from _moves(rest[at + (1 if isinstance(first, Break) else 0) :], via)
        case End():
            yield Move(f"the bus: {first.outcome}.end", OVER, via=via)
        case _:
            assert_never(first)


def _said(send: Send, rest: tuple, via: frozenset[Mark]) -> Iterator[Move]:
    after = (More(send), *rest) if send.repeat else rest
    yield Move(_label(send), after, send, via)
    if send.repeat == "*":
        yield from _moves(rest, via)
    if send.otherwise is not None:
        yield Move(f"the bus: {send.message}.else", (*send.otherwise, *rest), via=via)


def _beside(beside: Beside, rest: tuple, via: frozenset[Mark]) -> Iterator[Move]:
    if not any(beside.branches):
        yield from _moves(rest, via)
    for index, branch in enumerate(beside.branches):
        others = beside.branches
        for move in _moves(branch, via) if branch else ():
            if move.label == "the bus: done.end":  # the branch alone is done; the others go on
                ended = (*others[:index], (), *others[index + 1 :])
                yield from _moves((Beside(ended), *rest), via)
            else:
                then = (
                    move.then
                    if move.then == OVER
                    else (Beside((*others[:index], move.then, *others[index + 1 :])), *rest)
                )
                yield Move(move.label, then, move.send, move.via)


def _interrupts(scope: Scope, rest: tuple) -> Iterator[Move]:
    for one in scope.interrupts:
        then = (*one.body, *rest)
        if one.message is not None:
            yield Move(_label(one.message), then, one.message)
        else:
            word = "timeout" if one.timeout is not None else f"lost.{one.lost}" if one.lost else f"failed.{one.failed}"
            yield Move(f"the bus: {scope.name}.{word}", then)


def _or_failed(loop: Loop) -> Block:
    return (End(loop.mark, "failed"),) if loop.otherwise is None else loop.otherwise


def _label(send: Send) -> str:
    return f"{send.sender} -> {', '.join(send.receivers)}: {send.message}"


def takes_part(role: str, move: Move) -> bool:
    """Return whether *role* sees the move: everybody sees what the bus does."""
    return move.send is None or role == move.send.sender or role in move.send.receivers


def is_run(spec: Spec, trace: tuple[str, ...]) -> bool:
    """Return whether things can happen in this order."""
    standing = {start(spec)}
    for label in trace:
        standing = {move.then for left in standing for move in moves(left) if _same(move.label, label)}
    return bool(standing)


def _same(label: str, other: str) -> bool:
    """Compare names of bus events without the number by which those of equal steps differ."""
    return other == label or (other.startswith(f"{label}.") and other[len(label) + 1 :].isdigit())


def distances(spec: Spec, *, most: int) -> dict[tuple, int] | None:
    """Return how many moves it takes to each thing left; None where there are more than *most*."""
    found = {start(spec): 0}
    waiting = deque(found)
    while waiting:
        left = waiting.popleft()
        for move in moves(left):
            if move.then not in found:
                if len(found) >= most:
                    return None
                found[move.then] = found[left] + 1
                waiting.append(move.then)
    return found


def knowledge(spec: Spec, role: str, *, most: int) -> dict[tuple[tuple, frozenset], int] | None:
    """Return how many moves it takes to each (thing left, things that may be left as far as *role* knows)."""
    begin = start(spec), _unseen({start(spec)}, role)
    found = {begin: 0}
    waiting = deque(found)
    while waiting:
        here = left, known = waiting.popleft()
        for move in moves(left):
            then = known
            if takes_part(role, move):
                same = (one.then for other in known for one in moves(other) if one.label == move.label)
                then = _unseen(set(same), role)
            if (move.then, then) not in found:
                if len(found) >= most:
                    return None
                found[move.then, then] = found[here] + 1
                waiting.append((move.then, then))
    return found


def _unseen(standing: set[tuple], role: str) -> frozenset:
    return frozenset(reachable(standing, lambda move: not takes_part(role, move)))


def reachable(standing: set[tuple], allowed) -> set[tuple]:
    """Return what can be left after any number of *allowed* moves from *standing*."""
    found, waiting = set(standing), list(standing)
    while waiting:
        for move in moves(waiting.pop()):
            if allowed(move) and move.then not in found:
                found.add(move.then)
                waiting.append(move.then)
    return found


def all_sends(standing: set[tuple]) -> Iterator[Send]:
    """Yield every message that can be sent at one of *standing*."""
    return (move.send for move in chain.from_iterable(map(moves, standing)) if move.send is not None)
