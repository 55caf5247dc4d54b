"""Frames to records and back; bodies too. The only user of msgpack.

Bytes from outside are bounded before anything is built from them (RELIABILITY.md, "Decoding":
8 MiB of 0x80 become 600 MiB of maps, and five bytes may claim an array of a million). Three tiers,
because this is the broker's hottest function: up to ``UNSCANNED_BYTES`` nothing can grow large
enough to matter; up to ``MAX_OBJECTS`` bytes there cannot be more objects than bytes, so msgpack's
own skip (which builds nothing) proves that every length is true; above that, objects are counted.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it ships no stubs

from bus.errors import MalformedFrame, TooLarge
from bus.wire.record import Record
from bus.wire.scan import scan

MAX_FRAME_BYTES = 1 << 20  # from a peer
MAX_DELIVERY_FRAME_BYTES = MAX_FRAME_BYTES + (1 << 17)  # from the broker: 64 KiB of saved state come on top
MAX_FRAME_RECORDS = 256
MAX_DEPTH = 32
MAX_OBJECTS = 1 << 17
UNSCANNED_BYTES = 1 << 10  # worst case: 341 nested arrays that each claim 1024 items, 3 MiB for a moment

_FIXMAP = 0x80  # first byte of a map of 0 to 15 keys, the number added
_PLAIN = frozenset((int, str, bytes, bool, type(None)))
_pack = msgpack.Packer(autoreset=True, use_bin_type=True).pack
_unpack = msgpack.unpackb  # its defaults: text is UTF-8, keys are text or bytes, no length above the input's


def encode_frame(records: Sequence[Record]) -> bytes:
    """Return the frame that carries *records* in this order; the caller keeps to the limits."""
    return _pack(records)  # type: ignore[no-any-return]  # msgpack is untyped


def encode_frames(records: Sequence[Record]) -> list[bytes]:
    """Return frames within a peer's limits that carry *records* in this order; halves what is too large.

    One record alone may have ``MAX_DELIVERY_FRAME_BYTES``: whatever a peer may send can be delivered.

    Raises:
        TooLarge: One record alone is above that.
    """
    if len(records) <= MAX_FRAME_RECORDS:
        frame: bytes = _pack(records)
        if len(frame) <= MAX_FRAME_BYTES:
            return [frame]
        if len(records) == 1:
            if len(frame) <= MAX_DELIVERY_FRAME_BYTES:
                return [frame]
            raise TooLarge(f"expected a record of at most {MAX_DELIVERY_FRAME_BYTES} bytes, got {len(frame)}")
        cut = len(records) // 2
    else:
        cut = MAX_FRAME_RECORDS
    return encode_frames(records[:cut]) + encode_frames(records[cut:])


def encode_body(fields: object) -> bytes:
    """Return *fields* as msgpack bytes; the caller has made them plain values."""
    return _pack(fields)  # type: ignore[no-any-return]  # msgpack is untyped


def decode_frame(frame: bytes, *, max_bytes: int = MAX_DELIVERY_FRAME_BYTES) -> list[Record]:
    """Return the records of *frame*: 1 to 256 arrays, each of which begins with a kind.

    Bodies and saved states stay the opaque bytes that they are. What kinds there are and what
    their items must be is for the reader of the records.

    Args:
        max_bytes: What the sender may send at once: the broker's limit, or a peer's ``MAX_FRAME_BYTES``.

    Raises:
        MalformedFrame: Too large, not msgpack, not an array of arrays, or beyond a limit.
    """
    if len(frame) > max_bytes:
        raise MalformedFrame(f"expected a frame of at most {max_bytes} bytes, got {len(frame)}")
    records = _decode(frame)
    if records.__class__ is not list or not 0 < len(records) <= MAX_FRAME_RECORDS:
        raise MalformedFrame(f"expected an array of 1 to {MAX_FRAME_RECORDS} records, got {_describe(records)}")
    for record in records:
        if record.__class__ is not list or not record or record[0].__class__ is not int:
            raise MalformedFrame(f"expected records that are arrays and begin with a kind, got {_describe(record)}")
    if not _PLAIN.issuperset(map(type, chain.from_iterable(records))) and _inspect(
        chain.from_iterable(records), depth=2
    ):
        _refuse_duplicates(frame)
    return records


def decode_body(body: bytes) -> Any:
    """Return the value of a body, a saved state or a notice.

    Raises:
        MalformedFrame: Not msgpack, or beyond a limit.
    """
    value = _decode(body)
    # What most bodies are: one small map of plain values and lists of these; its head says how many keys there are.
    if value.__class__ is dict and len(value) == body[0] - _FIXMAP:
        for item in value.values():
            kind = item.__class__
            if kind not in _PLAIN and (kind is not list or not _PLAIN.issuperset(map(type, item))):
                break
        else:
            return value
        if _inspect(value.values(), depth=1):
            _refuse_duplicates(body)
    elif _inspect((value,), depth=0):
        _refuse_duplicates(body)
    return value


def decode_rows(rows: bytes) -> list[Record]:
    """Return the rows of a journal batch that this broker wrote itself; bounded by nothing but the disk."""
    return _unpack(rows, strict_map_key=False)  # type: ignore[no-any-return]  # msgpack is untyped


def _decode(data: bytes) -> Any:
    """Return the value of *data* with its objects and lengths bounded; what it is made of is not looked at."""
    size = len(data)
    try:
        if size > UNSCANNED_BYTES:
            if size > MAX_OBJECTS:
                scan(data, max_objects=MAX_OBJECTS, max_depth=MAX_DEPTH)
            else:
                skimmer = msgpack.Unpacker(read_size=1, max_buffer_size=size)
                skimmer.feed(data)
                skimmer.skip()
        return _unpack(data)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        if not data:
            raise MalformedFrame("expected one msgpack value, got nothing or several parts") from error
        raise MalformedFrame(f"expected msgpack, got {type(error).__name__}: {error}") from error


def _inspect(values: Iterable[Any], *, depth: int) -> bool:
    """Return whether there is a map among *values* or below; level by level, so depth needs no recursion.

    Args:
        depth: How many containers are around *values*.

    Raises:
        MalformedFrame: NaN, an extension type or a timestamp, or nesting above ``MAX_DEPTH``.
    """
    has_map = False
    level: Iterable[Any] | None = values
    while level is not None:
        depth += 1
        below: list[Iterable[Any]] = []
        for value in level:
            kind = value.__class__
            if kind in _PLAIN:
                continue
            if kind is float:
                if value != value:
                    raise MalformedFrame("expected a number, got NaN")
                continue
            if kind is list:
                inside = value
            elif kind is dict:
                has_map = True
                inside = value.values()
            else:
                raise MalformedFrame(f"expected plain values, got an extension type ({kind.__name__})")
            if depth > MAX_DEPTH:
                raise MalformedFrame(f"expected nesting of at most {MAX_DEPTH}, got more")
            if not _PLAIN.issuperset(map(type, inside)):
                below.append(inside)
        level = chain.from_iterable(below) if below else None
    return has_map


def _refuse_duplicates(data: bytes) -> None:
    """Decode once more, looking at the keys of every map; only what holds maps inside pays for this."""
    try:
        _unpack(data, object_pairs_hook=_unique)
    except ValueError as error:
        raise MalformedFrame(str(error)) from error


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    built = dict(pairs)
    if len(built) != len(pairs):
        raise ValueError("expected each key of a map once, got one of them twice")
    return built


def _describe(value: Any) -> str:
    size = f" of {len(value)}" if isinstance(value, (list, dict, bytes, str)) else ""
    return f"{type(value).__name__}{size}"
