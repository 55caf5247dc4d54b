"""LLM tools for a role in a state: exactly the messages that it may send now, with their JSON Schemas.

The shape is that of function calling as OpenAI's and most other interfaces take it. A tool is called as its
message type is; only where a message may go to different receivers does the name say to whom.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

from bus.errors import BodyInvalid, NotAllowed
from bus.spec.json_schema import message_schema
from bus.spec.message_type import Message
from bus.spec.protocol import Protocol
from bus.spec.syntax import Spec
from bus.spec.tables import NO_EVENT, Machine, Tables

Tool: TypeAlias = dict[str, Any]
Receivers: TypeAlias = Sequence[tuple[str, ...]]  # address → names

MAX_NAME = 64  # what function calling allows
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")


def tools_of(
    spec: Spec, tables: Tables, machine: Machine, state: int, receivers: Receivers | None = None
) -> list[Tool]:
    """Return the tools that stand for what the role of *machine* may send in *state*, sorted by name.

    Args:
        receivers: Address → names, where these are not the roles; so below.
    """
    names = receivers_of(spec, tables) if receivers is None else receivers
    return [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": _description(spec, tables, machine, state, index, address, names[address]),
                "parameters": _parameters(spec, index),
            },
        }
        for name, (index, address) in find_sends(spec, machine, state, names).items()
    ]


def read_call(
    protocol: Protocol, machine: Machine, state: int, name: str, arguments: str | dict[str, Any],
    receivers: Receivers | None = None,
) -> tuple[Message, int]:  # fmt: skip
    """Return the message that a call of the tool *name* means, and the address that it goes to.

    Args:
        arguments: The message's fields, as JSON text or read already.

    Raises:
        NotAllowed: No such tool is offered in *state*; the text lists those that are.
        BodyInvalid: The arguments are no JSON object, or not what the message takes.
    """
    names = receivers_of(protocol.spec, protocol.tables) if receivers is None else receivers
    offered = find_sends(protocol.spec, machine, state, names)
    if name not in offered:
        listed = ", ".join(offered) or "nothing; wait for the next message"
        raise NotAllowed(f"expected a tool that is offered now, got {name!r}: offered are {listed}")
    index, address = offered[name]
    fields: object = arguments
    if isinstance(arguments, str):
        try:
            fields = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise BodyInvalid(f"{name}: expected arguments in JSON, got {arguments[:60]!r} ({error})") from error
    if not isinstance(fields, dict):
        raise BodyInvalid(f"{name}: expected a JSON object as arguments, got {type(fields).__name__}")
    return protocol.messages[index].build(fields), address


def find_sends(spec: Spec, machine: Machine, state: int, receivers: Receivers) -> dict[str, tuple[int, int]]:
    """Return tool name → (message type, address) for what the role may send in *state*, sorted by name."""
    sends = list(machine.send[state])
    types = [index for index, _ in sends]
    named = {}
    for index, address in sends:
        name = spec.messages[index].name
        if types.count(index) > 1:
            to = _NOT_IN_NAMES.sub("_", "_".join(receivers[address]))
            long = f"{name}_to_{to}"
            # Two names may look alike once cut to what function calling takes, or one receiver be told of two members.
            name = long if len(long) <= MAX_NAME and long not in named else f"{name[: MAX_NAME - 12]}_to_{address}"
        named[name] = (index, address)
    return dict(sorted(named.items()))


def receivers_of(spec: Spec, tables: Tables) -> list[tuple[str, ...]]:
    """Return the names of the roles behind each address."""
    return [tuple(spec.roles[role].name for role in roles) for roles in tables.addresses]


def _parameters(spec: Spec, index: int) -> dict[str, object]:
    """Return the schema of the message's fields; what the tool's name and description say is left out."""
    schema = message_schema(spec, spec.messages[index])
    return {key: value for key, value in schema.items() if key not in ("title", "description", "deprecated")}


def _description(
    spec: Spec, tables: Tables, machine: Machine, state: int, index: int, address: int, receivers: tuple[str, ...]
) -> str:
    message = spec.messages[index]
    move = machine.send[state][index, address]
    parts = [message.doc.strip()] if message.doc.strip() else []
    parts.append(f"Goes to {' and '.join(receivers)}.")
    if move.interrupt != NO_EVENT:
        parts.append(f"Cuts {tables.events[move.interrupt].step} short.")
    if message.deprecated:
        parts.append(f"Deprecated: {message.deprecated}" if isinstance(message.deprecated, str) else "Deprecated.")
    parts += [f"Must hold: {rule}" for rule in message.rules]
    return "\n".join(parts)
