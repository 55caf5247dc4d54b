"""``palaver train``, ``generate``: the training service, seen from the shell."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import typer

from bus.cli.exit_codes import exit_code_of_outcome
from bus.cli.messages import client_name
from bus.cli.options import BusOption, JsonOption, OwnerKeyOption, TimeoutOption, connect, run
from bus.cli.output import errors, print_json, say
from bus.cli.train_view import TrainView
from bus.cli.training_file import TrainingFile, load_training_file
from bus.ids import show_id
from bus.sdk.client import Client
from bus.sdk.opened import OpenConversation
from bus.spec.compile import load_protocol
from bus.spec.protocol import Protocol

_DEFAULT_BASE = "tiny-gemma3"


def train(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A *.training.yaml.")],
    accept: Annotated[
        bool, typer.Option("--accept", "--yes", "-y", help="Take the quote without being asked.")
    ] = False,
    accept_warnings: Annotated[
        bool, typer.Option("--accept-warnings", help="Train although the audit of the data warns.")
    ] = False,
    task_id: Annotated[
        str | None, typer.Option(metavar="UUID", help="Name the task: the same id again is the same run.")
    ] = None,
    owner_key: OwnerKeyOption = None,
    bus: BusOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = None,
) -> None:
    """Delegate a training run over the bus and follow it; shows the audit and the quote first.

    Data of which the audit warns is refused, unless the file or --accept-warnings takes it as it is.

    Exit codes: 0: trained; 10: failed; 11: canceled; 12: refused; 13: the quote was declined; 4: not ended in time.
    """
    order = load_training_file(file)
    if owner_key is not None:
        order = replace(order, fields={**order.fields, "owner_key": owner_key})
    if accept_warnings:
        order = replace(order, fields={**order.fields, "accept_warnings": True})
    protocol = load_protocol("training")
    task = _task(task_id)
    talk = _Delegation(protocol, order, task, TrainView(protocol, as_json=as_json), accept=accept)
    try:
        outcome = run(talk.follow(connect(bus, name=client_name(str(task)))), timeout)
    except (TimeoutError, KeyboardInterrupt):
        if talk.conversation is not None:
            short = show_id(talk.conversation.id)
            say(f"the run goes on: palaver train {file} --task-id {task} follows it, palaver cancel {short} ends it")
        raise
    raise typer.Exit(exit_code_of_outcome(outcome, [name for name, _ in protocol.spec.outcomes]))


def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the user says; - reads standard input.")],
    adapter: Annotated[
        str | None, typer.Option(metavar="NAME", help="A registered adapter: NAME or NAME@VERSION.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help=f"The base model; left out, the adapter's own, else {_DEFAULT_BASE}."),
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="What the model is told first.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="At most this many tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")] = 0.0,
    top_p: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Draw from the likeliest tokens that together have this chance.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal text.")] = 0,
    bus: BusOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = None,
) -> None:
    """Let a model answer; the text comes as it is written.

    Exit codes: 0: generated; 10: failed; 11: canceled; 12: refused; 4: not ended in time.
    """
    protocol = load_protocol("generation")
    text = sys.stdin.read() if prompt == "-" else prompt
    turns = [{"role": "user", "content": text}]
    if system is not None:
        turns.insert(0, {"role": "system", "content": system})
    request_id = str(uuid4())
    fields = {
        "request_id": request_id,
        "base": _DEFAULT_BASE if base is None and adapter is None else base,
        "adapter": adapter,
        "messages": turns,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
    }
    outcome = run(_generate(protocol, fields, connect(bus, name=client_name(request_id)), as_json), timeout)
    raise typer.Exit(exit_code_of_outcome(outcome, [name for name, _ in protocol.spec.outcomes]))


class _Delegation:
    """One run, from the request to its outcome.

    Attributes:
        conversation: Once it is open.
    """

    def __init__(self, protocol: Protocol, order: TrainingFile, task: UUID, view: TrainView, *, accept: bool) -> None:
        self.conversation: OpenConversation | None = None
        self._protocol = protocol
        self._order = order
        self._task = task
        self._view = view
        self._accept = accept

    async def follow(self, client: Client) -> str:
        """Delegate, decide on the quote, show what comes, and return the outcome."""
        protocol, request_id = self._protocol, str(self._task)
        fields = {"adapter": self._order.name, **self._order.fields, "task_id": request_id}
        request = protocol.messages[protocol.message_index("TrainRequest")].build(fields)
        with self._view:
            async with (
                client,
                client.open(protocol, role="client", request_id=request_id) as conversation,
            ):
                self.conversation = conversation
                await conversation.send(request)
                async for message in conversation:
                    self._view.show(message)
                    if isinstance(message, protocol.Quote):
                        await conversation.send(self._decide())
                outcome = conversation.outcome
                assert outcome is not None  # the messages came to their end
                self._view.show_end(outcome, conversation.reason, conversation.id)
        return outcome

    def _decide(self) -> Any:
        """Return Accept or Decline; without a terminal a quote is only taken where --accept says so."""
        protocol, task = self._protocol, self._task
        if self._accept:
            return protocol.Accept(task_id=task)
        if not sys.stdin.isatty():
            say("the quote is declined: nobody is here to take it; --accept takes it unseen")
            return protocol.Decline(task_id=task, reason="nobody to ask")
        if errors.input("take this quote? [y/N] ").strip().lower() in ("y", "yes"):
            return protocol.Accept(task_id=task)
        return protocol.Decline(task_id=task, reason="declined at the terminal")


async def _generate(protocol: Protocol, fields: dict[str, Any], client: Client, as_json: bool) -> str:
    request_id = fields["request_id"]
    async with (
        client,
        client.open(protocol, role="client", request_id=request_id) as conversation,
    ):
        await conversation.send(protocol.messages[protocol.message_index("Generate")].build(fields))
        has_text = False
        async for message in conversation:
            plain = protocol.messages[protocol.type_of[type(message)]].to_plain(message)  # type: ignore[arg-type]  # its own class
            if as_json:
                print_json({"received": type(message).__name__, "fields": plain})
            elif isinstance(message, protocol.Token):
                has_text = True
                sys.stdout.write(str(plain["text"]))
                sys.stdout.flush()
            elif isinstance(message, protocol.Generated):
                print("" if has_text else plain["text"])
                by = plain.get("adapter") or fields["base"]
                say(f"{plain['n_tokens']} tokens by {by}, ended by {plain['finish_reason']}", "dim")
            elif isinstance(message, protocol.Refused):
                say(f"palaver: refused: {plain['code']}: {plain['detail']}")
        outcome = conversation.outcome
    assert outcome is not None  # the messages came to their end
    if as_json:
        print_json({"outcome": outcome, "conversation": conversation.id})
    elif outcome not in ("generated", "refused"):
        say(f"palaver: the conversation ended as {outcome}: {conversation.reason or 'no reason was given'}")
    return outcome


def _task(text: str | None) -> UUID:
    if text is None:
        return uuid4()
    try:
        return UUID(text)
    except ValueError as error:
        raise typer.BadParameter(f"expected a UUID, got {text!r}", param_hint="--task-id") from error


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
