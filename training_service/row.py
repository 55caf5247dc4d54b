"""One row of a dataset: from a line of JSON to turns or text, and what of it is to be learned.

Pure: knows neither files nor tokenizers. A row is a chat ``{"messages": […], "tools"?: […]}``, a pair
``{"prompt": …, "completion": …}``, a preference ``{"prompt"?: …, "chosen": …, "rejected": …}``, the same as OpenAI's
API takes it ``{"input": {"messages": …}, "preferred_output": …, "non_preferred_output": …}``, or plain
``{"text": …}``. Keys that are not named here are passed over, as datasets bring many of their own.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TypeAlias

from training_service.errors import DataError

ROLES = ("system", "user", "assistant", "tool")
CHOSEN, PREFERRED = ("chosen", "rejected"), ("preferred_output", "non_preferred_output")
"""What the better and the worse answer of a preference are called, here and by OpenAI."""

REASONING = ("reasoning_content", "reasoning", "thinking")
"""Names under which chat templates read what an assistant thought before it spoke."""

MAX_TURNS = 512
"""Turns of a row: each of the assistant's is rendered with all before it, so the work grows with the square."""

MAX_SHOWN = 80

Turn: TypeAlias = dict[str, object]
Tool: TypeAlias = dict[str, object]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file: the turns of a chat, or plain text.

    Attributes:
        line: Where it stands in its file, from 1.
        messages: The turns, as chat templates take them: arguments of tool calls are objects.
        trained: Which turns are learned, rising; all of them the assistant's.
        begun: Characters of the first trained turn, or of the text, that are given and not learned.
        tools: What the assistant may call, for the chat template.
        text: Plain text, instead of turns.
        rejected: The same prompt with the worse answer, where the row is a preference.
    """

    line: int
    messages: tuple[Turn, ...] = ()
    trained: tuple[int, ...] = ()
    begun: int = 0
    tools: tuple[Tool, ...] = ()
    text: str | None = None
    rejected: "Row | None" = None

    @property
    def tool_names(self) -> frozenset[str]:
        """Every tool that is offered or called."""
        calls = [call for turn in self.messages for call in _calls(turn)]
        return frozenset(str(_function(one)["name"]) for one in (*self.tools, *calls))


def parse_row(line: bytes, number: int, where: str) -> Row:
    """Return the row that *line* holds.

    Args:
        line: One line of the file.
        number: Which, from 1.
        where: ``file:line``, for the error.

    Raises:
        DataError: No UTF-8, no JSON, or no row.
    """
    try:
        data = _load_json(line.decode("utf-8"), where)
        if not isinstance(data, dict):
            raise DataError(f"{where}: expected a JSON object, got {type(data).__name__}")
        return _row(data, number, where)
    except UnicodeDecodeError as error:
        got = f"byte {line[error.start]:#04x} at {error.start}"
        raise DataError(f"{where}: expected UTF-8, got {got}; save the file as UTF-8") from error
    except RecursionError as error:
        raise DataError(f"{where}: expected a JSON object in one line, got one that is nested too deep") from error


def _row(data: dict[str, object], number: int, where: str) -> Row:
    if not data.keys().isdisjoint(CHOSEN):
        return _preference(data, number, where)
    if not data.keys().isdisjoint(PREFERRED):
        return _preferred(data, number, where)
    if "messages" in data:
        turns = _turns(data["messages"], f"{where}: messages")
        return _chat(number, turns, 0, _tools(data, where))
    if "completion" in data:
        prompt = _prompt(data.get("prompt"), f"{where}: prompt")
        return _answered(number, prompt, data.get("completion"), _tools(data, where), f"{where}: completion")
    if isinstance(data.get("text"), str):
        return Row(number, text=str(data["text"]))
    if "text" in data:
        raise DataError(f"{where}: text: expected text, got {_short(data['text'])}")
    got = ", ".join(sorted(map(_short, data))[:8]) or "none"
    raise DataError(
        f"{where}: expected the keys 'messages', or 'prompt' and 'completion', or 'chosen' and 'rejected', "
        f"or 'text', got {got}"
    )


def _chat(number: int, turns: tuple[Turn, ...], n_given: int, tools: tuple[Tool, ...]) -> Row:
    """Return the row of *turns*, of which the first *n_given* are not learned."""
    trained = tuple(
        index
        for index, turn in enumerate(turns)
        if index >= n_given and turn["role"] == "assistant" and turn.get("weight", 1)
    )
    return Row(number, messages=turns, trained=trained, tools=tools)


def _answered(number: int, prompt: tuple[Turn, ...], answer: object, tools: tuple[Tool, ...], where: str) -> Row:
    """Return the row of *prompt* and the *answer* to it: turns, or text that may go on with a begun turn."""
    if isinstance(answer, list):
        turns = (*prompt, *_turns(answer, where))
        _check_length(turns, where)
        return _chat(number, turns, len(prompt), tools)
    if not isinstance(answer, str):
        raise DataError(f"{where}: expected text or a list of turns, got {_short(answer)}")
    if prompt[-1]["role"] != "assistant":
        return _chat(number, (*prompt, {"role": "assistant", "content": answer}), len(prompt), tools)
    begun = prompt[-1].get("content")
    if not isinstance(begun, str):
        raise DataError(f"{where}: expected turns after a tool call, got text; give the tool's answer before it")
    whole: Turn = {**prompt[-1], "content": begun + answer, "weight": 1}
    row = _chat(number, (*prompt[:-1], whole), len(prompt) - 1, tools)
    return replace(row, begun=len(begun))


def _preference(data: dict[str, object], number: int, where: str) -> Row:
    prompt = _prompt(data["prompt"], f"{where}: prompt") if data.get("prompt") is not None else ()
    return _compared(number, prompt, data, CHOSEN, _tools(data, where), where)


def _preferred(data: dict[str, object], number: int, where: str) -> Row:
    """Return the row of a preference in the form of OpenAI's API."""
    given = data.get("input")
    if not isinstance(given, dict):
        raise DataError(f"{where}: input: expected an object with 'messages', got {_short(given)}")
    prompt = _turns(given.get("messages"), f"{where}: input.messages")
    return _compared(number, prompt, data, PREFERRED, _tools(given, f"{where}: input"), where)


