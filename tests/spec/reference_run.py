"""The meaning of the tables in its plainest form: one conversation, driven at random, without a broker.

Every role has a front state and the messages that arrived before their time. What a role may send and
what may befall it are listed; one of them is drawn, until the conversation ends.
"""

from dataclasses import dataclass, field
from random import Random

from bus.spec.tables import EventKind, Move, Tables

FAILED_BY_DEADLINE = "failed (deadline)"


class Stuck(Exception):
    """Raised when nothing can happen in a conversation that is not over."""


@dataclass
class ReferenceRun:
    """One conversation over *tables*. *mishap* is how often something befalls it, between 0 and 1."""

    tables: Tables
    random: Random
    mishap: float = 0.1
    outcome: str | None = None
    history: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.states = [machine.start for machine in self.tables.machines]
        self.early: list[list[tuple[int, int, tuple[int, ...]]]] = [[] for _ in self.states]
        self.counters = [0] * len(self.tables.counters)
        self._fire_due()

    def run(self, *, steps: int = 2_000) -> str:
        """Drive the conversation to its end and return the outcome."""
        for _ in range(steps):
            if self.outcome is not None:
                return self.outcome
            self.step()
        raise Stuck(f"no end within {steps} steps: {self.history[-20:]}")

    def step(self) -> None:
        sends = self._sends()
        mishaps = self._mishaps()
        if not sends and not mishaps:
            raise Stuck(f"states {self.states} after {self.history[-20:]}")
        if sends and (not mishaps or self.random.random() >= self.mishap):
            self.send(*self.random.choice(sends))
            return
        event = self.random.choice(mishaps)
        if event < 0:
            self.outcome = FAILED_BY_DEADLINE
        else:
            self.fire(event)
            self._fire_due()

    def send(self, role: int, type: int, address: int, move: Move) -> None:
        """Accept a message: the sender steps, then every receiver that expects it."""
        self.history.append(f"{role} -> {self.tables.addresses[address]}: {type}")
        for counter in move.resets:
            self.counters[counter] = 0
        for counter in move.counts:
            self.counters[counter] += 1
        if move.interrupt >= 0:
            assert move.next == self.tables.machines[role].bus[self.states[role]][move.interrupt]
            self.fire(move.interrupt)
        else:
            self.states[role] = move.next
            for receiver in self.tables.addresses[address]:
                self.early[receiver].append((role, type, move.scopes))
            for one in range(len(self.states)):
                self._take_in(one)
        self._fire_due()

    def fire(self, number: int) -> None:
        """Let a bus event happen; in a sound protocol every role is where the event can reach it."""
        event = self.tables.events[number]
        self.history.append(event.name)
        for counter in event.resets:
            self.counters[counter] = 0
        for counter in event.counts:
            self.counters[counter] += 1
        for role, machine in enumerate(self.tables.machines):
            assert number in machine.bus[self.states[role]], f"{event.name} does not reach role {role}"
            self.states[role] = machine.bus[self.states[role]][number]
            if event.discards:
                self.early[role] = [one for one in self.early[role] if event.scope not in one[2]]
        for role in range(len(self.states)):
            self._take_in(role)
        if event.kind is EventKind.END:
            self.outcome = event.outcome

    def _sends(self) -> list[tuple[int, int, int, Move]]:
        return [
            (role, type, address, move)
            for role, machine in enumerate(self.tables.machines)
            for (type, address), move in machine.send[self.states[role]].items()
            if all(self.counters[guard] < self.tables.counters[guard].limit for guard in move.guards)
            and (move.interrupt < 0 or self._reaches_all(move.interrupt))
        ]

    def _mishaps(self) -> list[int]:
        """Return what may befall the conversation now: missed deadlines, timeouts, lost and failed roles, returns."""
        found = [event for event in self._due() if self.tables.events[event].kind is EventKind.CALL]
        for role, machine in enumerate(self.tables.machines):
            if machine.timer[self.states[role]] >= 0:
                found.append(self.tables.timers[machine.timer[self.states[role]]].event)
        inside = {scope for role, one in enumerate(self.tables.machines) for scope in one.scopes[self.states[role]]}
        for scope in sorted(inside):
            table = self.tables.scopes[scope]
            found += [event for _, event in (*table.timeouts, *table.lost, *table.failed)]
        return [event for event in found if event < 0 or self._reaches_all(event)]

    def _take_in(self, role: int) -> None:
        machine, index = self.tables.machines[role], 0
        while index < len(self.early[role]):
            sender, type, _ = self.early[role][index]
            move = machine.receive[self.states[role]].get((sender, type))
            if move is None:
                index += 1
            else:
                self.states[role] = move.next
                for counter in move.resets:
                    self.counters[counter] = 0
                del self.early[role][index]
                index = 0

    def _fire_due(self) -> None:
        while self.outcome is None:
            ready = [event for event in self._due() if self._reaches_all(event) and self._is_full(event)]
            ready = [event for event in ready if self.tables.events[event].kind is not EventKind.CALL]
            if not ready:
                return
            self.fire(ready[0])

    def _due(self) -> list[int]:
        return sorted({event for role, one in enumerate(self.tables.machines) for event in one.due[self.states[role]]})

    def _is_full(self, event: int) -> bool:
        counter = self.tables.events[event].counter
        return counter < 0 or self.counters[counter] >= self.tables.counters[counter].limit

    def _reaches_all(self, event: int) -> bool:
        return all(event in one.bus[self.states[role]] for role, one in enumerate(self.tables.machines))
