"""How commands speak."""

import json

import pytest

from bus.cli.output import print_json, print_table, show_fields, show_seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.2, "0 s"), (59.4, "59 s"), (60, "1 m"), (200, "3 m 20 s"), (7500, "2 h 5 m"), (273600, "3 d 4 h")],
)
def test_spans_are_shown_in_two_units_at_most(seconds, text):
    assert show_seconds(seconds) == text


def test_json_is_one_line_and_bytes_are_hex(capsys):
    print_json({"conversation": b"\x01\xff", "text": "ü\n"})

    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert json.loads(line) == {"conversation": "01ff", "text": "ü\n"}


def test_long_values_are_cut_and_missing_ones_left_out():
    assert show_fields({"a": "x" * 20, "b": None, "c": 1}, limit=10) == 'a="xxxxxxxxx…  c=1'


def test_markup_in_a_table_is_only_text(capsys):
    print_table(["name"], [["[red]x[/red]"]], empty="none")

    assert "[red]x[/red]" in capsys.readouterr().out


def test_a_table_without_rows_is_a_sentence(capsys):
    print_table(["name"], [], empty="nothing here")

    assert capsys.readouterr().out == "nothing here\n"
