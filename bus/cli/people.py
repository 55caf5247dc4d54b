"""``palaver inbox`` and ``palaver answer``: a person takes part."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from bus.cli.message_text import describe_field, fields_of, find_message_type, read_field
from bus.cli.options import BusOption, JsonOption, connect, run
from bus.cli.output import console, errors, print_json, print_table, show_fields, show_seconds
from bus.errors import BodyInvalid, Refused
from bus.ids import show_id
from bus.spec.compile import compile_protocol
from bus.spec.diagnostic import did_you_mean
from bus.spec.json_schema import is_required, message_schema
from bus.spec.message_type import Message, MessageType
from bus.spec.protocol import Protocol
from bus.wire.codec import decode_body


@dataclass(frozen=True, slots=True)
class Item:
    """One turn that waits for a person.

    Attributes:
        types: The message types that may be answered.
        facts: The item as the broker told it.
    """

    protocol: Protocol
    types: list[MessageType]
    facts: dict[str, Any]

    @property
    def messages(self) -> list[tuple[str, str, dict[str, Any]]]:
        """(type, sender, fields) of each message that waits; a notice of the bus has its facts as fields."""
        return [(one["type"], one["sender"], decode_body(one["body"])) for one in self.facts["messages"]]


def inbox(
    role: Annotated[str | None, typer.Option(help="Only what waits for this role.")] = None,
    bus: BusOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what waits for a person."""
    items = _fetch(bus, role)
    if as_json:
        print_json([_as_json(item) for item in items])
        return
    rows = (
        [
            show_id(item.facts["conversation"]),
            f"{item.facts['role']} of {item.protocol.name}",
            "\n".join(f"{type} from {sender}" for type, sender, _ in item.messages),
            ", ".join(one.name for one in item.types),
            show_seconds(item.facts["remaining"]),
        ]
        for item in items
    )
    print_table(["id", "you are", "waiting", "you may answer", "time left"], rows, empty="nothing waits for you")


