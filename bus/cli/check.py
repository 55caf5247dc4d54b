"""``palaver check``: is what people wrote in order, and if not, where, why, and what helps?"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Annotated, NoReturn, TypeAlias

import typer
from rich.text import Text

from bus.cli.exit_codes import ExitCode
from bus.cli.output import console, say
from bus.cli.trace_view import ASCII, UNICODE, show_finding
from bus.cli.training_file import load_training_file
from bus.errors import SpecError
from bus.fleet.file import load_fleet
from bus.fleet.project import find_project
from bus.spec.compile import check_path
from bus.spec.diagnostic import Diagnostic, Severity
from bus.spec.loader import load_text, split_lines

SUFFIXES = (".protocol.yaml", ".fleet.yaml", ".training.yaml")
_PIPE_WIDTH = 100  # columns of a picture that goes to no terminal
_WAKE = 500  # milliseconds after which files are looked at even if the system reports no change
# Path → when and how it was last written; None where there is no such file.
_Signature: TypeAlias = dict[Path, tuple[int, int, int] | None]


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
    watch: Annotated[bool, typer.Option("--watch", help="Check again whenever a file is saved, until Ctrl-C.")] = False,
) -> None:
    """Check protocol, fleet and training files; exits with 1 where one has an error, with 2 where one is missing."""
    paths = expand(files)
    if watch:
        _watch(files, form)
    n_errors = print_findings(paths, form)
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


def expand(paths: Sequence[Path]) -> list[Path]:
    """Return the files that *paths* name, those in folders included.

    Raises:
        typer.BadParameter: One does not exist, or is a folder with nothing to check.
    """
    found: list[Path] = []
    for path in paths:
        try:
            inside = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES)) if path.is_dir() else None
            path.stat()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            reason = getattr(error, "strerror", None) or str(error)
            missing = isinstance(error, FileNotFoundError)
            problem = "expected a file, which does not exist" if missing else f"expected a file, got: {reason}"
            raise typer.BadParameter(f"{path}: {problem}") from error
        if inside is not None and not inside:
            raise typer.BadParameter(f"{path}: expected a folder with files named *{', *'.join(SUFFIXES)}")
        found += [path] if inside is None else inside
    return found


def print_findings(paths: Sequence[Path], form: Format) -> int:
    """Check the files at *paths*, print what was found, and return how many errors there are."""
    n_errors = n_warnings = 0
    everything: list[Diagnostic] = []
    for path in paths:
        found = check_file(path)
        everything += found
        errors = sum(one.severity is Severity.ERROR for one in found)
        n_errors, n_warnings = n_errors + errors, n_warnings + len(found) - errors
        if form is Format.TEXT and found:
            _print_text(path, found)
        elif form is Format.GITHUB:
            for diagnostic in found:
                _print(_annotation(diagnostic))
    if form is Format.JSON:
        _print(json.dumps([diagnostic.as_json() for diagnostic in everything]))  # ASCII: any terminal takes it
    if form is Format.TEXT:
        say(f"{_count(len(paths), 'file')}: {_count(n_errors, 'error')}, {_count(n_warnings, 'warning')}")
    return n_errors


def _print_text(path: Path, found: Sequence[Diagnostic]) -> None:
    try:
        lines = split_lines(load_text(path))
    except SpecError:
        lines = []
    width = console.width if console.is_terminal else _PIPE_WIDTH
    pens = UNICODE if console.encoding.lower().startswith("utf") else ASCII
    for diagnostic in found:
        for line in [*show_finding(diagnostic, lines, width=width, pens=pens), Text()]:
            if pens is ASCII:
                line.plain = line.plain.encode("ascii", "backslashreplace").decode("ascii")
            console.print(line, soft_wrap=True)


def _print(line: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def _annotation(diagnostic: Diagnostic) -> str:
    """Return a workflow command; GitHub wants these characters escaped (docs: "Workflow commands")."""
    level = "error" if diagnostic.severity is Severity.ERROR else "warning"
    mark = diagnostic.mark
    text = f"{diagnostic.message}; {diagnostic.suggestion}" if diagnostic.suggestion else diagnostic.message
    if diagnostic.trace:
        text += f"\nafter {', '.join(diagnostic.trace)}"
    file = _escaped(mark.file).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} file={file},line={mark.line},col={mark.column},title={diagnostic.rule}::{_escaped(text)}"


def _escaped(text: str) -> str:
    for raw, escaped in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        text = text.replace(raw, escaped)
    return text


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# -- again and again ----------------------------------------------------------------------------------


def _watch(files: Sequence[Path], form: Format) -> NoReturn:
    """Check *files* now and whenever one of them was saved, replaced, deleted or made again; ends by Ctrl-C only."""
    try:
        from watchfiles import watch  # only here: it takes a thread and a compiled library
    except ImportError as error:
        raise typer.BadParameter("--watch needs watchfiles: pip install 'palaver[watch]'") from error
    folders = {path if path.is_dir() else path.parent for path in files}
    seen: _Signature | None = None
    # Folders are watched, because editors replace files; the files' own dates decide, because what happens before
    # the watching has begun, or behind a link, is reported by nobody.
    wakes = watch(
        *folders, watch_filter=None, debounce=200, rust_timeout=_WAKE, yield_on_timeout=True, recursive=False
    )  # fmt: skip
    for _ in chain([None], wakes):
        now = _signature(files)
        if now == seen:
            continue
        seen = now
        if form is Format.TEXT and console.is_terminal:
            console.clear()
        print_findings([path for path, written in now.items() if written is not None], form)
        for path in (path for path, written in now.items() if written is None):
            say(f"{path}: expected a file, which does not exist; waiting for it", "yellow")
    raise KeyboardInterrupt  # which is how it ends anyway


def _signature(files: Sequence[Path]) -> _Signature:
    found: _Signature = {}
    for path in files:
        try:
            inside = sorted(one for one in path.iterdir() if one.name.endswith(SUFFIXES)) if path.is_dir() else [path]
        except OSError:  # the folder has just gone
            inside = [path]
        for file in inside:
            try:
                status = file.stat()
            except OSError:
                found[file] = None
            else:
                found[file] = (status.st_mtime_ns, status.st_size, status.st_ino)
    return found
