"""Message classes: strict in what is sent, tolerant in what is received, one wire form for each type."""

import math
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from protocol_text import small
from pydantic import ValidationError

from bus.errors import BodyInvalid
from bus.spec.compile import compile_protocol
from bus.spec.syntax import Delivery

TEXT = small(
    """M: {fields: {
        text: {type: string, min_len: 1, max_len: 9, pattern: "^[a-z]"},
        count: {type: int, min: 0, max: 9, default: 2},
        share: {type: optional number, max: 1},
        kind: {enum: [x, y], default: x},
        shade: {enum: [red, blue], open: true, default: red},
        parts: {type: list of Part, max_items: 2, default: []}}},
    Rich: {fields: {
        at: datetime, key: uuid, span: duration, data: bytes,
        file: optional artifact, free: any, table: map of number}},
    Odd: {
        fields: {schema: string, copy: optional int, model_name: string, class: string},
        rules: ["schema != model_name"]},
    Guarded: {
        fields: {password: {type: string, secret: true, min_len: 8}, low: int, high: int, login: optional Login},
        rules: [low < high]},
    Lossy: {delivery: at-most-once, window: 3, fields: {key: uuid}}""",
    "- a -> b: M\n- a -> b: Rich\n- a -> b: Odd\n- a -> b: Guarded\n- a -> b: Lossy",
    types="{Part: {fields: {name: string, weight: {type: number, default: 0.5}}}, "
    "Login: {fields: {pin: {type: int, secret: true}}}}",
    defaults="{delivery: at-least-once}",
    keys="[key]",
)
PROTOCOL = compile_protocol(TEXT)
KEY = UUID("0190a2b4-5c6d-7e8f-9a0b-1c2d3e4f5a6b")
SHA = "0" * 64


def type_of(name):
    return PROTOCOL.messages[PROTOCOL.message_index(name)]


def rich(**fields):
    base = {
        "at": datetime(2026, 3, 1, tzinfo=UTC),
        "key": KEY,
        "span": timedelta(seconds=30),
        "data": b"\0",
        "free": None,
    }
    return PROTOCOL.Rich(**(base | {"table": {}} | fields))


def test_defaults_and_optionals_may_be_left_out():
    message = PROTOCOL.M(text="a")

    assert type_of("M").to_plain(message) == {
        "text": "a",
        "count": 2,
        "share": None,
        "kind": "x",
        "shade": "red",
        "parts": [],
    }


def test_what_is_sent_is_what_is_read():
    part = PROTOCOL.Part(name="p")
    message = PROTOCOL.M(text="a", parts=[part, {"name": "q", "weight": 1}])

    read = type_of("M").from_plain(type_of("M").to_plain(message))

    assert read == message
    assert isinstance(read, PROTOCOL.M)
    match read:
        case PROTOCOL.M(text=text, parts=[first, second]):
            assert (text, first, second.weight) == ("a", part, 1.0)
        case _:
            pytest.fail("a message that was read must match its class")


@pytest.mark.parametrize(
    "fields",
    [
        {"count": "1"},
        {"count": True},
        {"count": 1.0},
        {"count": 10},
        {"count": -1},
        {"count": None},
        {"share": math.nan},
        {"share": -math.inf},
        {"share": "0.5"},
        {"share": True},
        {"share": 10**400},
        {"text": 1},
        {"text": b"a"},
        {"text": ""},
        {"text": "aaaaaaaaaa"},
        {"text": "A"},
        {"text": "a\ud800"},
        {"text": None},
        {"kind": "z"},
        {"shade": "green"},
        {"parts": [{"name": "a"}] * 3},
        {"parts": [{"nme": "a"}]},
        {"parts": ({"name": "a"},)},
        {"parts": [{"name": "a", "more": 1}]},
        {"unknown": 1},
    ],
)
def test_a_sender_is_held_to_the_letter(fields):
    with pytest.raises(ValidationError):
        PROTOCOL.M(**({"text": "a"} | fields))
    with pytest.raises(BodyInvalid):
        type_of("M").build({"text": "a"} | fields)


def test_a_whole_number_is_a_number():
    assert PROTOCOL.M(text="a", share=1).share == 1.0


def test_whole_numbers_fit_the_wire():
    with pytest.raises(ValidationError):
        PROTOCOL.Guarded(password="12345678", low=1, high=2**63)


