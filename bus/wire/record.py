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
