"""Notices: what the bus itself tells a role, as values that a handler is registered for.

A notice is delivered, leased and settled like a message (RULES.md 6); ``NobodyPlays`` alone is told to
the process that sent, outside any turn.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from bus.spec.tables import EventKind


@dataclass(frozen=True, slots=True)
class Opened:
    """The conversation has begun and the role is the first that must speak.

    *parent* is the conversation that called this one, where one did.
    """

    parent: bytes | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The conversation is over."""

    outcome: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """A role did not speak in time; *step* is what it owed, e.g. ``"Draft"`` or ``"choice editor"``."""

    step: str
    role: str | None = None


@dataclass(frozen=True, slots=True)
class LoopEnded:
    """The loop called *step* has had all the passes that the spec allows."""

    step: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The scope called *step* was cut short.

    Attributes:
        cause: ``"timeout"``, ``"lost"``, ``"failed"`` or ``"interrupt"`` (a message to other roles).
        role: The role that was lost or failed, else None.
    """

    step: str
    cause: str
    role: str | None = None


@dataclass(frozen=True, slots=True)
class Joined:
    """An `each` is over: enough of its members are through, or it has none.

    Attributes:
        step: ``"each bidder"``.
        cut: The agents that were left behind.
    """

    step: str
    cut: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CutOff:
    """Members of an `each` were not through in time, or when enough others were; they go on with its `late`.

    Attributes:
        step: ``"each bidder"``.
        cut: The agents that were cut off.
    """

    step: str
    cut: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Returned:
    """What a step ``call`` ran is over.

    Attributes:
        protocol: The called protocol's name.
        outcome: How it ended.
        conversation: Its id.
    """

    protocol: str
    outcome: str
    conversation: bytes = b""


@dataclass(frozen=True, slots=True)
class NobodyPlays:
    """Nobody that is registered plays *role*; messages to it wait until somebody does (RULES.md 14)."""

    role: str


Notice: TypeAlias = Opened | Ended | DeadlinePassed | LoopEnded | Interrupted | Joined | CutOff | Returned | NobodyPlays
NOTICES: tuple[type[Notice], ...] = (
    Opened, Ended, DeadlinePassed, LoopEnded, Interrupted, Joined, CutOff, Returned, NobodyPlays,
)  # fmt: skip

OPENED = "opened"
NOTICE_OF_EVENT: dict[str, type[Notice]] = {
    OPENED: Opened,
    EventKind.END: Ended,
    EventKind.ELSE: DeadlinePassed,
    EventKind.MAX: LoopEnded,
    EventKind.TIMEOUT: Interrupted,
    EventKind.LOST: Interrupted,
    EventKind.FAILED: Interrupted,
    EventKind.INTERRUPT: Interrupted,
    EventKind.JOINED: Joined,
    EventKind.LATE: CutOff,
    EventKind.CALL: Returned,
}


def parse_notice(facts: Mapping[str, object]) -> Notice:
    """Return the notice that the body of a DELIVER of type -1 tells of.

    A kind that this version does not know becomes an ``Interrupted`` with that cause: the role was
    moved by something, which is all that can be said.
    """
    kind = str(facts.get("kind", ""))
    step = str(facts.get("step") or facts.get("name") or "")
    role = facts.get("role")
    late = role if isinstance(role, str) else None
    notice = NOTICE_OF_EVENT.get(kind, Interrupted)
    if notice is Opened or notice is Returned:
        return _of_call(notice, facts)
    if notice is Ended:
        return Ended(str(facts.get("outcome") or facts.get("name") or ""), str(facts.get("reason") or ""))
    if notice is DeadlinePassed:
        return DeadlinePassed(step, late)
    if notice is LoopEnded:
        return LoopEnded(step)
    if notice is Joined or notice is CutOff:
        cut = facts.get("cut")
        return notice(step, tuple(map(str, cut)) if isinstance(cut, list) else ())
    return Interrupted(str(facts.get("scope") or step), kind, late)


def _of_call(notice: type[Notice], facts: Mapping[str, object]) -> Notice:
    if notice is Opened:
        parent = facts.get("parent")
        return Opened(parent if isinstance(parent, bytes) else None)
    called = facts.get("conversation")
    return Returned(
        str(facts.get("protocol") or ""),
        str(facts.get("outcome") or ""),
        called if isinstance(called, bytes) else b"",
    )
