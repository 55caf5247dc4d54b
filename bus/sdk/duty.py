"""What an agent must have handlers for: found by walking its role's machine (RULES.md 6).

Wherever a delivery brings the role into a state that owes a message, nobody but the handler of that
delivery can send it; without one the conversation would hang until its deadline.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from bus.errors import MissingHandler
from bus.sdk.notice import NOTICE_OF_EVENT, Notice, Opened
from bus.sdk.part import Part
from bus.spec.tables import EventKind


@dataclass(frozen=True, slots=True)
class Duty:
    """A delivery after which the role must speak.

    Attributes:
        trigger: Index of a message type, or the class of a notice.
        place: What people call the trigger.
        owed: Names of the messages of which one must follow.
    """

    trigger: int | type[Notice]
    place: str
    owed: tuple[str, ...]


def find_duties(part: Part) -> Iterator[Duty]:
    """Yield every duty of *part*, state by state."""
    machine = part.machine
    if machine.owes[machine.start]:
        yield Duty(Opened, "Opened", _owed(part, machine.start))
    interrupts = _interrupting_types(part)
    for state, moves in enumerate(machine.receive):
        for (_, index), move in moves.items():
            if machine.owes[move.next] and not part.lossy[index]:
                yield Duty(index, part.messages[index].name, _owed(part, move.next))
        for number, after in machine.bus[state].items():
            if not machine.owes[after]:
                continue
            event = part.protocol.tables.events[number]
            receivers = interrupts.get(number, {})
            if event.kind is EventKind.INTERRUPT and part.plays in receivers:
                index = receivers[part.plays]
                yield Duty(index, part.messages[index].name, _owed(part, after))
            elif not _raises(part, state, number):
                notice = NOTICE_OF_EVENT[event.kind]
                yield Duty(notice, f"{notice.__name__} ({event.name})", _owed(part, after))


def check_duties(part: Part, handled: Collection[int | type[Notice]]) -> None:
    """Refuse an agent whose handlers leave a duty of *part* uncovered.

    Args:
        handled: Message types (by index) and notice classes that have a handler.

    Raises:
        MissingHandler: Names the role, the first delivery without a handler and what must follow it.
    """
    for duty in find_duties(part):
        if duty.trigger not in handled:
            name = duty.trigger.__name__ if isinstance(duty.trigger, type) else duty.place
            raise MissingHandler(
                f"{part.protocol.name}.{part.name} has no handler for {duty.place}, after which it must send "
                f"{' or '.join(duty.owed)}: add @agent.on({name})"
            )


def _owed(part: Part, state: int) -> tuple[str, ...]:
    moves = part.machine.send[state].items()
    return tuple(sorted({part.messages[index].name for (index, _), move in moves if move.interrupt < 0}))


def _raises(part: Part, state: int, event: int) -> bool:
    """Return whether the role itself raises the interrupt in *state*; it hears no notice of its own."""
    return any(move.interrupt == event for move in part.machine.send[state].values())


def _interrupting_types(part: Part) -> dict[int, dict[int, int]]:
    """Return INTERRUPT event → receiving role → message type."""
    found: dict[int, dict[int, int]] = {}
    for machine in part.protocol.tables.machines:
        for moves in machine.send:
            for (index, address), move in moves.items():
                if move.interrupt >= 0:
                    receivers = part.protocol.tables.addresses[address]
                    found.setdefault(move.interrupt, {}).update(dict.fromkeys(receivers, index))
    return found
