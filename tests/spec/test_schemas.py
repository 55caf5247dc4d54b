"""The JSON Schemas that editors use agree with what the parsers say."""

import json
import runpy
from pathlib import Path

import jsonschema
import pytest
from protocol_text import DATA, negative_cases, rules_of, small, text_of

from bus.spec.compile import load_protocol
from bus.spec.loader import load_document, parse_document
from bus.spec.node import plain

SPECS = Path(__file__).parents[2] / "specs"
SCRIPT = SPECS.parent / "scripts" / "training_schema.py"
KINDS = ("protocol", "fleet", "training")


def validator(kind):
    return jsonschema.Draft7Validator(json.loads((SPECS / f"{kind}.schema.json").read_text(encoding="utf-8")))


PROTOCOLS = validator("protocol")
FILES = [
    (kind, path) for kind in KINDS for path in sorted([*SPECS.glob(f"*.{kind}.yaml"), *DATA.glob(f"*.{kind}.yaml")])
]


@pytest.mark.parametrize("kind", KINDS)
def test_schemas_are_draft_07_and_describe_every_property(kind):
    schema = validator(kind).schema

    jsonschema.Draft7Validator.check_schema(schema)
    assert all("description" in one or "$ref" in one for one in schema["properties"].values())
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(("kind", "path"), FILES, ids=[path.name for _, path in FILES])
def test_shipped_files_are_valid(kind, path):
    assert [error.message for error in validator(kind).iter_errors(plain(load_document(path)))] == []


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in negative_cases()])
def test_faults_of_meaning_are_none_of_form(case):
    assert PROTOCOLS.is_valid(json.loads(text_of(case)))


REFUSED = [
    small(conversation="- a -> b: m"),
    small(conversation="- a->b: M"),
    small(conversation="- a -> b: M\n  withn: 5s"),
    small(conversation="- a -> b: M\n  within: 5"),
    small(conversation="- brake"),
    small(conversation="- {break: }"),
    small(conversation="- choice: a\n  branches: {}"),
    small(conversation="- loop: l"),
    small(conversation="- loop: l\n  endless: maybe\n  do: [a -> b: M]"),
    small(conversation="- each: b\n  until: most\n  do: [a -> b: M]"),
    small(conversation="- scope: s\n  do: [a -> b: M]\n  interrupts: [{timeout: 1s, lost: b, then: []}]"),
    small(conversation="- scope: s\n  do: [a -> b: M]\n  interrupts: [{timeout: 1s, b -> a: M, then: []}]"),
    small(conversation="- scope: s\n  do: [a -> b: M]\n  interrupts: [{lost: b}]"),
    small(conversation="- call: training\n  as: {}\n  outcomes: {x: []}"),
    small("M: {delivery: exactly-once}"),
    small("m: {}"),
    small("M: {fields: {x: integer}}"),
    small("M: {fields: {x: {min: 1}}}"),
    small("M: {fields: {x: {type: int, enum: [a]}}}"),
    small("M: {fields: {x: {type: int, open: true}}}"),
    small("M: {window: 0}"),
    small(status="final"),
    small(extra="1"),
    small().replace("language: 1", "language: 2"),
    small().replace("b: {}", "b: {many: 5}"),
    small().replace(", b: {}", ""),
    small().replace("protocol: small\n", ""),
]


@pytest.mark.parametrize("text", REFUSED)
def test_what_the_schema_refuses_the_parser_refuses(text):
    assert not PROTOCOLS.is_valid(plain(parse_document(text)))
    assert rules_of(text) & {"E-SYNTAX", "E-UNKNOWN-TYPE"}


@pytest.mark.parametrize(
    "step",
    [
        "break",
        {"loop": "l", "endless": True, "do": []},
        {"each": "b", "until": 2, "do": []},
        {"a -> b, c": "M+", "max": 3},
        {
            "scope": "s",
            "do": [],
            "interrupts": [{"a -> b": "M", "then": [], "doc": "Stop."}, {"failed": "b", "then": []}],
        },
        {"call": "x@~1.2", "as": {"p": "a"}, "outcomes": {"done": []}},
        {"enroll": "b"},
        {"continue": "l"},
        {"break": "l"},
        {"end": "x"},
        {"parallel": {"x": [], "y": []}},
        {"choice": "a", "branches": {"x": []}, "within": "1h", "remind": "5m", "retry": 1, "else": []},
    ],
)
def test_every_kind_of_step_is_valid(step):
    document = {
        "language": 1,
        "protocol": "p",
        "version": "1.0.0",
        "roles": {"a": None, "b": {}},
        "messages": {"M": None},
    }

    assert PROTOCOLS.is_valid(document | {"conversation": [step]})


LIBRARY = "language: 1\nlibrary: common\nversion: 1.0.0\nmessages: {M: {}}\n"


@pytest.mark.parametrize(
    "text",
    [
        LIBRARY,
        LIBRARY + "types: {T: {fields: {x: int}}}\nimports: [other@~1.2]\ndefaults: {delivery: durable}\n",
        small(imports="[common@^1]").replace("messages: {M: {}}\n", ""),
    ],
)
def test_libraries_and_what_imports_all_its_messages_are_valid(text):
    assert PROTOCOLS.is_valid(plain(parse_document(text)))


@pytest.mark.parametrize(
    "more", ["roles: {a: {}, b: {}}", "conversation: []", "outcomes: {x: }", "keys: [x]", "protocol: common"]
)
def test_a_library_with_parts_of_a_conversation_is_refused_by_schema_and_parser(more):
    assert not PROTOCOLS.is_valid(plain(parse_document(LIBRARY + more)))
    assert rules_of(LIBRARY + more) == {"E-SYNTAX"}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("fleet", "fleet: x\nagents: {}"),
        ("fleet", "fleet: x\nagents: {broker: {program: p}}"),
        ("fleet", "fleet: x\nagents: {a: {instances: 0, program: p}}"),
        ("fleet", "fleet: x\nagents: {a: {}}"),
        ("fleet", "fleet: x\nagents: {a: {program: p, environment: {OMP: 2}}}"),
        ("fleet", "fleet: x\nagents: {a: {program: p}}\nrestart: {within: forever}"),
        ("training", "training: t\nbase: b\nmethod: lora"),
        ("training", "training: t\nbase: b\nmethod: full\ndataset: d\nlora: {rank: 4}"),
        ("training", "training: t\nbase: b\nmethod: lora\ndataset: d\nlora: {rank: 0}"),
        ("training", "training: t\nbase: b\nmethod: lora\ndataset: d\nlearning_rte: 0.1"),
    ],
)
def test_wrong_fleet_and_training_files_are_refused(kind, text):
    assert not validator(kind).is_valid(plain(parse_document(text)))


def test_the_training_file_has_the_fields_of_its_message_with_the_same_bounds_and_defaults():
    """If they have changed: python scripts/training_schema.py writes the file."""
    script = runpy.run_path(str(SCRIPT))

    assert script["PATH"].read_text() == script["text_of"](script["training_schema"](load_protocol("training").spec))