def test_a_reader_ignores_fields_and_words_that_it_does_not_know():
    plain = {"text": "a", "new": 1, "shade": "green", "parts": [{"name": "p", "new": 2}]}

    message = type_of("M").from_plain(plain)

    assert (message.shade, message.parts[0].name) == ("green", "p")
    assert not hasattr(message, "new")


def test_each_rich_type_has_one_textual_form():
    east = timezone(timedelta(hours=7))
    message = rich(
        at=datetime(2026, 3, 1, 16, 30, 0, 250_000, east),
        span=timedelta(days=-1, microseconds=5),
        table={"a": 1},
        file={"uri": "file:///x", "sha256": SHA, "size": 3},
        free={"a": [1, 2.5, "x", None, b"y", True]},
    )

    plain = type_of("Rich").to_plain(message)

    assert plain == {
        "at": "2026-03-01T09:30:00.250000Z",
        "key": str(KEY),
        "span": "-86399.999995s",
        "data": b"\0",
        "table": {"a": 1.0},
        "file": {"uri": "file:///x", "sha256": SHA, "size": 3, "media_type": "application/octet-stream"},
        "free": {"a": [1, 2.5, "x", None, b"y", True]},
    }
    assert type_of("Rich").from_plain(plain) == message


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("at", "2026-03-01T16:30:00+07:00", datetime(2026, 3, 1, 9, 30, tzinfo=UTC)),
        ("at", "2026-03-01T09:30:00.5Z", datetime(2026, 3, 1, 9, 30, 0, 500_000, UTC)),
        ("key", str(KEY).upper(), KEY),
        ("span", "1.5s", timedelta(seconds=1.5)),
        ("span", "250ms", timedelta(milliseconds=250)),
        ("span", "7d", timedelta(days=7)),
    ],
)
def test_a_reader_takes_the_common_ways_to_write_them(name, text, value):
    assert getattr(rich(**{name: text}), name) == value


@pytest.mark.parametrize(
    "fields",
    [
        {"at": datetime(2026, 3, 1)},
        {"at": "2026-03-01"},
        {"at": "2026-02-30T00:00:00Z"},
        {"at": 0},
        {"at": "2026-03-01T09:30:00"},
        {"at": "0001-01-01T00:00:00+01:00"},
        {"at": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))},
        {"key": KEY.hex},
        {"key": KEY.bytes},
        {"key": "{" + str(KEY) + "}"},
        {"span": 30},
        {"span": "30"},
        {"span": "forever"},
        {"span": "1.5h"},
        {"data": "text"},
        {"data": bytearray(b"x")},
        {"file": {"uri": "x", "sha256": "0", "size": 1}},
        {"file": {"uri": "x", "sha256": SHA, "size": -1}},
        {"free": object()},
        {"free": {1: 2}},
        {"free": [math.inf]},
        {"free": 2**64},
        {"free": "\udfff"},
        {"free": (1, 2)},
        {"free": {"\ud800": 1}},
        {"table": {"a": "1"}},
        {"table": {1: 1.0}},
    ],
)
def test_rich_types_are_strict_too(fields):
    with pytest.raises(ValidationError):
        rich(**fields)


def test_depth_of_any_is_bounded():
    deep: list = []
    for _ in range(30):
        deep = [deep]

    with pytest.raises(ValidationError, match="24 levels"):
        rich(free=deep)


def test_names_that_pydantic_or_python_has_are_aliased_on_the_wire():
    message = PROTOCOL.Odd(**{"schema": "s", "class": "c", "model_name": "m"})
    plain = type_of("Odd").to_plain(message)

    assert plain == {"schema": "s", "copy": None, "model_name": "m", "class": "c"}
    assert (message.schema_, message.class_, message.model_name_) == ("s", "c", "m")
    assert PROTOCOL.Odd(schema_="s", class_="c", model_name_="m") == message == type_of("Odd").from_plain(plain)


def test_rules_hold_for_sender_and_reader_and_see_wire_names():
    with pytest.raises(ValidationError, match="schema != model_name"):
        PROTOCOL.Odd(schema_="s", class_="c", model_name_="s")
    with pytest.raises(BodyInvalid, match=r"small@1 Guarded: expected a message of which 'low < high' is true"):
        type_of("Guarded").from_plain({"password": "12345678", "low": 2, "high": 1})


