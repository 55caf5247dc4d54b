"""The fleet file: what is read, and what is said of one that is wrong."""

import pytest

from bus.errors import FleetError, ProgramError, SpecError
from bus.fleet.file import load_fleet, override_programs
from bus.fleet.supervision import RestartRule
from bus.spec.mode import Mode

GOOD = """\
fleet: newsroom
agents:
  researcher: {program: agents/researcher.py, instances: 2, settings: {corpus: docs, depth: [1, 2]}}
  writer:
    program: agents/writer.py
    environment: {OMP_NUM_THREADS: "2"}
    restart: {at_most: 1}
  editor: {human: true}
restart: {at_most: 3, within: 30s}
notify: notify-send "something waits"
modes: {newsroom: observe, echo: off}
"""


@pytest.fixture
def read(tmp_path):
    """Return a function that writes a fleet file into a project and loads it."""
    (tmp_path / "agents").mkdir()
    for name in ("researcher", "writer"):
        (tmp_path / "agents" / f"{name}.py").write_text("")

    def load(text):
        path = tmp_path / "my.fleet.yaml"
        path.write_text(text)
        return load_fleet(path, root=tmp_path)

    return load


def test_a_good_file_is_read_whole(read, tmp_path):
    fleet = read(GOOD)

    researcher, writer, editor = fleet.agents
    assert fleet.modes == {"newsroom": Mode.OBSERVE, "echo": Mode.OFF}
    assert (fleet.name, fleet.notify) == ("newsroom", ("notify-send", "something waits"))
    assert (researcher.instances, researcher.settings) == (2, {"corpus": "docs", "depth": [1, 2]})
    assert researcher.restart == RestartRule(3, 30.0)
    assert writer.program.file == tmp_path / "agents" / "writer.py"
    assert (writer.environment, writer.restart) == ({"OMP_NUM_THREADS": "2"}, RestartRule(1, 30.0))
    assert (editor.human, editor.program) == (True, None)


def test_each_instance_is_a_process_and_a_person_is_none(read):
    names = [(name, instance) for name, _, instance in read(GOOD).processes()]

    assert names == [("researcher.0", 0), ("researcher.1", 1), ("writer", 0)]


@pytest.mark.parametrize(
    ("old", "new", "at", "message"),
    [
        ("program: agents/writer.py", "program: agents/wirter.py", "agents/wirter.py", "E-NO-PROGRAM"),
        ("program: agents/writer.py", "progam: agents/writer.py", "progam", "did you mean 'program'?"),
        ("instances: 2", "instances: two", "two", "expected a whole number of at least 1"),
        ("instances: 2", "instances: 0", "0, settings", "expected a whole number of at least 1"),
        ("human: true", "human: maybe", "maybe", "expected true or false, got 'maybe'"),
        ("{human: true}", "{}", "{}", "expected 'program', or 'human: true'"),
        ("{human: true}", "agents/editor.py", "agents/editor.py", "write {program: agents/editor.py}"),
        ("within: 30s", "within: 30", "30}", "did you mean '30s'?"),
        ("within: 30s", "within: forever", "forever", "expected a duration above zero"),
        ("within: 30s", "within: 0s", "0s", "expected a duration above zero"),
        (
            'OMP_NUM_THREADS: "2"',
            "OMP_NUM_THREADS: 2",
            "2}\n    restart",
            "put it in quotes if you mean text",
        ),
        ('OMP_NUM_THREADS: "2"', '"A=B": "2"', '"A=B"', "expected the name of an environment variable"),
        ("  editor:", "  Editor:", "Editor:", "expected a name for an agent"),
        ("  editor:", "  broker:", "broker:", "'broker' is the broker's own name"),
        ("fleet: newsroom", "fleet: My Room", "My Room", "expected a name"),
        ("fleet: newsroom", "flet: newsroom", "flet", "did you mean 'fleet'?"),
        ('"something waits"', "'half", "notify-send", "balanced quotes"),
        ("newsroom: observe", "newsroom: watch", "watch", "expected one of enforce, observe, off"),
        ("newsroom: observe", "Newsroom: observe", "Newsroom", "expected the name of a protocol"),
    ],
)
def test_a_mistake_is_placed_and_explained(read, old, new, at, message):
    text = GOOD.replace(old, new, 1)
    before = text[: text.index(at)]
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")

    with pytest.raises(SpecError) as caught:
        read(text)

    assert f"my.fleet.yaml:{line}:{column}: " in str(caught.value)
    assert message in str(caught.value)


def test_every_mistake_is_told_at_once(read):
    with pytest.raises(SpecError) as caught:
        read(GOOD.replace("instances: 2", "instances: -1").replace("agents/writer.py", "agents/none.py"))

    assert len(caught.value.diagnostics) == 2


def test_a_fleet_needs_agents(read):
    with pytest.raises(SpecError, match="expected at least one agent"):
        read("fleet: empty\nagents: {}\n")


def test_a_program_may_stand_in_for_a_person(read, tmp_path):
    fleet = override_programs(read(GOOD), {"editor": "agents/writer.py"}, root=tmp_path)

    editor = fleet.agents[2]
    assert (editor.human, str(editor.program)) == (False, "agents/writer.py")


def test_overriding_an_unknown_agent_names_the_nearest(read, tmp_path):
    with pytest.raises(FleetError, match=r"did you mean 'editor'\?"):
        override_programs(read(GOOD), {"edtor": "agents/writer.py"}, root=tmp_path)


def test_overriding_with_a_missing_program_is_refused(read, tmp_path):
    with pytest.raises(ProgramError, match="does not exist"):
        override_programs(read(GOOD), {"editor": "agents/none.py"}, root=tmp_path)
