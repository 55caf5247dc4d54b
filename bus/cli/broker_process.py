"""``palaver broker``: the broker of a project, in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bus.cli.process_options import LifelineOption, LogOption, process
from bus.engine.server import serve
from bus.fleet.project import find_project
from bus.spec.mode import Mode, read_mode


def broker(
    bus: Annotated[
        str | None, typer.Option("--bus", metavar="ADDRESS", help="Where to listen; else this project's own address.")
    ] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option("--mode", metavar="PROTOCOL=MODE", help="Hold a protocol to its order: enforce, observe or off."),
    ] = None,
    log: LogOption = "info",
    lifeline: LifelineOption = False,
) -> None:
    """Run the broker of this project in the foreground; palaver up does so by itself."""
    modes = dict(_mode(text) for text in mode or [])
    project = find_project(Path.cwd())
    with process(log, lifeline=lifeline) as settings:
        own = project.prepare_address()
        code = serve(bus or own, project.state_folder, settings, modes=modes)
    raise typer.Exit(code)


def _mode(text: str) -> tuple[str, Mode]:
    name, separator, mode = text.partition("=")
    try:
        if separator and name:
            return name, read_mode(mode)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--mode") from error
    raise typer.BadParameter(f"expected PROTOCOL=MODE, got {text!r}", param_hint="--mode")
