"""One line of a dataset → one row, or a refusal that names file, line and place; whatever the file holds."""

import json
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training_service.data import MAX_FILE_BYTES, MAX_LINE_BYTES, check_artifact, load_dataset, read_rows
from training_service.encoder import Encoder
from training_service.errors import DataError
from training_service.request import Artifact
from training_service.row import MAX_TURNS, Row, parse_row

ASKED = {"role": "user", "content": "Weather in Oslo?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
TOLD = {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "rain"}
SAID = {"role": "assistant", "content": "It rains."}


def parsed(row: object) -> Row:
    return parse_row(json.dumps(row).encode(), 1, "rows.jsonl:1")


def test_every_turn_of_the_assistant_in_a_chat_is_learned() -> None:
    row = parsed({"messages": [ASKED, SAID, ASKED, SAID]})

    assert row.trained == (1, 3)


def test_turn_of_weight_zero_is_not_learned() -> None:
    row = parsed({"messages": [ASKED, {**SAID, "weight": 0}, ASKED, {**SAID, "weight": 1}]})

    assert row.trained == (3,)


def test_tool_calls_come_with_arguments_as_objects_whichever_way_they_were_written() -> None:
    as_object = {"function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    bare = {"name": "weather", "arguments": {"city": "Oslo"}}
    rows = [
        parsed({"messages": [ASKED, {**CALLED, "tool_calls": [call]}, TOLD, SAID]}) for call in (CALL, as_object, bare)
    ]

    functions = [row.messages[1]["tool_calls"][0]["function"] for row in rows]  # type: ignore[index]  # a list of calls
    assert functions == [{"name": "weather", "arguments": {"city": "Oslo"}}] * 3


def test_tools_are_offered_and_called_by_name() -> None:
    tool = {"name": "forecast", "parameters": {}}
    row = parsed({"tools": [tool], "messages": [ASKED, CALLED, TOLD, SAID]})

    assert row.tools == ({"type": "function", "function": tool},)
    assert row.tool_names == {"forecast", "weather"}
    assert row.trained == (1, 3)


@pytest.mark.parametrize("completion", ["It rains.", [SAID]])
def test_completion_may_be_text_or_turns(completion: object) -> None:
    row = parsed({"prompt": [ASKED, SAID, ASKED], "completion": completion})

    assert (row.messages, row.trained, row.begun) == ((ASKED, SAID, ASKED, SAID), (3,), 0)


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected"),
    [
        ("Weather in Oslo?", "It rains.", "No."),
        ([ASKED], [SAID], [{"role": "assistant", "content": "No."}]),
        ("Weather in Oslo?", [ASKED, SAID], [ASKED, {"role": "assistant", "content": "No."}]),
        (None, [ASKED, SAID], [ASKED, {"role": "assistant", "content": "No."}]),
    ],
    ids=["text", "answers", "chats beside a prompt", "chats"],
)
def test_preference_is_the_same_in_all_its_forms(prompt: object, chosen: object, rejected: object) -> None:
    row = parsed({"prompt": prompt, "chosen": chosen, "rejected": rejected})

    assert row.rejected is not None
    assert (row.messages, row.trained) == ((ASKED, SAID), (1,))
    assert (row.rejected.messages, row.rejected.trained) == ((ASKED, {"role": "assistant", "content": "No."}), (1,))


@pytest.mark.parametrize("tools", [None, [{"type": "function", "function": {"name": "weather"}}]])
def test_preference_is_taken_as_openai_takes_it(tools: list[object] | None) -> None:
    given = {"messages": [ASKED], "parallel_tool_calls": True} | ({} if tools is None else {"tools": tools})
    no = {"role": "assistant", "content": "No."}

    row = parsed({"input": given, "preferred_output": [SAID], "non_preferred_output": [no]})

    assert row == parsed({"prompt": [ASKED], "chosen": [SAID], "rejected": [no], "tools": tools})


def test_preference_learns_from_where_its_chats_part() -> None:
    other = {"role": "assistant", "content": "No."}
    row = parsed({"chosen": [ASKED, SAID, ASKED, SAID], "rejected": [ASKED, SAID, ASKED, other]})

    assert row.trained == (3,)
    assert row.rejected is not None
    assert row.rejected.trained == (3,)


def test_preference_of_equal_chats_still_has_an_answer() -> None:
    row = parsed({"chosen": [ASKED, SAID], "rejected": [ASKED, SAID]})

    assert row.trained == (1,)


HUGE = "9" * 5000
BAD = {
    "not a number": ('{"text": NaN}', "NaN, which is no JSON number"),
    "infinity": ('{"messages": [-Infinity]}', "-Infinity, which is no JSON number"),
    "number too large": ('{"text": "a", "n": 1e999}', "a number too large: 1e999"),
    "integer of 5000 digits": (f'{{"text": "a", "n": {HUGE}}}', "expected a JSON object in one line"),
    "lone surrogate": ('{"text": "a\\ud800b"}', "half of a surrogate pair"),
    "lone surrogate in a key": ('{"text": "a", "\\udfff": 1}', "half of a surrogate pair"),
    "nested too deep": ('{"messages": ' + "[" * 50_000 + "]" * 50_000 + "}", "nested too deep"),
    "cut off": ('{"text": "a', "expected a JSON object in one line"),
    "two rows in a line": ('{"text": "a"}{"text": "b"}', "expected a JSON object in one line"),
    "byte order mark": ('\ufeff{"text": "a"}', "expected a JSON object in one line"),
    "bare value": ("null", "expected a JSON object, got NoneType"),
    "no known key": ('{"a": 1}', "expected the keys 'messages'"),
    "text of another type": ('{"text": ["a"]}', "text: expected text, got"),
    "prompt missing": ('{"completion": "a"}', "prompt: expected a list of turns, got None"),
    "completion of another type": ('{"prompt": "a", "completion": 1}', "completion: expected text or a list"),
    "turns of another type": ('{"messages": "a"}', "messages: expected a list of turns, got 'a'"),
    "no turns": ('{"messages": []}', "messages: expected a list of turns"),
    "turn of another type": ('{"messages": [1]}', r"messages\[0\]: expected an object"),
    "unknown role": ('{"messages": [{"role": "king"}]}', r"messages\[0\].role: expected one of"),
    "role of another type": ('{"messages": [{"role": {}}]}', r"messages\[0\].role: expected one of"),
    "content missing": ('{"messages": [{"role": "user"}]}', r"messages\[0\].content: expected text, got None"),
    "content of another type": ('{"messages": [{"role": "user", "content": [1]}]}', "content: expected text"),
    "weight out of range": ('{"messages": [{"role": "user", "content": "", "weight": 2}]}', "weight: expected 0"),
    "name of another type": ('{"messages": [{"role": "user", "content": "", "name": 1}]}', "name: expected text"),
    "too many turns": (json.dumps({"messages": [ASKED] * (MAX_TURNS + 1)}), "expected at most 512 turns, got 513"),
    "calls of the user": (json.dumps({"messages": [{**ASKED, "tool_calls": [CALL]}]}), "in a turn of the assistant"),
    "calls of another type": ('{"messages": [{"role": "assistant", "tool_calls": "f"}]}', "expected a list of calls"),
    "call of another type": ('{"messages": [{"role": "assistant", "tool_calls": [1]}]}', "expected an object"),
    "call without a name": ('{"messages": [{"role": "assistant", "tool_calls": [{}]}]}', "the name of a tool"),
    "arguments no JSON": (
        '{"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}]}',
        r"tool_calls\[0\].function.arguments: expected a JSON object",
    ),
    "arguments no object": (
        '{"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}]}',
        r"arguments: expected an object, got \[1\]",
    ),
    "surrogate in arguments": (
        r'{"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{\"a\": \"\\ud800\"}"}]}]}',
        "half of a surrogate pair",
    ),
    "tools of another type": (json.dumps({"tools": "f", "messages": [ASKED]}), "tools: expected a list of tools"),
    "tool without a name": (json.dumps({"tools": [{}], "messages": [ASKED]}), r"tools\[0\]: expected an object with"),
    "text after a call": (json.dumps({"prompt": [ASKED, CALLED], "completion": "a"}), "turns after a tool call"),
    "preference without a prompt": ('{"chosen": "a", "rejected": "b"}', "prompt: expected what 'chosen'"),
    "preference without rejected": ('{"prompt": "p", "chosen": "a"}', "expected both 'chosen' and 'rejected'"),
    "preferred output alone": (
        json.dumps({"input": {"messages": [ASKED]}, "preferred_output": [SAID]}),
        "expected both 'preferred_output' and 'non_preferred_output'",
    ),
    "preference for nothing": (
        json.dumps({"preferred_output": [SAID], "non_preferred_output": [SAID]}),
        "input: expected an object with 'messages', got None",
    ),
    "preference for no turns": (
        json.dumps({"input": {}, "preferred_output": [SAID], "non_preferred_output": [SAID]}),
        "input.messages: expected a list of turns",
    ),
    "preference of two kinds": (
        json.dumps({"prompt": "p", "chosen": "a", "rejected": [SAID]}),
        "chosen: expected a list",
    ),
    "answers without a prompt": (json.dumps({"chosen": [SAID], "rejected": [SAID]}), "or a 'prompt' beside it"),
    "chat without the prompt": (
        json.dumps({"prompt": "other", "chosen": [ASKED, SAID], "rejected": [ASKED, SAID]}),
        "a chat that holds the prompt",
    ),
    "chats that begin apart": (
        json.dumps({"chosen": [ASKED, SAID], "rejected": [{"role": "user", "content": "?"}, SAID]}),
        "to share their prompt",
    ),
    "preference for a question": (
        json.dumps({"chosen": [ASKED, SAID, ASKED], "rejected": [ASKED, SAID]}),
        "chosen: expected a turn of the assistant",
    ),
}


@pytest.mark.parametrize(("line", "said"), BAD.values(), ids=BAD.keys())
def test_bad_row_is_refused_by_file_and_line(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"text": "good"}}\n\n{line}\n', encoding="utf-8")

    with pytest.raises(DataError, match=rf"rows\.jsonl:3: (.*)({said})"):
        list(read_rows(path))


