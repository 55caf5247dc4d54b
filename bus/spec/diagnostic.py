"""What is wrong with a file that people write, and where. Knows nothing of YAML or protocols."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from bus.errors import SpecError
from bus.spec.syntax import Mark

SYNTAX = "E-SYNTAX"
DUPLICATE = "E-DUP-KEY"


class Severity(StrEnum):
    """Whether a diagnostic refuses the file."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding: the rule that was broken, where, and what to do.

    Attributes:
        rule: As in LANGUAGE.md, "Static checks", e.g. ``"E-UNKNOWN-ROLE"``.
        role: The role that the finding is about, if it is about one.
        trace: The shortest series of steps that shows the fault, where one is needed.
        suggestion: One edit or question that helps, e.g. ``"did you mean 'writer'?"``.
    """

    mark: Mark
    rule: str
    message: str
    severity: Severity = Severity.ERROR
    role: str | None = None
    trace: tuple[str, ...] = ()
    suggestion: str | None = None

    def __str__(self) -> str:
        text = f"{self.mark}: {self.rule}: {self.message}"
        if self.trace:
            text += f" (after {', '.join(self.trace)})"
        return f"{text}; {self.suggestion}" if self.suggestion else text

    def as_json(self) -> dict[str, object]:
        """Return the finding as plain values, for programs."""
        return {
            "file": self.mark.file,
            "line": self.mark.line,
            "column": self.mark.column,
            "rule": self.rule,
            "severity": str(self.severity),
            "role": self.role,
            "message": self.message,
            "trace": list(self.trace),
            "suggestion": self.suggestion,
        }


class Report:
    """Collects diagnostics, so that one reading of a file shows everything that is wrong with it."""

    def __init__(self) -> None:
        self._found: dict[Diagnostic, None] = {}  # ordered, each finding once

    def error(
        self, mark: Mark, rule: str, message: str, *, role: str | None = None, suggestion: str | None = None
    ) -> None:
        """Add a finding that refuses the file."""
        self.add(Diagnostic(mark, rule, message, Severity.ERROR, role, (), suggestion))

    def warn(
        self, mark: Mark, rule: str, message: str, *, role: str | None = None, suggestion: str | None = None
    ) -> None:
        """Add a finding that does not refuse the file."""
        self.add(Diagnostic(mark, rule, message, Severity.WARNING, role, (), suggestion))

    def add(self, diagnostic: Diagnostic) -> None:
        """Add a finding; the same one twice counts once."""
        self._found[diagnostic] = None

    @property
    def diagnostics(self) -> list[Diagnostic]:
        """All findings, in the order of the file."""
        return sorted(self._found, key=lambda one: (one.mark.line, one.mark.column))

    @property
    def has_errors(self) -> bool:
        """Whether a finding refuses the file."""
        return any(one.severity is Severity.ERROR for one in self._found)

    def raise_errors(self) -> None:
        """Do nothing where all is well.

        Raises:
            SpecError: There are errors; its text has one line for each finding, warnings included.
        """
        if self.has_errors:
            raise spec_error(self.diagnostics)


def spec_error(diagnostics: Iterable[Diagnostic]) -> SpecError:
    """Return the error that shows all *diagnostics*, one a line."""
    found = tuple(diagnostics)
    return SpecError("\n".join(str(one) for one in found), found)


def did_you_mean(word: str, words: Iterable[str]) -> str | None:
    """Return ``"did you mean 'x'?"`` for the nearest of *words*, or None where none is near."""
    known = sorted(set(words))
    near = difflib.get_close_matches(word[:80], known, n=1, cutoff=0.6)
    if not near:  # same letters in another case are near whatever difflib thinks
        near = [one for one in known if one.lower() == word.lower()]
    return f"did you mean {near[0]!r}?" if near else None
