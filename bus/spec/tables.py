"""The tables that broker and SDK step through: what projection makes of a conversation.

A role's machine is the projection of the conversation on that role: a deterministic automaton
whose states are small integers. All numbers (roles, message types, addresses, events, timers,
scopes, counters) index the tuples of ``Tables`` and of ``Protocol``; they are the same for everybody
who compiled the same digest, so they may travel on the wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

NO_EVENT = -1
NO_TIMER = -1


class EventKind(StrEnum):
    """Why the bus itself moves a conversation."""

    END = "end"  # `end: outcome`, or falling off the end of the conversation
    ELSE = "else"  # a deadline passed
    MAX = "max"  # a loop has had its passes
    TIMEOUT = "timeout"  # a scope's or loop's time is up
    LOST = "lost"  # no instance of the role's agent is left
    FAILED = "failed"  # an agent raised Failure, or its delivery is a dead letter
    INTERRUPT = "interrupt"  # a message that may strike anywhere in a scope


@dataclass(frozen=True, slots=True)
class BusEvent:
    """One event that moves every role at once.

    Attributes:
        name: Unique and stable inside the protocol, e.g. ``"revisions.max"``, ``"run.timeout"``.
        step: What people call the place: the loop's or scope's name, or ``"Draft"`` / ``"choice editor"``.
        discards: Whether undelivered messages of *scope* are dropped (RULES.md 1).
        scope: The scope that the event closes, or -1.
        role: The late role (ELSE), the lost or failed role, else -1.
        counter: The exhausted counter (MAX), else -1.
        outcome: The outcome (END), else None.
        resets: Counters that begin again at zero when the event fires (applied before *counts*).
        counts: Counters that the event adds one to.
    """

    name: str
    kind: EventKind
    step: str
    discards: bool = False
    scope: int = -1
    role: int = -1
    counter: int = -1
    outcome: str | None = None
    resets: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Timer:
    """A deadline for one role, counted from the moment the step is enabled for it.

    Attributes:
        within: Seconds; None means ``settings.within``; ``math.inf`` never fires.
        event: The ELSE event, or -1: the conversation then ends as ``failed``.
        retry: How often the message being answered is delivered again first.
        remind: Seconds between reminders to a person, or None.
    """

    role: int
    step: str
    within: float | None
    event: int = NO_EVENT
    retry: int = 0
    remind: float | None = None


@dataclass(frozen=True, slots=True)
class ScopeTable:
    """A scope that interrupts may close, or a loop with ``within`` (its timeout only).

    Attributes:
        parent: The enclosing scope, or -1.
        timeouts: (seconds, TIMEOUT event), counted from the first role's entry.
        lost: role → LOST event.
        failed: role → FAILED event.
    """

    name: str
    parent: int = -1
    timeouts: tuple[tuple[float, int], ...] = ()
    lost: tuple[tuple[int, int], ...] = ()
    failed: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Counter:
    """Passes of a loop, or messages of a stream, that may happen at most *limit* times.

    Attributes:
        event: The MAX event of a loop; -1 for a stream, whose next message is then refused.
    """

    name: str
    limit: int
    event: int = NO_EVENT


@dataclass(slots=True)
class Move:
    """One allowed step of one role. Treated as frozen; slots only, because it is read for each message.

    Attributes:
        next: The role's state afterwards.
        interrupt: The INTERRUPT event that this send raises, or -1; the event's own resets and counts hold.
        keeps_timer: A stream's message: the running deadline is that of the message that ends the stream.
        counts: Counters that this message adds one to (sender's moves only).
        resets: Counters that begin again at zero (applied before *counts*; of a receiver's move once it takes the
            message in: streams of its own).
        guards: Counters that must be below their limit for this send to be allowed.
        scopes: Scopes that the message belongs to: closing one of them discards it while undelivered.
    """

    next: int
    interrupt: int = NO_EVENT
    keeps_timer: bool = False
    counts: tuple[int, ...] = ()
    resets: tuple[int, ...] = ()
    guards: tuple[int, ...] = ()
    scopes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """What one role may do: parallel tuples, one entry a state.

    Attributes:
        start: The state in which the role begins.
        start_resets: Counters set to zero at opening need no entry: all begin at zero.
        send: (message type, address) → Move. At-most-once messages have a Move too; it is never stepped.
        receive: (sender role, message type) → Move.
        bus: bus event → next state. A missing event leaves the role where it is.
        due: END and MAX events that the bus fires once every role's state has them in *bus*
            (MAX: once its counter is full, too).
        timer: Index of the running deadline, or -1.
        scopes: Scopes in which the role certainly stands, outermost first; equal tuples are the same object.
        owes: The role must send before anything else can reach it. Interrupts do not count, nor does a
            MAX event in *due*: while its counter is full the role owes nothing, and only the
            conversation knows the counter.
        final: Nothing but bus events can happen to the role any more.
    """

    role: int
    start: int
    send: tuple[dict[tuple[int, int], Move], ...]
    receive: tuple[dict[tuple[int, int], Move], ...]
    bus: tuple[dict[int, int], ...]
    due: tuple[tuple[int, ...], ...]
    timer: tuple[int, ...]
    scopes: tuple[tuple[int, ...], ...]
    owes: tuple[bool, ...]
    final: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything that projection produces from a spec; part of ``Protocol``."""

    machines: tuple[Machine, ...]
    addresses: tuple[tuple[int, ...], ...]  # interned receiver sets, in the order written
    events: tuple[BusEvent, ...]
    timers: tuple[Timer, ...]
    scopes: tuple[ScopeTable, ...]
    counters: tuple[Counter, ...]
