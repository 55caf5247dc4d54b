"""Checks of who speaks first: E-CHOICE-DECIDER, E-AMBIGUOUS, E-PAR-OVERLAP.

Only what the tree shows inside a branch; what lies behind it (an empty branch, a continue) is for the
checks over the automaton.
"""

from __future__ import annotations

from bus.spec.diagnostic import Report
from bus.spec.syntax import (
    Block,
    Branch,
    Break,
    Call,
    Choice,
    Continue,
    Each,
    End,
    Loop,
    Parallel,
    Scope,
    Send,
    Spec,
    Step,
)
from bus.spec.walk import sends, steps


def check_choices(spec: Spec, report: Report) -> None:
    """Report choices that others decide or that look alike, and parallel branches that share a message."""
    for step in steps(spec.conversation):
        if isinstance(step, Choice):
            _check_decider(step, report)
            _check_ambiguous(step, report)
        elif isinstance(step, Parallel):
            _check_overlap(step, report)


def first_sends(block: Block) -> tuple[list[Send], bool]:
    """Return the messages that may come first in *block*, and whether it can be left before any."""
    found: list[Send] = []
    for step in block:
        firsts, silent = _first(step)
        found += firsts
        if not silent:
            return found, False
    return found, True


def _first(step: Step) -> tuple[list[Send], bool]:
    match step:
        case Send():
            return [step], step.repeat == "*"
        case Choice():
            return _either([branch.body for branch in step.branches])
        case Loop():
            firsts, _ = first_sends(step.body)
            return firsts, any(isinstance(inner, Break) for inner in step.body)
        case Parallel():
            found = [first_sends(branch.body) for branch in step.branches]
            return [send for firsts, _ in found for send in firsts], all(silent for _, silent in found)
        case Scope() | Each():
            return first_sends(step.body)
        case Call() | End() | Break() | Continue():
            return [], False
    return [], True


def _either(bodies: list[Block]) -> tuple[list[Send], bool]:
    found = [first_sends(body) for body in bodies]
    return [send for firsts, _ in found for send in firsts], any(silent for _, silent in found)


def _check_decider(choice: Choice, report: Report) -> None:
    for branch in choice.branches:
        firsts, _ = first_sends(branch.body)
        for send in firsts:
            if send.sender != choice.decider:
                report.error(
                    send.mark,
                    "E-CHOICE-DECIDER",
                    f"choice {choice.decider}: branch {branch.name!r} can start with "
                    f"{send.message!r} by {send.sender!r}",
                    role=send.sender,
                    suggestion=f"begin the branch with a message by {choice.decider!r}",
                )
        if not firsts and branch.body and isinstance(branch.body[0], End | Call):
            report.error(
                branch.mark,
                "E-CHOICE-DECIDER",
                f"choice {choice.decider}: branch {branch.name!r} starts without a message: nobody decides for it",
                role=choice.decider,
                suggestion=f"begin the branch with a message by {choice.decider!r}",
            )


def _check_ambiguous(choice: Choice, report: Report) -> None:
    seen: dict[tuple[str, str, str], Branch] = {}
    for branch in choice.branches:
        firsts, _ = first_sends(branch.body)
        here = {key: send for send in firsts for key in triples(send)}
        for key, send in here.items():
            if key in seen:
                report.error(
                    send.mark,
                    "E-AMBIGUOUS",
                    f"choice {choice.decider}: the branches {seen[key].name!r} and {branch.name!r} both start with "
                    f"{send.message!r} to {key[1]!r}",
                    role=key[1],
                    suggestion="move what they share in front of the choice, or rename one message",
                )
                break
        for key in here:
            seen.setdefault(key, branch)


def _check_overlap(parallel: Parallel, report: Report) -> None:
    seen: dict[tuple[str, str, str], Branch] = {}
    for branch in parallel.branches:
        alphabet = {key: send for send in sends(branch.body) for key in triples(send)}
        for key, send in alphabet.items():
            if key in seen:
                report.error(
                    send.mark,
                    "E-PAR-OVERLAP",
                    f"parallel: the branches {seen[key].name!r} and {branch.name!r} share "
                    f"{key[0]} -> {key[1]}: {key[2]}",
                    role=key[1],
                    suggestion="give each branch a message of its own",
                )
        for key in alphabet:
            seen.setdefault(key, branch)


def triples(send: Send) -> list[tuple[str, str, str]]:
    """Return (sender, receiver, message) for each receiver."""
    return [(send.sender, receiver, send.message) for receiver in send.receivers]
