"""What a field takes, in words: for the reference of a protocol and the docstrings of generated code."""

from __future__ import annotations

import json

from bus.spec.syntax import Field


def type_words(field: Field) -> str:
    """Return the type as a spec writes it: ``list of Source``, ``one of en, id, ja``."""
    if field.type is None:
        words = f"one of {', '.join(field.enum)}"
        return f"{words}; a reader takes others, too" if field.open else words
    container = f"{field.type.container} of " if field.type.container else ""
    return f"{'optional ' if field.type.optional else ''}{container}{field.type.name}"


def constraint_words(field: Field) -> str:
    """Return the constraints: ``3 to 200 characters``, ``at least 1``, matching a pattern; "" where there are none."""
    unit = "byte" if field.type is not None and field.type.name == "bytes" else "character"
    parts = [
        _range(_number(field.min), _number(field.max), ""),
        _range(field.min_len, field.max_len, unit),
        _range(field.min_items, field.max_items, "item"),
        f"matches `{field.pattern}`" if field.pattern is not None else "",
    ]
    return ", ".join(part for part in parts if part)


def default_words(field: Field) -> str:
    """Return the default as JSON, ``null`` for what is optional, "" where the field is needed."""
    if field.has_default:
        return json.dumps(field.default, ensure_ascii=False, default=str)
    return "null" if field.type is not None and field.type.optional else ""


def note_words(field: Field) -> list[str]:
    """Return what else is to be said: secret, deprecated and why, an example."""
    notes = ["Secret: never logged or shown."] if field.secret else []
    if field.deprecated:
        notes.append(f"Deprecated: {field.deprecated.strip()}" if isinstance(field.deprecated, str) else "Deprecated.")
    if field.has_example:
        notes.append(f"Example: {json.dumps(field.example, ensure_ascii=False, default=str)}.")
    return notes


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:,}".replace(",", " ") if isinstance(value, int) else f"{value:g}"


def _range(least: object, most: object, unit: str) -> str:
    """Return the range of a number, or of a count of *unit*, which stands in the singular."""
    if least is None and most is None:
        return ""
    if least is None:
        text, last = f"at most {most}", most
    elif most is None:
        text, last = f"at least {least}", least
    else:
        text, last = (f"{least}" if least == most else f"{least} to {most}"), most
    return text if not unit else f"{text} {unit}" if last == 1 else f"{text} {unit}s"
