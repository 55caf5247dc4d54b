"""``palaver launch``: one agent, in the foreground. Kept light: a fleet runs many."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from bus.cli.options import BusOption, address_of, here
from bus.cli.process_options import LifelineOption, LogOption, process
from bus.fleet.launch import launch_program


def launch(
    program: Annotated[
        str, typer.Argument(metavar="PROGRAM", help="A Python file, or a module such as training_service.")
    ],
    name: Annotated[str | None, typer.Option(help="The agent's name on the bus; else the program's.")] = None,
    instance: Annotated[int, typer.Option(help="Which of several agents of the same name.", min=0)] = 0,
    bus: BusOption = None,
    settings: Annotated[str | None, typer.Option(metavar="JSON", help="What agent.settings gives the program.")] = None,
    log: LogOption = "info",
    lifeline: LifelineOption = False,
) -> None:
    """Launch one agent and keep it running; Ctrl-C lets it finish its turn and leave."""
    chosen = _read_settings(settings)
    with process(log, lifeline=lifeline) as numbers:
        launch_program(
            program,
            root=here().root,
            name=name,
            instance=instance,
            bus=address_of(bus),
            settings=chosen,
            numbers=numbers,
        )


def _read_settings(text: str | None) -> dict[str, object] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"expected JSON, got: {error}", param_hint="--settings") from error
    if not isinstance(value, dict):
        raise typer.BadParameter(f"expected a JSON object, got {text[:60]!r}", param_hint="--settings")
    return value
