"""What the commands print that make something from a protocol."""

import json
import re
from pathlib import Path

import pytest

from bus.cli.main import GROUPS, main
from bus.spec.asyncapi import asyncapi
from bus.spec.codegen import generate_module
from bus.spec.compile import load_protocol
from bus.spec.document import document
from bus.spec.draw import draw_sequence
from bus.spec.draw_states import draw_states

CONTRACT_NET = str(Path(__file__).parents[1] / "spec" / "data" / "contract-net.protocol.yaml")
newsroom = load_protocol("newsroom")


@pytest.fixture
def palaver(capsys):
    """Return a function that runs a command and gives (exit code, standard output, standard error)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([*arguments])
        return ended.value.code, *capsys.readouterr()

    return run


def test_draw_prints_the_sequence_diagram(palaver):
    assert palaver("draw", "newsroom") == (0, draw_sequence(newsroom.spec), "")


def test_draw_prints_the_states_of_a_role(palaver):
    assert palaver("draw", "newsroom", "--role", "writer")[1] == draw_states(newsroom.spec, newsroom.tables, "writer")


def test_draw_prints_the_states_of_every_role_as_markdown(palaver):
    _, out, _ = palaver("draw", "newsroom", "--states")

    for role in newsroom.roles:
        assert f"## {role.name}\n\n```mermaid\n{draw_states(newsroom.spec, newsroom.tables, role.name)}```\n" in out


def test_doc_prints_the_reference(palaver):
    assert palaver("doc", "newsroom") == (0, document(newsroom.spec, newsroom.tables), "")


def test_schema_prints_all_messages_or_one(palaver):
    whole = json.loads(palaver("schema", "newsroom")[1])
    one = json.loads(palaver("schema", "newsroom", "--message", "Draft")[1])

    assert {"Draft", "Source"} <= set(whole["$defs"])
    assert (one["title"], one["additionalProperties"]) == ("Draft", False)
    assert "additionalProperties" not in json.loads(palaver("schema", "newsroom", "-m", "Draft", "--reading")[1])


def test_asyncapi_prints_the_document(palaver):
    assert json.loads(palaver("asyncapi", "newsroom")[1]) == json.loads(json.dumps(asyncapi(newsroom.spec)))


def test_codegen_writes_a_file(palaver, tmp_path):
    assert palaver("codegen", "newsroom", "-o", str(tmp_path / "newsroom_bus.py")) == (0, "", "")
    assert (tmp_path / "newsroom_bus.py").read_text(encoding="utf-8") == generate_module(newsroom.spec)


def test_tools_prints_what_may_be_sent_in_a_state_by_number_or_name(palaver):
    by_name = palaver("tools", "newsroom", "--role", "editor", "--state", "Draft")[1]

    assert [tool["function"]["name"] for tool in json.loads(by_name)] == ["Approve", "Kill", "Revise"]
    assert palaver("tools", "newsroom", "--role", "editor", "--state", "1")[1] == by_name
    assert [one["function"]["name"] for one in json.loads(palaver("tools", "newsroom", "--role", "desk")[1])] == [
        "Brief"
    ]


def test_tools_lists_the_states(palaver):
    _, out, _ = palaver("tools", "newsroom", "--role", "summarizer", "--list-states")

    assert out.splitlines()[0].split() == ["state", "name", "next"]
    assert "start" in out
    assert "!Digest to writer" in out


@pytest.mark.parametrize("command", [["draw"], ["doc"], ["schema"], ["asyncapi"], ["codegen"]])
def test_what_needs_the_spec_alone_is_made_of_protocols_that_are_not_run_yet(palaver, command):
    code, out, _ = palaver(*command, CONTRACT_NET)

    assert code == 0
    assert "CallForProposals" in out


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["draw", "newsrom"], 1, "did you mean 'newsroom'?"),
        (["draw", "newsroom", "--role", "writr"], 2, "did you mean 'writer'?"),
        (["schema", "newsroom", "--message", "Drft"], 2, "did you mean 'Draft'?"),
        (["tools", "newsroom", "--role", "writer", "--state", "99"], 2, "a number below 14"),
        (["doc", "newsroom", "-o", "/no/such/folder/x"], 2, "expected a file that can be written"),
    ],
)
def test_what_there_is_not_is_told_with_what_there_is(palaver, arguments, code, text):
    ended, _, err = palaver(*arguments)

    assert ended == code
    assert text in " ".join(err.replace("│", " ").split())


def test_the_page_about_them_shows_every_command_and_none_that_there_is_not():
    page = (Path(__file__).parents[2] / "docs" / "generated.md").read_text(encoding="utf-8")

    assert set(re.findall(r"palaver ([a-z]+)", page)) == set(GROUPS["bus.cli.generated"][1])
