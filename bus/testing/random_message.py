"""Random valid messages: values by type and constraints, near the edges as often as not, rules by trying again."""

from __future__ import annotations

import re._parser as regex  # type: ignore[import-not-found]  # the only reader of patterns that Python has
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from bus.errors import BodyInvalid
from bus.spec.field import show_datetime, show_duration
from bus.spec.protocol import Protocol
from bus.spec.syntax import Field

_ATTEMPTS = 200  # rules refuse what they do not like; then an example of the spec must do
_MOST_ITEMS = 3
_MOST_TEXT = 24
_MOST_REPEATS = 6
_WORDS = ("", "a", "palaver", "two words", "Grüße", "漢字", "🙂", "null", "0", "line\nbreak", "<b>&amp;</b>")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.é漢🙂"


def random_message(
    protocol: Protocol, index: int, random: Random, *, given: Mapping[str, object] | None = None
) -> BaseModel:
    """Return a valid message of type *index*.

    Args:
        given: Fields whose values are settled: a conversation's keys.

    Raises:
        BodyInvalid: Nothing that was drawn keeps to the type's rules or patterns, and it has no examples.
    """
    declared, message_type = protocol.spec.messages[index], protocol.messages[index]
    settled = {name: value for name, value in (given or {}).items() if any(one.name == name for one in declared.fields)}
    values = _Values(protocol, random)
    for _ in range(_ATTEMPTS):
        try:
            return message_type.build({**values.fields(declared.fields), **settled})
        except BodyInvalid as error:
            last = error
    if declared.examples:
        example = random.choice(declared.examples)
        assert isinstance(example, Mapping)  # checked with the spec
        return message_type.build({**example, **settled})
    raise last


class _Values:
    """Draws values for fields."""

    def __init__(self, protocol: Protocol, random: Random) -> None:
        self._random = random
        self._structs = {one.name: one.fields for one in protocol.spec.types}

    def fields(self, fields: Sequence[Field]) -> dict[str, object]:
        drawn: dict[str, object] = {}
        for field in fields:
            may_lack = field.has_default or (field.type is not None and field.type.optional)
            if not may_lack or self._random.random() < 0.7:
                drawn[field.name] = self._value(field)
        return drawn

    def _value(self, field: Field) -> object:
        if field.enum:
            return self._random.choice(field.enum)
        kind = field.type
        assert kind is not None  # a field has a type or an enum
        if kind.container is None:
            return self._scalar(kind.name, field)
        least = field.min_items or 0
        most = least + _MOST_ITEMS if field.max_items is None else min(field.max_items, least + _MOST_ITEMS)
        n = self._random.randint(least, most)
        if kind.container == "list":
            return [self._scalar(kind.name, field) for _ in range(n)]
        return {f"key {number}": self._scalar(kind.name, field) for number in range(n)}

    def _scalar(self, name: str, field: Field) -> object:
        random = self._random
        if name in self._structs:
            return self.fields(self._structs[name])
        if name == "string":
            return self._text(field)
        if name == "bytes":
            return random.randbytes(self._length(field))
        if name == "int":
            return self._int(field)
        if name == "number":
            return self._number(field)
        if name == "bool":
            return random.random() < 0.5
        if name == "uuid":
            return str(UUID(int=random.getrandbits(128)))
        if name == "datetime":
            return show_datetime(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=random.randrange(10**9)))
        if name == "duration":
            return show_duration(timedelta(milliseconds=random.choice((0, 1, 500, 90_000, 86_400_000))))
        if name == "artifact":
            digest = f"{random.getrandbits(256):064x}"
            return {"uri": f"file:artifact-{digest[:8]}", "sha256": digest, "size": random.choice((0, 1, 4096))}
        return self._any(2)

    def _any(self, depth: int) -> object:
        random = self._random
        plain: list[object] = [None, True, 0, -7, 2.5, random.choice(_WORDS), b"\x00\xff"]
        if depth and random.random() < 0.4:
            return [self._any(depth - 1)] if random.random() < 0.5 else {"key": self._any(depth - 1)}
        return random.choice(plain)

    def _int(self, field: Field) -> int:
        least = -1000 if field.min is None else int(-(-field.min // 1))
        most = max(1000, least) if field.max is None else int(field.max // 1)
        least = min(least, most) if field.min is None else least
        return self._random.choice((least, most, min(max(0, least), most), self._random.randint(least, most)))

    def _number(self, field: Field) -> float:
        most = field.max if field.max is not None else max(1000.0, field.min or 0.0)
        least = field.min if field.min is not None else min(-1000.0, most)
        return float(self._random.choice((least, most, self._random.uniform(least, most))))

    def _length(self, field: Field) -> int:
        least = field.min_len or 0
        most = least + _MOST_TEXT if field.max_len is None else min(field.max_len, least + _MOST_TEXT)
        return self._random.choice((least, most, self._random.randint(least, most)))

    def _text(self, field: Field) -> str:
        random = self._random
        if field.pattern is not None:
            return "".join(self._matching(regex.parse(field.pattern)))
        if field.min_len is None and field.max_len is None and random.random() < 0.5:
            return random.choice(_WORDS)
        return "".join(random.choice(_ALPHABET) for _ in range(self._length(field)))

    def _matching(self, pattern: Any) -> list[str]:
        """Return the pieces of a text that matches; what is not known gives nothing, and the type refuses it."""
        random = self._random
        pieces: list[str] = []
        for operation, argument in pattern:
            match str(operation):
                case "LITERAL":
                    pieces.append(chr(argument))
                case "IN":
                    pieces.append(self._one_of(argument))
                case "ANY":
                    pieces.append(random.choice("ab c0-"))
                case "BRANCH":
                    pieces += self._matching(random.choice(argument[1]))
                case "SUBPATTERN":
                    pieces += self._matching(argument[-1])
                case "MAX_REPEAT" | "MIN_REPEAT":
                    least, most, inner = argument
                    for _ in range(random.randint(least, min(int(most), least + _MOST_REPEATS))):
                        pieces += self._matching(inner)
        return pieces

    def _one_of(self, choices: Any) -> str:
        operation, argument = self._random.choice([one for one in choices if str(one[0]) != "NEGATE"])
        if str(operation) == "RANGE":
            return chr(self._random.randint(*argument))
        if str(operation) == "CATEGORY":
            return self._random.choice(
                "0123456789" if "DIGIT" in str(argument) else "abz09" if "WORD" in str(argument) else " "
            )
        return chr(argument)
