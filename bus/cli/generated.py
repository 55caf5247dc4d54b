"""What is made from a protocol: ``palaver draw``, ``doc``, ``schema``, ``asyncapi``, ``codegen`` and ``tools``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from bus.cli.output import print_table
from bus.spec.asyncapi import asyncapi as asyncapi_document
from bus.spec.codegen import generate_module
from bus.spec.compile import load_protocol
from bus.spec.diagnostic import did_you_mean
from bus.spec.document import document
from bus.spec.draw import draw_sequence
from bus.spec.draw_states import draw_states
from bus.spec.json_schema import DIALECT, READ, SAID, message_schema, protocol_schema
from bus.spec.state_names import describe_states, find_state, machine_of, steps_of
from bus.spec.syntax import MessageDeclaration, Spec
from bus.spec.tools import tools_of

ProtocolArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="PROTOCOL", help="A protocol's name, or the path of its spec.")
]
OutputOption: TypeAlias = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there instead of printing.")
]


def draw(
    protocol: ProtocolArgument,
    role: Annotated[
        str | None, typer.Option("--role", metavar="ROLE", help="Draw what this role may do in which state.")
    ] = None,
    states: Annotated[
        bool, typer.Option("--states", help="Draw every role's states, as Markdown with one diagram each.")
    ] = False,
    output: OutputOption = None,
) -> None:
    """Draw a protocol with Mermaid: a sequence diagram, or what a role may do in which state."""
    found = load_protocol(protocol)
    if role is not None:
        _put(draw_states(found.spec, found.tables, _role(found.spec, role)), output)
    elif states:
        roles = [one.name for one in found.roles if one.source is None]
        diagrams = [(name, draw_states(found.spec, found.tables, name)) for name in roles]
        _put("\n".join(f"## {name}\n\n```mermaid\n{text}```\n" for name, text in diagrams), output)
    else:
        _put(draw_sequence(found.spec), output)


def doc(protocol: ProtocolArgument, output: OutputOption = None) -> None:
    """Print the reference of a protocol as Markdown."""
    found = load_protocol(protocol)
    _put(document(found.spec, found.tables), output)


def schema(
    protocol: ProtocolArgument,
    message: Annotated[
        str | None, typer.Option("--message", "-m", metavar="MESSAGE", help="One message type's fields alone.")
    ] = None,
    reading: Annotated[
        bool, typer.Option("--reading", help="What a reader takes: unknown fields, and other words in open enums.")
    ] = False,
    output: OutputOption = None,
) -> None:
    """Print the JSON Schema (2020-12) of a protocol's messages."""
    spec = load_protocol(protocol).spec
    view = READ if reading else SAID
    if message is None:
        _put_json(protocol_schema(spec, view), output)
    else:
        _put_json({"$schema": DIALECT, **message_schema(spec, _message(spec, message), view)}, output)


def asyncapi(protocol: ProtocolArgument, output: OutputOption = None) -> None:
    """Print a protocol as an AsyncAPI 3.1 document (JSON)."""
    _put_json(asyncapi_document(load_protocol(protocol).spec), output)


def codegen(protocol: ProtocolArgument, output: OutputOption = None) -> None:
    """Print a typed Python module for agents of a protocol."""
    _put(generate_module(load_protocol(protocol).spec), output)


def tools(
    protocol: ProtocolArgument,
    role: Annotated[str, typer.Option("--role", metavar="ROLE", help="Who shall send.")],
    state: Annotated[
        str,
        typer.Option(
            "--state",
            metavar="STATE",
            help="Where the role stands: a number, 'start', or the message or bus event that led there.",
        ),
    ] = "start",
    list_states: Annotated[bool, typer.Option("--list-states", help="List the role's states instead.")] = False,
) -> None:
    """Print LLM tool definitions (JSON): exactly the messages that a role may send in a state."""
    found = load_protocol(protocol)
    tables = found.tables
    machine = machine_of(found.spec, tables, _role(found.spec, role))
    steps = steps_of(found.spec, tables, machine)
    if list_states:
        rows = []
        for number, name in describe_states(machine, steps):
            next_ = dict.fromkeys(step.label for step in steps if step.source == number)
            rows.append((str(number), name, ", ".join(next_) or "over"))
        print_table(("state", "name", "next"), rows, empty="none")
        return
    try:
        number = find_state(machine, steps, state)
    except LookupError as error:
        raise typer.BadParameter(f"--state: {error.args[0]}") from error
    _put_json(tools_of(found.spec, tables, machine, number), None)


def _role(spec: Spec, name: str) -> str:
    names = [role.name for role in spec.roles]
    if name in names:
        return name
    hint = did_you_mean(name, names)
    raise typer.BadParameter(
        f"--role: expected a role of {spec.protocol} ({', '.join(names)}), got {name!r}" + (f"; {hint}" if hint else "")
    )


def _message(spec: Spec, name: str) -> MessageDeclaration:
    for message in spec.messages:
        if message.name == name:
            return message
    names = [message.name for message in spec.messages]
    hint = did_you_mean(name, names)
    raise typer.BadParameter(
        f"--message: expected a message type of {spec.protocol} ({', '.join(names)}), got {name!r}"
        + (f"; {hint}" if hint else "")
    )


def _put_json(value: object, output: Path | None) -> None:
    _put(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", output)


def _put(text: str, output: Path | None) -> None:
    """Print *text*, or replace the file *output* by it."""
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"--output: {output}: expected a file that can be written, got: {error}") from error
