"""What is wrong with a file that people write, and where. Knows nothing of YAML or protocols."""

from __future__ import annotations

import difflib
from bisect import bisect_left
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


MAX_FINDINGS = 100  # nobody reads on; each costs a search for the nearest right word
_MAX_WORDS = 256  # among which the nearest is looked for
_MAX_LISTED = 30  # that a message names


class Report:
    """Collects diagnostics, so that one reading of a file shows everything that is wrong with it.

    Of a file with more than ``MAX_FINDINGS`` errors or warnings, the first are kept.

    Attributes:
        has_errors: Whether a finding refuses the file.
    """

    def __init__(self) -> None:
        self._found: dict[Diagnostic, None] = {}  # ordered, each finding once
        self._n_warnings = 0
        self.has_errors = False

    def error(
        self, mark: Mark, rule: str, message: str, *, role: str | None = None, suggestion: str | None = None
    ) -> None:
        """Add a finding that refuses the file.

        Raises:
            SpecError: As ``add``.
        """
        self.add(Diagnostic(mark, rule, message, Severity.ERROR, role, (), suggestion))

    def warn(
        self, mark: Mark, rule: str, message: str, *, role: str | None = None, suggestion: str | None = None
    ) -> None:
        """Add a finding that does not refuse the file."""
        self.add(Diagnostic(mark, rule, message, Severity.WARNING, role, (), suggestion))

    def add(self, diagnostic: Diagnostic) -> None:
        """Add a finding; the same one twice counts once.

        Raises:
            SpecError: There are ``MAX_FINDINGS`` errors: reading on would only take time. It holds all findings.
        """
        if diagnostic in self._found:
            return
        if diagnostic.severity is Severity.WARNING:
            self._n_warnings += 1
            if self._n_warnings <= MAX_FINDINGS:
                self._found[diagnostic] = None
            return
        self.has_errors = True
        self._found[diagnostic] = None
        if len(self._found) >= MAX_FINDINGS:
            self.raise_errors()

    def take(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Add what another reader has found, all of it."""
        for diagnostic in diagnostics:
            self._found[diagnostic] = None
            self.has_errors = self.has_errors or diagnostic.severity is Severity.ERROR

    @property
    def diagnostics(self) -> list[Diagnostic]:
        """All findings, in the order of the file."""
        return sorted(self._found, key=lambda one: (one.mark.line, one.mark.column))

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
    if len(known) > _MAX_WORDS:  # the comparison is slow: only with those that begin alike, as most mistypings do
        known = [one for one in known if one[:1].lower() == word[:1].lower()]
        place = bisect_left(known, word)
        known = known[max(0, place - _MAX_WORDS // 2) : place + _MAX_WORDS // 2]
    near = difflib.get_close_matches(word[:80], known, n=1, cutoff=0.6)
    if not near:  # same letters in another case are near whatever difflib thinks
        near = [one for one in known if one.lower() == word.lower()]
    return f"did you mean {near[0]!r}?" if near else None


def listed(words: Iterable[str]) -> str:
    """Return *words* in order, with commas, for the message of an error: the first where there are many."""
    known = sorted(words)
    more = f" and {len(known) - _MAX_LISTED} more" if len(known) > _MAX_LISTED else ""
    return (", ".join(known[:_MAX_LISTED]) or "none") + more
