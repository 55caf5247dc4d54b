import math

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import MalformedFrame, TooLarge
from bus.wire import codec
from bus.wire.codec import decode_body, decode_frame, encode_body, encode_frame, encode_frames
from bus.wire.record import Kind

_plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8) | st.binary(max_size=40)
_number = st.floats(allow_nan=False)
_value = st.recursive(
    _plain | _number,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
_record = st.builds(lambda kind, items: [int(kind), *items], st.sampled_from(Kind), st.lists(_value, max_size=12))


def _nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\x00"


@pytest.mark.slow
@given(st.lists(_record, min_size=1, max_size=8))
def test_a_frame_comes_back_as_the_records_that_went_in(records: list[list[object]]) -> None:
    assert decode_frame(encode_frame(records)) == records


@pytest.mark.slow
@given(_value)
def test_a_body_comes_back_as_the_value_that_went_in(value: object) -> None:
    assert decode_body(encode_body(value)) == value


@given(st.binary(max_size=3000))
def test_arbitrary_bytes_are_decoded_or_refused_as_malformed(data: bytes) -> None:
    for decode in (decode_frame, decode_body):
        try:
            decode(data)
        except MalformedFrame:
            continue


@pytest.mark.slow
@given(st.lists(_record, min_size=1, max_size=4), st.data())
def test_a_flipped_byte_is_decoded_or_refused_as_malformed(records: list[list[object]], data: st.DataObject) -> None:
    frame = bytearray(encode_frame(records))
    place = data.draw(st.integers(0, len(frame) - 1))
    frame[place] = data.draw(st.integers(0, 255))

    try:
        decode_frame(bytes(frame))
    except MalformedFrame as error:
        text = str(error)
    else:
        text = "expected bytes, got them"

    assert text.startswith("expected")


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x90", id="no record"),
        pytest.param(b"\x01", id="no array"),
        pytest.param(b"\x91\x01", id="a record that is no array"),
        pytest.param(b"\x91\x90", id="an empty record"),
        pytest.param(b"\x91\x91\xa1a", id="a kind that is text"),
        pytest.param(b"\x91\x91\xc3", id="a kind that is true"),
        pytest.param(b"\x91\x91\x0a\x00", id="bytes behind the frame"),
        pytest.param(b"\x91\x92\x0a", id="a record cut short"),
        pytest.param(b"\x91\x92\x0a\xc1", id="the unused byte"),
        pytest.param(b"\x91\x92\x0a\xa1\xff", id="text that is not UTF-8"),
        pytest.param(b"\x91\x92\x0a\xc7\x00\x05", id="an empty extension"),
        pytest.param(b"\x91\x92\x0a\xd4\x01a", id="an extension"),
        pytest.param(b"\x91\x92\x0a\xd6\xff\x00\x00\x00\x00", id="a timestamp"),
        pytest.param(b"\x91\x92\x0a\xc7\x0c\xff" + b"\xff" * 12, id="a timestamp beyond time"),
        pytest.param(b"\x91\x92\x0a\x82\xa1a\x01\xa1a\x02", id="a key twice"),
        pytest.param(b"\x91\x92\x0a\x91\x91\x82\xa1a\x01\xa1a\x02", id="a key twice, deep inside"),
        pytest.param(b"\x91\x92\x0a\x81\x01\x02", id="a key that is a number"),
        pytest.param(b"\x91\x92\x0a\xdd\xff\xff\xff\xff", id="an array that claims four billion items"),
        pytest.param(encode_frame([[10, math.nan]]), id="NaN"),
        pytest.param(encode_frame([[10, [[{"a": [math.nan]}]]]]), id="NaN, deep inside"),
        pytest.param(b"\x91\x92\x0a" + _nested(codec.MAX_DEPTH - 1), id="one level too deep"),
        pytest.param(encode_frame([[10]] * (codec.MAX_FRAME_RECORDS + 1)), id="a record too many"),
        pytest.param(encode_frame([[10, bytes(codec.MAX_DELIVERY_FRAME_BYTES)]]), id="a frame too large"),
    ],
)
def test_what_is_no_frame_of_ours_is_malformed(frame: bytes) -> None:
    with pytest.raises(MalformedFrame, match=r"^expected"):
        decode_frame(frame)


