"""The Markdown reference: what it says, and that the pages in docs/ are fresh."""

import re
from pathlib import Path

import pytest
from protocol_text import DATA, small
from spec_source import parsed, shipped

from bus.spec.compile import load_protocol
from bus.spec.deadlines import Deadline, deadlines_of
from bus.spec.document import document
from bus.spec.draw import draw_sequence
from bus.spec.draw_states import draw_states

ROOT = Path(__file__).parents[2]
SPECS = sorted((ROOT / "specs").glob("*.protocol.yaml"))
SHOWN = """M: {
  doc: A greeting., deprecated: use N, delivery: at-most-once, window: 3, reserved: [old], rules: ["count > 0"],
  examples: [{text: a|b, count: 1}],
  fields: {
    text: {type: string, max_len: 1, doc: "One | letter"},
    count: {type: int, min: 1, max: 1000, default: 5, deprecated: true},
    kind: {enum: [x, y], open: true, example: x},
    key: {type: optional string, secret: true},
    parts: {type: list of Part, min_items: 2}}}"""


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.name.partition(".")[0])
def test_pages_of_shipped_protocols_are_fresh(path):
    protocol = load_protocol(path)
    page = ROOT / "docs" / "protocols" / f"{protocol.name}.md"

    assert page.read_text(encoding="utf-8") == document(protocol.spec, protocol.tables), "run `make docs`"


def test_every_page_belongs_to_a_shipped_protocol():
    pages = {page.stem for page in (ROOT / "docs" / "protocols").glob("*.md")}

    assert pages == {path.name.partition(".")[0] for path in SPECS}


@pytest.mark.parametrize("path", [*SPECS, *sorted(DATA.glob("*.protocol.yaml"))], ids=lambda path: path.name)
def test_every_link_leads_to_a_heading(path):
    text = document(parsed(path.read_text(encoding="utf-8")))
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}

    assert set(re.findall(r"\(#([^)]*)\)", text)) <= headings


def test_equal_headings_are_numbered_as_github_numbers_them():
    text = document(parsed(small("Deadlines: {}", "- a -> b: Deadlines")))

    assert "- Sends to b: [Deadlines](#deadlines-1)" in text


def test_a_message_is_told_with_fields_constraints_rules_delivery_and_examples():
    text = document(parsed(small(SHOWN, types="{Part: {fields: {name: string}}}")))

    for line in (
        "**Deprecated.** use N", "A greeting.",
        "a → b. Delivery: at-most-once (may be lost; a slow reader gets only the newest)."
        " At most 3 unhandled at the receiver.",
        "| `text` | string | needed | At most 1 character. One \\| letter. |",
        "| `count` | int | `5` | 1 to 1 000. Deprecated. |",
        "| `kind` | one of x, y; a reader takes others, too | needed | Example: \"x\". |",
        "| `key` | optional string | `null` | Secret: never logged or shown. |",
        "| `parts` | [list of Part](#part) | needed | At least 2 items. |",
        "- `count > 0`", "Names that once meant something else and are not used again: `old`.", '  "text": "a|b",',
        "### Part",
    ):  # fmt: skip
        assert line in text


def test_the_diagrams_are_those_of_draw():
    protocol = load_protocol("newsroom")
    blocks = re.findall(r"```mermaid\n(.*?)```", document(protocol.spec, protocol.tables), re.DOTALL)

    assert blocks[0] == draw_sequence(protocol.spec)
    assert blocks[1:] == [draw_states(protocol.spec, protocol.tables, role.name) for role in protocol.roles]


def test_roles_are_told_with_who_plays_them():
    text = document(parsed((DATA / "contract-net.protocol.yaml").read_text(encoding="utf-8")))

    assert "| bidder | a set of agents (1 to 50) | Everyone invited when the conversation opens. |" in text
    assert "| winner | members of proposer (0 to 1), enrolled on the way |  |" in text


def test_a_role_that_is_filled_on_the_way_points_to_where_its_members_come_from():
    text = document(parsed((DATA / "contract-net.protocol.yaml").read_text(encoding="utf-8")))

    assert text.count("It is filled by members of bidder and goes on in their states.") == 2


def test_deadlines_say_who_is_waited_for_and_what_follows():
    assert deadlines_of(shipped("newsroom")) == [
        Deadline("FindingsDone by researcher", "10m, asked 2 more times", "ends as spiked"),
        Deadline("choice of editor", "1d, reminded every 4h", "Spiked by writer, then ends as spiked"),
    ]


def test_deadlines_of_loops_scopes_members_and_calls_are_told_too():
    steps = """
- loop: l
  within: 1h
  do: [a -> b: M]
  else: [{choice: a, branches: {x: [a -> b: M]}}]
- each: b
  within: 5s
  do: [a -> b: M]
  late: []
- scope: s
  do: [a -> b: M]
  interrupts: [{timeout: 90s, then: []}]
- a -> b: M
  within: forever
- call: x@^1
  as: {}
  within: 2m
  outcomes: {done: []}
"""

    assert [(one.what, one.within, one.then) for one in deadlines_of(parsed(small("M: {}", steps.strip())))] == [
        ("loop l", "1h", "goes on as the conversation says"),
        ("each b", "5s", "goes on without the late"),
        ("scope s", "90s", "goes on"),
        ("M by a", "forever", "ends as failed"),
        ("call of x@^1", "2m", "the call fails"),
    ]
