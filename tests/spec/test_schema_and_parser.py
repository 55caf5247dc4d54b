"""What protocol.schema.json takes, the parser takes, and the other way round, wherever a schema can say it.

Documents are mutated as values and read as nodes, without YAML: thousands fit into a second.
"""

import copy
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from protocol_text import DATA

from bus.spec import parse, parse_steps
from bus.spec.diagnostic import Report
from bus.spec.loader import load_document, parse_document
from bus.spec.node import Entry, ListNode, MapNode, Node, ScalarNode, plain
from bus.spec.parse import parse_spec
from bus.spec.syntax import Mark

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "specs/protocol.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
DEFINITIONS = SCHEMA["definitions"]

# Every kind of step with every key, beside the shipped protocols.
ALL_STEPS = """
language: 1
protocol: all-steps
version: 1.0.0
status: beta
doc: Everything once.
defaults: {within: 5m, delivery: at-least-once}
keys: [k]
roles: {a: {pool: true, doc: x}, b: {many: 1..5}, c: {from: b, many: 0..*}, d: {human: true}, e: }
types: {T: {doc: x, fields: {x: int}}}
messages:
  M:
    doc: x
    delivery: durable
    window: 3
    fields:
      k: {type: string, min_len: 1, max_len: 3, pattern: "^x$", default: x, example: x, secret: true, deprecated: gone}
      n: {type: optional number, min: 0, max: 1, doc: x}
      l: {type: list of T, min_items: 1, max_items: 2}
      o: {enum: [p, q], open: true}
    rules: [n is None or n > 0]
    examples: [{k: x}]
    reserved: [z]
    deprecated: true
  N:
outcomes: {over: All is said., done: }
conversation:
  - a -> d, b: M
    within: 3s
    else: [{end: over}]
    retry: 1
    remind: 1h
    doc: x
  - {a -> b: M*, max: 3}
  - choice: a
    within: forever
    retry: 2
    remind: 3m
    doc: x
    branches: {x: [a -> b: M], y: []}
    else: []
  - loop: l
    max: 2
    within: 1h
    endless: false
    doc: x
    do: [a -> b: M, {continue: l}, break, {break: l}]
    else: []
  - {parallel: {x: [a -> b: N], y: []}, doc: x}
  - scope: s
    doc: x
    do: [a -> b: M+]
    interrupts:
      - {a -> b: N, then: [], doc: x}
      - {timeout: 2s, then: []}
      - {lost: a, then: []}
      - {failed: a, then: [], doc: x}
  - {each: b, until: 2, within: 3s, late: [], doc: x, do: [b -> a: N, enroll: c]}
  - {call: x@^1.2, as: {p: a}, outcomes: {done: [], failed: []}, within: 2s, doc: x}
  - end: over
"""

LIBRARY = """
language: 1
library: common
version: 1.2.0
status: draft
doc: x
imports: [other@~1.2]
defaults: {delivery: durable}
types: {T: {fields: {x: int}}}
messages: {M: {fields: {t: T}}}
"""

DOCUMENTS = [
    plain(parse_document(ALL_STEPS)),
    *(
        plain(load_document(path))
        for path in sorted([*DATA.glob("*.protocol.yaml"), *ROOT.glob("specs/*.protocol.yaml")])
    ),
]
# Values that mean something somewhere and nothing elsewhere; no whole float, which JSON Schema calls an integer.
VALUES = [
    None, True, False, 0, 1, 3, -1, 2.5, "", "x", "X", "M*", "M", "a", "30s", "3", "5 m", "forever", "1..3", "3..1",
    "break", "list of int", "optional list of T", "integer", "any", "all", "1.0.0", "a -> b", "durable", "x@^1", [], {},
    ["x"], [3], {"x": 1}, {"x": []}, [{"end": "over"}], {"a -> b": "M"}, {"type": "int"}, {"enum": ["p", "p"]},
    {"enum": []},
]  # fmt: skip
NAMES = sorted(
    {
        *parse._TOP, *parse._LIBRARY, *parse._ROLE_KEYS, *parse._MESSAGE_KEYS, *parse._FIELD_KEYS, *parse_steps._SEND,
        *parse_steps.StepParser._STEPS, "branches", "do", "endless", "interrupts", "then", "timeout", "lost", "failed",
        "until", "late", "as", "a -> b", "a -> b, d", "a->b", "a -> a ", "X", "x", "1x", "x-y", "x_y", "",
    }
)  # fmt: skip
# What a draft-07 schema cannot say: two arrows in a step, a receiver twice, a range that falls, what a rule means,
# which fields there are.
BEYOND_A_SCHEMA = re.compile(
    r"one 'sender -> receiver: Message' in a step|each receiver once|a range that rises"
    r"|\.rules: |keys: expected a field of some"
)


