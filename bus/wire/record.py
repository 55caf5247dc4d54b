"""The kinds of record and the places of their fields. docs/wire.md says what each means.

Records stay plain lists on both sides: a frozen dataclass for each cost a quarter of the
stream's throughput when it was measured (DESIGN.md, "The wire").
"""

from enum import IntEnum
from typing import Any, TypeAlias

WIRE_VERSION = 1
Record: TypeAlias = list[Any]


class Kind(IntEnum):
    """The first item of a record."""

    HELLO = 0
    WELCOME = 1
    OPEN = 2
    SEND = 3
    COMMIT = 4
    HANDLED = 5
    NACK = 6
    CREDIT = 7
    HEARTBEAT = 8
    QUERY = 9
    BYE = 10
    DELIVER = 11
    ACCEPTED = 12
    REFUSED = 13
    NOTICE = 14
    REPLY = 15


NOTICE_TYPE = -1  # DELIVER's type where the bus itself speaks

_INT, _TEXT, _BYTES, _LIST, _MAP, _BOOL = (int,), (str,), (bytes,), (list,), (dict,), (bool,)
_MAYBE_NUMBER, _MAYBE_TEXT, _MAYBE_BYTES = (float, int, type(None)), (str, type(None)), (bytes, type(None))

# What a peer may send: the types of each place after the kind. docs/wire.md names the places.
SHAPES: dict[int, tuple[tuple[type, ...], ...]] = {
    Kind.HELLO: (_INT, _TEXT, _INT, _LIST, _LIST, _INT, _LIST),
    Kind.OPEN: (_INT, _BYTES, _INT, _INT, _TEXT, _MAP, (list, type(None))),
    Kind.SEND: (_INT, _BYTES, _BYTES, _INT, _INT, _INT, _INT, _MAYBE_NUMBER, _MAYBE_TEXT, _BYTES),
    Kind.COMMIT: (_INT, _BYTES, _INT, _INT, _INT, _INT, _BOOL, _INT, _LIST, _MAYBE_BYTES),
    Kind.HANDLED: (_INT, _BYTES, _INT, _INT, _INT),
    Kind.NACK: (_INT, _BYTES, _INT, _INT, _INT, _TEXT, _TEXT, _BOOL),
    Kind.CREDIT: (_INT,),
    Kind.HEARTBEAT: (_BYTES,),
    Kind.QUERY: (_INT, _TEXT, _MAP),
    Kind.BYE: (),
}
SENT_SHAPE = (_BYTES, _INT, _INT, _MAYBE_NUMBER, _MAYBE_TEXT, _BYTES)  # one of COMMIT's sends
NUMBERED = frozenset({Kind.OPEN, Kind.SEND, Kind.COMMIT, Kind.HANDLED, Kind.NACK})


def fits(values: list[Any], shape: tuple[tuple[type, ...], ...], *, skip: int = 0) -> bool:
    """Return whether *values*, but for the first *skip*, have exactly the types of *shape*."""
    if len(values) != len(shape) + skip:
        return False
    return all(type(value) in allowed for value, allowed in zip(values[skip:] if skip else values, shape, strict=True))
