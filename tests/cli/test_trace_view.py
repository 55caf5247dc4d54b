"""How a finding is drawn: its line with a caret, its trace as a picture."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from bus.cli.trace_view import ASCII, UNICODE, draw_trace, show_finding, visible
from bus.spec.diagnostic import Diagnostic
from bus.spec.syntax import Mark


def shown(finding, text, width=80):
    return [line.plain for line in show_finding(finding, text.splitlines(), width=width)]


def test_a_trace_is_a_ladder_of_arrows_between_roles():
    trace = ["client -> trainer: Submit", "trainer -> client, auditor: Progress", "auditor -> client: Report"]

    assert draw_trace(trace, 80) == [
        "client          trainer         auditor",
        "   │─── Submit ───>│               │",
        "   │<── Progress ──│── Progress ──>│",
        "   │<──────────────┼──── Report ───│",
    ]


def test_what_the_bus_does_goes_across_all_lines():
    picture = draw_trace(["a -> b: M", "the bus: revisions.timeout"], 80)

    assert picture[-1] == "│╌ the bus: revisions.timeout ╌│"


def test_a_terminal_without_unicode_gets_plain_characters():
    assert draw_trace(["a -> b: Ask", "b -> a: Answer"], 80, ASCII) == [
        "a             b",
        "|---- Ask --->|",
        "|<-- Answer --|",
    ]


def test_where_the_columns_are_too_wide_steps_are_numbered():
    trace = ["client -> trainer: Submit", "trainer -> client: Progress"]

    assert draw_trace(trace, 20) == ["  1. client -> trainer: Submit", "  2. trainer -> client: Progress"]


def test_what_the_bus_alone_does_is_numbered():
    assert draw_trace(["the bus: done.end"], 80) == ["  1. the bus: done.end"]


def test_of_a_long_trace_the_middle_is_left_out():
    picture = draw_trace([f"a -> b: M{number}" for number in range(500)], 80)

    assert len(picture) < 30
    assert any("480 more" in line for line in picture)
    assert "M499" in picture[-1]


def test_numbers_go_on_behind_what_is_left_out():
    picture = draw_trace([f"a{number} -> b{number}: M" for number in range(500)], 80)

    assert picture[-1] == "500. a499 -> b499: M"


def test_no_trace_is_no_picture():
    assert draw_trace([], 80) == []


ROLES = st.lists(st.from_regex(r"[a-z][a-z0-9_-]{0,12}", fullmatch=True), min_size=2, max_size=6, unique=True)


@given(roles=ROLES, data=st.data(), width=st.integers(20, 120), pens=st.sampled_from([ASCII, UNICODE]))
def test_a_picture_fits_its_width_and_names_every_message(roles, data, width, pens):
    def message(number):
        sender = data.draw(st.sampled_from(roles))
        receivers = data.draw(
            st.lists(st.sampled_from([one for one in roles if one != sender]), min_size=1, unique=True)
        )
        return f"{sender} -> {', '.join(receivers)}: M{number}"

    trace = [message(number) for number in range(data.draw(st.integers(1, 6)))]

    picture = draw_trace(trace, width, pens)

    assert len(picture) in (len(trace), len(trace) + 1)
    for number, line in enumerate(picture[-len(trace) :]):
        assert f" M{number}" in line
    if len(picture) > len(trace):
        assert max(map(len, picture)) <= width


def test_the_caret_stands_under_the_column():
    finding = Diagnostic(Mark("f.yaml", 2, 5), "E-X", "wrong")

    assert shown(finding, "a: 1\n  - b: 2\n")[1:] == ["    2 │   - b: 2", "            ^"]


def test_the_caret_counts_wide_characters_as_terminals_do():
    finding = Diagnostic(Mark("f.yaml", 1, 5), "E-X", "wrong")

    line, caret = shown(finding, "日本: x")[1:]

    assert cell_len(line[: line.index("x")]) == caret.index("^")


def test_of_a_long_line_the_part_around_the_column_is_shown():
    finding = Diagnostic(Mark("f.yaml", 1, 5001), "E-X", "wrong")

    line, caret = shown(finding, "a" * 5000 + "b" + "c" * 5000)[1:]

    assert len(line) <= 80
    assert line[caret.index("^")] == "b"


def test_a_line_that_is_not_there_is_not_shown():
    assert len(shown(Diagnostic(Mark("f.yaml", 9, 1), "E-X", "wrong"), "a: 1\n")) == 1


@given(st.text())
def test_whatever_a_file_holds_moves_no_cursor(text):
    assert visible(text).isprintable()
    assert len(visible(text)) == len(text)


@pytest.mark.parametrize("width", [80, 120])
def test_a_finding_reads_from_its_sentence_to_its_advice(width):
    finding = Diagnostic(Mark("f.yaml", 1, 3), "E-RACE", "two speak", trace=("a -> b: M",), suggestion="let one decide")

    assert shown(finding, "- a -> b: M\n", width) == [
        "f.yaml:1:3: E-RACE: two speak",
        "    1 │ - a -> b: M",
        "          ^",
        "    a        b",
        "    │── M ──>│",
        "    try: let one decide",
    ]
