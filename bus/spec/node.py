"""A document as frozen nodes with marks, and typed reading of them.

``loader`` makes nodes; whoever knows a file format reads them through ``Reader``, which turns every
mistake into a diagnostic (expected, got, where, nearest right word) and lets the caller go on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

from bus.spec.diagnostic import SYNTAX, Report, did_you_mean
from bus.spec.syntax import Mark

DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class ScalarNode:
    """A single value. *quoted*: written in quotes or as a block, so its text begins behind the mark."""

    mark: Mark
    value: str | int | float | bool | None
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class ListNode:
    """A sequence of nodes."""

    mark: Mark
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One ``key: value`` of a map."""

    mark: Mark
    key: str
    value: Node


@dataclass(frozen=True, slots=True)
class MapNode:
    """A mapping; keys are text and unique."""

    mark: Mark
    entries: tuple[Entry, ...]

    def get(self, key: str) -> Node | None:
        """Return the value of *key*, or None where the map lacks it."""
        for entry in self.entries:
            if entry.key == key:
                return entry.value
        return None


Node: TypeAlias = ScalarNode | ListNode | MapNode


def plain(node: Node) -> object:
    """Return the node as dicts, lists and scalars."""
    if isinstance(node, MapNode):
        return {entry.key: plain(entry.value) for entry in node.entries}
    if isinstance(node, ListNode):
        return [plain(item) for item in node.items]
    return node.value


def show(node: Node) -> str:
    """Return what *node* is, for the "got" of an error: short, whatever the document holds."""
    if isinstance(node, MapNode):
        return "a map"
    if isinstance(node, ListNode):
        return "a list"
    if node.value is None:
        return "nothing"
    if isinstance(node.value, bool):
        return "true" if node.value else "false"
    text = repr(node.value)
    return text if len(text) <= 60 else f"{text[:56]}…{text[-1] if node.quoted else ''}"


def parse_duration(text: str) -> float | None:
    """Return the seconds of ``30s``, ``250ms``, ``5m``, ``24h``, ``7d``; ``forever`` is infinity; else None."""
    if text == "forever":
        return math.inf
    match = DURATION.fullmatch(text)
    return int(match[1]) * _SECONDS[match[2]] if match else None


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads typed values out of nodes.

    Every method takes *where*, the path that people see (``"agents.writer.instances"``), reports what
    is wrong under *rule*, and then returns None (or what it could read), so that reading goes on.
    """

    report: Report
    rule: str = SYNTAX

    def wrong(self, node: Node, where: str, expected: str, *, suggestion: str | None = None) -> None:
        """Report that *node* is not what was *expected*."""
        self.report.error(
            node.mark, self.rule, f"{where}: expected {expected}, got {show(node)}", suggestion=suggestion
        )

    def entries(self, node: Node, where: str) -> tuple[Entry, ...]:
        """Return the entries of a map with free keys."""
        if isinstance(node, MapNode):
            return node.entries
        self.wrong(node, where, "a map")
        return ()

    def fields(self, node: Node, where: str, known: Collection[str], required: Collection[str] = ()) -> dict[str, Node]:
        """Return the values of a map whose keys must be among *known*; unknown ones are left out."""
        found: dict[str, Node] = {}
        for entry in self.entries(node, where):
            if entry.key in known:
                found[entry.key] = entry.value
            else:
                self.report.error(
                    entry.mark,
                    self.rule,
                    f"{where}: expected one of {', '.join(sorted(known))}, got {entry.key[:60]!r}",
                    suggestion=did_you_mean(entry.key, known),
                )
        if isinstance(node, MapNode):
            for key in required:
                if key not in found:
                    self.report.error(node.mark, self.rule, f"{where}: expected {key!r}, which is missing")
        return found

    def items(self, node: Node, where: str, of: str = "a list") -> tuple[Node, ...]:
        """Return the items of a list."""
        if isinstance(node, ListNode):
            return node.items
        empty = isinstance(node, ScalarNode) and node.value is None
        self.wrong(node, where, of, suggestion="write [] where there is none" if empty else None)
        return ()

    def text(self, node: Node, where: str, expected: str = "text") -> str | None:
        """Return a string."""
        if isinstance(node, ScalarNode) and isinstance(node.value, str):
            return node.value
        quote = isinstance(node, ScalarNode) and node.value is not None
        self.wrong(node, where, expected, suggestion="put it in quotes if you mean text" if quote else None)
        return None

    def matching(self, node: Node, where: str, pattern: re.Pattern[str], expected: str) -> str | None:
        """Return a string that matches *pattern* as a whole; *expected* describes it."""
        text = self.text(node, where, expected)
        if text is None or pattern.fullmatch(text):
            return text
        self.wrong(node, where, expected)
        return None

    def word(self, node: Node, where: str, words: Collection[str]) -> str | None:
        """Return one of *words*."""
        expected = f"one of {', '.join(sorted(words))}"
        text = self.text(node, where, expected)
        if text is None or text in words:
            return text
        self.wrong(node, where, expected, suggestion=did_you_mean(text, words))
        return None

    def boolean(self, node: Node, where: str) -> bool | None:
        """Return true or false."""
        if isinstance(node, ScalarNode) and isinstance(node.value, bool):
            return node.value
        self.wrong(node, where, "true or false")
        return None

    def integer(self, node: Node, where: str, *, least: int = 0, most: int = 2**53) -> int | None:
        """Return a whole number from *least* to *most*."""
        value = node.value if isinstance(node, ScalarNode) else None
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        self.wrong(
            node,
            where,
            f"a whole number of at least {least}" + (f" and at most {most}" if most < 2**53 else ""),
        )
        return None

    def number(self, node: Node, where: str) -> float | None:
        """Return a finite number; a whole number stays an int."""
        value = node.value if isinstance(node, ScalarNode) else None
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
        self.wrong(node, where, "a number")
        return None

    def duration(self, node: Node, where: str) -> float | None:
        """Return seconds; infinity for ``forever``."""
        expected = "a duration such as 250ms, 30s, 5m, 24h, 7d or forever"
        value = node.value if isinstance(node, ScalarNode) else None
        seconds = parse_duration(value) if isinstance(value, str) else None
        if seconds is None:
            bare = isinstance(value, int) and not isinstance(value, bool)
            self.wrong(node, where, expected, suggestion=f"did you mean '{value}s'?" if bare else None)
        return seconds