def node_of(value: object) -> Node:
    mark = Mark("f", 1, 1)
    if isinstance(value, dict):
        return MapNode(mark, tuple(Entry(mark, key, node_of(inner)) for key, inner in value.items()))
    if isinstance(value, list):
        return ListNode(mark, tuple(map(node_of, value)))
    assert value is None or isinstance(value, bool | int | float | str)
    return ScalarNode(mark, value)


def refusals(document: object) -> list[str]:
    """Return what the parser finds wrong with the form of *document*, as far as a schema could say so."""
    report = Report()
    parse_spec(node_of(document), "", report)
    return [str(one) for one in report.diagnostics]


def mutated(document: object, chance: random.Random) -> object:
    """Return *document* with one to three changes somewhere inside."""
    document = copy.deepcopy(document)
    for _ in range(chance.randint(1, 3)):
        holders = [one for one in containers(document) if one]
        holder = chance.choice(holders)
        if isinstance(holder, list):
            place = chance.randrange(len(holder))
            change(holder, place, chance, document)
        else:
            key = chance.choice(list(holder))
            if chance.random() < 0.3:
                holder[chance.choice(NAMES)] = holder.pop(key) if chance.random() < 0.5 else chance.choice(VALUES)
            else:
                change(holder, key, chance, document)
    return document


def change(holder: dict | list, place: object, chance: random.Random, document: object) -> None:
    kind = chance.random()
    if kind < 0.25:
        del holder[place]
    elif kind < 0.85:
        holder[place] = copy.deepcopy(chance.choice(VALUES))
    else:  # something that is right elsewhere in the file
        other = chance.choice([one for one in containers(document) if one])
        inner = chance.choice(list(other.values()) if isinstance(other, dict) else other)
        holder[place] = copy.deepcopy(inner)


def parts() -> Iterator[tuple[str, dict, dict | list]]:
    """Yield small documents, each with one part of ALL_STEPS: (its name, the document, the part in it)."""
    whole = DOCUMENTS[0]
    small = {key: whole[key] for key in ("language", "protocol", "version")}
    small |= {"roles": {"a": None, "b": {}}, "messages": {"M": {}}, "conversation": []}
    for step in whole["conversation"]:
        document = copy.deepcopy(small | {"conversation": [step]})
        yield f"step {next(iter(step))}", document, document["conversation"]
    for section in whole.keys() - {"conversation"}:
        document = copy.deepcopy(small | {section: whole[section]})
        yield section, document, document
    library = plain(parse_document(LIBRARY))
    yield "library", library, library


def placed(part: dict | list) -> list[tuple[dict | list, object]]:
    """Return every (container, key or index) in *part*."""
    return [(one, key) for one in containers(part) for key in (one if isinstance(one, dict) else range(len(one)))]


@pytest.mark.slow
@pytest.mark.parametrize(("document", "part"), [pytest.param(*one[1:], id=one[0]) for one in parts()])
def test_every_single_change_gets_the_same_verdict_from_both(document, part):
    for container, key in placed(part):
        right = container[key]
        for value in (
            *VALUES,
            *({**right, name: 3} for name in NAMES if isinstance(right, dict) and name not in right),
        ):
            container[key] = value
            compare(document)
        container[key] = right
    for container, key in placed(part):
        if isinstance(container, dict):
            right = dict(container)
            del container[key]
            compare(document)
            container.clear()
            container.update(right)


def compare(document: object) -> bool:
    """Return whether the schema takes *document*, and so does the parser."""
    valid, refused = VALIDATOR.is_valid(document), refusals(document)
    if valid:
        assert [text for text in refused if not BEYOND_A_SCHEMA.search(text)] == [], document
    elif not refused:
        left = [one for one in VALIDATOR.iter_errors(document) if not is_left_to_later_checks(one)]
        assert left == [], (document, left[0].json_path, left[0].message)
    return valid


def containers(value: object) -> Iterator[dict | list]:
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from containers(inner)


@pytest.mark.parametrize("document", DOCUMENTS, ids=[one["protocol"] for one in DOCUMENTS])
def test_whole_protocols_are_taken_by_both(document):
    assert VALIDATOR.is_valid(document)
    assert refusals(document) == []


