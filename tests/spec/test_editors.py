"""Editors: yaml-language-server with our schemas completes, explains, and shows errors on the right line."""

import os
import shutil
from pathlib import Path

import pytest
from language_server import PACKAGE, VERSION, LanguageServer, NoServer, find_server

from bus.spec.parse import BUILT_IN_TYPES

pytestmark = [pytest.mark.slow, pytest.mark.integration]

SPECS = Path(__file__).parents[2] / "specs"
MODELINE = "# yaml-language-server: $schema=protocol.schema.json\n"
HELP = f"""{MODELINE}language: 1
protocol: help
version: 1.0.0
roles:
  asker: {{}}
  expert:
    pool: true
messages:
  Question:
    fields:
      text: string
      hints:
        type: list of string
conversation:
  - asker -> expert: Question
    within: 30s
  - scope: work
    do: []
    interrupts:
      - timeout: 3s
        then: []
"""


@pytest.fixture(scope="module")
def server(request, tmp_path_factory):
    try:
        program = find_server(request.config.cache.mkdir(f"{PACKAGE}-{VERSION}"))
    except NoServer as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"expected yaml-language-server: {error}")
        pytest.skip(f"no yaml-language-server: {error}")
    root = tmp_path_factory.mktemp("workspace")
    for schema in SPECS.glob("*.schema.json"):
        shutil.copy(schema, root)
    with LanguageServer(program, root) as running:
        yield running


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_files_have_no_errors(server, path):
    text = path.read_text(encoding="utf-8")
    kind = path.name.split(".")[1]

    assert f"$schema={kind}.schema.json" in text.splitlines()[0]
    assert server.problems(text, f"{kind}.yaml") == []


# (what stands in HELP, what stands there instead, where the error is shown, words of its message)
# An error is shown where a key stands, or where the value begins, which for a map is the line below.
FAULTS = [
    ("within: 30s", "withn: 30s", "withn", ["beside it only within, else, retry, remind"]),
    ("within: 30s", "within: 30", "within: 30", ["a duration such as", "30s"]),
    ("within: 30s", "within: 30 s", "within: 30 s", ["a duration such as", "30s"]),
    ("within: 30s", "max: 3", "asker -> expert", ["expected a stream"]),
    ("expert: Question", "expert: question", "expert: question", ["Draft, Draft* or Draft+"]),
    ("asker -> expert: Question", "asker->expert: Question", "asker->expert", ["one space on either side"]),
    ("- scope: work", "- scoop: work", "scoop", ["choice, loop, parallel, scope"]),
    ("- scope: work\n    do: []", "- scope: work", "- scope", ['Missing property "do"']),
    ("- scope: work\n    do: []", "- scope: work\n    does: []\n    do: []", "does:", ["does is not allowed"]),
    ("- timeout: 3s", "- timout: 3s", "timout", ["exactly one trigger"]),
    ("- timeout: 3s", "- timeout: 3s\n        lost: expert", "lost: expert", ["exactly one trigger"]),
    ("- timeout: 3s", "- timeout: soon", "timeout: soon", ["a duration such as"]),
    ("text: string", "text: str", "text: str", ["string, int, number"]),
    ("type: list of string", "type: string\n        min_length: 3", "min_length", ["min_length is not allowed"]),
    ("type: list of string", "min_items: 3", "hints:", ["type"]),
    ("type: list of string", "type: string\n        enum: [a]", "type: string", ["exactly one of 'type' and 'enum'"]),
    ("pool: true", "pool: maybe", "pool: maybe", ["boolean"]),
    ("pool: true", "many: 5", "many: 5", ["string"]),
    ("pool: true", "many: five", "many: five", ["1..50"]),
    ("version: 1.0.0", "version: 1.0", "version: 1.0", ["string"]),
    ("version: 1.0.0", "version: one", "version: one", ["1.0.0"]),
    ("language: 1", "language: 2", "language: 2", ["1"]),
]


@pytest.mark.parametrize(("old", "new", "place", "words"), FAULTS, ids=[f"{new!r}"[:40] for _, new, _, _ in FAULTS])
def test_an_error_is_shown_on_its_line_with_words_that_help(server, old, new, place, words):
    text = HELP.replace(old, new)
    n_lines = 3 if "scoop" in new else 1  # no key of such a step means anything
    assert text != HELP

    found = server.problems(text)

    line, message = min(found)
    assert line in (line_of(text, place), line_of(text, place) + 1)
    assert len({line for line, _ in found}) == n_lines
    assert all(word in message for word in words), message


