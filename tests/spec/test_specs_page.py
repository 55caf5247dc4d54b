"""docs/specs.md tells the truth: its examples are clean, its faults are found, and no rule or word is left out."""

import os
import re
from pathlib import Path

import pytest
import specs_page
import typer
from protocol_text import DATA
from specs_page import Fence

from bus.cli.main import GROUPS, new_app
from bus.spec import parse
from bus.spec.loader import load_document
from bus.spec.node import ListNode, MapNode, Node, ScalarNode

TEXT = specs_page.page()
FENCES = specs_page.fences(TEXT)
SECTIONS = list(specs_page.rule_sections(TEXT))
FILES = tuple(one for one in FENCES if one.file)
SOURCES = "\n".join(path.read_text(encoding="utf-8") for path in sorted(Path(parse.__file__).parent.glob("*.py")))
ROOT = specs_page.ROOT

# Their shortest examples would fill pages: 33 files, and protocols that call each other 256 times.
WITHOUT_EXAMPLE = {"E-TOO-MANY-FILES", "E-TOO-MANY-CALLS"}


def rules_in_the_source() -> set[str]:
    found = set(re.findall(r"[\"'`]([EW]-[A-Z]+(?:-[A-Z]+)*)[\"'`]", SOURCES))
    if 'f"E-UNKNOWN-{what}"' in SOURCES:
        found |= {f"E-UNKNOWN-{what}" for what in re.findall(r"_known\([^\n]*\"([A-Z]+)\"", SOURCES)}
    return found


FOUND = rules_in_the_source()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


EXAMPLES = [
    one
    for one in FENCES
    if one.kind == "yaml" and one.heading != specs_page.READING and not re.match("[EW]-", one.heading)
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: f"line {one.line}")
def test_every_example_is_clean(example, folder):
    assert (
        specs_page.words(specs_page.findings(example, FILES[:0] if example.file else own_files(example), folder)) == ""
    )


def own_files(example: Fence) -> tuple[Fence, ...]:
    return tuple(one for one in FILES if one.heading == example.heading)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda one: one.rule)
def test_a_wrong_example_breaks_its_rule_and_no_other(section, folder):
    found = specs_page.findings(section.wrong, section.beside, folder)

    assert [one.rule for one in found] == [section.rule]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda one: one.rule)
def test_the_words_are_those_of_check(section, folder):
    """If they have changed: python tests/spec/specs_page.py writes them into the page."""
    assert section.words.text == specs_page.words(specs_page.findings(section.wrong, section.beside, folder))


@pytest.mark.parametrize("section", SECTIONS, ids=lambda one: one.rule)
def test_a_mended_example_is_clean(section, folder):
    assert specs_page.words(specs_page.findings(section.mended, section.beside, folder)) == ""


def test_the_finding_that_is_explained_is_printed_so(folder):
    block, said = specs_page.shown_finding(TEXT, folder)

    assert block.text == said


def test_every_rule_has_a_section():
    assert FOUND - set(specs_page.rules_with_a_section(TEXT)) == set()


def test_no_section_is_of_a_rule_that_does_not_exist():
    assert set(specs_page.rules_with_a_section(TEXT)) - FOUND == set()


def test_every_rule_shows_an_example_unless_it_would_fill_pages():
    shown = {section.rule for section in SECTIONS}

    assert set(specs_page.rules_with_a_section(TEXT)) - shown <= WITHOUT_EXAMPLE


def test_every_link_leads_to_a_heading():
    headings = [title for _, title in specs_page.headings(TEXT)]
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}

    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= anchors
    assert all((specs_page.PAGE.parent / name).is_file() for name in re.findall(r"\]\(([^#)]+)\)", TEXT))
    assert len(set(headings)) == len(headings)


def test_every_sentence_has_a_line_of_its_own():
    lines = [line for line in specs_page.prose(TEXT).splitlines() if not line.startswith(("|", "- ", "#", "**"))]

    assert [line for line in lines if re.search(r"[a-z`]{2}\. [A-Z`]", line.replace("e.g. ", ""))] == []


def test_every_command_on_the_page_is_one():
    known = {command for _, commands in GROUPS.values() for command in commands}
    named = set(re.findall(r"`palaver ([a-z]+)", TEXT)) | set(re.findall(r"^palaver ([a-z]+)", TEXT, re.MULTILINE))

    assert {"check", "draw", "diff", "fuzz"} <= named <= known


