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
NO_EACH = -1
ASK = -1  # in the rows of a gathering (``bus.spec.gathering``): the next state is found when the step is taken


class EventKind(StrEnum):
    """Why the bus itself moves a conversation."""

    END = "end"  # `end: outcome`, or falling off the end of the conversation
    ELSE = "else"  # a deadline passed
    MAX = "max"  # a loop has had its passes
    TIMEOUT = "timeout"  # a scope's or loop's time is up
    LOST = "lost"  # no instance of the role's agent is left
    FAILED = "failed"  # an agent raised Failure, or its delivery is a dead letter
    INTERRUPT = "interrupt"  # a message that may strike anywhere in a scope
    LATE = "late"  # the members of an `each` that are not through are cut off
    JOINED = "joined"  # an `each` is over: enough of its members are through, or it had none
    CALL = "call"  # a protocol that a step `call` runs has ended


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
        outcome: The outcome (END), that of the called protocol (CALL), else None.
        resets: Counters that begin again at zero when the event fires (applied before *counts*).
        counts: Counters that the event adds one to.
        each: The `each` in whose block it happens, to one member alone, or -1.
        call: The ``call`` step that is over (CALL), else -1.
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
    each: int = NO_EACH
    call: int = -1


@dataclass(frozen=True, slots=True)
class Timer:
    """A deadline for one role, counted from the moment the step is enabled for it.

    Attributes:
        within: Seconds; None means ``settings.within``; ``math.inf`` never fires.
        event: The ELSE event, or -1: the conversation then ends as ``failed``.
        retry: How often the message being answered is delivered again first.
        remind: Seconds between reminders to a person, or None.
        each: The `each` in whose block it runs, once for every member, or -1.
        regions: (parallel, branch) of every parallel around its step, outermost first.
    """

    role: int
    step: str
    within: float | None
    event: int = NO_EVENT
    retry: int = 0
    remind: float | None = None
    each: int = NO_EACH
    regions: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class ScopeTable:
    """A scope that interrupts may close, or a loop with ``within`` (its timeout only).

    Attributes:
        parent: The enclosing scope, or -1.
        timeouts: (seconds, TIMEOUT event), counted from the first role's entry.
        lost: role → LOST event.
        failed: role → FAILED event.
        each: The `each` in whose block it stands, once for every member, or -1.
    """

    name: str
    parent: int = -1
    timeouts: tuple[tuple[float, int], ...] = ()
    lost: tuple[tuple[int, int], ...] = ()
    failed: tuple[tuple[int, int], ...] = ()
    each: int = NO_EACH


@dataclass(frozen=True, slots=True)
class Counter:
    """Passes of a loop, messages of a stream or members of a sub-role, of which there may be at most *limit*.

    Attributes:
        event: The MAX event of a loop; -1 for a stream, whose next message is then refused.
        enrolls: The sub-role into which each count puts a member, or -1.
        each: The `each` in whose block it counts, for every member apart, or -1.
    """

    name: str
    limit: int
    event: int = NO_EVENT
    enrolls: int = -1
    each: int = NO_EACH


@dataclass(frozen=True, slots=True)
class EachTable:
    """An `each`: its block runs once for every member of *role*, side by side.

    Attributes:
        role: The role, or sub-role, whose members take part.
        scope: The scope around the block, whose messages are discarded for members that are cut off.
        needs: How many members must be through; 0: all.
        joined: The JOINED event behind the block, or -1 where the block is never left that way.
        none: The JOINED event of an `each` that has no members.
        left: The JOINED event as it befalls members that are left behind, or -1; *joined* stands for it.
        late: The LATE event, or -1 where nobody is ever cut off.
        on_join: Whether members that are not through when enough are take `late`; else they are left behind.
    """

    role: int
    scope: int
    needs: int = 0
    joined: int = NO_EVENT
    none: int = NO_EVENT
    left: int = NO_EVENT
    late: int = NO_EVENT
    on_join: bool = False