@pytest.mark.parametrize(("line", "byte"), [(b'{"text": "\xff"}', "0xff at 10"), (b"\xff\xfe{\x00", "0xff at 0")])
def test_other_encodings_are_refused_with_the_first_byte_that_tells(line: bytes, byte: str) -> None:
    with pytest.raises(DataError, match=f"x:1: expected UTF-8, got byte {byte}; save the file as UTF-8"):
        parse_row(line, 1, "x:1")


def read(path: Path) -> list[Row] | str:
    """Return the rows of *path*, or why it is refused."""
    try:
        return list(read_rows(path))
    except DataError as error:
        return str(error)


@pytest.mark.slow
@given(data=st.binary(max_size=200))
def test_no_bytes_make_anything_but_rows_or_a_refusal(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(data)

    found = read(path)

    assert found[0] if isinstance(found, list) else found.startswith(str(path))


texts = st.text(st.sampled_from("aé☃\x00\ud800\udc00"), max_size=3)
values = texts | st.sampled_from([None, True, 0, -1, 10**400, 0.5, float("nan"), [], {}, [[]], {"name": "f"}, [{}]])
turns = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]) | values},
        optional={
            "content": values,
            "tool_calls": st.lists(st.fixed_dictionaries({"function": values}), max_size=2) | values,
            "weight": values,
            "name": values,
        },
    ),
    max_size=4,
)


