"""Fields of message types as pydantic annotations, and the one textual wire form of each rich type.

| type | Python | on the wire |
| --- | --- | --- |
| datetime | aware ``datetime``, moved to UTC | RFC 3339, ``2026-03-01T09:30:00Z``, six digits of fraction or none |
| uuid | ``UUID`` | 36 lower-case characters |
| duration | ``timedelta`` | decimal seconds with ``s``: ``30s``, ``0.25s`` (as protobuf's JSON form) |

A reader also takes any RFC 3339 offset, upper-case UUIDs and the units of the spec language (``5m``).
Everything else is what msgpack calls it. Integers fit 64 bits, floats are finite, text is Unicode.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import GenericAlias
from typing import Annotated, Any, Literal, Optional
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic import Field as Constraint
from pydantic_core import PydanticCustomError

from bus.spec.syntax import Field

READING = {"reading": True}  # validation context of a receiver: open enums may hold words we do not know
MAX_TEXT = 1 << 20  # no frame holds more (docs/wire.md); the bound also refuses half surrogate pairs
MAX_ANY_DEPTH = 24
_INT_LEAST, _INT_MOST = -(2**63), 2**63 - 1

CONFIG = ConfigDict(
    strict=True,
    extra="forbid",
    frozen=True,
    allow_inf_nan=False,
    hide_input_in_errors=True,
    validate_by_name=True,
    validate_by_alias=True,
    serialize_by_alias=True,
    protected_namespaces=(),
)


class Artifact(BaseModel):
    """A named, immutable, hashed result: big data never travels in a message."""

    model_config = CONFIG

    uri: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, Constraint(ge=0, le=_INT_MOST)]
    media_type: Annotated[str, StringConstraints(max_length=255)] = "application/octet-stream"


_DATETIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SECONDS = re.compile(r"(-?)([0-9]{1,12})(?:\.([0-9]{1,6}))?s")
_UNITS = re.compile(r"([0-9]{1,9})(ms|m|h|d)")
# The text of each rich type, as a regular expression over the whole of it: for schemas.
TEXT_FORMS = {
    "datetime": _DATETIME.pattern,
    "uuid": _UUID.pattern,
    "duration": f"({_SECONDS.pattern}|{_UNITS.pattern})",
}
_UNIT = {
    "ms": timedelta(milliseconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}


def _wrong(expected: str) -> PydanticCustomError:
    return PydanticCustomError("wire_form", "Input should be {expected}", {"expected": expected})


def read_datetime(value: object) -> datetime:
    """Return an aware datetime, or its RFC 3339 text, as datetime in UTC."""
    try:
        if isinstance(value, str) and _DATETIME.fullmatch(value):
            return datetime.fromisoformat(value).astimezone(UTC)
        if isinstance(value, datetime) and value.tzinfo is not None:
            return value.astimezone(UTC)
    except (ValueError, OverflowError):  # no such day, or out of range once it is moved to UTC
        pass
    raise _wrong("a datetime with a time zone, such as 2026-03-01T09:30:00Z")


def show_datetime(value: datetime) -> str:
    """Return the wire form of an aware datetime."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def read_uuid(value: object) -> UUID:
    """Return a UUID, or its 36 characters, as UUID."""
    if isinstance(value, UUID):
        return value
    if isinstance(value, str) and _UUID.fullmatch(value):
        return UUID(value)
    raise _wrong("a UUID such as 0190a2b4-5c6d-7e8f-9a0b-1c2d3e4f5a6b")


