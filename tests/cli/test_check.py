"""``palaver check``: what it prints and how it ends."""

import json
import os

import pytest

from bus.cli.main import main

GOOD = """\
language: 1
protocol: greet
version: 1.0.0
roles: {a: {}, b: {}}
messages:
  Hello: {fields: {text: string}}
outcomes: {done: Said.}
conversation:
  - a -> b: Hello
  - end: done
"""
BAD = GOOD.replace("a -> b: Hello", "a -> b: Helo")


@pytest.fixture
def check(capsys, tmp_path, monkeypatch):
    """Return a function that writes files, checks them and gives (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(files, *options):
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        with pytest.raises(SystemExit) as ended:
            main(["check", *files, *options])
        return ended.value.code, *capsys.readouterr()

    return run


def test_a_good_file_is_told_so_on_standard_error(check):
    assert check({"greet.protocol.yaml": GOOD}) == (0, "", "1 file: 0 errors, 0 warnings\n")


def test_a_bad_file_exits_with_1_and_shows_place_rule_and_nearest_word(check):
    code, out, err = check({"greet.protocol.yaml": BAD})

    assert code == 1
    assert "greet.protocol.yaml:9:" in out
    assert "did you mean 'Hello'?" in out
    assert err.startswith("1 file: 1 error")


def test_json_is_a_list_of_findings(check):
    code, out, err = check({"greet.protocol.yaml": BAD}, "--format", "json")

    [first] = json.loads(out)
    assert (code, err) == (1, "")
    assert list(first) == [
        "file", "line", "column", "rule", "severity", "role", "message", "trace", "suggestion",
    ]  # fmt: skip
    assert first["line"] == 9


def test_json_of_a_good_file_is_an_empty_list(check):
    assert check({"greet.protocol.yaml": GOOD}, "--format", "json") == (0, "[]\n", "")


def test_a_finding_shows_its_line_its_trace_and_what_to_try(check):
    text = GOOD.replace("  - end: done", "  - {a -> b: Hello*, max: 3}\n  - b -> a: Hello\n  - end: done")

    _, out, _ = check({"greet.protocol.yaml": text})

    assert "    11 │   - b -> a: Hello\n             ^\n" in out
    assert "    a            b\n    │── Hello ──>│\n    │<── Hello ──│\n" in out
    assert "    try: let one of them decide" in out


def test_github_annotations_are_workflow_commands(check):
    _, out, _ = check({"greet.protocol.yaml": BAD}, "--format", "github")

    line = next(line for line in out.splitlines() if line.startswith("::error"))
    assert "::error file=greet.protocol.yaml,line=9,col=" in line
    assert ",title=E-" in line


def test_fleet_and_training_files_are_known_by_their_names(check):
    code, out, _ = check({"a.fleet.yaml": "flet: x\n", "b.training.yaml": "train: x\n"})

    assert code == 1
    assert "a.fleet.yaml:1:1: E-FLEET" in out
    assert "b.training.yaml:1:1: E-TRAINING" in out


def test_a_folder_is_looked_through(check, tmp_path, capsys):
    check({"greet.protocol.yaml": BAD, "other.protocol.yaml": GOOD})

    with pytest.raises(SystemExit) as ended:
        main(["check", str(tmp_path)])

    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("2 files: 1 error")


WORDS = "language: 1\nlibrary: words\nversion: 1.0.0\nmessages: {Hello: {fields: {text: string}}}\n"
USING = GOOD.replace("messages:\n  Hello: {fields: {text: string}}\n", "imports: [words@^1]\n")


def test_what_a_file_imports_is_found_beside_it(check):
    code, out, err = check({"greet.protocol.yaml": USING, "words.protocol.yaml": WORDS})

    assert (code, out) == (0, "")
    assert err.startswith("2 files: 0 errors, 0 warnings")


def test_an_import_in_another_version_is_a_finding_that_names_it(check):
    code, out, _ = check({"greet.protocol.yaml": USING.replace("^1", "^2"), "words.protocol.yaml": WORDS})

    assert code == 1
    assert "greet.protocol.yaml:5:11: E-UNKNOWN-IMPORT" in out
    assert "found 1.0.0 (words.protocol.yaml)" in out


def test_names_in_annotations_cannot_end_them(check):
    _, out, _ = check({"a,b:c%.protocol.yaml": BAD}, "--format", "github")

    assert out.startswith("::error file=a%2Cb%3Ac%25.protocol.yaml,line=9,")


@pytest.mark.parametrize("form", ["text", "json", "github"])
def test_a_file_name_that_is_no_text_can_be_printed(check, form):
    name = os.fsdecode(b"caf\xe9.protocol.yaml")

    code, out, _ = check({name: BAD}, "--format", form)

    assert code == 1
    assert "E-UNKNOWN-MESSAGE" in out


@pytest.mark.parametrize("name", ["missing.protocol.yaml", ".", "x" * 5000, "greet.protocol.yaml/x"])
def test_nothing_to_check_is_a_usage_error(check, tmp_path, capsys, name):
    if "/" in name:
        (tmp_path / "greet.protocol.yaml").write_text(GOOD)
    with pytest.raises(SystemExit) as ended:
        main(["check", name])

    assert ended.value.code == 2
    assert "expected a" in capsys.readouterr().err


def test_an_unreadable_file_is_a_finding(check, tmp_path):
    (tmp_path / "x.protocol.yaml").write_bytes(b"\xff\xfe")

    code, out, _ = check({"greet.protocol.yaml": GOOD}, "x.protocol.yaml")

    assert code == 1
    assert "x.protocol.yaml:1:1: E-SYNTAX" in out
