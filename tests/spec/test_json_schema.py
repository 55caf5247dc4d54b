"""JSON Schemas say what the models take: nothing that a model accepts is refused, and constraints hold in both."""

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from protocol_text import DATA, small

from bus.errors import BodyInvalid
from bus.spec.compile import check_text, compile_protocol
from bus.spec.json_schema import DIALECT, READ, SAID, message_schema, protocol_schema

SPECS = sorted([*(Path(__file__).parents[2] / "specs").glob("*.protocol.yaml"), *DATA.glob("*.protocol.yaml")])

FIELDS = """M: {fields: {
  text: {type: string, min_len: 2, max_len: 5, pattern: "^[a-c]+$"},
  count: {type: int, min: -2.5, max: 3},
  share: {type: optional number, min: 0, max: 1},
  kind: {enum: [x, y]},
  shade: {enum: [red], open: true, default: red},
  flag: {type: bool, default: false},
  key: optional uuid,
  at: optional datetime,
  span: {type: duration, default: 5m},
  blob: {type: optional bytes, min_len: 1, max_len: 2},
  file: optional artifact,
  whatever: optional any,
  words: {type: list of string, min_items: 1, max_items: 2},
  table: {type: map of int, max_items: 1, default: {}},
  parts: {type: optional list of Part, max_items: 2}}}"""
PROTOCOL = compile_protocol(
    small(FIELDS, types="{Part: {fields: {name: string, size: {type: int, min: 0, default: 0}}}}")
)
BASE = {"text": "ab", "count": 0, "kind": "x", "words": ["a"]}

# Values near the borders of what the fields take, and quite other ones.
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(-2, 2)
    | st.text("abcx", max_size=7)
    | st.binary(max_size=3)
)
FORMS = st.sampled_from(
    ["x", "y", "red", "blue", "5m", "0.25s", "-3s", "1h30m", "5", "2026-03-01T09:30:00Z", "2026-03-01 09:30:00Z",
     "2026-03-01T09:30:00", "0190A2B4-5c6d-7e8f-9a0b-1c2d3e4f5a6b", "0190a2b45c6d7e8f9a0b1c2d3e4f5a6b"]
)  # fmt: skip
ARTIFACTS = st.fixed_dictionaries(
    {
        "uri": st.text("a", max_size=2),
        "sha256": st.sampled_from(["0" * 64, "0" * 63, "G" * 64]),
        "size": st.integers(-1, 1),
    },
    optional={"media_type": st.just("text/plain"), "more": st.just(1)},
)
PARTS = st.fixed_dictionaries({}, optional={"name": SCALARS, "size": SCALARS, "more": st.just(1)})
VALUES = SCALARS | FORMS | ARTIFACTS | PARTS | st.lists(SCALARS | FORMS | PARTS, max_size=3)
VALUES |= st.dictionaries(st.text("ab", max_size=1), SCALARS, max_size=2)
BODIES = st.dictionaries(st.sampled_from([field.name for field in PROTOCOL.spec.messages[0].fields] + ["more"]), VALUES)


class Validator:
    """Says whether a body fits a schema. Bytes, which JSON lacks, become text of as many characters."""

    def __init__(self, schema: dict) -> None:
        jsonschema.Draft202012Validator.check_schema(schema)
        self._validator = jsonschema.Draft202012Validator(schema)

    def is_valid(self, body: object) -> bool:
        return self._validator.is_valid(as_json(body))


def as_json(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, list):
        return [as_json(item) for item in value]
    if isinstance(value, dict):
        return {key: as_json(inner) for key, inner in value.items()}
    return value


SENT = Validator(message_schema(PROTOCOL.spec, PROTOCOL.spec.messages[0], SAID))
HEARD = Validator(message_schema(PROTOCOL.spec, PROTOCOL.spec.messages[0], READ))


def is_said(body: dict) -> bool:
    try:
        PROTOCOL.messages[0].build(body)
    except BodyInvalid:
        return False
    return True


def is_heard(body: dict) -> bool:
    try:
        PROTOCOL.messages[0].from_plain(body)
    except BodyInvalid:
        return False
    return True


SIMPLE = {"text", "count", "share", "kind", "shade", "flag", "key", "span", "blob", "file", "words"}


def has_bytes(value: object) -> bool:
    inner = value if isinstance(value, list) else [*value.values()] if isinstance(value, dict) else []
    return isinstance(value, bytes) or any(map(has_bytes, inner))


