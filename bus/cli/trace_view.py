"""A finding as people see it: its sentence, the line of the file, and its trace as a picture.

Pure: gets findings and lines, returns lines. A trace is drawn as columns of roles with arrows between them;
where the terminal is too narrow for that, as numbered steps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.cells import cell_len
from rich.text import Text

from bus.spec.diagnostic import Diagnostic, Severity

_MESSAGE = re.compile(r"([a-z][\w-]*) -> ([a-z][\w-]*(?:, [a-z][\w-]*)*): (.+)")  # as witness.Names says it
_MOST_STEPS = 20  # of a longer trace the beginning and the end are drawn
_FIRST_STEPS = 8
_INDENT = "    "
_COLORS = {Severity.ERROR: "red", Severity.WARNING: "yellow"}


@dataclass(frozen=True, slots=True)
class Pens:
    """The characters that pictures are drawn with."""

    line: str
    dash: str
    cross: str
    bus: str
    more: str


UNICODE = Pens("│", "─", "┼", "╌", "…")
ASCII = Pens("|", "-", "+", "=", "...")


def show_finding(finding: Diagnostic, lines: Sequence[str], *, width: int, pens: Pens = UNICODE) -> list[Text]:
    """Return the lines to print for a finding.

    Args:
        lines: Those of its file; none where it could not be read.
        width: Columns that there are; sentences may be longer, and are left to the terminal to wrap.
    """
    color = _COLORS[finding.severity]
    head = Text.assemble((f"{visible(str(finding.mark))}: ", "bold"), (finding.rule, f"bold {color}"))
    shown = [head.append(f": {visible(finding.message)}")]
    mark = finding.mark
    if mark.line <= len(lines):
        gutter = f"{mark.line} {pens.line} "
        source, column = _window(visible(lines[mark.line - 1]), mark.column - 1, width - len(_INDENT + gutter), pens)
        pointer = " " * (len(gutter) + cell_len(source[:column])) + "^"
        shown += [Text.assemble(_INDENT, (gutter, "dim"), source), Text(_INDENT + pointer, f"bold {color}")]
    shown += [Text(_INDENT + line, "cyan") for line in draw_trace(finding.trace, width - len(_INDENT), pens)]
    if finding.suggestion:
        shown.append(Text.assemble(_INDENT, (f"try: {visible(finding.suggestion)}", "green")))
    return shown


def visible(text: str) -> str:
    """Return *text*, as long as it was, with one sign for whatever moves the cursor or turns the writing."""
    return "".join(one if one.isprintable() else " " if one == "\t" else "\ufffd" for one in text)


def _window(line: str, column: int, width: int, pens: Pens) -> tuple[str, int]:
    """Return what fits of *line* around *column*, and where that column then is."""
    width = max(width, 20)
    if cell_len(line) <= width:
        return line, column
    first = max(0, column - width // 2)
    before = pens.more if first else ""
    room = width - len(before) - len(pens.more)
    part = line[first : first + room]
    while cell_len(part) > room:
        part = part[:-1]
    after = pens.more if first + len(part) < len(line) else ""
    return before + part + after, column - first + len(before)


def draw_trace(trace: Sequence[str], width: int, pens: Pens = UNICODE) -> list[str]:
    """Return the lines of a picture of *trace*, ``a -> b: M`` and ``the bus: …``; none for an empty one."""
    left_out = len(trace) - _MOST_STEPS
    if left_out > 1:
        rest = f"{pens.more} {left_out} more {pens.more}"
        trace = [*trace[:_FIRST_STEPS], rest, *trace[_FIRST_STEPS + left_out :]]
    steps = [_read(step) for step in trace]
    roles = list(dict.fromkeys(role for sender, receivers, _ in steps for role in (sender, *receivers) if role))
    columns = _columns(roles, steps)
    if not roles or columns[-1] + (len(roles[-1]) + 1) // 2 > width:
        return _numbered(trace, left_out)
    places = dict(zip(roles, columns, strict=True))
    return [_header(places), *(_row(step, places, pens) for step in steps)]


def _numbered(trace: Sequence[str], left_out: int) -> list[str]:
    lines = []
    for index, step in enumerate(trace):
        if left_out > 1 and index == _FIRST_STEPS:
            lines.append(f"    {step}")
        else:
            number = index + 1 + (left_out - 1 if left_out > 1 and index > _FIRST_STEPS else 0)
            lines.append(f"{number:>3}. {step}")
    return lines


def _read(step: str) -> tuple[str, tuple[str, ...], str]:
    """Return (sender, receivers, label); the sender is empty where it is no message."""
    match = _MESSAGE.fullmatch(step)
    return (match[1], tuple(match[2].split(", ")), match[3]) if match else ("", (), step)


def _columns(roles: Sequence[str], steps: Sequence[tuple[str, tuple[str, ...], str]]) -> list[int]:
    """Return where each role's line stands: names and labels must fit between them."""
    gaps = [max(6, (len(one) + 1) // 2 + len(other) // 2 + 3) for one, other in pairwise(roles)]
    for sender, receivers, label in steps:
        if sender:
            first = roles.index(sender)
            for toward in {1 if roles.index(one) > first else -1 for one in receivers}:
                gap = first if toward > 0 else first - 1
                gaps[gap] = max(gaps[gap], len(label) + 8)
    columns = [len(roles[0]) // 2] if roles else [0]
    for gap in gaps:
        columns.append(columns[-1] + gap)
    labels = [len(label) + 4 for sender, _, label in steps if not sender]
    if labels and columns[-1] - columns[0] < max(labels):  # what the bus does is written across all lines
        columns[-1] = columns[0] + max(labels) + 1
    return columns


def _header(places: dict[str, int]) -> str:
    line = ""
    for role, place in places.items():
        line = line.ljust(place - len(role) // 2) + role
    return line


def _row(step: tuple[str, tuple[str, ...], str], places: dict[str, int], pens: Pens) -> str:
    sender, receivers, label = step
    last = max(places.values())
    cells = [" "] * (last + 1)
    for place in places.values():
        cells[place] = pens.line
    if not sender:
        first = min(places.values())
        for place in range(first + 1, last):
            cells[place] = pens.bus
        _write(cells, f" {label} ", first + (last - first - len(label)) // 2)
        return "".join(cells).rstrip()
    start = places[sender]
    for toward in (1, -1):
        ends = [places[one] for one in receivers if (places[one] - start) * toward > 0]
        if not ends:
            continue
        farthest = max(ends, key=lambda place: abs(place - start))
        for place in range(start + toward, farthest, toward):
            cells[place] = pens.cross if cells[place] == pens.line and place not in ends else pens.dash
        for place in ends:
            cells[place] = pens.line
            cells[place - toward] = ">" if toward > 0 else "<"
        nearest = min(
            (place for place in places.values() if (place - start) * toward > 0), key=lambda p: abs(p - start)
        )
        low, high = sorted((start, nearest))
        spare = high - low - len(label) - 3
        _write(cells, f" {label} ", low + 1 + (spare if toward > 0 else spare + 1) // 2)
    return "".join(cells).rstrip()


def _write(cells: list[str], text: str, at: int) -> None:
    for index, character in enumerate(text):
        if 0 <= at + index < len(cells):
            cells[at + index] = character
