"""The kinds of record and the places of their fields. docs/wire.md says what each means.

Records stay plain lists on both sides: a frozen dataclass for each cost a quarter of the
stream's throughput when it was measured (DESIGN.md, "The wire").
"""

from enum import IntEnum
from itertools import product
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
NUMBERED = frozenset(map(int, (Kind.OPEN, Kind.SEND, Kind.COMMIT, Kind.HANDLED, Kind.NACK)))


def _variants(shape: tuple[tuple[type, ...], ...]) -> frozenset[tuple[type, ...]]:
    return frozenset(product(*shape))


# Every allowed row of types of each kind, spelled out: one set look-up checks a record (0.4 µs against 2).
_FITTING = {int(kind): _variants(((int,), *shape)) for kind, shape in SHAPES.items()}
_SENT_FITTING = _variants(SENT_SHAPE)
_NOTHING: frozenset[tuple[type, ...]] = frozenset()


def is_well_formed(record: Record) -> bool:
    """Return whether *record* is one that a peer may send: a known kind with exactly the types of ``SHAPES``.

    Args:
        record: As ``decode_frame`` gives it: begins with an integer.
    """
    return tuple(map(type, record)) in _FITTING.get(record[0], _NOTHING)


def is_well_formed_send(send: object) -> bool:
    """Return whether *send* is one of COMMIT's sends: exactly the types of ``SENT_SHAPE``."""
    return type(send) is list and tuple(map(type, send)) in _SENT_FITTING


def fits(values: list[Any], shape: tuple[tuple[type, ...], ...]) -> bool:
    """Return whether *values* have exactly the types of *shape*."""
    return len(values) == len(shape) and all(
        type(value) in allowed for value, allowed in zip(values, shape, strict=True)
    )
