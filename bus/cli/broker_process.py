"""``palaver broker``: the broker of a project, in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bus.cli.process_options import LifelineOption, LogOption, process
from bus.engine.server import serve
from bus.fleet.project import find_project


def broker(
    bus: Annotated[
        str | None, typer.Option("--bus", metavar="ADDRESS", help="Where to listen; else this project's own address.")
    ] = None,
    log: LogOption = "info",
    lifeline: LifelineOption = False,
) -> None:
    """Run the broker of this project in the foreground; palaver up does so by itself."""
    project = find_project(Path.cwd())
    with process(log, lifeline=lifeline) as settings:
        own = project.prepare_address()
        code = serve(bus or own, project.state_folder, settings)
    raise typer.Exit(code)