def test_one_fault_in_a_long_conversation_is_one_error_on_one_line(server):
    text = (SPECS / "newsroom.protocol.yaml").read_text(encoding="utf-8")
    wrong = text.replace("remind: 4h", "remnd: 4h")

    [(line, message)] = server.problems(wrong)

    assert line == line_of(wrong, "remnd")
    assert "remnd" in message


STEPS = {"choice", "loop", "parallel", "scope", "each", "enroll", "call", "end", "break", "continue"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("language: 1\n", "language: 1\n|\n", {"status", "imports", "defaults", "keys", "types", "outcomes"}),
        ("  - scope", "  - |\n  - scope", STEPS | {"a -> b: Message", "a -> b: Message*"}),
        ("    within: 30s", "    |", {"within", "else", "retry", "remind", "max", "doc"}),
        ("    within: 30s\n", "  - choice: asker\n    |\n", {"branches", "within", "else", "retry", "remind"}),
        ("    within: 30s\n", "  - loop: again\n    |\n", {"do", "max", "within", "else", "endless"}),
        ("    within: 30s\n", "  - each: expert\n    |\n", {"do", "until", "within", "late"}),
        ("    within: 30s\n", "  - call: help@^1\n    |\n", {"as", "outcomes", "within"}),
        ("    do: []\n    interrupts:\n", "    |\n    interrupts:\n", {"do", "doc"}),
        ("    pool: true", "    |", {"pool", "many", "from", "human", "doc"}),
        ("    fields:\n      text", "    |\n    fields:\n      text", {"delivery", "window", "rules", "examples"}),
        ("    fields:\n      text", "    delivery: |\n    fields:\n      text", {"durable", "at-most-once"}),
        ("list of string", "list of string\n        |", {"default", "min_items", "pattern"}),
        ("text: string", "text: |", {*BUILT_IN_TYPES, "optional string", "list of string"}),
        ("type: list of string", "type: |", {*BUILT_IN_TYPES}),
        ("        then: []", "        then: []\n      - |", {"timeout", "lost", "failed", "interrupting message"}),
    ],
)  # fmt: skip
def test_what_may_be_typed_is_offered(server, old, new, expected):
    assert HELP.count(old) == 1

    assert expected <= server.completions(HELP.replace(old, new)).keys()


def test_a_step_is_inserted_whole(server):
    inserted = server.completions(HELP + "  - |")["scope"]

    assert [part in inserted for part in ("scope:", "do:", "interrupts:", "timeout:", "then:")] == [True] * 5


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("pro|tocol: help", "identifies the protocol on the bus"),
        ("po|ol: true", "claim"),
        ("asker -|> expert", "One message from a role to others"),
        ("with|in: 30s", "The deadline of who must send"),
        ("sco|pe: work", "can be cut short"),
        ("inter|rupts:", "What may cut the scope short"),
        ("time|out: 3s", "after the scope began"),
        ("ty|pe: list", "The type of the field"),
    ],
)
def test_hovering_explains(server, word, told):
    assert told in server.hover(HELP.replace(word.replace("|", ""), word))


@pytest.mark.parametrize(
    ("kind", "text", "completes", "word", "told", "wrong"),
    [
        (
            "fleet", "fleet: news\nagents:\n  writer:\n    program: agents/writer.py\n", {"restart"}, "agents",
            "agents", ("program:", "progam:"),
        ),
        (
            "training", "training: sections\nbase: base\nmethod: lora\ndataset: rows\n", {"lora", "learning_rate"},
            "method", "lora", ("method: lora", "method: lor"),
        ),
    ],
)  # fmt: skip
def test_fleet_and_training_files_are_helped_too(server, kind, text, completes, word, told, wrong):
    text = f"# yaml-language-server: $schema={kind}.schema.json\n{text}"
    suffix = f"{kind}.yaml"

    assert server.problems(text, suffix) == []
    assert completes <= server.completions(text + "|", suffix).keys()
    assert told in server.hover(text.replace(f"{word}:", f"{word[:2]}|{word[2:]}:", 1), suffix).lower()
    broken = text.replace(*wrong)
    assert line_of(broken, wrong[1]) in {line for line, _ in server.problems(broken, suffix)}
