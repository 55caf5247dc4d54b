"""Messages as people and shells write them: JSON in, model instances out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bus.errors import BodyInvalid, NotAllowed
from bus.spec.diagnostic import did_you_mean
from bus.spec.json_schema import is_required
from bus.spec.message_type import Message, MessageType
from bus.spec.protocol import Protocol
from bus.spec.syntax import Field


def read_values(argument: str, read_lines: Callable[[], Iterator[str]]) -> Iterator[object]:
    """Yield the JSON values of one argument: JSON itself, ``@file`` (one value or a list), ``-`` (one a line).

    Args:
        read_lines: Gives the lines of standard input.

    Raises:
        BodyInvalid: Not JSON, or a file that cannot be read.
    """
    if argument == "-":
        for number, line in enumerate(read_lines(), start=1):
            if line.strip():
                yield _parse(line, f"standard input, line {number}")
    elif argument.startswith("@"):
        try:
            value = _parse(Path(argument[1:]).read_text(encoding="utf-8"), argument[1:])
        except (OSError, UnicodeDecodeError) as error:
            raise BodyInvalid(f"{argument[1:]}: expected a file that can be read, got: {error}") from error
        yield from value if isinstance(value, list) else [value]
    else:
        yield _parse(argument, "the message")


def build_message(protocol: Protocol, value: object, allowed: Sequence[MessageType]) -> Message:
    """Return the message that *value* means: ``{"Type": {fields}}``, or its fields where only one type fits.

    Raises:
        BodyInvalid: The fields are wrong, or the type is left out where several fit.
    """
    if not isinstance(value, dict):
        raise BodyInvalid(f"expected a JSON object, got {type(value).__name__}")
    named = _named(protocol, value)
    if named is not None:
        message_type, fields = named
        return message_type.build(fields)
    if len(allowed) == 1 and not _looks_named(protocol, allowed[0], value):
        return allowed[0].build(value)
    names = [one.name for one in allowed]
    hint = did_you_mean(next(iter(value)), [one.name for one in protocol.messages]) if len(value) == 1 else None
    wanted = " or ".join(f'{{"{name}": {{…}}}}' for name in names) or 'a message such as {"Type": {…}}'
    raise BodyInvalid(f"expected {wanted}, got {_keys(value)}" + (f"; {hint}" if hint else ""))


def find_message_type(protocol: Protocol, name: str, allowed: Sequence[MessageType]) -> MessageType:
    """Return the message type called *name*, which must be among *allowed*.

    Raises:
        NotAllowed: It is not; the text lists those that are.
    """
    for one in allowed:
        if one.name == name:
            return one
    names = [one.name for one in allowed]
    hint = did_you_mean(name, names)
    listed = ", ".join(names) or "nothing"
    raise NotAllowed(f"expected one of {listed} in {protocol.name} now, got {name!r}" + (f"; {hint}" if hint else ""))


def fields_of(protocol: Protocol, message_type: MessageType) -> tuple[Field, ...]:
    """Return the fields that the spec declares for *message_type*."""
    return protocol.spec.messages[message_type.index].fields


def read_field(field: Field, text: str) -> object:
    """Return what a person wrote for *field*: text as it stands where the field is text, else JSON.

    Raises:
        BodyInvalid: No JSON where JSON is needed.
    """
    plain_text = field.enum or (
        field.type is not None
        and field.type.container is None
        and field.type.name in ("string", "uuid", "datetime", "duration")
    )
    return text if plain_text else _parse(text, field.name)


def describe_field(field: Field) -> str:
    """Return what a field takes, for people: ``int (optional): How many search rounds``."""
    if field.enum:
        kind = " | ".join(field.enum)
    else:
        assert field.type is not None  # one of the two is given
        kind = f"{field.type.container} of {field.type.name}" if field.type.container else field.type.name
    if not is_required(field):
        kind += f" (default {json.dumps(field.default)})" if field.has_default else " (optional)"
    return f"{kind}: {field.doc.strip()}" if field.doc else kind


def _named(protocol: Protocol, value: Mapping[str, object]) -> tuple[MessageType, Mapping[str, object]] | None:
    if len(value) != 1:
        return None
    [(name, fields)] = value.items()
    for one in protocol.messages:
        if one.name == name and isinstance(fields, dict):
            return one, fields
    return None


def _looks_named(protocol: Protocol, message_type: MessageType, value: Mapping[str, object]) -> bool:
    """Return whether *value* seems to name a message type that there is not."""
    fields = {field.name for field in fields_of(protocol, message_type)}
    return len(value) == 1 and all(name not in fields and isinstance(inner, dict) for name, inner in value.items())


def _parse(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BodyInvalid(f"{where}: expected JSON, got {text.strip()[:60]!r} ({error})") from error


def _keys(value: Mapping[str, object]) -> str:
    return f"an object with {', '.join(map(repr, list(value)[:8]))}" if value else "an empty object"
