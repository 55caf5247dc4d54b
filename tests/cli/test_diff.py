"""``palaver diff``: what it prints and how it ends."""

import json

import pytest

from bus.cli.main import main

OLD = """\
language: 1
protocol: greet
version: 1.0.0
roles: {a: {}, b: {}}
messages:
  Hello: {fields: {text: string}}
  Nod: {}
outcomes: {done: Said.}
conversation:
  - a -> b: Hello
  - choice: b
    branches:
      nod: [b -> a: Nod]
  - end: done
"""
BREAKING = OLD.replace("  Nod: {}", "  Nod: {}\n  Frown: {}").replace(
    "nod: [b -> a: Nod]", "nod: [b -> a: Nod]\n      frown: [b -> a: Frown]"
)
ADDITIVE = OLD.replace("{text: string}", "{text: string, loud: optional bool}").replace("1.0.0", "1.1.0")


@pytest.fixture
def diff(capsys, tmp_path, monkeypatch):
    """Return a function that compares two texts and gives (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.protocol.yaml").write_text(OLD)

    def run(new, *options):
        (tmp_path / "new.protocol.yaml").write_text(new)
        with pytest.raises(SystemExit) as ended:
            main(["diff", "old.protocol.yaml", "new.protocol.yaml", *options])
        return ended.value.code, *capsys.readouterr()

    return run


def test_equal_files_exit_with_0_and_every_role_is_full(diff):
    code, out, err = diff(OLD)

    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[2:4]] == [["a", "full"], ["b", "full"]]
    assert err == "0 ERR, 0 WARN, 0 INFO; the version may stay\n"


def test_breaking_change_exits_with_1_and_draws_the_trace(diff):
    code, out, err = diff(BREAKING)

    assert code == 1
    assert "a  forward " in out
    assert "b  backward" in out
    lines = [line.strip() for line in out.splitlines()]
    assert lines[3:6] == [
        "an old agent in new conversations: cannot take b -> a: Frown here",
        "1. a -> b: Hello",
        "2. b -> a: Frown  ✗",
    ]
    assert "new.protocol.yaml:15:15: ERR order-receives: a of 1.0.0 cannot take b -> a: Frown here" in out
    assert err == "2 ERR, 0 WARN, 1 INFO; asks for a major version, and none was made\n"


def test_json_has_findings_verdicts_and_the_version_that_is_needed(diff):
    code, out, err = diff(BREAKING, "--format", "json")

    found = json.loads(out)
    assert (code, err) == (1, "")
    first = found["findings"][0]
    assert set(first) == {
        "file", "line", "column", "rule", "level", "role", "message", "old_senders", "old_receivers", "trace",
        "suggestion",
    }  # fmt: skip
    assert (first["rule"], first["role"], first["trace"]) == (
        "order-receives",
        "a",
        ["a -> b: Hello", "b -> a: Frown"],
    )
    assert [(role["role"], role["verdict"]) for role in found["roles"]] == [("a", "forward"), ("b", "backward")]
    assert found["roles"][1]["new_in_old"]["trace"] == ["a -> b: Hello", "b -> a: Frown"]
    assert (found["required_bump"], found["made_bump"]) == ("major", "none")


def test_github_annotations_stand_at_the_places_in_the_files(diff):
    _, out, _ = diff(BREAKING, "--format", "github")

    first, *_ = out.splitlines()
    assert first.startswith("::error file=new.protocol.yaml,line=15,col=15,title=order-receives::a of 1.0.0 cannot")
    assert first.endswith("(after a -> b: Hello, b -> a: Frown)")


@pytest.mark.parametrize(("level", "code"), [("ERR", 0), ("WARN", 0), ("INFO", 1), ("info", 1)])
def test_fail_on_says_how_serious_a_finding_must_be(diff, level, code):
    assert diff(ADDITIVE, "--fail-on", level)[0] == code


def test_additive_change_with_its_minor_version_passes(diff):
    code, _, err = diff(ADDITIVE)

    assert (code, err) == (0, "0 ERR, 0 WARN, 1 INFO; asks for a minor version, and a minor one was made\n")


def test_file_with_an_error_is_refused_with_its_diagnostics(diff):
    code, _, err = diff(OLD.replace("b -> a: Nod", "b -> a: Nodd"))

    assert code == 1
    assert "new.protocol.yaml:13:" in err
    assert "E-UNKNOWN-MESSAGE" in err


@pytest.mark.parametrize("name", ["absent.protocol.yaml", "absent"])
def test_missing_file_is_a_mistake_in_the_command_line(diff, capsys, name):
    with pytest.raises(SystemExit) as ended:
        main(["diff", name, "old.protocol.yaml"])

    assert ended.value.code == 2
    assert "OLD" in capsys.readouterr().err


def test_roles_named_like_markup_are_shown_as_they_are(diff):
    text = OLD.replace("{text: string}", "{text: {type: string, pattern: '[bold]'}}").replace("1.0.0", "2.0.0")

    _, out, _ = diff(text)

    assert "pattern was not set and is '[bold]'" in out