@pytest.mark.parametrize("seed", range(6))
def test_mutated_protocols_get_the_same_verdict_from_both(seed):
    chance = random.Random(seed)
    n_refused = 0
    for _ in range(150):
        n_refused += not compare(mutated(chance.choice(DOCUMENTS), chance))

    assert 30 < n_refused < 150


def is_left_to_later_checks(error: jsonschema.ValidationError) -> bool:
    """Return whether the parser leaves *error* to the checks of names: of types and roles."""
    pattern = error.validator_value if error.validator == "pattern" else None
    return pattern == DEFINITIONS["type"]["pattern"] or error.json_path.endswith(".from")


# -- every key is known to both, and described -------------------------------------------------------------


def properties_of(step: str) -> dict[str, dict]:
    """Return the properties of the step that is made by the key *step*."""
    node = DEFINITIONS["step"]
    while node["if"].get("required") != [step]:
        node = node["else"]
    return node["then"]["properties"]


SOURCE = Path(parse_steps.__file__).read_text(encoding="utf-8")


def keys_that_the_parser_reads(step: str) -> set[str]:
    """Return the keys in the source of the function that reads the step; _WAIT stands for its words."""
    body = SOURCE.split(f"def _{step}(")[1].split("\n    def ")[0]
    listed = re.search(r"self\._read\.fields\(node, where, \(([^)]*)\)", body)
    if listed is None:
        return {step}  # a single word, read by _only
    return set(re.findall(r'"(\w+)"', listed[1])) | (set(parse_steps._WAIT) if "*_WAIT" in listed[1] else set())


@pytest.mark.parametrize("step", sorted(parse_steps.StepParser._STEPS))
def test_a_step_has_the_keys_of_the_parser(step):
    assert properties_of(step).keys() == keys_that_the_parser_reads(step)


@pytest.mark.parametrize(
    ("where", "keys"),
    [
        (SCHEMA, {*parse._TOP, *parse._LIBRARY}),
        (DEFINITIONS["role"], parse._ROLE_KEYS),
        (DEFINITIONS["message"], parse._MESSAGE_KEYS),
        (DEFINITIONS["field"]["then"], parse._FIELD_KEYS),
        (DEFINITIONS["send"], parse_steps._SEND),
        (DEFINITIONS["interrupt"], (*parse_steps._TRIGGERS, "then", "doc")),
    ],
    ids=["top", "role", "message", "field", "send", "interrupt"],
)
def test_a_section_has_the_keys_of_the_parser(where, keys):
    assert where["properties"].keys() == set(keys)
    assert where["additionalProperties"] is False


def nodes(value: object) -> Iterator[dict]:
    for one in containers(value):
        if isinstance(one, dict):
            yield one


def test_every_key_is_described():
    silent = [
        key
        for node in nodes(SCHEMA)
        if node.get("additionalProperties") is False
        for key, inner in node["properties"].items()
        if isinstance(inner, dict) and "description" not in inner
    ]

    assert silent == []


def test_every_pattern_says_what_it_expects():
    silent = [
        node["pattern"]
        for node in nodes({key: value for key, value in SCHEMA.items() if key != "$schema"})
        if isinstance(node.get("pattern"), str) and node.get("type") == "string" and "patternErrorMessage" not in node
    ]

    assert silent == []


def test_there_is_a_snippet_for_each_step_and_it_is_a_step():
    validator = jsonschema.Draft7Validator({"$ref": "#/definitions/step", "definitions": DEFINITIONS})
    made = set()
    for snippet in DEFINITIONS["step"]["defaultSnippets"]:
        body = json.loads(re.sub(r"\$\{\d+:([^}]*)\}", r"\1", json.dumps(snippet["body"])))
        made |= body.keys()

        assert [error.message for error in validator.iter_errors(body)] == [], snippet["label"]
    assert set(parse_steps.StepParser._STEPS) <= made
    assert any("->" in key for key in made)


def test_every_interrupt_has_a_snippet_and_it_is_one():
    validator = jsonschema.Draft7Validator({"$ref": "#/definitions/interrupt", "definitions": DEFINITIONS})
    bodies = [snippet["body"] for snippet in DEFINITIONS["interrupt"]["defaultSnippets"]]
    plain_bodies = [json.loads(re.sub(r"\$\{\d+:([^}]*)\}", r"\1", json.dumps(body))) for body in bodies]

    assert all(validator.is_valid(body) for body in plain_bodies)
    assert {"timeout", "lost", "failed"} <= {key for body in plain_bodies for key in body}
