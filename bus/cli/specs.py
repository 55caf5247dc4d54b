"""``palaver check``: is what people wrote in order?"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bus.cli.exit_codes import ExitCode
from bus.cli.output import console, print_json, say
from bus.cli.training_file import load_training_file
from bus.errors import SpecError
from bus.fleet.file import load_fleet
from bus.fleet.project import find_project
from bus.spec.compile import check_path
from bus.spec.diagnostic import Diagnostic, Severity

SUFFIXES = (".protocol.yaml", ".fleet.yaml", ".training.yaml")


class Format(StrEnum):
    """How findings are printed."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Files, or folders to look through.")],
    form: Annotated[
        Format, typer.Option("--format", help="For people, programs, or GitHub annotations.")
    ] = Format.TEXT,
) -> None:
    """Check protocol, fleet and training files; exits with 1 where one has an error, with 2 where one is missing."""
    paths = list(_expand(files))
    found = [diagnostic for path in paths for diagnostic in check_file(path)]
    if form is Format.JSON:
        print_json([diagnostic.as_json() for diagnostic in found])
    for diagnostic in found:
        if form is Format.TEXT:
            style = "red" if diagnostic.severity is Severity.ERROR else "yellow"
            console.print(str(diagnostic), style=style, markup=False, soft_wrap=True)
        elif form is Format.GITHUB:
            print(_annotation(diagnostic))
    n_errors = sum(diagnostic.severity is Severity.ERROR for diagnostic in found)
    if form is Format.TEXT:
        say(f"{_count(len(paths), 'file')}: {_count(n_errors, 'error')}, {_count(len(found) - n_errors, 'warning')}")
    if n_errors:
        raise typer.Exit(ExitCode.REFUSED)


def check_file(path: Path) -> list[Diagnostic]:
    """Return what is to be said about the file at *path*, by the kind that its name tells."""
    try:
        if path.name.endswith(".fleet.yaml"):
            load_fleet(path, root=find_project(Path.cwd()).root)
            return []
        if path.name.endswith(".training.yaml"):
            load_training_file(path)
            return []
        return check_path(path)[1]
    except SpecError as error:
        return list(error.diagnostics)


def _expand(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES))
            if not inside:
                raise typer.BadParameter(f"{path}: expected a folder with files named *{', *'.join(SUFFIXES)}")
            yield from inside
        elif not path.exists():
            raise typer.BadParameter(f"{path}: expected a file, which does not exist")
        else:
            yield path


def _annotation(diagnostic: Diagnostic) -> str:
    """Return a workflow command; GitHub wants these characters escaped (docs: "Workflow commands")."""
    level = "error" if diagnostic.severity is Severity.ERROR else "warning"
    mark = diagnostic.mark
    text = f"{diagnostic.message}; {diagnostic.suggestion}" if diagnostic.suggestion else diagnostic.message
    for raw, escaped in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        text = text.replace(raw, escaped)
    return f"::{level} file={mark.file},line={mark.line},col={mark.column},title={diagnostic.rule}::{text}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
