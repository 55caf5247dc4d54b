"""The ``palaver`` command: which commands there are, and how one ends.

Only the group that the command line names is imported, so that starting an agent does not pay for
tables and progress bars.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

import bus
from bus.cli.exit_codes import exit_code_of_error, show_exit_codes
from bus.errors import LocalProtocolError, PalaverError, Refused
from bus.log import configure_logging
from bus.spec.allowed import show_allowed

# In the order of --help: module → (heading, its commands). The demo's module brings its own function.
GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "bus.cli.project": ("Projects", ("init", "doctor")),
    "bus.cli.check": ("Specs", ("check",)),
    "bus.cli.diff": ("Specs", ("diff",)),
    "bus.cli.generated": ("Specs", ("draw", "doc", "schema", "asyncapi", "codegen", "tools")),
    "bus.cli.fuzz": ("Specs", ("fuzz",)),
    "bus.cli.processes": ("Processes", ("up", "down", "status", "logs")),
    "bus.cli.launching": ("Processes", ("launch",)),
    "bus.cli.broker_process": ("Processes", ("broker",)),
    "bus.cli.messages": ("Messages", ("send", "conversations", "cancel")),
    "bus.cli.dead": ("Messages", ("dead",)),
    "bus.cli.people": ("People", ("inbox", "answer")),
    "bus.cli.training": ("Training", ("train", "generate")),
    "bus.cli.adapters": ("Training", ("adapters",)),
    "bus.cli.runs": ("Training", ("runs",)),
    "bus.cli.serve": ("Training", ("serve",)),
    "bus.cli.demo": ("Projects", ("demo",)),
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; errors of palaver become one clean message."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    configure_logging("warning")  # a reconnect is no news to a person; processes that run on say more
    try:
        new_app(arguments)(args=arguments, prog_name="palaver")
    except (PalaverError, TimeoutError) as error:
        print(describe_error(error), file=sys.stderr)
        sys.exit(exit_code_of_error(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has gone, as `palaver logs | head` does; nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(0)


def describe_error(error: BaseException) -> str:
    """Return what a person is told of *error*: one clean message, below it what is allowed with its fields."""
    lines = [f"palaver: {str(error) or 'the time limit passed'}"]
    if isinstance(error, LocalProtocolError | Refused):
        lines += [f"  {show_allowed([one])}" for one in error.allowed]
    return "\n".join(lines)


def new_app(arguments: Sequence[str]) -> typer.Typer:
    """Return the application with the command that *arguments* name, or with all where they name none."""
    app = typer.Typer(
        name="palaver",
        help="Agents that keep to a protocol: a declarative message bus between processes.",
        epilog=show_exit_codes(),
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name in _named(arguments) or GROUPS:
        _add(app, name)
    return app


def _named(arguments: Sequence[str]) -> list[str]:
    """Return the module of the command that *arguments* begin with; empty where that is no command of ours."""
    return [module for module, (_, commands) in GROUPS.items() if arguments and arguments[0] in commands]


def _add(app: typer.Typer, name: str) -> None:
    if importlib.util.find_spec(name) is None:
        return  # no demo in this installation
    module = importlib.import_module(name)
    heading, commands = GROUPS[name]
    for command in commands:
        app.command(command, rich_help_panel=heading)(getattr(module, command))


def _version(wanted: bool) -> None:
    if wanted:
        print(f"palaver {bus.__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Agents that keep to a protocol: a declarative message bus between processes."""
