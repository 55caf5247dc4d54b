"""``palaver init`` and ``palaver doctor``: begin a project, and find out what is wrong with one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from bus.cli.checkup import Finding, Verdict, examine
from bus.cli.exit_codes import ExitCode
from bus.cli.options import BusOption, JsonOption, address_of, here
from bus.cli.output import console, print_json, say
from bus.errors import FleetError
from bus.fleet.project import CHECKOUT, SHIPPED, Project

_COPIED = ("agents", "specs", "docs")
_STYLES = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where; it is made if it does not exist.")] = Path(),
) -> None:
    """Begin a project: copies the agents, specs and documents that palaver ships; overwrites nothing."""
    copies = list(_copies(folder))
    taken = [target for _, target in copies if target.exists() or target.is_symlink()]
    if taken:
        more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
        raise FleetError(f"expected a folder without palaver's files, got {taken[0]}{more}: nothing was copied")
    project = Project(folder.resolve())
    for source, target in copies:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    project.prepare()
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text(".palaver/\n", encoding="utf-8")
    say(f"{len(copies)} files in {folder.resolve()}")
    where = "" if folder.resolve() == Path.cwd() else f"cd {folder} && "
    say(f"next: {where}palaver check specs && palaver up specs/newsroom.fleet.yaml")


def doctor(bus: BusOption = None, as_json: JsonOption = False) -> None:
    """Examine the installation and this project; exits with 1 where something must be mended."""
    findings = []
    for finding in examine(here(), address_of(bus)):
        findings.append(finding)
        if not as_json:
            _show(finding)
    if as_json:
        print_json(
            [
                {"check": one.check, "verdict": str(one.verdict), "found": one.found, "advice": one.advice or None}
                for one in findings
            ]
        )
    if any(finding.verdict is Verdict.FAIL for finding in findings):
        raise typer.Exit(ExitCode.REFUSED)


def _copies(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yield (source, target) of every file that a project begins with."""
    for name in _COPIED:
        source = next((root / name for root in (SHIPPED, CHECKOUT) if (root / name).is_dir()), None)
        if source is None:
            raise FleetError(f"expected {name}/ among palaver's own files, got nothing: install palaver again")
        for path in sorted(source.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path, folder / name / path.relative_to(source)


def _show(finding: Finding) -> None:
    console.print(f"[{_STYLES[finding.verdict]}]{finding.verdict:<4}[/] {finding.check}: ", end="")
    console.print(finding.found, markup=False, soft_wrap=True)
    if finding.advice:
        console.print(f"     {finding.advice}", style="dim", markup=False, soft_wrap=True)
