"""What may be sent, said with its fields: the list that comes with every refusal of order.

Plain values, the same from the broker (REFUSED) and from the SDK's own check.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from bus.spec.protocol import Protocol
    from bus.spec.syntax import Field

AllowedMessage: TypeAlias = dict[str, Any]  # {"type": name, "to": [role names], "fields": {name: text}}

MAX_FIELD_TEXT = 120  # characters; an enum of hundreds would fill the frame
MAX_FIELDS = 32  # of one message
_LIMITS = ("min", "max", "min_len", "max_len", "min_items", "max_items")


def describe_allowed(protocol: Protocol, sends: Iterable[tuple[int, Sequence[str]]]) -> list[AllowedMessage]:
    """Return what the *sends* are, (type, names of the receivers) each: sorted by name, with their fields."""
    found = [
        {
            "type": protocol.messages[type].name,
            "to": list(receivers),
            "fields": describe_fields(protocol.spec.messages[type].fields),
        }
        for type, receivers in sends
    ]
    return sorted(found, key=lambda one: (one["type"], one["to"]))


def describe_fields(fields: Iterable[Field]) -> dict[str, str]:
    """Return field name → what it takes, e.g. ``"list of string, min_items 1"`` or ``"int, default 2"``."""
    return {field.name: describe_field_type(field) for _, field in zip(range(MAX_FIELDS), fields, strict=False)}


def describe_field_type(field: Field) -> str:
    """Return the type of *field* as a spec writes it, then its constraints and default."""
    if field.enum:
        words = [" | ".join(field.enum) + (" | …" if field.open else "")]
    else:
        assert field.type is not None  # one of the two is given
        kind = f"{field.type.container} of {field.type.name}" if field.type.container else field.type.name
        words = [f"optional {kind}" if field.type.optional else kind]
    for name in _LIMITS:
        limit = getattr(field, name)
        if limit is not None:
            words.append(f"{name} {limit:g}" if isinstance(limit, float) else f"{name} {limit}")
    if field.pattern is not None:
        words.append(f"pattern {field.pattern}")
    if field.has_default:
        words.append("default is secret" if field.secret else f"default {json.dumps(field.default)}")
    text = ", ".join(words)
    return text if len(text) <= MAX_FIELD_TEXT else f"{text[: MAX_FIELD_TEXT - 1]}…"


def show_allowed(allowed: Iterable[AllowedMessage]) -> str:
    """Return the list as one clause: ``Ask to worker {job: string, n: int}; Stop to worker``."""
    shown = []
    for one in allowed:
        fields = ", ".join(f"{name}: {text}" for name, text in one["fields"].items())
        shown.append(f"{one['type']} to {', '.join(one['to'])}" + (f" {{{fields}}}" if fields else ""))
    return "; ".join(shown)