def _compared(
    number: int, prompt: tuple[Turn, ...], data: dict[str, object], names: tuple[str, str], tools: tuple[Tool, ...],
    where: str,
) -> Row:  # fmt: skip
    """Return the row of *prompt* and of the better and the worse answer, which *data* has under *names*."""
    better, worse = names
    answers = (data.get(better), data.get(worse))
    if None in answers:
        raise DataError(f"{where}: expected both {better!r} and {worse!r}, got one alone")
    if all(isinstance(answer, str) for answer in answers):
        if not prompt:
            raise DataError(f"{where}: prompt: expected what {better!r} and {worse!r} answer, got none")
        one, other = (_answered(number, prompt, answer, tools, where) for answer in answers)
        return replace(one, rejected=other)
    chosen, rejected = (
        _conversation(prompt, answer, f"{where}: {name}") for name, answer in zip(names, answers, strict=True)
    )
    pairs = zip(chosen, rejected, strict=False)
    n_shared = sum(1 for _ in takewhile(lambda turns: turns[0] == turns[1], pairs))
    n_given = n_shared if chosen != rejected else n_shared - 1  # equal ones are the audit's to find
    if not n_given:
        raise DataError(f"{where}: expected {better!r} and {worse!r} to share their prompt, got two that begin apart")
    one, other = (_chat(number, turns, n_given, tools) for turns in (chosen, rejected))
    for name, row in zip(names, (one, other), strict=True):
        if not row.trained:
            raise DataError(f"{where}: {name}: expected a turn of the assistant after what both share, got none")
    return replace(one, rejected=other)


def _conversation(prompt: tuple[Turn, ...], answer: object, where: str) -> tuple[Turn, ...]:
    """Return prompt and answer; *answer* may hold the prompt already, as many preference datasets do."""
    turns = _turns(answer, where)
    if turns[0]["role"] in ("assistant", "tool"):
        if not prompt:
            raise DataError(f"{where}: expected a whole chat, or a 'prompt' beside it, got the answer alone")
        _check_length((*prompt, *turns), where)
        return (*prompt, *turns)
    if prompt and prompt[-1] not in turns[:-1]:
        raise DataError(f"{where}: expected the answer alone, or a chat that holds the prompt, got another chat")
    return turns


def _prompt(value: object, where: str) -> tuple[Turn, ...]:
    return ({"role": "user", "content": value},) if isinstance(value, str) else _turns(value, where)


