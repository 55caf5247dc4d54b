"""``palaver dead``: what could not be handled; seen, delivered again, mended or dropped."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from bus.cli.options import BusOption, JsonOption, connect, run
from bus.cli.output import console, print_json, print_table, show_fields, show_seconds
from bus.cli.people import read_fields
from bus.errors import BodyInvalid, MalformedFrame, Refused
from bus.ids import show_id
from bus.sdk.client import Client
from bus.spec.compile import compile_protocol
from bus.wire.codec import decode_body, encode_body


class Action(StrEnum):
    """What to do with a dead letter."""

    LIST = "list"
    SHOW = "show"
    REQUEUE = "requeue"
    EDIT = "edit"
    DROP = "drop"


def dead(
    action: Annotated[
        Action, typer.Argument(metavar="ACTION", help="list, show, requeue, edit or drop.")
    ] = Action.LIST,
    conversation: Annotated[
        str | None, typer.Argument(metavar="ID", help="A conversation, or the beginning of its id.")
    ] = None,
    body: Annotated[str | None, typer.Argument(metavar="JSON", help="edit: the fields that change.")] = None,
    field: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="edit: one field; text needs no quotes.")
    ] = None,
    role: Annotated[str | None, typer.Option(help="Whose letter, where several roles have one.")] = None,
    bus: BusOption = None,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, or deal with one: until its role's deadline passes, or as long as there is none.

    requeue delivers it again as it was, edit with other fields and a new id, drop settles it unread.
    """
    if action is Action.LIST and conversation is not None:
        raise typer.BadParameter(f"list takes no ID; to see one: palaver dead show {conversation}", param_hint="ID")
    if action is not Action.LIST and conversation is None:
        raise typer.BadParameter(f"{action} needs one: palaver dead lists them", param_hint="ID")
    if action is not Action.EDIT and (body is not None or field):
        raise typer.BadParameter(f"only edit takes fields, not {action}", param_hint="JSON")

    async def ask() -> object:
        async with connect(bus) as client:
            return await deal(client, action, conversation or "", role=role, body=body, pairs=field or [])

    answer = run(ask())
    if as_json:
        print_json(answer)
    elif isinstance(answer, list):
        _print_list(answer)
    else:
        assert isinstance(answer, dict)  # of one letter
        _print_one(action, answer)


async def deal(
    client: Client, action: Action, prefix: str, *, role: str | None, body: str | None, pairs: list[str]
) -> object:
    """Carry *action* out and return what is to be shown: all letters, or the facts of one.

    Raises:
        Refused: There is no such letter, or the broker refuses.
        BodyInvalid: The edited fields do not fit the message type.
    """
    letters: list[dict[str, Any]] = await client.query("dead")
    if action is Action.LIST:
        return letters
    letter = find_letter(letters, prefix, role)
    where = {"conversation": letter["conversation"], "role": letter["role"]}
    if action is Action.DROP:
        return {**letter, **await client.query("drop", **where)}
    if action is Action.REQUEUE:
        return {**letter, **await client.query("requeue", **where)}
    whole: dict[str, Any] = await client.query("letter", **where)
    if action is Action.SHOW:
        return {**{key: value for key, value in whole.items() if key != "source"}, "body": _fields(whole["body"])}
    edited = edit_body(whole, body, pairs)
    return {**letter, **await client.query("requeue", **where, body=edited)}


def find_letter(letters: list[dict[str, Any]], prefix: str, role: str | None) -> dict[str, Any]:
    """Return the one letter whose conversation's hex id begins with *prefix*, and that is *role*'s if it is given.

    Raises:
        Refused: None is, or several are.
    """
    found = [
        one for one in letters if one["conversation"].hex().startswith(prefix.lower()) and role in (None, one["role"])
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        text = f"expected a conversation with a dead letter, got {prefix!r}: see palaver dead"
        raise Refused("not-dead", {"message": text})
    listed = ", ".join(f"{one['conversation'].hex()[:12]} ({one['role']})" for one in found[:5])
    raise Refused("ambiguous", {"message": f"{prefix!r} could be {listed}: give more of the id, or --role"})


def edit_body(letter: dict[str, Any], body: str | None, pairs: list[str]) -> bytes:
    """Return the letter's body with the fields given as JSON and as pairs in place of its own.

    Raises:
        BodyInvalid: What comes out does not fit the message type.
    """
    protocol = compile_protocol(letter["source"], file=letter["protocol"])
    if letter["type"] == "notice":
        raise BodyInvalid("a notice of the bus cannot be edited: requeue or drop it")
    message_type = protocol.messages[protocol.message_index(letter["type"])]
    given = read_fields(protocol, message_type, body, pairs)
    if not given:
        raise BodyInvalid(f"{message_type.name}: expected fields to change, as JSON or --field, got none")
    return encode_body(message_type.to_plain(message_type.build({**_fields(letter["body"]), **given})))


def _fields(body: bytes) -> dict[str, object]:
    """Return the fields that a dead letter has; none where its body was why it died."""
    try:
        fields = decode_body(body)
    except MalformedFrame:
        return {}
    return fields if isinstance(fields, dict) else {}


def _print_list(letters: list[dict[str, Any]]) -> None:
    rows = (
        [
            show_id(one["conversation"]),
            f"{one['role']} of {one['protocol']}",
            one["type"],
            f"{one['code']}: {one['detail']}"[:200],
            show_seconds(one["remaining"]),
        ]
        for one in letters
    )
    print_table(["id", "role", "message", "why", "time left"], rows, empty="no dead letters")


def _print_one(action: Action, letter: dict[str, Any]) -> None:
    short = show_id(letter["conversation"])
    if action is not Action.SHOW:
        done = {Action.DROP: "dropped", Action.REQUEUE: "delivered again", Action.EDIT: "edited and delivered again"}
        print(f"{short}: {letter['type']} to {letter['role']} {done[action]}")
        return
    console.print(f"[bold]{short}[/]  {letter['type']} to {letter['role']} of {letter['protocol']}")
    console.print(f"  attempt {letter['attempt']}, {letter['code']}: {letter['detail']}", markup=False)
    console.print(f"  {show_fields(letter['body'])}", markup=False)
