"""``palaver send``, ``conversations``, ``cancel``: what is said, seen from the shell."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any
from uuid import uuid4

import typer
from pydantic import BaseModel

from bus.cli.exit_codes import ExitCode, exit_code_of_outcome
from bus.cli.message_text import build_message, read_values
from bus.cli.options import BusOption, JsonOption, TimeoutOption, connect, run
from bus.cli.output import console, print_json, print_table, say, show_fields, show_seconds
from bus.errors import BodyInvalid, ConversationEnded, Refused
from bus.ids import derive_id, show_id
from bus.sdk.client import Client
from bus.sdk.opened import OpenConversation
from bus.spec.compile import load_protocol
from bus.spec.message_type import MessageType
from bus.spec.protocol import Protocol
from bus.wire.codec import decode_body


def send(
    protocol: Annotated[str, typer.Argument(metavar="PROTOCOL", help="A protocol's name, or the path of its spec.")],
    messages: Annotated[
        list[str],
        typer.Argument(
            metavar="MESSAGE…",
            help='JSON: {"Type": {…}}, or the fields alone where one type fits; @FILE; - for one a line.',
        ),
    ],
    role: Annotated[str | None, typer.Option(help="Whom to speak as; else the role that speaks first.")] = None,
    request_id: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Name the request: sending it again re-attaches to it.")
    ] = None,
    bind: Annotated[list[str] | None, typer.Option(metavar="ROLE=AGENT", help="Who is to play a role.")] = None,
    bus: BusOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = None,
) -> None:
    """Open a conversation, send, and follow it to its end; the exit code is the outcome's.

    Each further message is sent as soon as the protocol allows it.

    Exit codes: 0: the first outcome that the spec names (or done); 10: failed; 11: canceled; 12 and on: the
    second, third, … outcome; 4: not ended in time.
    """
    loaded = load_protocol(protocol)
    values = [value for text in messages for value in read_values(text, lambda: iter(sys.stdin))]
    if not values:
        raise BodyInvalid("expected a message, got none")
    request_id = request_id or uuid4().hex
    talk = Talk(loaded, as_json)
    client = connect(bus, name=client_name(request_id))
    following = talk.hold(values, client, role=role, request_id=request_id, bind=_bindings(bind or []))
    try:
        outcome = run(following, timeout)
    except (TimeoutError, KeyboardInterrupt):
        if talk.conversation is not None:
            short = show_id(talk.conversation.id)
            say(f"conversation {short} goes on: palaver conversations, palaver cancel {short}")
        raise
    declared = [name for name, _ in loaded.spec.outcomes]
    raise typer.Exit(exit_code_of_outcome(outcome, declared))


def client_name(request_id: str) -> str:
    """Return the name under which this person's command speaks.

    The same person asking under the same request id is the same opener (RULES.md 16); two commands at
    once have different request ids, so neither ends the other's session.
    """
    user = getpass.getuser()
    return f"{user}-{derive_id('command', user, request_id).hex()[:12]}"


class Talk:
    """One conversation at the command line.

    Attributes:
        conversation: Once it is open.
    """

    def __init__(self, protocol: Protocol, as_json: bool) -> None:
        self.conversation: OpenConversation | None = None
        self._has_spoken = False
        self._protocol = protocol
        self._as_json = as_json

    async def hold(
        self, values: Sequence[object], client: Client, *, role: str | None, request_id: str, bind: dict[str, str]
    ) -> str:
        """Send *values* in order, show what comes, and return the outcome."""
        async with client:
            opening = client.open(self._protocol, role=role, request_id=request_id, bind=bind or None)
            try:
                async with opening as conversation:
                    self.conversation = conversation
                    await self._follow(conversation, values)
            except (ConversationEnded, Refused) as error:
                if opening.outcome is None or (isinstance(error, Refused) and error.code != "ended"):
                    raise
                if self._has_spoken:
                    say("it ended before everything was sent", "yellow")
                else:
                    # The request was made before and is over: the bus keeps the transcript, not the deliveries.
                    await self._recount(client, opening)
        assert opening.outcome is not None  # it was followed to its end
        self._show_end(opening)
        return opening.outcome

    async def _follow(self, conversation: OpenConversation, values: Sequence[object]) -> None:
        pending = list(values)
        while pending:
            message = build_message(self._protocol, pending[0], self._allowed(conversation))
            if not self._must_wait(conversation, message) or not await self._read_one(conversation):
                await conversation.send(message)
                if not self._has_spoken:
                    await conversation.flush()  # one that is over already is told before anything is shown
                pending.pop(0)
                self._has_spoken = True
                self._show("sent", message)
        await conversation.flush()
        hinted = False
        while True:
            if not hinted and (names := [one.name for one in self._allowed(conversation)]):
                hinted = True
                say(f"you may still send: {', '.join(names)}", "dim")
            if not await self._read_one(conversation):
                return

    async def _recount(self, client: Client, conversation: OpenConversation) -> None:
        """Show the journaled messages from and to our role."""
        for entry in await client.transcript(conversation.id):
            if entry["kind"] != "message" or conversation.role not in (entry["sender"], *entry["receivers"]):
                continue
            message_type = self._protocol.messages[self._protocol.message_index(entry["type"])]
            direction = "sent" if entry["sender"] == conversation.role else "received"
            self._show(direction, message_type.from_plain(decode_body(entry["body"])))

    def _must_wait(self, conversation: OpenConversation, message: BaseModel) -> bool:
        """Return whether *message* may not be sent yet, but may later; else sending says what is wrong."""
        allowed = conversation.allowed()
        if type(message) in allowed or (allowed and not self._has_spoken):
            return False
        machine = self._protocol.tables.machines[self._protocol.role_index(conversation.role)]
        index = self._protocol.type_of[type(message)]
        return any(index == sent for moves in machine.send for sent, _ in moves)

    async def _read_one(self, conversation: OpenConversation) -> bool:
        """Show the next message; return False where the conversation ended instead."""
        try:
            message = await conversation.receive()
        except ConversationEnded:
            return False
        if isinstance(message, BaseModel):
            self._show("received", message)
        return True

    def _allowed(self, conversation: OpenConversation) -> list[MessageType]:
        return [self._protocol.messages[self._protocol.type_of[model]] for model in conversation.allowed()]

    def _show(self, direction: str, message: BaseModel) -> None:
        message_type = self._protocol.messages[self._protocol.type_of[type(message)]]
        fields = message_type.to_plain(message)  # type: ignore[arg-type]  # it is of its type's own class
        shown = {name: "***" if name in message_type.secret else value for name, value in fields.items()}
        if self._as_json:
            print_json({direction: message_type.name, "fields": fields})
            return
        arrow, color = ("→", "cyan") if direction == "sent" else ("←", "green")
        console.print(f"[{color}]{arrow} {message_type.name}[/]  ", end="")
        console.print(show_fields(shown), markup=False, soft_wrap=True)

    def _show_end(self, conversation: OpenConversation) -> None:
        if self._as_json:
            end = {"outcome": conversation.outcome, "reason": conversation.reason or None}
            print_json({**end, "conversation": conversation.id})
            return
        reason = f" ({conversation.reason})" if conversation.reason else ""
        console.print(f"■ {conversation.outcome}{reason}", style="bold", markup=False)


def conversations(
    live: Annotated[bool, typer.Option("--live", help="Only those that go on.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The newest so many.")] = 50,
    bus: BusOption = None,
    as_json: JsonOption = False,
) -> None:
    """List conversations, the newest last."""

    async def ask() -> tuple[list[dict[str, Any]], float]:
        async with connect(bus) as client:
            status = await client.status()
            return await client.conversations(live_only=live, limit=limit), float(status["bus_time"])

    found, now = run(ask())
    if as_json:
        print_json(found)
        return
    rows = (
        [
            show_id(one["conversation"]),
            one["protocol"],
            one["opener"] or "–",
            one["outcome"] or "live",
            str(one["sequence"]) + (f" ({one['n_violations']} violations)" if one.get("n_violations") else ""),
            f"{show_seconds(now - one['since'])} ago",
        ]
        for one in found
    )
    print_table(["id", "protocol", "opened by", "outcome", "messages", "opened"], rows, empty="no conversations yet")


def cancel(
    conversation: Annotated[str, typer.Argument(metavar="ID", help="A conversation, or the beginning of its id.")],
    bus: BusOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel a conversation and those that it opened; one that is over stays as it ended."""

    async def ask() -> tuple[bytes, str]:
        async with connect(bus) as client:
            conversation_id = find_conversation(await client.conversations(limit=10_000), conversation)
            return conversation_id, await client.cancel(conversation_id)

    conversation_id, outcome = run(ask())
    if as_json:
        print_json({"conversation": conversation_id, "outcome": outcome})
    else:
        print(f"{show_id(conversation_id)}: {outcome}")
    if outcome != "canceled":
        raise typer.Exit(ExitCode.REFUSED)


def find_conversation(known: Sequence[dict[str, Any]], prefix: str) -> bytes:
    """Return the id of the one conversation whose hex id begins with *prefix*.

    Raises:
        Refused: None does, or several do.
    """
    found = sorted({one["conversation"] for one in known if one["conversation"].hex().startswith(prefix.lower())})
    if len(found) == 1:
        return bytes(found[0])
    if not found:
        text = f"expected the id of a conversation, got {prefix!r}: see palaver conversations"
        raise Refused("unknown-conversation", {"message": text})
    listed = ", ".join(one.hex()[:12] for one in found[:5])
    raise Refused("ambiguous", {"message": f"{prefix!r} is the beginning of several ids: {listed}"})


def _bindings(texts: Sequence[str]) -> dict[str, str]:
    return dict(_pairs(texts, "--bind", "ROLE=AGENT"))


def _pairs(texts: Sequence[str], option: str, form: str) -> Iterator[tuple[str, str]]:
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise typer.BadParameter(f"expected {form}, got {text!r}", param_hint=option)
        yield name, value