@pytest.mark.slow
@given(
    data=st.dictionaries(
        st.sampled_from(["messages", "prompt", "completion", "chosen", "rejected", "text", "tools"]), turns | values
    )
)
def test_no_values_of_known_keys_make_anything_but_a_row_or_a_refusal(
    data: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text(json.dumps(data))

    found = read(path)

    assert found[0].line == 1 if isinstance(found, list) else found.startswith(f"{path}:1: ")


def test_line_without_an_end_is_refused_without_being_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES)  # a line of 1 GiB; sparse, so that it takes no room

    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"rows\.jsonl:1: expected at most 4194304 bytes in a line; split the row"):
            list(read_rows(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 3 * MAX_LINE_BYTES


def test_file_above_the_limit_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    artifact = Artifact(uri=path.as_uri(), sha256="0" * 64, size=0, media_type="application/jsonl")

    with pytest.raises(DataError, match=r"expected at most 1073741824 bytes, got 1073741825: split the file"):
        check_artifact(artifact, (tmp_path,))


def test_file_of_too_many_rows_is_refused_where_they_become_too_many(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n' * 3 + "\n")

    assert len(list(read_rows(path, max_rows=4))) == 3
    with pytest.raises(DataError, match=r"rows\.jsonl:3: expected at most 2 rows; split the file"):
        list(read_rows(path, max_rows=2))


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_refused_instead_of_waited_for(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    if kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    artifact = Artifact(uri=path.as_uri(), sha256="0" * 64, size=0, media_type="application/jsonl")

    for read in (
        lambda: check_artifact(artifact, (tmp_path,)),
        lambda: list(read_rows(path)),
        lambda: Artifact.from_file(path),
    ):
        with pytest.raises(DataError, match=r"rows\.jsonl: expected a (regular|readable) file, got"):
            read()


@pytest.mark.parametrize("name", ["missing.jsonl", "loop.jsonl", "a%00b", "x" * 5000])
def test_path_that_leads_nowhere_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    artifact = Artifact(uri=f"file://{tmp_path}/{name}", sha256="0" * 64, size=0, media_type="application/jsonl")

    with pytest.raises(DataError, match="expected a readable file, got"):
        check_artifact(artifact, (tmp_path,))


@pytest.mark.parametrize(
    "text", ["héllo wörld", "שלום", "line\u2028separator", "👩‍👩‍👧 family", "nul\x00byte", "日本語"]
)
def test_any_text_comes_back_from_its_tokens(text: str, encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": text}, ensure_ascii=False) + "\n", encoding="utf-8")

    example = load_dataset(path, encoder).examples[0]

    assert encoder._tokenizer.decode(list(example.tokens)) == f"<bos>{text}<eos>"
