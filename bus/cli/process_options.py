"""What ``launch`` and ``broker`` have in common. Kept light: a fleet runs many of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, TypeAlias

import typer

from bus.cli.exit_codes import exit_code_of_launch
from bus.errors import PalaverError, ProgramError
from bus.fleet.lifeline import hold_lifeline
from bus.log import configure_logging
from bus.settings import Settings

LifelineOption: TypeAlias = Annotated[
    bool, typer.Option("--lifeline", hidden=True, help="End when standard input ends: a supervisor holds it.")
]
LogOption: TypeAlias = Annotated[str, typer.Option("--log", metavar="LEVEL", help="debug, info, warning or error.")]


@contextmanager
def process(log: str, *, lifeline: bool) -> Iterator[Settings]:
    """Set this process up, give it the numbers of the bus, and turn palaver's errors into a message and exit code."""
    if lifeline:
        hold_lifeline(sys.stdin.fileno())
    try:
        configure_logging(log)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--log") from error
    try:
        yield _settings()
    except PalaverError as error:
        print(f"palaver: {error}", file=sys.stderr)
        raise typer.Exit(exit_code_of_launch(error)) from error


def _settings() -> Settings:
    try:
        return Settings.from_environment()
    except ValueError as error:
        raise ProgramError(str(error)) from error
