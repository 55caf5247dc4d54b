"""``palaver fuzz``: play a protocol at random, against the monitor or against one real agent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bus.cli.exit_codes import ExitCode
from bus.cli.output import console, errors, print_json, say
from bus.spec.compile import load_protocol
from bus.testing.fuzzer import RUNS, Finding, Report, fuzz_protocol

_SHOWN_STATES = 12


def fuzz(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A protocol's name, or the path of its spec.")],
    runs: Annotated[
        int | None, typer.Option(min=1, help="How many conversations are played.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal runs.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Play a protocol at random: any order, slow handlers, missed deadlines, forbidden messages.

    Exits with 1 where something was found.
    """
    protocol = load_protocol(file)
    wanted = runs or RUNS
    with _progress(wanted, f"{protocol.name}@{protocol.version}") as advance:
        report = fuzz_protocol(protocol, runs=wanted, seed=seed, on_run=advance)
    if as_json:
        print_json(_as_json(report, seed))
    else:
        _show(report, seed)
    if report.findings:
        raise typer.Exit(ExitCode.REFUSED)


@contextmanager
def _progress(total: int, title: str) -> Iterator[Callable[[int], None] | None]:
    """Show a bar on a terminal and nothing elsewhere."""
    if not errors.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda number: progress.update(task, completed=number)


def _as_json(report: Report, seed: int) -> dict[str, object]:
    tally = report.tally
    return {
        "protocol": report.protocol.name, "version": report.protocol.version, "digest": report.protocol.digest,
        "seed": seed, "runs": tally.n_runs, "messages": tally.n_messages, "events": tally.n_events,
        "illegal_tried": tally.n_illegal, "superseded": tally.n_superseded,
        "outcomes": dict(sorted(tally.outcomes.items())),
        "unreached": [{"role": role, "state": state, "there": there} for role, state, there in report.unreached()],
        "findings": [finding.as_json() for finding in report.findings],
    }  # fmt: skip


def _show(report: Report, seed: int) -> None:
    tally, protocol = report.tally, report.protocol
    lines = [
        f"{protocol.name}@{protocol.version}: {tally.n_runs:,} runs, seed {seed}",
        f"  {tally.n_messages:,} messages, {tally.n_events:,} bus events",
        f"  {tally.n_illegal:,} forbidden messages tried" + ("" if report.findings else ", all refused"),
        "  outcomes: " + ", ".join(f"{name} {n:,}" for name, n in tally.outcomes.most_common()),
    ]
    unreached = report.unreached()
    if unreached:
        lines.append(f"  never reached: {len(unreached)} of the roles' states")
        lines += [f"    {role}, state {state}: {there}" for role, state, there in unreached[:_SHOWN_STATES]]
        if len(unreached) > _SHOWN_STATES:
            lines.append(f"    and {len(unreached) - _SHOWN_STATES} more")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    show_findings(report.findings)


def show_findings(findings: list[Finding]) -> None:
    """Print what was found to people, with the way to it."""
    for finding in findings:
        say(f"{finding.kind}: {finding.text} (in {finding.n_runs:,} runs; first with seed {finding.seed})", "red")
        for number, step in enumerate(finding.trace, 1):
            console.print(f"  {number:3} {step}", markup=False, soft_wrap=True)
    say(f"{len(findings)} findings" if len(findings) != 1 else "1 finding", "red" if findings else "green")
