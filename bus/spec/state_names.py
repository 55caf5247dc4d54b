"""What people call the states of a role's machine: their numbers, and the last thing that led there.

``start`` is where the role begins; ``Digest`` is the state behind the message Digest, sent or received,
where there is only one such state; ``revisions.max`` the one behind that bus event.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from bus.spec.diagnostic import did_you_mean
from bus.spec.draw import show_span
from bus.spec.syntax import Spec
from bus.spec.tables import NO_TIMER, EventKind, Machine, Tables

START = "start"


@dataclass(frozen=True, slots=True)
class Step:
    """One move of a role, from one state to another.

    Attributes:
        label: ``!Draft to editor`` is sent, ``?Digest from summarizer`` received, ``(revisions.max)`` the bus's.
        name: The message type or bus event alone.
        scope: The scope that is cut short by it, or -1.
    """

    source: int
    target: int
    label: str
    name: str
    scope: int = -1


def root_of(spec: Spec, name: str) -> str:
    """Return the role whose agents fill the role *name*: itself, unless it is filled ``from`` another."""
    sources = {role.name: role.source for role in spec.roles}
    while (source := sources[name]) is not None:
        name = source
    return name


def machine_of(spec: Spec, tables: Tables, role: str) -> Machine:
    """Return the machine of *role*; members enrolled in a role go on in the machine of the role they come from.

    Raises:
        LookupError: The protocol has no such role; the text lists those it has.
    """
    names = [one.name for one in spec.roles]
    if role not in names:
        hint = did_you_mean(role, names)
        raise LookupError(
            f"expected a role of {spec.protocol} ({', '.join(names)}), got {role!r}" + (f"; {hint}" if hint else "")
        )
    index = names.index(root_of(spec, role))
    return next(machine for machine in tables.machines if machine.role == index)


def steps_of(spec: Spec, tables: Tables, machine: Machine) -> list[Step]:
    """Return every move of *machine*, state by state: what it sends, receives, and is told by the bus."""
    roles = [role.name for role in spec.roles]
    messages = [message.name for message in spec.messages]
    found: list[Step] = []
    for state in range(len(machine.send)):
        sent: set[int] = set()
        for (index, address), move in machine.send[state].items():
            receivers = ", ".join(roles[one] for one in tables.addresses[address])
            scope = tables.events[move.interrupt].scope if move.interrupt >= 0 else -1
            found.append(Step(state, move.next, f"!{messages[index]} to {receivers}", messages[index], scope))
            sent.add(move.interrupt)
        for (sender, index), move in machine.receive[state].items():
            found.append(Step(state, move.next, f"?{messages[index]} from {roles[sender]}", messages[index]))
        for number, target in machine.bus[state].items():
            event = tables.events[number]
            if number in sent:
                continue  # the role raises it itself, and has moved by its own message
            raised = _raising(spec, tables, number, machine.role)
            if raised is not None:
                found.append(Step(state, target, f"?{raised[0]} from {raised[1]}", raised[0], event.scope))
            elif event.kind is EventKind.END:
                found.append(Step(state, target, f"(end {event.outcome})", event.name))
            else:
                found.append(Step(state, target, f"({event.name})", event.name, event.scope))
    return found


def _raising(spec: Spec, tables: Tables, event: int, receiver: int) -> tuple[str, str] | None:
    """Return (message, sender) of the message that raises *event* and that *receiver* is sent."""
    for machine in tables.machines:
        for moves in machine.send:
            for (index, address), move in moves.items():
                if move.interrupt == event and receiver in tables.addresses[address]:
                    return spec.messages[index].name, spec.roles[machine.role].name
    return None


def deadline_of(tables: Tables, machine: Machine, state: int) -> str:
    """Return the deadline that runs in *state* in words, "" where there is none."""
    number = machine.timer[state]
    if number == NO_TIMER:
        return ""
    within = tables.timers[number].within
    if within is None:
        return "default deadline"
    return "no deadline" if within == inf else f"within {show_span(within)}"


def is_over(machine: Machine, state: int) -> bool:
    """Return whether nothing at all can happen any more in *state*."""
    return not (machine.send[state] or machine.receive[state] or machine.bus[state])


def describe_states(machine: Machine, steps: list[Step]) -> list[tuple[int, str]]:
    """Return (number, name) of each state; names are what ``find_state`` takes, "" where only the number does."""
    names = _by_name(machine, steps)
    spoken = {next(iter(states)): name for name, states in reversed(names.items()) if len(states) == 1}
    return [(state, spoken.get(state, "")) for state in range(len(machine.send))]


def find_state(machine: Machine, steps: list[Step], text: str) -> int:
    """Return the state that *text* means: a number, or a name.

    Raises:
        LookupError: No state is called so, or several are; the text lists them.
    """
    n_states = len(machine.send)
    if text.isdecimal() and int(text) < n_states:
        return int(text)
    names = _by_name(machine, steps)
    states = names.get(text, set())
    if len(states) == 1:
        return next(iter(states))
    if states:
        numbers = ", ".join(map(str, sorted(states)))
        raise LookupError(f"expected one state, got {text!r}, which leads to the states {numbers}: say which number")
    hint = did_you_mean(text, names)
    raise LookupError(
        f"expected a state: a number below {n_states}, {START!r}, or the message or bus event that led there, "
        f"got {text!r}; {hint or 'see them with --list-states'}"
    )


def _by_name(machine: Machine, steps: list[Step]) -> dict[str, set[int]]:
    names: dict[str, set[int]] = {START: {machine.start}}
    for step in steps:
        names.setdefault(step.name, set()).add(step.target)
    return names
