"""Chosen fields are read without decoding, and are exactly what decoding would give."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import MalformedFrame
from bus.wire.codec import MAX_DEPTH, decode_body, encode_body
from bus.wire.fields import find_fields

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
    | st.binary(max_size=300)
)
VALUES = st.recursive(
    SCALARS,
    lambda inside: st.lists(inside, max_size=20) | st.dictionaries(st.text(), inside, max_size=20),
    max_leaves=30,
)


def find(body: bytes, *names: str) -> dict[str, object]:
    found = find_fields(body, frozenset(name.encode() for name in names))
    return {name.decode(): decode_body(value) for name, value in found.items()}


@given(st.dictionaries(st.text(max_size=40), VALUES, max_size=20), st.sets(st.text(max_size=5), max_size=3), st.data())
def test_found_values_are_those_that_decoding_gives(
    fields: dict[str, object], others: set[str], data: st.DataObject
) -> None:
    wanted = others | data.draw(st.sets(st.sampled_from(sorted(fields)))) if fields else others

    assert find(encode_body(fields), *wanted) == {name: fields[name] for name in wanted & fields.keys()}


@given(st.binary(max_size=60), st.integers(0, 2))
def test_no_bytes_make_it_raise_anything_else(noise: bytes, kind: int) -> None:
    for body in (noise, bytes([0x80 + kind]) + noise, b"\x82\xa1a" + noise):
        try:
            find_fields(body, frozenset({b"a", b"b"}))
        except MalformedFrame:
            continue


@given(st.dictionaries(st.text(max_size=5), VALUES, min_size=1, max_size=5), st.data())
def test_body_that_ends_early_is_refused(fields: dict[str, object], data: st.DataObject) -> None:
    body = encode_body(fields)
    cut = data.draw(st.integers(0, len(body) - 1))

    with pytest.raises(MalformedFrame):
        find_fields(body[:cut], frozenset({b"no such field"}))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "a msgpack map"),
        (b"\x91\x01", "a msgpack map"),
        (b"\xde\x00", "ends? inside it"),
        (b"\xdf\xff\xff\xff\xff", "ends? inside it"),
        (b"\x81\x01\x01", "text as the keys"),
        (b"\x82\xa1a\x01\xa1a\x02", "'a' twice"),
        (b"\x81\xa1x\xdd\x7f\xff\xff\xff", "objects in a frame"),
        (b"\x81\xa1x" + b"\x91" * (MAX_DEPTH + 2) + b"\x01", "nesting"),
    ],
)
def test_what_is_no_body_of_ours_is_refused_with_what_was_expected(body: bytes, expected: str) -> None:
    with pytest.raises(MalformedFrame, match=expected):
        find_fields(body, frozenset({b"a", b"b"}))


def test_reading_ends_with_the_last_field_that_is_wanted() -> None:
    assert find(b"\x82\xa1a\x01\xc1", "a") == {"a": 1}
