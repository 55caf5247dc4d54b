"""``palaver diff``: may agents of the old version of a protocol meet those of the new one?"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from bus.cli.check import Format
from bus.cli.exit_codes import ExitCode
from bus.cli.output import console, print_json, say
from bus.errors import SpecError
from bus.spec.change import Bump, Change, Level, Misfit, RoleVerdict, Verdict
from bus.spec.compile import find_protocol
from bus.spec.diff import Diff
from bus.spec.diff import diff as compare
from bus.spec.loader import load_text
from bus.spec.version import Version, read_version

_STYLES = {Level.ERR: "red", Level.WARN: "yellow", Level.INFO: "cyan"}
_VERDICT_STYLES = {
    Verdict.FULL: "green",
    Verdict.BACKWARD: "cyan",
    Verdict.FORWARD: "yellow",
    Verdict.BREAKING: "red",
}
_ANNOTATIONS = {Level.ERR: "error", Level.WARN: "warning", Level.INFO: "notice"}
_MEANINGS = {
    Verdict.FULL: "old and new agents fit both",
    Verdict.BACKWARD: "old agents fit the new version, new ones not the old",
    Verdict.FORWARD: "old agents do not fit the new version, new ones fit the old",
    Verdict.BREAKING: "neither fits the other",
}


def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="The earlier spec: its path, or a protocol's name.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The later spec: its path, or a protocol's name.")],
    fail_on: Annotated[
        Level, typer.Option("--fail-on", case_sensitive=False, help="The least serious finding that exits with 1.")
    ] = Level.ERR,
    form: Annotated[
        Format, typer.Option("--format", help="For people, programs, or GitHub annotations.")
    ] = Format.TEXT,
) -> None:
    """Compare two versions of a protocol: who breaks, how it shows, which version number must go up."""
    before, after = _read(old, "OLD"), _read(new, "NEW")
    found = compare(before, after)
    if form is Format.JSON:
        print_json(found.as_json())
    elif form is Format.GITHUB:
        for change in found.changes:
            print(_annotation(change))
    else:
        _print(found, before, after)
    if any(change.level.is_at_least(fail_on) for change in found.changes):
        raise typer.Exit(ExitCode.REFUSED)


def _read(name: str, which: str) -> Version:
    try:
        path = find_protocol(name)
    except SpecError as error:
        raise typer.BadParameter(str(error), param_hint=which) from error
    if not path.exists():
        raise typer.BadParameter(f"{path}: expected a file, which does not exist", param_hint=which)
    return read_version(load_text(path), str(path))


# -- for people -----------------------------------------------------------------------------------------


def _print(found: Diff, before: Version, after: Version) -> None:
    console.print(f"[bold]{before.label}[/] → [bold]{after.label}[/]\n")
    width = max(len(one.role) for one in found.verdicts)
    for verdict in found.verdicts:
        _print_verdict(verdict, width)
    if found.changes:
        console.print()
    for change in found.changes:
        _print_change(change)
    console.print()
    counts = {level: sum(one.level is level for one in found.changes) for level in Level}
    say(f"{', '.join(f'{number} {level}' for level, number in counts.items())}; {_say_bump(found)}")


def _print_verdict(verdict: RoleVerdict, width: int) -> None:
    word = verdict.verdict
    style = _VERDICT_STYLES[word]
    console.print(f"{escape(verdict.role):{width}}  [{style}]{word:8}[/]  {_MEANINGS[word]}")
    indent = " " * (width + 12)
    for what, misfit in (("an old agent", verdict.old_in_new), ("a new agent", verdict.new_in_old)):
        if misfit is not None:
            other = "new" if what == "an old agent" else "old"
            _print_misfit(f"{what} in {other} conversations: {misfit.reason}", misfit, indent)


def _print_misfit(said: str, misfit: Misfit, indent: str) -> None:
    console.print(f"{indent}{said}", markup=False, soft_wrap=True)
    for number, step in enumerate(misfit.trace):
        is_last = number == len(misfit.trace) - 1
        shows = is_last and misfit.rule != "order-silent"
        console.print(f"{indent}  {number + 1}. {step}{'  ✗' if shows else ''}", markup=False, soft_wrap=True)
    if misfit.rule == "order-silent":
        console.print(f"{indent}  {len(misfit.trace) + 1}. …  ✗", markup=False, soft_wrap=True)


def _print_change(change: Change) -> None:
    text = f"{change.mark}: {change.level} {change.rule}: {change.message}"
    console.print(text, style=_STYLES[change.level], markup=False, soft_wrap=True)
    if change.suggestion:
        console.print(f"    {change.suggestion}", markup=False, soft_wrap=True)


def _say_bump(found: Diff) -> str:
    if found.required is Bump.NONE:
        return "the version may stay"
    made = "none was" if found.made is Bump.NONE else f"a {found.made} one was"
    return f"asks for a {found.required} version, and {made} made"


# -- for GitHub -----------------------------------------------------------------------------------------


def _annotation(change: Change) -> str:
    """Return a workflow command; GitHub wants these characters escaped (docs: "Workflow commands")."""
    text = change.message
    if change.trace:
        text += f" (after {', '.join(change.trace)})"
    if change.suggestion:
        text += f"; {change.suggestion}"
    for raw, escaped in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        text = text.replace(raw, escaped)
    mark = change.mark
    place = f"file={mark.file},line={mark.line},col={mark.column},title={change.rule}"
    return f"::{_ANNOTATIONS[change.level]} {place}::{text}"