@dataclass(frozen=True, slots=True)
class CallTable:
    """A ``call`` step: it begins once every role's state has its events in *bus*, and one of them ends it.

    Attributes:
        protocol: What is called, as written: ``"training@^1"``; a key of ``Protocol.callees``.
        roles: (their role's name, our role): who plays ours is to play theirs.
        events: (outcome of the called protocol, CALL event), at least one.
        within: Seconds after which the called conversation is canceled, or None.
    """

    protocol: str
    roles: tuple[tuple[str, int], ...]
    events: tuple[tuple[str, int], ...]
    within: float | None = None

    @property
    def name(self) -> str:
        """The called protocol's name."""
        return self.protocol.partition("@")[0]


@dataclass(slots=True)
class Move:
    """One allowed step of one role. Treated as frozen; slots only, because it is read for each message.

    Attributes:
        next: The role's state afterwards.
        interrupt: The INTERRUPT event that this send raises, or -1; the event's own resets and counts hold.
        keeps_timer: A stream's message: the running deadline is that of the message that ends the stream.
        runs_on: Deadlines of steps beside this one, in other branches of a parallel: they do not begin again.
        counts: Counters that this message adds one to (sender's moves only).
        resets: Counters that begin again at zero (applied before *counts*; of a receiver's move once it takes the
            message in: streams of its own).
        guards: Counters that must be below their limit for this send to be allowed.
        scopes: Scopes that the message belongs to: closing one of them discards it while undelivered.
        each: The `each` in whose block the message stands, or -1.
        voice: Who speaks, as receivers know it (sender's moves only): the role; in a gathering see there.
        member: The member of the `each` that is meant, or -1; in a gathering only.
        then: The state that follows for that member, or for all where *member* is -1; in a gathering only.
    """

    next: int
    interrupt: int = NO_EVENT
    keeps_timer: bool = False
    runs_on: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    resets: tuple[int, ...] = ()
    guards: tuple[int, ...] = ()
    scopes: tuple[int, ...] = ()
    each: int = NO_EACH
    voice: int = -1
    member: int = -1
    then: int = 0


@dataclass(slots=True)
class Machine:
    """What one role may do: parallel tuples, one entry a state. Treated as frozen, but by ``bus.spec.gathering``.

    Attributes:
        start: The state in which the role begins.
        start_resets: Counters set to zero at opening need no entry: all begin at zero.
        send: (message type, address) → Move. At-most-once messages have a Move too; it is never stepped.
        receive: (sender role, message type) → Move.
        bus: bus event → next state. A missing event leaves the role where it is.
        due: END, MAX and JOINED events that the bus fires once every role's state has them in *bus*
            (MAX: once its counter is full, too), and CALL events: the bus begins the call then.
        timer: Index of the running deadline, or -1.
        others: Further deadlines that run at the same time: of steps in other branches of a parallel.
        scopes: Scopes in which the role certainly stands, outermost first; equal tuples are the same object.
        owes: The role must send before anything else can reach it. Interrupts do not count, nor does a
            MAX event in *due*: while its counter is full the role owes nothing, and only the
            conversation knows the counter.
        final: Nothing but bus events can happen to the role any more.
        begins: The `each`es whose block may begin there.
    """

    role: int
    start: int
    send: tuple[dict[tuple[int, int], Move], ...]
    receive: tuple[dict[tuple[int, int], Move], ...]
    bus: tuple[dict[int, int], ...]
    due: tuple[tuple[int, ...], ...]
    timer: tuple[int, ...]
    others: tuple[tuple[int, ...], ...]
    scopes: tuple[tuple[int, ...], ...]
    owes: tuple[bool, ...]
    final: tuple[bool, ...]
    begins: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything that projection produces from a spec; part of ``Protocol``."""

    machines: tuple[Machine, ...]
    addresses: tuple[tuple[int, ...], ...]  # interned receiver sets, in the order written
    events: tuple[BusEvent, ...]
    timers: tuple[Timer, ...]
    scopes: tuple[ScopeTable, ...]
    counters: tuple[Counter, ...]
    eaches: tuple[EachTable, ...] = ()
    calls: tuple[CallTable, ...] = ()