@pytest.mark.parametrize("size", [2_000, 200_000])
@pytest.mark.parametrize(
    "filling", [b"\x91", b"\xdc\xff\xff", b"\xdd\x00\x01\xff\xff", b"\x81\xa1k", b"\xdf\x7f\xff\xff\xff"]
)
def test_nesting_and_false_lengths_are_refused_whatever_the_size(filling: bytes, size: int) -> None:
    frame = b"\x91\x92\x0a" + filling * (size // len(filling))

    with pytest.raises(MalformedFrame):
        decode_frame(frame)


def test_a_frame_nested_to_the_limit_is_decoded() -> None:
    depth = codec.MAX_DEPTH - 2

    (record,) = decode_frame(b"\x91\x92\x0a" + _nested(depth))

    for _ in range(depth):
        (record[1],) = record[1]
    assert record == [10, 0]


def test_a_large_frame_of_many_tiny_objects_is_refused() -> None:
    frame = b"\x91\xdd" + (codec.MAX_OBJECTS + 1).to_bytes(4, "big") + b"\x0a" + b"\x80" * codec.MAX_OBJECTS

    with pytest.raises(MalformedFrame, match="objects"):
        decode_frame(frame)


@pytest.mark.parametrize("size", [1, codec.UNSCANNED_BYTES, codec.MAX_OBJECTS, codec.MAX_FRAME_BYTES])
def test_a_body_of_any_allowed_size_arrives(size: int) -> None:
    records = [[3, 1, bytes(16), bytes(size)]]

    assert decode_frame(encode_frame(records)) == records


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\x82\xa1a\x01\xa1a\x02", id="a key twice"),
        pytest.param(b"\x81\xa1b\x82\xa1a\x01\xa1a\x02", id="a key twice inside"),
        pytest.param(b"\xde\x00\x02\xa1a\x01\xa1a\x02", id="a key twice behind a long head"),
        pytest.param(b"\x91\x82\xa1a\x01\xa1a\x02", id="a key twice in a list"),
        pytest.param(msgpack.packb({"a": math.nan}), id="NaN"),
        pytest.param(msgpack.packb(math.nan), id="NaN alone"),
        pytest.param(b"\xd6\xff\x00\x00\x00\x00", id="a timestamp"),
        pytest.param(_nested(codec.MAX_DEPTH + 1), id="one level too deep"),
    ],
)
def test_what_is_no_body_of_ours_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedFrame, match=r"^expected"):
        decode_body(body)


def test_infinity_is_a_number() -> None:
    assert decode_body(encode_body({"a": math.inf})) == {"a": math.inf}


def test_many_records_leave_in_as_many_frames_as_the_limit_asks_and_in_order() -> None:
    records = [[5, n] for n in range(600)]

    frames = encode_frames(records)

    assert [len(decode_frame(frame)) for frame in frames] == [256, 256, 88]
    assert [record for frame in frames for record in decode_frame(frame)] == records


def test_large_records_leave_in_frames_below_the_byte_limit_and_in_order() -> None:
    records = [[5, n, bytes(300_000)] for n in range(7)]

    frames = encode_frames(records)

    assert all(len(frame) <= codec.MAX_FRAME_BYTES for frame in frames)
    assert [record for frame in frames for record in decode_frame(frame)] == records


def test_a_peer_has_a_lower_limit_than_the_broker() -> None:
    frame = encode_frame([[5, bytes(codec.MAX_FRAME_BYTES)]])

    assert decode_frame(frame)
    with pytest.raises(MalformedFrame, match=f"at most {codec.MAX_FRAME_BYTES}"):
        decode_frame(frame, max_bytes=codec.MAX_FRAME_BYTES)


def test_what_came_in_the_largest_frame_can_be_delivered_with_the_largest_state() -> None:
    body = bytes(codec.MAX_FRAME_BYTES - 100)

    (frame,) = encode_frames(
        [[11, bytes(16), 0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1.0, None, bytes(16), bytes(65_536), body]]
    )

    assert decode_frame(frame)[0][-1] == body


def test_a_record_above_the_limit_is_refused_before_it_leaves() -> None:
    with pytest.raises(TooLarge, match="at most"):
        encode_frames([[5], [5, bytes(codec.MAX_DELIVERY_FRAME_BYTES)]])


def test_rows_of_the_journal_come_back_whatever_their_number() -> None:
    rows = [["clock"], ["message", {1: b"x"}, 1.5]] * 1000

    assert codec.decode_rows(encode_body(rows)) == rows
