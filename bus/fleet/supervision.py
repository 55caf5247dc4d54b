"""When a process is started again, when that is given up, and in which order all end.

Pure: ``handle`` and its kin return effects, the supervisor carries them out. The rule is Erlang's
restart intensity (OTP Design Principles, "Maximum Restart Intensity"): more than ``at_most`` deaths
within ``within`` seconds, and the fleet fails loudly instead of limping on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

BACK_OFF = 0.2  # first pause before a start again; doubles with each death that still counts
BACK_OFF_LIMIT = 10.0
GRACE = 10.0  # between asking a process to end and killing it: a turn may be finished in this time


class ProcessState(StrEnum):
    """Where a supervised process stands."""

    STARTING = "starting"
    REGISTERED = "registered"
    EXITED = "exited"  # it died; whether it starts again is decided in the same breath
    BACKING_OFF = "backing-off"
    GAVE_UP = "gave-up"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Happening(StrEnum):
    """What can happen to a supervised process."""

    SEEN = "seen"  # the broker lists it
    LATE = "late"  # it runs, but the fleet would not wait longer for it
    DIED = "died"
    REFUSED = "refused"  # it ended saying that another try would end the same way
    RETRY = "retry"  # decided: start it again after a pause
    TOO_OFTEN = "too-often"  # decided: the restart rule is broken
    DUE = "due"  # the pause, or the grace, is over
    STOP = "stop"


S, H = ProcessState, Happening
TRANSITIONS: dict[tuple[ProcessState, Happening], ProcessState] = {
    (S.STARTING, H.SEEN): S.REGISTERED,
    (S.STARTING, H.LATE): S.GAVE_UP,
    (S.STARTING, H.DIED): S.EXITED,
    (S.STARTING, H.REFUSED): S.GAVE_UP,
    (S.STARTING, H.STOP): S.STOPPING,
    (S.REGISTERED, H.SEEN): S.REGISTERED,
    (S.REGISTERED, H.DIED): S.EXITED,
    (S.REGISTERED, H.REFUSED): S.GAVE_UP,
    (S.REGISTERED, H.STOP): S.STOPPING,
    (S.EXITED, H.RETRY): S.BACKING_OFF,
    (S.EXITED, H.TOO_OFTEN): S.GAVE_UP,
    (S.REGISTERED, H.LATE): S.REGISTERED,  # both were on their way at the same time
    (S.BACKING_OFF, H.SEEN): S.BACKING_OFF,  # news of the one that died meanwhile
    (S.BACKING_OFF, H.LATE): S.GAVE_UP,
    (S.BACKING_OFF, H.DUE): S.STARTING,
    (S.BACKING_OFF, H.STOP): S.STOPPED,
    (S.GAVE_UP, H.SEEN): S.GAVE_UP,
    (S.GAVE_UP, H.LATE): S.GAVE_UP,
    (S.GAVE_UP, H.STOP): S.GAVE_UP,
    (S.GAVE_UP, H.DIED): S.GAVE_UP,  # the late one, killed
    (S.GAVE_UP, H.REFUSED): S.GAVE_UP,
    (S.STOPPING, H.SEEN): S.STOPPING,
    (S.STOPPING, H.LATE): S.STOPPING,
    (S.STOPPING, H.STOP): S.STOPPING,
    (S.STOPPING, H.DUE): S.STOPPING,
    (S.STOPPING, H.DIED): S.STOPPED,
    (S.STOPPING, H.REFUSED): S.STOPPED,
    (S.STOPPED, H.SEEN): S.STOPPED,
    (S.STOPPED, H.LATE): S.STOPPED,
    (S.STOPPED, H.STOP): S.STOPPED,
}
ENDED = frozenset({S.GAVE_UP, S.STOPPED})


@dataclass(frozen=True, slots=True)
class RestartRule:
    """At most *at_most* deaths within *within* seconds; one more and it is given up."""

    at_most: int = 5
    within: float = 60.0


@dataclass(frozen=True, slots=True)
class Start:
    """Start the process."""

    name: str


@dataclass(frozen=True, slots=True)
class Terminate:
    """Ask the process to finish and leave."""

    name: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End the process and all that it started, at once."""

    name: str


