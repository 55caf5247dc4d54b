"""Chosen fields of a body, still packed: everything else is passed over by its length and never built.

The broker reads bodies for nothing but the keys of a conversation, and for those through here.
"""

from __future__ import annotations

from bus.errors import MalformedFrame
from bus.wire.codec import MAX_DEPTH, MAX_OBJECTS
from bus.wire.scan import skip

_CUT_SHORT = "expected a whole msgpack map as the body, got bytes that end inside it"
_MAP_16, _MAP_32 = 0xDE, 0xDF
_TEXT_WIDTH = {0xD9: 1, 0xDA: 2, 0xDB: 4}  # first byte of a longer text → bytes of its length


def find_fields(body: bytes, names: frozenset[bytes]) -> dict[bytes, bytes]:
    """Return the packed values of those of *names* that the map *body* has at its top level.

    Reads no further than the last of them, so what follows is not known to be msgpack; the reader
    of the body finds that out. Within the limits of a frame: ``MAX_OBJECTS``, ``MAX_DEPTH``.

    Args:
        names: In UTF-8.

    Raises:
        MalformedFrame: No map, a key that is no text, one of *names* twice, or beyond a limit.
    """
    n_left, position = _open_map(body)
    n_objects = MAX_OBJECTS
    found: dict[bytes, bytes] = {}
    while n_left and len(found) < len(names):
        n_left -= 1
        name, position = _read_text(body, position)
        end, n_inside = skip(body, position, max_objects=n_objects, max_depth=MAX_DEPTH)
        n_objects -= n_inside
        if name in names:
            if name in found:
                raise MalformedFrame(f"expected each field once, got {name.decode(errors='replace')!r} twice")
            found[name] = body[position:end]
        position = end
    return found


def _open_map(body: bytes) -> tuple[int, int]:
    """Return the number of entries, and where the first begins."""
    first = body[0] if body else 0
    if 0x80 <= first <= 0x8F:
        return first - 0x80, 1
    if first not in (_MAP_16, _MAP_32):
        raise MalformedFrame("expected a msgpack map as the body")
    start = 3 if first == _MAP_16 else 5
    if len(body) < start:
        raise MalformedFrame(_CUT_SHORT)
    return int.from_bytes(body[1:start], "big"), start


def _read_text(body: bytes, position: int) -> tuple[bytes, int]:
    """Return the text at *position*, in UTF-8, and where it ends."""
    if position >= len(body):
        raise MalformedFrame(_CUT_SHORT)
    first = body[position]
    position += 1
    if 0xA0 <= first <= 0xBF:
        length = first - 0xA0
    elif first in _TEXT_WIDTH:
        width = _TEXT_WIDTH[first]
        length = int.from_bytes(body[position : position + width], "big")
        position += width
    else:
        raise MalformedFrame(f"expected text as the keys of a body, got the byte {first:#04x}")
    end = position + length
    if end > len(body):
        raise MalformedFrame(_CUT_SHORT)
    return body[position:end], end
