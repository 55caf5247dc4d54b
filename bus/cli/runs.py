"""``palaver runs``: the training service's runs, seen and steered from the shell through protocol ``runs``."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bus.cli.curve import save_curve
from bus.cli.exit_codes import ExitCode
from bus.cli.options import BusOption, JsonOption, OwnerKeyOption, TimeoutOption, connect, run
from bus.cli.output import print_json, say
from bus.cli.runs_view import FollowView, print_history, print_runs, print_steered
from bus.cli.service import Fields, NoAnswer, ask, opened, receive
from bus.sdk.client import Client
from bus.spec.compile import load_protocol
from bus.spec.protocol import Protocol


class Action(StrEnum):
    """What to do with runs."""

    LIST = "list"
    SHOW = "show"
    PLOT = "plot"
    FOLLOW = "follow"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"


STEERED = {Action.PAUSE: "PauseRun", Action.RESUME: "ResumeRun", Action.CANCEL: "CancelRun"}


def runs(
    action: Annotated[
        Action, typer.Argument(metavar="ACTION", help="list, show, plot, follow, pause, resume or cancel.")
    ] = Action.LIST,
    run_id: Annotated[str | None, typer.Argument(metavar="ID", help="A run's task id, or the beginning of it.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="plot: the picture, e.g. loss.png.")
    ] = None,
    owner_key: OwnerKeyOption = None,
    bus: BusOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = None,
) -> None:
    """List training runs, or see and steer one.

    show draws the loss and sets the evaluations side by side, plot makes a picture of them, follow tells how it
    goes until it is over. pause takes a run off its slot, resume puts it into the queue again, cancel ends it.

    Exit codes: 0: done; 1: refused, or no training service is up; 4: not answered in time.
    """
    if action is Action.LIST and run_id is not None:
        raise typer.BadParameter(f"list takes no ID; to see one: palaver runs show {run_id}", param_hint="ID")
    if action is not Action.LIST and run_id is None:
        raise typer.BadParameter(f"{action} needs one: palaver runs lists them", param_hint="ID")
    if (action is Action.PLOT) != (output is not None):
        raise typer.BadParameter("plot needs one, and plot alone: palaver runs plot ID -o loss.png", param_hint="-o")
    desk = _Desk(load_protocol("runs"), owner_key, bus)
    if action is Action.FOLLOW:
        view = FollowView(as_json=as_json)
        run(desk.follow(run_id or "", view.show), timeout)
        if view.state != "trained":
            raise typer.Exit(ExitCode.CANCELED if view.state == "canceled" else ExitCode.FAILED)
        return
    answer = run(desk.answer(action, run_id or ""), timeout)
    if output is not None:
        save_curve(answer, output)
        say(f"written: {output}")
    elif as_json:
        print_json(answer["runs"] if action is Action.LIST else answer.get("run") if action in STEERED else answer)
    elif action is Action.LIST:
        print_runs(answer["runs"])
    elif action is Action.SHOW:
        print_history(answer)
    else:
        print_steered(answer["run"])


class _Desk:
    """Asks one question a conversation."""

    def __init__(self, protocol: Protocol, owner_key: str | None, bus: str | None) -> None:
        self._protocol = protocol
        self._key = owner_key
        self._bus = bus

    async def answer(self, action: Action, run_id: str) -> Fields:
        """Return what the service says, as plain data."""
        async with connect(self._bus) as client:
            if action is Action.LIST:
                return await self._ask(client, "List", {})
            task_id = await self._find(client, run_id)
            return await self._ask(client, STEERED.get(action, "Show"), {"task_id": task_id})

    async def follow(self, run_id: str, show: Callable[[str, Fields], None]) -> None:
        """Hand every message about a run to *show*, with its name, until the run is over."""
        async with connect(self._bus) as client:
            task_id = await self._find(client, run_id)
            fields = {"task_id": task_id, "owner_key": self._key}
            async with opened(client, self._protocol, "Follow", fields) as conversation:
                while True:
                    name, fields = await receive(self._protocol, conversation)
                    show(name, fields)
                    if name == "Over":
                        return

    async def _find(self, client: Client, run_id: str) -> str:
        """Return the whole id of the run whose id begins with *run_id*."""
        if len(run_id) == len("00000000-0000-0000-0000-000000000000"):
            return run_id
        found = (await self._ask(client, "List", {}))["runs"]
        matching = [one["task_id"] for one in found if one["task_id"].startswith(run_id.lower())]
        if len(matching) != 1:
            what = f"{len(matching)} begin so" if matching else "there is none that is open to you"
            raise NoAnswer(f"expected the beginning of one run's id, got {run_id!r}: {what}; palaver runs lists them")
        return str(matching[0])

    async def _ask(self, client: Client, name: str, fields: Fields) -> Fields:
        return await ask(client, self._protocol, name, {**fields, "owner_key": self._key})