def _turns(value: object, where: str) -> tuple[Turn, ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: expected a list of turns, got {_short(value)}")
    _check_length(value, where)
    return tuple(_turn(turn, f"{where}[{index}]") for index, turn in enumerate(value))


def _turn(value: object, where: str) -> Turn:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object, got {_short(value)}")
    role, content, calls = value.get("role"), value.get("content"), value.get("tool_calls")
    if role not in ROLES:
        raise DataError(f"{where}.role: expected one of {', '.join(ROLES)}, got {_short(role)}")
    turn: Turn = {"role": role}
    if calls:
        if role != "assistant":
            raise DataError(f"{where}.tool_calls: expected them in a turn of the assistant, got role {role!r}")
        turn["tool_calls"] = _tool_calls(calls, f"{where}.tool_calls")
    if isinstance(content, str):
        turn["content"] = content
    elif content is not None or not calls:
        raise DataError(f"{where}.content: expected text, got {_short(content)}")
    for name in ("name", "tool_call_id", *REASONING):
        if value.get(name) is not None:
            if not isinstance(value[name], str):
                raise DataError(f"{where}.{name}: expected text, got {_short(value[name])}")
            turn[name] = value[name]
    if value.get("weight") is not None:
        if value["weight"] not in (0, 1):
            raise DataError(f"{where}.weight: expected 0 (not learned) or 1, got {_short(value['weight'])}")
        turn["weight"] = int(value["weight"])
    return turn


def _tool_calls(value: object, where: str) -> list[object]:
    """Return calls with their arguments as objects: what nearly all templates take, while APIs give JSON text."""
    if not isinstance(value, list):
        raise DataError(f"{where}: expected a list of calls, got {_short(value)}")
    calls: list[object] = []
    for index, call in enumerate(value):
        at = f"{where}[{index}]"
        if not isinstance(call, dict):
            raise DataError(f"{at}: expected an object, got {_short(call)}")
        function = call.get("function", call)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise DataError(f"{at}.function.name: expected the name of a tool, got {_short(function)}")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            arguments = _load_json(arguments or "{}", f"{at}.function.arguments")
        if not isinstance(arguments, dict | None):
            raise DataError(f"{at}.function.arguments: expected an object, got {_short(arguments)}")
        named = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        calls.append(
            {**named, "type": "function", "function": {"name": function["name"], "arguments": arguments or {}}}
        )
    return calls


def _tools(data: dict[str, object], where: str) -> tuple[Tool, ...]:
    value = data.get("tools")
    if value is None:
        return ()
    if not isinstance(value, list):
        raise DataError(f"{where}: tools: expected a list of tools, got {_short(value)}")
    tools: list[Tool] = []
    for index, tool in enumerate(value):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise DataError(f"{where}: tools[{index}]: expected an object with function.name, got {_short(tool)}")
        tools.append({**tool, "type": "function"} if "function" in tool else {"type": "function", "function": function})
    return tuple(tools)


def with_text_arguments(messages: Sequence[Mapping[str, object]]) -> list[Turn]:
    """Return *messages* with the arguments of tool calls as JSON text, for templates that take no objects."""
    return [
        {**turn, "tool_calls": [_with_text_arguments(call) for call in _calls(turn)]}
        if "tool_calls" in turn
        else dict(turn)
        for turn in messages
    ]


def _with_text_arguments(call: Tool) -> Tool:
    function = _function(call)
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}


def _calls(turn: Mapping[str, object]) -> list[Tool]:
    calls = turn.get("tool_calls", [])
    assert isinstance(calls, list)
    return calls


def _function(tool: Tool) -> dict[str, object]:
    function = tool["function"]
    assert isinstance(function, dict)
    return function


def _check_length(turns: Sequence[object], where: str) -> None:
    if len(turns) > MAX_TURNS:
        raise DataError(f"{where}: expected at most {MAX_TURNS} turns, got {len(turns)}: split the row")


def _load_json(text: str, where: str) -> object:
    """Return what *text* holds; only what JSON knows and UTF-8 can write."""
    try:
        data = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        if "\\u" in text:  # the only way to a lone surrogate, which no tokenizer takes
            json.dumps(data, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: expected text, got half of a surrogate pair, {error.object[error.start]!r}"
        ) from error
    except ValueError as error:  # no JSON, NaN, or a number of too many digits
        raise DataError(f"{where}: expected a JSON object in one line, got: {error}") from error
    return data


def _no_number(name: str) -> object:
    raise ValueError(f"{name}, which is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"a number too large: {text[:MAX_SHOWN]}")
    return number


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "…"
