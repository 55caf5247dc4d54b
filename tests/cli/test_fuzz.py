"""``palaver fuzz``: what it prints and how it ends."""

import json

import pytest

from bus.cli.fuzz import show_findings
from bus.cli.main import main
from bus.testing.fuzzer import Finding

GREET = """\
language: 1
protocol: greet
version: 1.0.0
roles: {a: {}, b: {}}
messages:
  Hello: {fields: {text: string}}
  Thanks: {}
outcomes: {done: Said.}
conversation:
  - a -> b: Hello
  - b -> a: Thanks
  - end: done
"""
AGENT = """\
from pathlib import Path
from bus import Agent, load_protocol

greet = load_protocol(Path("greet.protocol.yaml"))
agent = Agent(plays=greet.role("b"))

@agent.on(greet.Hello)
async def answer(hello, conversation):
    %s
"""


@pytest.fixture
def fuzz(capsys, tmp_path, monkeypatch):
    """Return a function that fuzzes greet and gives (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "greet.protocol.yaml").write_text(GREET)

    def run(*options):
        with pytest.raises(SystemExit) as ended:
            main(["fuzz", "greet.protocol.yaml", *options])
        return ended.value.code, *capsys.readouterr()

    return run


def test_a_sound_protocol_exits_with_0_and_shows_what_was_played(fuzz):
    code, out, err = fuzz("--runs", "30", "--seed", "4")

    assert code == 0
    assert "greet@1.0.0: 30 runs, seed 4" in out
    assert "all refused" in out
    assert "outcomes: done" in out
    assert err == "0 findings\n"


def test_json_is_one_object_and_equal_for_equal_seeds(fuzz):
    first, second = (json.loads(fuzz("--runs", "30", "--json")[1]) for _ in range(2))

    assert first == second
    assert (first["protocol"], first["runs"], first["findings"]) == ("greet", 30, [])
    assert first["messages"] > 0
    assert first["illegal_tried"] > 0
    assert set(first["outcomes"]) <= {"done", "failed", "canceled"}


def test_a_finding_is_shown_with_its_seed_and_the_way_to_it(capsys):
    show_findings([Finding("orphan", "Hello of a can never be delivered", "0-7", ("a -> b: Hello",), 3)])

    out, err = capsys.readouterr()
    assert "1 a -> b: Hello" in out
    assert "orphan: Hello of a can never be delivered (in 3 runs; first with seed 0-7)" in err


def test_a_good_agent_exits_with_0(fuzz, tmp_path):
    (tmp_path / "good.py").write_text(AGENT % "return greet.Thanks()")

    code, out, err = fuzz("--agent", "b=./good.py", "--runs", "5")

    assert (code, err) == (0, "0 findings\n")
    assert "b as b of greet@1.0.0: 5 runs, seed 0" in out


def test_an_agent_that_raises_exits_with_1_and_shows_what_it_was_sent(fuzz, tmp_path):
    (tmp_path / "bad.py").write_text(AGENT % "raise RuntimeError('no voice')")

    code, out, _ = fuzz("--agent", "b=./bad.py", "--runs", "3", "--json")

    [found] = json.loads(out)["findings"]
    assert code == 1
    assert (found["kind"], found["message"]) == ("raises", "RuntimeError: no voice")
    assert found["trace"][0].startswith("a -> b: Hello {'text': ")


@pytest.mark.parametrize("given", ["b", "c=./good.py"])
def test_an_agent_without_program_or_role_is_a_wrong_command_line(fuzz, given):
    code, _, err = fuzz("--agent", given)

    assert code == 2
    assert "expected" in err
