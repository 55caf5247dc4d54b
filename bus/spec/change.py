"""What two versions of a protocol differ in, as values: changes, why an agent does not fit, verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bus.spec.syntax import Mark


class Level(StrEnum):
    """How loud a change is (LANGUAGE.md, "Evolution"); most serious first."""

    ERR = "ERR"
    WARN = "WARN"
    INFO = "INFO"

    def is_at_least(self, other: Level) -> bool:
        """Return whether this level is *other* or more serious."""
        order = tuple(Level)
        return order.index(self) <= order.index(other)


class Verdict(StrEnum):
    """Whether agents of one role may meet the other version, in Confluent's words."""

    FULL = "full"  # both ways
    BACKWARD = "backward"  # agents of the old version fit conversations of the new one, not the other way round
    FORWARD = "forward"  # agents of the new version fit conversations of the old one, not the other way round
    BREAKING = "breaking"  # neither


class Bump(StrEnum):
    """Which number of ``major.minor.patch`` goes up; least first."""

    NONE = "none"
    PATCH = "patch"
    MINOR = "minor"
    MAJOR = "major"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differs.

    Attributes:
        mark: In the new file, or in the old one where something has vanished.
        rule: Its row of the table in LANGUAGE.md, e.g. ``"field-added-required"``.
        old_senders: Whether what agents of the old version send still is what the new version reads.
        old_receivers: Whether agents of the old version can read what the new version sends.
        role: The role that the change is about, if it is about one.
        subject: The message type, field (``"Submit.deadline"``), key or role that is declared otherwise.
        trace: Where order is concerned, the shortest series of steps that shows it.
    """

    mark: Mark
    rule: str
    level: Level
    message: str
    old_senders: bool = True
    old_receivers: bool = True
    role: str | None = None
    subject: str = ""
    trace: tuple[str, ...] = ()
    suggestion: str | None = None

    def __str__(self) -> str:
        text = f"{self.mark}: {self.level} {self.rule}: {self.message}"
        if self.trace:
            text += f" (after {', '.join(self.trace)})"
        return f"{text}; {self.suggestion}" if self.suggestion else text

    def as_json(self) -> dict[str, object]:
        """Return the change as plain values, for programs."""
        return {
            "file": self.mark.file,
            "line": self.mark.line,
            "column": self.mark.column,
            "rule": self.rule,
            "level": str(self.level),
            "role": self.role,
            "message": self.message,
            "old_senders": self.old_senders,
            "old_receivers": self.old_receivers,
            "trace": list(self.trace),
            "suggestion": self.suggestion,
        }


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why agents of one version do not fit conversations of another in some role.

    Attributes:
        rule: ``"order-sends"``, ``"order-receives"``, ``"order-silent"``, ``"order-end"``, ``"order-role"``,
            or the rule of the change of a message or role.
        reason: What the agent does, cannot take or does not do, e.g. ``"cannot take agent -> client: Paused"``.
        trace: The shortest series of steps, as the role sees them, that leads there; its last step shows it.
        mark: The place, in the version whose conversation it is, or in the agent's own where that lacks it.
        message: The message type concerned, or None.
    """

    rule: str
    reason: str
    trace: tuple[str, ...]
    mark: Mark
    message: str | None = None

    @property
    def is_order(self) -> bool:
        """Whether it is the conversation that does not fit, rather than what is declared."""
        return self.rule.startswith("order-")


@dataclass(frozen=True, slots=True)
class RoleVerdict:
    """The answer for one role.

    Attributes:
        old_in_new: Why agents of the old version do not fit conversations of the new one; None where they do.
        new_in_old: The same the other way round.
    """

    role: str
    old_in_new: Misfit | None
    new_in_old: Misfit | None

    @property
    def verdict(self) -> Verdict:
        """Both answers in one word."""
        if self.old_in_new is None:
            return Verdict.FULL if self.new_in_old is None else Verdict.BACKWARD
        return Verdict.FORWARD if self.new_in_old is None else Verdict.BREAKING

    def as_json(self) -> dict[str, object]:
        """Return the verdict as plain values, for programs."""
        return {
            "role": self.role,
            "verdict": str(self.verdict),
            "old_in_new": _json(self.old_in_new),
            "new_in_old": _json(self.new_in_old),
        }


def _json(misfit: Misfit | None) -> dict[str, object] | None:
    if misfit is None:
        return None
    return {"rule": misfit.rule, "reason": misfit.reason, "trace": list(misfit.trace)}