def test_a_refusal_names_field_expectation_and_type():
    with pytest.raises(BodyInvalid) as caught:
        type_of("M").from_plain({"text": 7, "count": 11, "parts": [{"weight": []}]})

    assert str(caught.value) == (
        "small@1 M: text: expected a valid string, got int 7; count: expected less than or equal to 9, got int 11; "
        "parts.0.name: expected a value, got none; parts.0.weight: expected a valid number, got list"
    )


@pytest.mark.parametrize("body", [None, [], "x", 3])
def test_a_body_that_is_no_map_is_refused(body):
    with pytest.raises(BodyInvalid, match="small@1 M: expected"):
        type_of("M").from_plain(body)


def test_an_unknown_field_of_a_person_is_told_with_those_that_exist():
    with pytest.raises(BodyInvalid, match=r"txt: expected one of the fields text, count, .*"):
        type_of("M").build({"txt": "a", "text": "a"})


@pytest.mark.parametrize(
    "fields",
    [
        {"password": "short7", "low": 1, "high": 2},
        {"password": 7654321, "low": 1, "high": 2},
        {"password": "longenough", "low": 1, "high": 2, "login": {"pin": 7654321.5}},
        {"password": "longenough7654321", "low": 3, "high": 2},
    ],
)
def test_secrets_show_neither_in_errors_nor_in_what_they_hold(fields):
    with pytest.raises(BodyInvalid) as caught:
        type_of("Guarded").from_plain(fields)

    assert not any(secret in str(caught.value) for secret in ("short7", "7654321"))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_secrets_do_not_show_in_repr():
    message = PROTOCOL.Guarded(password="longenough", low=1, high=2, login={"pin": 4711})

    assert "longenough" not in repr(message)
    assert "4711" not in repr(message)
    assert type_of("Guarded").secret == {"password", "pin"}


def test_flat_and_nested_messages_give_the_same_kind_of_values():
    flat = compile_protocol(small("M: {fields: {x: int, y: optional string, z: {enum: [p]}, t: list of number}}"))
    message = flat.M(x=1, z="p", t=[1, 0.5])

    plain = flat.messages[0].to_plain(message)
    plain["x"] = 2

    assert flat.messages[0].lists == {"t": {int, float}}
    assert (type_of("M").lists, type_of("Odd").lists) == (None, None)
    assert (plain, message.x) == ({"x": 2, "y": None, "z": "p", "t": [1, 0.5]}, 1)


@pytest.mark.parametrize("changed", [[1, "two"], [True], "text"])
def test_a_list_that_was_changed_since_must_still_fit(changed):
    flat = compile_protocol(small("M: {fields: {t: list of number}}"))
    message = flat.M(t=[1])
    message.__dict__["t"] = changed

    with pytest.raises(BodyInvalid, match="a field was changed after the message was made"):
        flat.messages[0].to_plain(message)


def test_messages_are_values():
    message = PROTOCOL.M(text="a")

    with pytest.raises(ValidationError, match="frozen"):
        message.text = "b"


def test_a_list_spoilt_after_the_message_was_made_is_refused():
    message = PROTOCOL.M(text="a", parts=[{"name": "p"}])
    message.parts.append("spoilt")

    with pytest.raises(BodyInvalid, match="changed after") as caught:
        type_of("M").to_plain(message)
    assert "spoilt" not in str(caught.value)


def test_a_type_knows_its_delivery_window_keys_and_class():
    lossy = type_of("Lossy")

    assert (lossy.delivery, lossy.window, lossy.keys) == (Delivery.AT_MOST_ONCE, 3, ("key",))
    assert (type_of("M").delivery, type_of("M").keys) == (Delivery.AT_LEAST_ONCE, ())
    assert PROTOCOL.type_of[PROTOCOL.Lossy] == lossy.index
    assert (PROTOCOL.Lossy.__protocol__, PROTOCOL.Lossy.__message_type__) == ("small@1", "Lossy")


def test_of_many_mistakes_the_first_five_are_told():
    with pytest.raises(BodyInvalid, match=r"and 1 more$"):
        type_of("M").from_plain({"text": 1, "count": "x", "share": "x", "kind": 1, "shade": 1, "parts": 1})