def read_duration(value: object) -> timedelta:
    """Return a timedelta, or its text, as timedelta."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str):
        if match := _SECONDS.fullmatch(value):
            span = timedelta(seconds=int(match[2]), microseconds=int((match[3] or "").ljust(6, "0")))
            return -span if match[1] else span
        if match := _UNITS.fullmatch(value):
            return int(match[1]) * _UNIT[match[2]]
    raise _wrong("a duration such as 30s or 0.25s")


def show_duration(value: timedelta) -> str:
    """Return the wire form of a timedelta: exact, down to its microseconds."""
    microseconds = value // timedelta(microseconds=1)
    seconds, rest = divmod(abs(microseconds), 1_000_000)
    fraction = f".{rest:06d}".rstrip("0") if rest else ""
    return f"{'-' if microseconds < 0 else ''}{seconds}{fraction}s"


def read_any(value: object, depth: int = 0) -> object:
    """Return *value* if it is made of what a message can carry: None, bool, number, text, bytes, list, map."""
    if depth > MAX_ANY_DEPTH:
        raise _wrong(f"at most {MAX_ANY_DEPTH} levels")
    if value is None or isinstance(value, bool | bytes):
        return value
    if isinstance(value, int) and _INT_LEAST <= value <= _INT_MOST:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, str) and len(value) <= MAX_TEXT and _is_unicode(value):
        return value
    if isinstance(value, list):
        for item in value:
            read_any(item, depth + 1)
        return value
    if isinstance(value, dict) and all(isinstance(key, str) and _is_unicode(key) for key in value):
        for item in value.values():
            read_any(item, depth + 1)
        return value
    raise _wrong("null, a bool, a finite number, text, bytes, a list or a map with text as keys")


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


_RICH: dict[str, Any] = {
    "datetime": Annotated[
        datetime,
        PlainValidator(read_datetime),
        PlainSerializer(show_datetime, return_type=str),
        WithJsonSchema({"type": "string", "format": "date-time"}),
    ],
    "uuid": Annotated[
        UUID,
        PlainValidator(read_uuid),
        PlainSerializer(str, return_type=str),
        WithJsonSchema({"type": "string", "format": "uuid"}),
    ],
    "duration": Annotated[
        timedelta,
        PlainValidator(read_duration),
        PlainSerializer(show_duration, return_type=str),
        WithJsonSchema({"type": "string", "pattern": "^-?[0-9]+([.][0-9]+)?s$"}),
    ],
    "bool": bool,
    "artifact": Artifact,
    "any": Annotated[Any, PlainValidator(read_any), WithJsonSchema({})],
}

# Which constraints mean something for which types; containers take the item counts only.
_TEXT = ("min_len", "max_len")
_MEANS: dict[str, tuple[str, ...]] = {
    "string": (*_TEXT, "pattern"),
    "bytes": _TEXT,
    "int": ("min", "max"),
    "number": ("min", "max"),
}
_ITEMS = ("min_items", "max_items")
_CONSTRAINTS = ("min", "max", *_TEXT, *_ITEMS, "pattern")


def misplaced(field: Field) -> list[str]:
    """Return what is wrong with the field's constraints: those that its type lacks, and ranges that fall."""
    if field.type is None:
        means: tuple[str, ...] = ()
        what = "an enum"
    elif field.type.container:
        means, what = _ITEMS, f"a {field.type.container}"
    else:
        means, what = _MEANS.get(field.type.name, ()), field.type.name
    wrong = [
        f"{name!r} means nothing for {what}"
        for name in _CONSTRAINTS
        if getattr(field, name) is not None and name not in means
    ]
    for least, most in (("min", "max"), _TEXT, _ITEMS):
        low, high = getattr(field, least), getattr(field, most)
        if low is not None and high is not None and low > high:
            wrong.append(f"expected {least!r} at most {most!r}, got {low} above {high}")
    return wrong


def annotation(field: Field, structs: Mapping[str, type[BaseModel]]) -> Any:
    """Return the pydantic annotation of a field whose type names resolve in *structs*."""
    if field.type is None:
        return _enum(field)
    # Any: annotations made at run time have no static type.
    kind: Any = _scalar(field.type.name, field, structs)
    items = Constraint(min_length=field.min_items, max_length=field.max_items)
    if field.type.container == "list":
        kind = Annotated[GenericAlias(list, (kind,)), items]
    elif field.type.container == "map":
        key = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
        kind = Annotated[GenericAlias(dict, (key, kind)), items]
    return Optional[kind] if field.type.optional else kind  # noqa: UP045  # the operand is no class


def _scalar(name: str, field: Field, structs: Mapping[str, type[BaseModel]]) -> Any:
    if name in structs:
        return structs[name]
    if name == "string":
        most = MAX_TEXT if field.max_len is None else field.max_len
        return Annotated[str, StringConstraints(min_length=field.min_len, max_length=most, pattern=field.pattern)]
    if name == "bytes":
        return Annotated[bytes, Constraint(min_length=field.min_len, max_length=field.max_len)]
    if name == "int":
        least = _INT_LEAST if field.min is None else max(_INT_LEAST, math.ceil(field.min))
        greatest = _INT_MOST if field.max is None else min(_INT_MOST, math.floor(field.max))
        return Annotated[int, Constraint(ge=least, le=greatest)]
    if name == "number":
        return Annotated[float, Constraint(ge=field.min, le=field.max)]
    return _RICH[name]


def _enum(field: Field) -> Any:
    closed: Any = Literal.__getitem__(field.enum)
    if not field.open:
        return closed

    def check(value: str, info: ValidationInfo) -> str:
        if value not in field.enum and not (info.context and info.context.get("reading")):
            raise _wrong(f"one of {', '.join(field.enum)}")
        return value

    schema = WithJsonSchema({"type": "string", "examples": list(field.enum)})
    return Annotated[str, StringConstraints(max_length=MAX_TEXT), AfterValidator(check), schema]