@pytest.mark.slow
@given(BODIES)
def test_what_the_schema_refuses_the_sender_refuses_too(body):
    body = BASE | body
    assume(not SENT.is_valid(body))

    assert not is_said(body)


@pytest.mark.slow
@given(BODIES)
def test_what_the_schema_of_readers_refuses_the_reader_refuses_too(body):
    body = BASE | body
    assume(not HEARD.is_valid(body))

    assert not is_heard(body)


@pytest.mark.slow
@given(BODIES)
def test_one_field_at_a_time_schema_and_sender_agree(changes):
    for name, value in changes.items():
        body = BASE | {name: value}
        # JSON takes 1.0 for an integer and knows bytes from text no more than valid dates from others.
        assume(not isinstance(value, float) or name not in ("count", "words"))
        assume(name in SIMPLE and (isinstance(value, bytes) if name == "blob" else not has_bytes(value)))

        assert SENT.is_valid(body) == is_said(body), body


@pytest.mark.parametrize(
    ("body", "taken"),
    [
        ({}, True),
        ({"text": "abcabc"}, False),
        ({"text": "a"}, False),
        ({"text": "xx"}, False),
        ({"count": -3}, False),
        ({"count": -2}, True),
        ({"share": None}, True),
        ({"share": 1.5}, False),
        ({"kind": "z"}, False),
        ({"shade": "blue"}, False),
        ({"words": []}, False),
        ({"table": {"a": 1, "b": 2}}, False),
        ({"span": "5m"}, True),
        ({"span": "five"}, False),
        ({"key": "0190a2b4"}, False),
        ({"blob": b"abc"}, False),
        ({"blob": b"ab"}, True),
        ({"parts": [{"name": "a"}]}, True),
        ({"parts": [{"name": "a", "size": -1}]}, False),
        ({"parts": [{"size": 1}]}, False),
        ({"more": 1}, False),
    ],
)
def test_constraints_hold_in_schema_and_model_alike(body, taken):
    assert (SENT.is_valid(BASE | body), is_said(BASE | body)) == (taken, taken)


def test_a_reader_takes_unknown_fields_and_words_of_open_enums_and_so_does_its_schema():
    body = BASE | {"more": 1, "shade": "blue", "parts": [{"name": "a", "more": 1}]}

    assert HEARD.is_valid(body)
    assert is_heard(body)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.name)
def test_every_example_and_default_fits_its_schema(path):
    spec, _ = check_text(path.read_text(encoding="utf-8"), str(path))
    for message in spec.messages:
        schema = message_schema(spec, message)
        for example in message.examples:
            assert Validator(schema).is_valid(example)
        for field in message.fields:
            if field.has_default:
                one = schema["properties"][field.name] | {"$defs": schema.get("$defs", {})}
                assert Validator(one).is_valid(field.default)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.name)
def test_the_whole_document_takes_messages_as_the_command_line_writes_them(path):
    spec, _ = check_text(path.read_text(encoding="utf-8"), str(path))
    schema = json.loads(json.dumps(protocol_schema(spec)))
    check = Validator(schema)

    assert schema["$schema"] == DIALECT
    for message in spec.messages:
        for example in message.examples:
            assert check.is_valid({message.name: example})
        assert not check.is_valid({message.name: {"no-such-field": 1}})
    assert not check.is_valid({"NoSuchMessage": {}})


def test_docs_deprecation_and_secrets_are_told():
    protocol = compile_protocol(
        small(
            'M: {doc: A greeting., deprecated: use N, rules: ["len(name) > 0"], examples: [{name: x}],'
            " fields: {name: {type: string, doc: Who., secret: true, deprecated: true, example: y}}}"
        )
    )
    schema = message_schema(protocol.spec, protocol.spec.messages[0])

    assert schema["description"] == "A greeting.\nDeprecated: use N\nMust hold: len(name) > 0"
    assert (schema["deprecated"], schema["examples"]) == (True, [{"name": "x"}])
    assert schema["properties"]["name"] == {
        "type": "string", "description": "Who.", "examples": ["y"], "deprecated": True, "writeOnly": True,
    }  # fmt: skip


def test_the_schema_speaks_wire_names():
    protocol = compile_protocol(small("M: {fields: {schema: string, class: string, copy: optional string}}"))

    assert set(message_schema(protocol.spec, protocol.spec.messages[0])["properties"]) == {"schema", "copy", "class"}
