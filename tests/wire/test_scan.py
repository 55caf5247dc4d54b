import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import MalformedFrame
from bus.wire.scan import scan

_LIMITS = {"max_objects": 1 << 17, "max_depth": 32}
_value = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20)),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=4), inner, max_size=20),
    max_leaves=30,
)  # fmt: skip


def _count(value: object) -> int:
    if isinstance(value, dict):
        return 1 + sum(1 + _count(item) for item in value.values())
    return 1 + sum(map(_count, value)) if isinstance(value, list) else 1


@pytest.mark.slow
@given(_value)
def test_the_count_is_the_number_of_objects(value: object) -> None:
    assert scan(msgpack.packb(value), **_LIMITS) == _count(value)


@pytest.mark.parametrize("length", [31, 32, 255, 256, 65_535, 65_536])
@pytest.mark.parametrize("make", [lambda n: "x" * n, bytes, lambda n: [0] * n, lambda n: msgpack.ExtType(1, bytes(n))])
def test_every_width_of_length_is_understood(make: object, length: int) -> None:
    value = make(length)  # type: ignore[operator]  # one of the makers above

    assert scan(msgpack.packb(value), **_LIMITS) == _count(value)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_counted_or_refused(data: bytes) -> None:
    try:
        n_objects = scan(data, **_LIMITS)
    except MalformedFrame:
        return

    assert 1 <= n_objects <= len(data)


@pytest.mark.slow
@given(_value, st.data())
def test_what_is_cut_short_is_refused(value: object, data: st.DataObject) -> None:
    packed = msgpack.packb(value)
    cut = data.draw(st.integers(0, len(packed) - 1))

    with pytest.raises(MalformedFrame, match="end inside"):
        scan(packed[:cut], **_LIMITS)


def test_what_stands_behind_the_value_is_refused() -> None:
    with pytest.raises(MalformedFrame, match="1 bytes behind"):
        scan(b"\x01\x02", **_LIMITS)


def test_objects_above_the_limit_are_refused_at_the_head_that_claims_them() -> None:
    with pytest.raises(MalformedFrame, match="at most 8 objects"):
        scan(b"\xdd\xff\xff\xff\xff", max_objects=8, max_depth=32)


def test_nesting_above_the_limit_is_refused() -> None:
    assert scan(b"\x91\x91\x01", max_objects=8, max_depth=2) == 3

    with pytest.raises(MalformedFrame, match="nesting of at most 2"):
        scan(b"\x91\x91\x91\x01", max_objects=8, max_depth=2)