def answer(
    conversation: Annotated[str, typer.Argument(metavar="ID", help="A conversation, or the beginning of its id.")],
    message: Annotated[
        str | None, typer.Argument(metavar="MESSAGE", help="What to answer; left out: show what may be.")
    ] = None,
    body: Annotated[str | None, typer.Argument(metavar="JSON", help="All fields at once.")] = None,
    field: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="One field; text needs no quotes.")
    ] = None,
    role: Annotated[str | None, typer.Option(help="Whose turn, where a person plays several roles.")] = None,
    to: Annotated[str | None, typer.Option(metavar="ROLE,…", help="To whom, where there is a choice.")] = None,
    bus: BusOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a person's turn; without MESSAGE show what was said and what may be answered.

    Fields that are neither in JSON nor in --field are asked for on a terminal.
    """
    item = find_item(_fetch(bus, role), conversation)
    if message is None:
        if as_json:
            print_json(_as_json(item))
        else:
            _show(item)
        return
    chosen = find_message_type(item.protocol, message, item.types)
    given = read_fields(item.protocol, chosen, body, field or [])
    if sys.stdin.isatty():
        given = _ask_missing(item.protocol, chosen, given)
    _give(item, chosen.build(given), None if to is None else [name.strip() for name in to.split(",")], bus)
    if as_json:
        print_json({"conversation": item.facts["conversation"], "answered": chosen.name})
    else:
        print(f"{show_id(item.facts['conversation'])}: {chosen.name} sent")


def find_item(items: Sequence[Item], prefix: str) -> Item:
    """Return the one item whose conversation's hex id begins with *prefix*.

    Raises:
        Refused: None does, or several do.
    """
    found = [item for item in items if item.facts["conversation"].hex().startswith(prefix.lower())]
    if len(found) == 1:
        return found[0]
    if not found:
        text = f"nothing waits for you in conversation {prefix!r}: see palaver inbox"
        raise Refused("nothing-waits", {"message": text})
    listed = ", ".join(f"{item.facts['conversation'].hex()[:12]} ({item.facts['role']})" for item in found[:5])
    raise Refused("ambiguous", {"message": f"{prefix!r} could be {listed}: give more of the id, or --role"})


def read_fields(
    protocol: Protocol, message_type: MessageType, body: str | None, pairs: Sequence[str]
) -> dict[str, object]:
    """Return the fields that a person gave as JSON and as ``NAME=VALUE`` pairs; the pairs win.

    Raises:
        BodyInvalid: No JSON object, no pair, or no field of that name.
    """
    try:
        given = json.loads(body) if body is not None else {}
    except ValueError as error:
        raise BodyInvalid(f"{message_type.name}: expected JSON, got {body!r}: {error}") from error
    if not isinstance(given, dict):
        raise BodyInvalid(f"{message_type.name}: expected a JSON object, got {body!r}")
    known = {field.name: field for field in fields_of(protocol, message_type)}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator:
            raise BodyInvalid(f"{message_type.name}: expected NAME=VALUE, got {pair!r}")
        if name not in known:
            hint = did_you_mean(name, known)
            raise BodyInvalid(
                f"{message_type.name}: expected a field ({', '.join(known) or 'it has none'}), got {name!r}"
                + (f"; {hint}" if hint else "")
            )
        given[name] = read_field(known[name], text)
    return given


def _fetch(bus: str | None, role: str | None) -> list[Item]:
    async def ask() -> list[dict[str, Any]]:
        async with connect(bus) as client:
            return await client.inbox(role)

    return [_read_item(facts) for facts in run(ask())]


def _read_item(facts: dict[str, Any]) -> Item:
    protocol = compile_protocol(facts["source"], file=facts["protocol"])
    indices = sorted({one["type"] for one in facts["allowed"]})
    return Item(protocol, [protocol.messages[index] for index in indices], facts)


def _give(item: Item, message: Message, to: list[str] | None, bus: str | None) -> None:
    async def ask() -> None:
        async with connect(bus) as client:
            await client.answer(item.facts, message, by=getpass.getuser(), to=to)

    run(ask())


def _as_json(item: Item) -> dict[str, object]:
    kept = ("conversation", "protocol", "role", "position", "epoch", "remaining", "reminders")
    messages = [{"type": type, "sender": sender, "fields": fields} for type, sender, fields in item.messages]
    spec = item.protocol.spec
    allowed = {one.name: message_schema(spec, spec.messages[one.index]) for one in item.types}
    return {**{key: item.facts.get(key) for key in kept}, "messages": messages, "allowed": allowed}


def _show(item: Item) -> None:
    short = show_id(item.facts["conversation"])
    console.print(f"[bold]{short}[/]  you are the {item.facts['role']} of {item.protocol.name}", end="")
    console.print(f", {show_seconds(item.facts['remaining'])} left" if item.facts["remaining"] is not None else "")
    for type, sender, fields in item.messages:
        console.print(f"\n[green]{type}[/] from {sender}")
        for name, value in fields.items():
            text = value if isinstance(value, str) else show_fields({name: value}).partition("=")[2]
            console.print(f"  {name}: {text}", markup=False)
    for one in item.types:
        console.print(f"\npalaver answer {short} [cyan]{one.name}[/]", end="")
        console.print(f"   {one.doc.strip()}" if one.doc else "", markup=False)
        for field in fields_of(item.protocol, one):
            console.print(f"  --field {field.name}=…   {describe_field(field)}", markup=False)


def _ask_missing(protocol: Protocol, message_type: MessageType, given: dict[str, object]) -> dict[str, object]:
    """Ask for each field that was not given; an empty line leaves an optional one out."""
    answers = dict(given)
    for field in fields_of(protocol, message_type):
        while field.name not in answers:
            text = errors.input(f"{field.name} ({describe_field(field)}): ", markup=False)
            if not text and not is_required(field):
                break
            try:
                answers[field.name] = read_field(field, text)
            except BodyInvalid as error:
                errors.print(str(error), style="red", markup=False)
    return answers
