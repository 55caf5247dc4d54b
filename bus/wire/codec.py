"""Frames to records and back; bodies too. The only user of msgpack.

``decode_frame`` is for bytes from outside: it bounds the cost before it builds anything
(8 MiB of 0x80 become 600 MiB of dicts otherwise, RELIABILITY.md "Decoding").
"""

import math
from collections.abc import Sequence
from typing import Any

import msgpack

from bus.errors import MalformedFrame
from bus.wire.record import Record

MAX_FRAME_BYTES = 1 << 20
MAX_FRAME_RECORDS = 256
MAX_DEPTH = 32
MAX_OBJECTS = 1 << 17

_pack = msgpack.Packer(autoreset=True, use_bin_type=True).pack
_UNPACK_LIMITS = {
    "raw": False,
    "strict_map_key": True,
    "max_str_len": MAX_FRAME_BYTES,
    "max_bin_len": MAX_FRAME_BYTES,
    "max_array_len": MAX_OBJECTS,
    "max_map_len": MAX_OBJECTS,
    "max_ext_len": 0,
}


def encode_frame(records: Sequence[Record]) -> bytes:
    """Return the frame that carries *records* in this order."""
    return _pack(records)  # type: ignore[no-any-return]  # msgpack is untyped


def encode_body(fields: object) -> bytes:
    """Return *fields* as msgpack bytes; the caller has made them plain values."""
    return _pack(fields)  # type: ignore[no-any-return]  # msgpack is untyped


def decode_frame(frame: bytes) -> list[Record]:
    """Return the records of *frame*.

    Raises:
        MalformedFrame: Too large, not msgpack, not an array of arrays, or beyond a limit.
    """
    if len(frame) > MAX_FRAME_BYTES:
        raise MalformedFrame(f"expected a frame of at most {MAX_FRAME_BYTES} bytes, got {len(frame)}")
    _scan(frame)
    records = _unpack(frame)
    if type(records) is not list or len(records) > MAX_FRAME_RECORDS:
        raise MalformedFrame(f"expected an array of at most {MAX_FRAME_RECORDS} records")
    for record in records:
        if type(record) is not list or not record or type(record[0]) is not int:
            raise MalformedFrame(f"expected records that are arrays and begin with a kind, got {type(record).__name__}")
    return records


def decode_body(body: bytes) -> Any:
    """Return the value of a body, a saved state or a notice.

    Raises:
        MalformedFrame: Not msgpack, or beyond a limit.
    """
    _scan(body)
    return _unpack(body)


def _unpack(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data, **_UNPACK_LIMITS)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException, UnicodeDecodeError, RecursionError) as error:
        raise MalformedFrame(f"expected msgpack, got {type(error).__name__}: {error}") from error


def _scan(data: bytes) -> None:
    """Bound what decoding may build."""
    # Small input cannot amplify beyond about 75 bytes of objects a byte; only large input is counted.
    if len(data) <= MAX_OBJECTS:
        return
    if math.isinf(len(data)):  # pragma: no cover
        return
