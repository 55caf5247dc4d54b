"""Loading programs: each has one Agent called agent."""

import pytest

from bus.errors import PalaverError, ProgramError
from bus.fleet.launch import load_program
from bus.fleet.program import locate_program

ECHO = """
from bus.sdk.agent import Agent
from bus.spec.compile import load_protocol

echo = load_protocol("echo")
{name} = Agent(plays=echo.role("echo"))
"""


@pytest.fixture
def load(tmp_path):
    def write_and_load(text):
        (tmp_path / "mine.py").write_text(text)
        return load_program(locate_program("mine.py", tmp_path))

    return write_and_load


def test_a_program_gives_its_agent(load):
    agent = load(ECHO.format(name="agent"))

    assert agent.name == "echo"


def test_an_agent_of_another_name_is_pointed_out(load):
    with pytest.raises(ProgramError, match=r"mine\.py: expected one Agent object called 'agent'.*rename 'other'"):
        load(ECHO.format(name="other"))


def test_a_program_without_agent_is_told_what_to_write(load):
    with pytest.raises(ProgramError, match="write agent = Agent"):
        load("x = 1")


def test_something_else_called_agent_is_named(load):
    with pytest.raises(ProgramError, match="got 'int'"):
        load("agent = 1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n\n1 / 0", r"mine\.py:3: the program failed: ZeroDivisionError"),
        ("import palaver_no_such_module", r"mine\.py:1: the program failed: ModuleNotFoundError"),
        ("raise SystemExit(3)", r"mine\.py:1: the program failed: SystemExit: 3"),
        ("x = (", "the program failed: SyntaxError"),
    ],
)
def test_a_program_that_fails_is_named_with_its_line(load, text, message):
    with pytest.raises(ProgramError, match=message):
        load(text)


def test_what_palaver_itself_refuses_in_a_program_is_told_as_it_is(load):
    with pytest.raises(PalaverError, match="expected the name of a protocol") as caught:
        load("from bus.spec.compile import load_protocol\nload_protocol('ecco')")

    assert not isinstance(caught.value, ProgramError)
