"""How commands speak: tables and words to people, one JSON value a line to programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def print_json(value: object) -> None:
    """Print *value* as one line of JSON; bytes become hex."""
    sys.stdout.write(f"{json.dumps(value, default=_encode, ensure_ascii=False)}\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Print a table, or the sentence *empty* where there are no rows."""
    rows = list(rows)
    if not rows:
        console.print(empty, markup=False)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def say(text: str, style: str = "") -> None:
    """Print a sentence to people; never part of what ``--json`` prints."""
    errors.print(text, style=style, markup=False, soft_wrap=True)


def show_seconds(seconds: float | None) -> str:
    """Return a span for people: ``12 s``, ``3 m 20 s``, ``2 h 5 m``, ``3 d 4 h``; a dash for None."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    for unit, size, smaller, small in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def show_fields(fields: Mapping[str, object], *, limit: int = 200) -> str:
    """Return a message's fields in one line, long values cut; what is None is left out."""
    return "  ".join(f"{name}={_short(value, limit)}" for name, value in fields.items() if value is not None)


def _short(value: object, limit: int) -> str:
    text = json.dumps(value, default=_encode, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[:limit]}…"


def _encode(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
