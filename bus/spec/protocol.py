"""The compiled, immutable form of a spec: interned tables that broker and SDK step through.

A role's machine is the projection of the conversation on that role: a deterministic automaton
whose states are small integers. All numbers (roles, message types, addresses, events, timers,
scopes, counters) index the tuples of ``Protocol``; they are the same for everybody who compiled
the same digest, so they may travel on the wire.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import BaseModel

from bus.spec.diagnostic import did_you_mean
from bus.spec.message_type import MessageType
from bus.spec.syntax import Delivery as Delivery
from bus.spec.syntax import Role, Spec

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
        resets: Counters that begin again at zero (sender's moves only; applied before *counts*).
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


@dataclass(frozen=True, eq=False, repr=False)
class Protocol:
    """A compiled protocol. Message types and structs are attributes: ``newsroom.Draft`` is a pydantic model class.

    Attributes:
        digest: 16 hex digits over the spec's canonical form (docs, examples and layout left out).
        outcomes: The spec's own outcomes, then ``failed`` and ``canceled`` (RULES.md 2), each once;
            a conversation that can fall off its end also has ``done``.
        models: The classes of message types, of ``types`` and ``Artifact``, by name.
        type_of: Model class of a message → index of its message type.
        windows: Message type → how many of it a receiver may have unsettled, for types with a ``window``.
    """

    spec: Spec
    name: str
    version: str
    digest: str
    roles: tuple[Role, ...]
    messages: tuple[MessageType, ...]
    outcomes: tuple[str, ...]
    tables: Tables
    models: dict[str, type[BaseModel]]
    type_of: dict[type[BaseModel], int] = field(init=False)
    windows: dict[int, int] = field(init=False)
    _role_of: dict[str, int] = field(init=False)
    _message_of: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        found = object.__setattr__
        found(self, "type_of", {one.model: one.index for one in self.messages})
        found(self, "windows", {one.index: one.window for one in self.messages if one.window is not None})
        found(self, "_role_of", {role.name: index for index, role in enumerate(self.roles)})
        found(self, "_message_of", {one.name: one.index for one in self.messages})

    @property
    def identity(self) -> str:
        """``name@major``, which stands for the protocol on the wire together with the digest."""
        return f"{self.name}@{self.version.partition('.')[0]}"

    def role(self, name: str) -> RoleOf:
        """Return the role called *name* as something an agent can play.

        Raises:
            LookupError: The protocol has no such role; the message lists those it has.
        """
        index = self.role_index(name)
        role = self.roles[index]
        return RoleOf(self, index, name, role.human, role.pool)

    def role_index(self, name: str) -> int:
        """Return the number of the role called *name*.

        Raises:
            LookupError: The protocol has no such role; the message lists those it has.
        """
        return _look_up(self._role_of, name, f"a role of {self.name}")

    def message_index(self, name: str) -> int:
        """Return the number of the message type called *name*.

        Raises:
            LookupError: The protocol has no such message type; the message lists those it has.
        """
        return _look_up(self._message_of, name, f"a message type of {self.name}")

    def __getattr__(self, name: str) -> type[BaseModel]:
        # Only reached for what is no attribute; copying asks for dunder names before there are any fields.
        models = self.__dict__.get("models", {})
        if name in models:
            return models[name]  # type: ignore[no-any-return]  # __dict__ is untyped
        hint = did_you_mean(name, models)
        raise AttributeError(
            f"expected a message type or type of {self.__dict__.get('name', 'a protocol')}, got {name!r}"
            + (f"; {hint}" if hint else "")
        )

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.models})

    def __repr__(self) -> str:
        return f"<Protocol {self.name} {self.version} {self.digest}>"


@dataclass(frozen=True, slots=True)
class RoleOf:
    """A role together with its protocol: what an agent plays."""

    protocol: Protocol
    index: int
    name: str
    human: bool = False
    pool: bool = False

    def __str__(self) -> str:
        return f"{self.name} of {self.protocol.name}"


def _look_up(numbers: dict[str, int], name: str, what: str) -> int:
    if name in numbers:
        return numbers[name]
    hint = did_you_mean(name, numbers)
    raise LookupError(f"expected {what} ({', '.join(numbers)}), got {name!r}" + (f"; {hint}" if hint else ""))