@dataclass(frozen=True, slots=True)
class Restarting:
    """Tell people: it died and starts again after *pause* seconds; *deaths* still count against the rule."""

    name: str
    deaths: int
    at_most: int
    pause: float


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Tell people: the fleet fails because of this process."""

    name: str
    reason: str


Effect: TypeAlias = Start | Terminate | Kill | Restarting | GivenUp


@dataclass(slots=True)
class SupervisedProcess:
    """One process and what is remembered of its deaths.

    Attributes:
        running: Whether the operating system still has it: a killed one ends in its own time.
        due_at: When the pause or the grace is over, or None.
    """

    name: str
    rule: RestartRule
    state: ProcessState = ProcessState.STOPPED
    running: bool = False
    due_at: float | None = None
    reason: str = ""
    _deaths: deque[float] = field(default_factory=deque)
    _paused: float = 0.0  # the pauses we made are no time in which it did not die

    def start(self) -> list[Effect]:
        """Begin; the only step outside the table."""
        self.state, self.running, self.due_at = ProcessState.STARTING, True, None
        return [Start(self.name)]

    def handle(self, happening: Happening, now: float, reason: str = "") -> list[Effect]:
        """Take one happening in.

        Raises:
            KeyError: The table has no such step. Nothing changed.
        """
        before = self.state
        self.state = TRANSITIONS[before, happening]
        if happening in (Happening.DIED, Happening.REFUSED):
            self.running, self.due_at = False, None
        if self.state is ProcessState.EXITED:
            return self._decide(now)
        if self.state is ProcessState.GAVE_UP and before is not ProcessState.GAVE_UP:
            return self._give_up(reason)
        if before is ProcessState.BACKING_OFF and self.state is not before:
            self.due_at = None
            return self.start() if self.state is ProcessState.STARTING else []
        if self.state is ProcessState.STOPPING and before is not ProcessState.STOPPING:
            self.due_at = now + GRACE
            return [Terminate(self.name)]
        if self.state is ProcessState.STOPPING and happening in (Happening.STOP, Happening.DUE):
            self.due_at = None  # asked a second time, or the grace is over
            return [Kill(self.name)]
        return []

    def _decide(self, now: float) -> list[Effect]:
        """Count this death and choose between a pause and giving up."""
        instant = now - self._paused
        self._deaths.append(instant)
        while self._deaths[0] <= instant - self.rule.within:
            self._deaths.popleft()
        count = len(self._deaths)
        if count > self.rule.at_most:
            reason = f"died {count} times within {self.rule.within:g} s, at most {self.rule.at_most} allowed"
            return self.handle(Happening.TOO_OFTEN, now, reason)
        pause = min(BACK_OFF * 2.0 ** min(count - 1, 16), BACK_OFF_LIMIT)
        self._paused += pause
        effects = self.handle(Happening.RETRY, now)
        self.due_at = now + pause
        return [*effects, Restarting(self.name, count, self.rule.at_most, pause)]

    def _give_up(self, reason: str) -> list[Effect]:
        self.due_at = None
        self.reason = reason
        kill: list[Effect] = [Kill(self.name)] if self.running else []
        return [*kill, GivenUp(self.name, reason)]


class Supervision:
    """The processes of one fleet; *broker*, where it is among them, ends after all others.

    Attributes:
        processes: By name, in the order in which they start.
        stopping: Whether everything is on its way out.
    """

    def __init__(self, rules: Mapping[str, RestartRule], *, broker: str | None = None) -> None:
        self.processes = {name: SupervisedProcess(name, rule) for name, rule in rules.items()}
        self.stopping = False
        self._broker = broker

    def start(self) -> list[Effect]:
        """Start every process, the broker first; agents wait for it on their own."""
        return [effect for process in self.processes.values() for effect in process.start()]

    def handle(self, name: str, happening: Happening, now: float, reason: str = "") -> list[Effect]:
        """Take in what happened to process *name*; one that is given up takes the whole fleet down."""
        effects = self.processes[name].handle(happening, now, reason)
        if any(isinstance(effect, GivenUp) for effect in effects) and not self.stopping:
            effects += self.stop(now)
        elif self.stopping:
            effects += self._stop_broker(now)
        return effects

    def tick(self, now: float) -> list[Effect]:
        """Take in that time has passed."""
        due = [one.name for one in self.processes.values() if one.due_at is not None and one.due_at <= now]
        return [effect for name in due for effect in self.handle(name, Happening.DUE, now)]

    def next_due(self) -> float | None:
        """Return the next instant at which ``tick`` has something to do."""
        return min((one.due_at for one in self.processes.values() if one.due_at is not None), default=None)

    def stop(self, now: float) -> list[Effect]:
        """End the fleet in order; asked a second time, at once."""
        again, self.stopping = self.stopping, True
        effects: list[Effect] = []
        for process in self.processes.values():
            if process.name != self._broker or again:
                effects += process.handle(Happening.STOP, now)
        return effects if again else effects + self._stop_broker(now)

    def _stop_broker(self, now: float) -> list[Effect]:
        """Let the broker go once nobody needs it."""
        if self._broker is None or self.processes[self._broker].state in (ProcessState.STOPPING, *ENDED):
            return []
        others = (one for one in self.processes.values() if one.name != self._broker)
        if any(one.running or one.state not in ENDED for one in others):
            return []
        return self.processes[self._broker].handle(Happening.STOP, now)

    @property
    def is_ready(self) -> bool:
        """Whether every process is registered."""
        return all(one.state is ProcessState.REGISTERED for one in self.processes.values())

    @property
    def is_over(self) -> bool:
        """Whether nothing runs and nothing will."""
        return all(one.state in ENDED and not one.running for one in self.processes.values())

    @property
    def failures(self) -> dict[str, str]:
        """Why the fleet failed: process → reason; empty after an orderly end."""
        return {one.name: one.reason for one in self.processes.values() if one.state is ProcessState.GAVE_UP}
