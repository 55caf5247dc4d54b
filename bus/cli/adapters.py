"""``palaver adapters``: what training has left behind, seen and changed through protocol ``adapters``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bus.cli.options import BusOption, JsonOption, TimeoutOption, connect, run
from bus.cli.output import console, print_json, print_table
from bus.cli.service import Fields, NoAnswer, ask
from bus.sdk.client import Client
from bus.spec.compile import load_protocol


class Action(StrEnum):
    """What to do with adapters."""

    LIST = "list"
    SHOW = "show"
    ALIAS = "alias"
    UNALIAS = "unalias"
    DELETE = "delete"
    MERGE = "merge"
    EXPORT = "export"


WANTED = {Action.ALIAS: "the alias", Action.MERGE: "the new model's name", Action.EXPORT: "the new folder"}
"""What a third word is, for the actions that take one."""


def adapters(
    action: Annotated[
        Action, typer.Argument(metavar="ACTION", help="list, show, alias, unalias, delete, merge or export.")
    ] = Action.LIST,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="NAME, NAME@VERSION or an alias.")] = None,
    other: Annotated[
        str | None,
        typer.Argument(metavar="WORD", help="alias: the alias; merge: the model's name; export: the new folder."),
    ] = None,
    new_name: Annotated[str | None, typer.Option("--name", help="merge: the model's name, instead of WORD.")] = None,
    bus: BusOption = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = None,
) -> None:
    """List adapters and models that runs have made, or deal with one.

    alias lets a second name mean the version, e.g. stable, and unalias takes that back. delete removes NAME@VERSION
    for good. merge folds an adapter into a copy of its base, export copies the files into a new folder.

    Exit codes: 0: done; 1: refused, or no training service is up; 4: not answered in time.
    """
    if new_name is not None:
        if action is not Action.MERGE or other is not None:
            raise typer.BadParameter("only merge takes it, and once: palaver adapters --help", param_hint="--name")
        other = new_name
    if action is Action.LIST and name is not None:
        raise typer.BadParameter(f"list takes no NAME; to see one: palaver adapters show {name}", param_hint="NAME")
    if action is not Action.LIST and name is None:
        raise typer.BadParameter(f"{action} needs one: palaver adapters lists them", param_hint="NAME")
    if (action in WANTED) != (other is not None):
        what = f"{action} needs {WANTED[action]}" if action in WANTED else f"{action} takes no second word"
        raise typer.BadParameter(f"{what}: palaver adapters --help", param_hint="WORD")

    word = str(Path(other).absolute()) if other is not None and action is Action.EXPORT else other

    async def answer() -> Fields:
        async with connect(bus) as client:
            return await _answer(client, action, name or "", word or "")

    found = run(answer(), timeout)
    if action is Action.LIST:
        if as_json:
            print_json(found["adapters"])
        else:
            _print_list(found["adapters"])
    elif as_json:
        print_json(found)
    elif action is Action.SHOW:
        _print_one(found)
    else:
        console.print(found["detail"], markup=False, soft_wrap=True)


async def _answer(client: Client, action: Action, name: str, other: str) -> Fields:
    protocol = load_protocol("adapters")
    match action:
        case Action.LIST:
            return await ask(client, protocol, "List", {})
        case Action.SHOW:
            return find_adapter((await ask(client, protocol, "List", {}))["adapters"], name)
        case Action.ALIAS:
            return await ask(client, protocol, "SetAlias", {"alias": other, "adapter": name})
        case Action.UNALIAS:
            return await ask(client, protocol, "DropAlias", {"alias": name})
        case Action.DELETE:
            return await ask(client, protocol, "Delete", {"adapter": name})
        case Action.MERGE:
            return await ask(client, protocol, "Merge", {"adapter": name, "name": other})
        case Action.EXPORT:
            return await ask(client, protocol, "Export", {"adapter": name, "folder": other})


def find_adapter(listed: list[Fields], reference: str) -> Fields:
    """Return what *reference*, a name, ``name@version`` or an alias, means among those *listed*.

    Raises:
        NoAnswer: Nothing.
    """
    name, _, version = reference.partition("@")
    named = [one for one in listed if one["name"] == name and version in ("", str(one["version"]))]
    meant = named or [one for one in listed if reference in one["aliases"]]
    if not meant:
        raise NoAnswer(f"expected an adapter, NAME@VERSION or an alias, got {reference!r}: palaver adapters lists them")
    return max(meant, key=lambda one: int(one["version"]))


def _print_list(listed: list[Fields]) -> None:
    rows = (
        [
            f"{one['name']}@{one['version']}",
            ", ".join(one["aliases"]) or "–",
            one["kind"],
            one["base"],
            _number(one["metrics"].get("loss")),
            _number(one["metrics"].get("evaluation_loss")),
        ]
        for one in listed
    )
    head = ["adapter", "aliases", "kind", "base", "loss", "held-out loss"]
    print_table(head, rows, empty="no adapters yet: palaver train FILE")


def _print_one(one: Fields) -> None:
    console.print(f"{one['name']}@{one['version']}", style="bold", markup=False)
    facts = {
        "kind": one["kind"],
        "aliases": ", ".join(one["aliases"]) or "none",
        "base": one["base"],
        "base's weights": one["base_sha256"],
        "artifact": one["artifact"]["uri"],
        "dataset": one["dataset_sha256"],
        "seed": one["seed"],
        "run": one["task_id"],
        "conversation": one["conversation_id"],
        "figures": ", ".join(f"{name} {value:.4g}" for name, value in sorted(one["metrics"].items())),
        "made with": ", ".join(f"{name} {version}" for name, version in sorted(one["versions"].items())),
    }
    for name, value in facts.items():
        if value is not None:
            console.print(f"  {name:<15} {value}", markup=False, soft_wrap=True)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
