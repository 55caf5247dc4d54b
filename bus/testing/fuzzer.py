"""Many random runs of one protocol, and what they say of it: no fault, or each kind with the shortest way to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bus.spec.automaton import closure
from bus.spec.protocol import Delivery as DeliveryClass
from bus.spec.protocol import Protocol
from bus.spec.tables import Machine
from bus.testing.arena import Fault, Tally
from bus.testing.choices import Choices, shortened
from bus.testing.executor import STEPS, Run
from bus.testing.hall import arena_of

RUNS = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """A claim that a run broke.

    Attributes:
        kind: ``stuck``, ``silent``, ``orphan``, ``illegal-accepted``, ``legal-refused``, ``blamed`` …
        seed: Of the run that found it: ``play_seed`` plays it again.
        trace: The shortest way to it that was found, what the bus decided step by step.
        n_runs: How many of the runs broke it.
    """

    kind: str
    text: str
    seed: str
    trace: tuple[str, ...]
    n_runs: int = 1

    def as_json(self) -> dict[str, object]:
        """Return plain values."""
        return {"kind": self.kind, "message": self.text, "seed": self.seed, "trace": list(self.trace),
                "runs": self.n_runs}  # fmt: skip


@dataclass(slots=True)
class Report:
    """What all runs of a protocol have shown."""

    protocol: Protocol
    tally: Tally
    findings: list[Finding] = field(default_factory=list)

    def unreached(self) -> list[tuple[str, int, str]]:
        """Return (role, state, what it may do there) of each state in which no run has been."""
        found = []
        for role, (machine, reached) in enumerate(zip(self.protocol.tables.machines, self.tally.reached, strict=True)):
            if self.protocol.played_by[role] != role:
                continue  # a sub-role has its members' machine
            name = self.protocol.roles[machine.role].name
            for state in sorted(self._steps_to(machine)):
                is_passed = bool(machine.due[state]) and not machine.send[state] and not machine.receive[state]
                if state not in reached and not is_passed:  # where only an end or max is due nobody ever rests
                    found.append((name, state, self._describe(machine.role, state)))
        return found

    def _steps_to(self, machine: Machine) -> set[int]:
        """Return the states to which the role can be led: at-most-once messages step nothing (RULES.md 4)."""
        lossy = [one.delivery is DeliveryClass.AT_MOST_ONCE for one in self.protocol.messages]

        def onward(state: int) -> list[int]:
            sent = [move.next for (type, _), move in machine.send[state].items() if not lossy[type]]
            taken = [move.next for (_, type), move in machine.receive[state].items() if not lossy[type]]
            return [*sent, *taken, *machine.bus[state].values()]

        return closure({machine.start}, onward)

    def _describe(self, role: int, state: int) -> str:
        protocol, machine = self.protocol, self.protocol.tables.machines[role]
        sends = sorted({protocol.messages[type].name for type, _ in machine.send[state]})
        waits = sorted({protocol.messages[type].name for _, type in machine.receive[state]})
        parts = [
            *(["may send " + ", ".join(sends)] if sends else []),
            *(["waits for " + ", ".join(waits)] if waits else []),
        ]
        return "; ".join(parts) or "has nothing to do"


def fuzz_protocol(
    protocol: Protocol,
    *,
    runs: int = RUNS,
    seed: int = 0,
    steps: int = STEPS,
    calm: bool = False,
    on_run: Callable[[int], None] | None = None,
) -> Report:
    """Play *protocol* at random and return what was seen.

    Args:
        seed: Equal seeds give equal runs.
        steps: After so many a run is cut.
        calm: Let nothing go wrong: no deadline passes, nobody is lost.
        on_run: Is called with the number of each run that was played.
    """
    arena = arena_of(protocol)
    first: dict[str, tuple[str, Choices, Fault]] = {}
    times: dict[str, int] = {}
    for number in range(runs):
        name = f"{seed}-{number}"
        choices = Choices(name)
        try:
            Run(arena, choices, steps=steps, calm=calm).play()
        except Fault as fault:
            first.setdefault(fault.kind, (name, choices, fault))
            times[fault.kind] = times.get(fault.kind, 0) + 1
        if on_run is not None:
            on_run(number + 1)
    report = Report(protocol, arena.tally)
    for kind, (name, choices, found) in first.items():
        text, trace = _shortest(protocol, choices, found, steps=steps, calm=calm)
        report.findings.append(Finding(kind, text, name, trace, times[kind]))
    return report


def play_seed(protocol: Protocol, seed: str, *, steps: int = STEPS, calm: bool = False) -> tuple[str, list[str]]:
    """Play the one run that a finding names; return its outcome and trace.

    Raises:
        Fault: As it did then.
    """
    run = Run(arena_of(protocol), Choices(seed), steps=steps, calm=calm)
    return run.play(), run.trace


def _shortest(
    protocol: Protocol, choices: Choices, fault: Fault, *, steps: int, calm: bool
) -> tuple[str, tuple[str, ...]]:
    """Return the text and trace of the shortest run found that fails in the same way."""
    arena = arena_of(protocol)

    def replay(recorded: list[int]) -> tuple[Fault | None, list[str]]:
        run = Run(arena, Choices(recorded=recorded), steps=steps, calm=calm)
        try:
            run.play()
        except Fault as error:
            return error, run.trace
        return None, run.trace

    def fails(recorded: list[int]) -> bool:
        error, _ = replay(recorded)
        return error is not None and error.kind == fault.kind

    found, trace = replay(shortened(choices.taken, fails))
    return (found or fault).text, tuple(trace)
