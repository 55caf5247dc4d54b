"""A structural pass over msgpack bytes that counts what decoding would build, and builds nothing.

Knows the format alone (https://github.com/msgpack/msgpack/blob/master/spec.md), nothing of records.
"""

from bus.errors import MalformedFrame

_UNUSED = 0xC1
_TRUNCATED = "expected a whole msgpack value, got bytes that end inside one"

# First byte → bytes that follow and hold no object of their own; -1: the length is in the bytes that follow.
_FOLLOWING = [0] * 256
# First byte → objects that follow inside (a map counts twice its length).
_INSIDE = [0] * 256
for _first in range(16):
    _INSIDE[0x80 + _first] = 2 * _first
    _INSIDE[0x90 + _first] = _first
for _first in range(32):
    _FOLLOWING[0xA0 + _first] = _first
for _first, _n in {
    0xCA: 4,
    0xCB: 8,
    0xCC: 1,
    0xCD: 2,
    0xCE: 4,
    0xCF: 8,
    0xD0: 1,
    0xD1: 2,
    0xD2: 4,
    0xD3: 8,
}.items():
    _FOLLOWING[_first] = _n
for _first, _n in {0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17}.items():
    _FOLLOWING[_first] = _n

# First byte → (width of the length, bytes beside the content, objects for each one of the length).
_WITH_LENGTH = {
    0xC4: (1, 0, 0), 0xC5: (2, 0, 0), 0xC6: (4, 0, 0),
    0xC7: (1, 1, 0), 0xC8: (2, 1, 0), 0xC9: (4, 1, 0),
    0xD9: (1, 0, 0), 0xDA: (2, 0, 0), 0xDB: (4, 0, 0),
    0xDC: (2, 0, 1), 0xDD: (4, 0, 1), 0xDE: (2, 0, 2), 0xDF: (4, 0, 2),
}  # fmt: skip
for _first in _WITH_LENGTH:
    _FOLLOWING[_first] = -1


def scan(data: bytes, *, max_objects: int, max_depth: int) -> int:
    """Return how many objects *data* holds, keys and containers included.

    Raises:
        MalformedFrame: More objects or deeper nesting than allowed, bytes that end too early or too late.
    """
    end, n_objects = skip(data, 0, max_objects=max_objects, max_depth=max_depth)
    if end != len(data):
        raise MalformedFrame(f"expected one msgpack value, got {len(data) - end} bytes behind it")
    return n_objects


def skip(data: bytes, position: int, *, max_objects: int, max_depth: int) -> tuple[int, int]:
    """Return where the value at *position* ends, and how many objects it holds, itself included.

    A container is charged when its head is read, so a false length costs nothing. The time is
    bounded by *max_objects*, about 0.1 µs each; the content of strings and binaries is jumped over.

    Raises:
        MalformedFrame: More objects or deeper nesting than allowed, or bytes that end too early.
    """
    size = len(data)
    n_objects = pending = 1  # *pending*: objects still to come in the innermost container
    outer: list[int] = []  # the same for the containers around it
    while True:
        while not pending:
            if not outer:
                return position, n_objects
            pending = outer.pop()
        if position >= size:
            raise MalformedFrame(_TRUNCATED)
        pending -= 1
        first = data[position]
        following, inside = _FOLLOWING[first], _INSIDE[first]
        position += 1
        if following > 0:
            position += following
        elif following < 0:
            width, beside, factor = _WITH_LENGTH[first]
            length = int.from_bytes(data[position : position + width], "big")
            position += width + beside
            if factor:
                inside = length * factor
            else:
                position += length
        elif first == _UNUSED:
            raise MalformedFrame("expected msgpack, got the byte 0xc1, which it never uses")
        if position > size:
            raise MalformedFrame(_TRUNCATED)
        if inside:
            n_objects += inside
            if n_objects > max_objects:
                raise MalformedFrame(f"expected at most {max_objects} objects in a frame, got {n_objects} or more")
            outer.append(pending)
            pending = inside
            if len(outer) > max_depth:
                raise MalformedFrame(f"expected nesting of at most {max_depth}, got more")
