"""LLM tools: exactly what may be sent now."""

import jsonschema
import pytest
from protocol_text import small
from spec_source import shipped

from bus.errors import BodyInvalid, NotAllowed
from bus.sdk.part import part_of
from bus.spec.compile import compile_protocol, load_protocol
from bus.spec.projection import project
from bus.spec.state_names import find_state, machine_of, steps_of
from bus.spec.tools import read_call, receivers_of, tools_of

newsroom = load_protocol("newsroom")
WRITER = newsroom.tables.machines[newsroom.role_index("writer")]
CHOOSING = compile_protocol(
    small(
        "M: {fields: {text: string}}, N: {}",
        "- choice: a\n  branches:\n    left: [a -> b: M]\n    right: [a -> c: M]\n- a -> b, c: N",
    ).replace("b: {}}", "b: {}, c: {}}")
)


def offered(role, state):
    spec, tables = newsroom.spec, newsroom.tables
    machine = machine_of(spec, tables, role)
    tools = tools_of(spec, tables, machine, find_state(machine, steps_of(spec, tables, machine), state))
    return {tool["function"]["name"]: tool["function"] for tool in tools}


def test_a_tool_has_the_shape_of_function_calling():
    assert tools_of(newsroom.spec, newsroom.tables, WRITER, 8) == [
        {
            "type": "function",
            "function": {
                "name": "Spiked",
                "description": "Goes to desk.",
                "parameters": {
                    "type": "object",
                    "properties": {"reason": {"type": "string"}},
                    "required": ["reason"],
                    "additionalProperties": False,
                },
            },
        }
    ]


def test_a_person_in_the_editor_s_place_is_offered_the_three_answers_and_nothing_else():
    assert list(offered("editor", "Draft")) == ["Approve", "Kill", "Revise"]


def test_nothing_is_offered_where_a_role_listens():
    assert offered("writer", "Draft") == {}


@pytest.mark.parametrize("name", ["newsroom", "training", "task", "generation", "echo"])
def test_in_every_state_the_tools_are_what_the_sdk_allows(name):
    protocol = load_protocol(name)
    for role, machine in enumerate(protocol.tables.machines):
        for state in range(len(machine.send)):
            tools = tools_of(protocol.spec, protocol.tables, machine, state)
            allowed = part_of(protocol, role).allowed(state)

            assert [tool["function"]["name"] for tool in tools] == [one.__name__ for one in allowed]
            for tool in tools:
                jsonschema.Draft202012Validator.check_schema(tool["function"]["parameters"])


def test_descriptions_say_what_it_is_for_to_whom_and_what_it_cuts_short():
    spec = shipped("task")
    tables = project(spec).tables()
    machine = machine_of(spec, tables, "client")
    [tool] = [one for one in tools_of(spec, tables, machine, 2) if one["function"]["name"] == "Cancel"]

    assert tool["function"]["description"] == "The client wants it stopped.\nGoes to agent.\nCuts work short."


def test_types_that_a_message_uses_come_with_it():
    brief = offered("summarizer", "FindingsDone")["Digest"]["parameters"]

    assert brief["properties"]["sources"]["items"] == {"$ref": "#/$defs/Source"}
    assert set(brief["$defs"]) == {"Source"}


def test_a_message_that_may_go_to_different_roles_is_a_tool_for_each():
    [machine, *_] = CHOOSING.tables.machines
    tools = [one["function"]["name"] for one in tools_of(CHOOSING.spec, CHOOSING.tables, machine, machine.start)]

    assert tools == ["M_to_b", "M_to_c"]
    message, address = read_call(CHOOSING, machine, machine.start, "M_to_c", '{"text": "x"}')
    assert (message, receivers_of(CHOOSING.spec, CHOOSING.tables)[address]) == (CHOOSING.M(text="x"), ("c",))


def test_a_call_becomes_the_message_and_its_receivers():
    message, address = read_call(newsroom, WRITER, 8, "Spiked", {"reason": "stale"})
    to = receivers_of(newsroom.spec, newsroom.tables)[address]

    assert (message, to) == (newsroom.Spiked(reason="stale"), ("desk",))


@pytest.mark.parametrize(
    ("name", "arguments", "error", "text"),
    [
        ("Draft", "{}", NotAllowed, "expected a tool that is offered now, got 'Draft': offered are Spiked"),
        ("Spiked", "{", BodyInvalid, "Spiked: expected arguments in JSON, got '{'"),
        ("Spiked", "[]", BodyInvalid, "Spiked: expected a JSON object as arguments, got list"),
        ("Spiked", "{}", BodyInvalid, "reason: expected a value, got none"),
        ("Spiked", {"reason": 1}, BodyInvalid, "reason: expected a valid string, got int 1"),
    ],
)
def test_a_wrong_call_is_refused_in_words_for_the_llm(name, arguments, error, text):
    with pytest.raises(error) as caught:
        read_call(newsroom, WRITER, 8, name, arguments)

    assert text in str(caught.value)
