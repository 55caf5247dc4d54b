"""``palaver launch`` and ``palaver broker``: one process each, in the foreground. Kept light: a fleet runs many."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from bus.cli.exit_codes import exit_code_of_launch
from bus.cli.options import BusOption, address_of, here
from bus.engine.server import serve
from bus.errors import PalaverError, ProgramError
from bus.fleet.launch import launch_program
from bus.fleet.lifeline import hold_lifeline
from bus.log import configure_logging
from bus.settings import Settings

LifelineOption = Annotated[
    bool, typer.Option("--lifeline", hidden=True, help="End when standard input ends: a supervisor holds it.")
]
LogOption = Annotated[str, typer.Option("--log", metavar="LEVEL", help="debug, info, warning or error.")]


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
    if lifeline:
        hold_lifeline(sys.stdin.fileno())
    _configure(log)
    try:
        launch_program(
            program,
            root=here().root,
            name=name,
            instance=instance,
            bus=address_of(bus),
            settings=_read_settings(settings),
        )
    except PalaverError as error:
        _leave(error)


def broker(bus: BusOption = None, log: LogOption = "info", lifeline: LifelineOption = False) -> None:
    """Run the broker of this project in the foreground; palaver up does so by itself."""
    if lifeline:
        hold_lifeline(sys.stdin.fileno())
    _configure(log)
    project = here()
    try:
        own = project.prepare_address()
        code = serve(bus or own, project.state_folder, _settings())
    except PalaverError as error:
        _leave(error)
    raise typer.Exit(code)


def _configure(level: str) -> None:
    try:
        configure_logging(level)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--log") from error


def _settings() -> Settings:
    try:
        return Settings.from_environment()
    except ValueError as error:
        raise ProgramError(str(error)) from error


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


def _leave(error: PalaverError) -> None:
    print(f"palaver: {error}", file=sys.stderr)
    raise typer.Exit(exit_code_of_launch(error)) from error