def test_every_option_on_the_page_is_one():
    rows = re.findall(r"^\| `palaver ([a-z]+)[^|]*\|(.*)\|$", TEXT, re.MULTILINE)
    for command, told in rows:
        app = typer.main.get_command(new_app([command]))
        known = {option for one in app.commands[command].params for option in one.opts}

        assert set(re.findall(r"`(--[a-z-]+)", told)) <= known, command
    assert {"check", "diff", "fuzz"} <= {command for command, _ in rows}


# -- the yardstick: what the protocols of the language use is explained ------------------------------------

LANGUAGE = [
    DATA / "contract-net.protocol.yaml",
    DATA / "task-delegation.protocol.yaml",
    ROOT / "specs/newsroom.protocol.yaml",
    ROOT / "specs/training.protocol.yaml",
]


def explained() -> set[str]:
    """Return every word that the page's text, outside its examples, shows as code."""
    words: set[str] = set()
    for code in re.findall(r"`([^`\n]+)`", specs_page.prose(TEXT)):
        words |= set(re.findall(r"[A-Za-z_]+(?:-[a-z]+)*|->|[*+]", code))
    return words


def constructs(node: Node, names: frozenset[str]) -> set[str]:
    """Return the words of the language that *node* uses: its keys and type words, without *names*, the file's own."""
    found: set[str] = set()
    if isinstance(node, MapNode):
        for entry in node.entries:
            found |= {"->"} if "->" in entry.key else {entry.key} - names
            found |= constructs(entry.value, names)
    elif isinstance(node, ListNode):
        for item in node.items:
            found |= constructs(item, names)
    elif isinstance(node, ScalarNode) and isinstance(node.value, str):
        if parse.TYPE_EXPRESSION.fullmatch(node.value):
            found |= {word for word in node.value.split() if word in (*parse.BUILT_IN_TYPES, "list", "map", "optional")}
        if node.value in ("break", "any", "all", "forever", "durable", "at-least-once", "at-most-once"):
            found.add(node.value)
        found |= {star for star in "*+" if re.fullmatch(rf"[A-Z]\w*\{star}", node.value)}
    return found


def own_names(document: Node) -> frozenset[str]:
    """Return the names that a file gives by itself: of roles, types, messages, fields, outcomes and branches."""
    names: set[str] = set()
    named = {"roles", "types", "messages", "outcomes", "fields", "branches", "parallel", "as"}

    def gather(node: Node) -> None:
        if isinstance(node, MapNode):
            for entry in node.entries:
                if entry.key in named and isinstance(entry.value, MapNode):
                    names.update(inner.key for inner in entry.value.entries)
                if entry.key not in ("default", "example", "examples"):
                    gather(entry.value)
        elif isinstance(node, ListNode):
            for item in node.items:
                gather(item)

    gather(document)
    return frozenset(names)


KEYWORDS = {
    *parse._TOP, *parse._ROLE_KEYS, *parse._MESSAGE_KEYS, *parse._FIELD_KEYS, *parse.BUILT_IN_TYPES, "do", "branches",
    "interrupts", "then", "until", "late", "as", "max", "within", "else", "retry", "remind", "endless", "timeout",
    "lost", "failed", "choice", "loop", "parallel", "scope", "each", "enroll", "call", "end", "break", "continue",
}  # fmt: skip


@pytest.mark.parametrize("path", LANGUAGE, ids=lambda path: path.name)
def test_every_construct_of_the_language_s_protocols_is_explained(path):
    document = load_document(path)
    used = constructs(document, own_names(document) - KEYWORDS)

    assert {"->", "roles", "fields", "choice"} <= used
    assert used & (KEYWORDS | {"->", "*", "+", "list", "map", "optional"}) - explained() == set()


def test_every_word_that_the_parser_knows_is_explained():
    assert KEYWORDS - explained() == set()


@pytest.mark.parametrize("word", ["each", "until", "within", "late", "enroll", "from", "many"])
def test_what_fan_out_needs_has_a_row_or_a_sentence_beside_its_examples(word):
    start, stop = TEXT.index("## 7. Each"), TEXT.index("## 9. Call")

    assert f"`{word}" in specs_page.prose(TEXT[start:stop])


def test_the_contract_net_is_left_to_the_reader():
    names = {role.key for role in load_document(LANGUAGE[0]).get("roles").entries}

    assert not names & set(re.findall(r"\w+", TEXT))


def test_the_readme_leads_to_the_page():
    assert "(docs/specs.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert os.path.exists(ROOT / "docs/specs.md")
