"""The proof by execution: random protocols that `check` accepts, each played at random, and what came of it.

    python scripts/prove.py --protocols 2000 --runs 200 --jobs 2

Counts distinct protocols by digest, says how many random ones were refused by which rule, and exits with 1 where
a run broke a claim: stuck, an orphan, something illegal accepted or legal refused (``bus.testing.executor``).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from bus.log import configure_logging
from bus.spec.compile import check_text, compile_protocol
from bus.spec.diagnostic import Severity
from bus.testing.arena import Arena, Fault
from bus.testing.choices import Choices
from bus.testing.executor import Run
from bus.testing.fuzzer import fuzz_protocol
from bus.testing.random_members import random_gathering
from bus.testing.random_protocol import random_protocol
from bus.testing.record_desk import RecordDesk

ROOT = Path(__file__).parent.parent
BATCH = 25  # protocols in one piece of work
WHOLE = 2  # runs of each protocol that go through the whole broker, as records


@dataclass(slots=True)
class Figures:
    """What was seen; adds up."""

    n_texts: int = 0
    n_played: int = 0
    n_each: int = 0
    n_call: int = 0
    n_runs: int = 0
    n_whole: int = 0
    n_messages: int = 0
    n_events: int = 0
    n_illegal: int = 0
    n_superseded: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    digests: set[str] = field(default_factory=set)
    findings: list[str] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        """Add what another piece of work has seen."""
        counts = [name for name in self.__dataclass_fields__ if name.startswith("n_")]
        for name in counts:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.refused += other.refused
        self.outcomes += other.outcomes
        self.digests |= other.digests
        self.findings += other.findings


def prove(texts: list[tuple[str, str]], runs: int, known: frozenset[str]) -> Figures:
    """Play each of *texts*, (name, text), that is in order and not *known* by its digest."""
    configure_logging("critical")
    figures = Figures()
    for name, text in texts:
        figures.n_texts += 1
        errors = {one.rule for one in check_text(text)[1] if one.severity is Severity.ERROR}
        if errors:
            figures.refused.update(errors)
            continue
        try:
            protocol = compile_protocol(text)
        except Exception as error:  # in order, but of a kind that this version does not run
            figures.refused[f"not run: {str(error)[:60]}"] += 1
            continue
        if protocol.digest in known or protocol.digest in figures.digests:
            continue
        figures.digests.add(protocol.digest)
        report = fuzz_protocol(protocol, runs=runs)
        tally = report.tally
        figures.n_played += 1
        figures.n_runs += tally.n_runs
        figures.n_messages += tally.n_messages
        figures.n_events += tally.n_events
        figures.n_illegal += tally.n_illegal
        figures.n_superseded += tally.n_superseded
        figures.outcomes["cut"] += tally.outcomes["(cut)"]
        figures.outcomes["failed"] += tally.outcomes["failed"]
        figures.findings += [f"{name}: {one.kind}: {one.text} (seed {one.seed}) {one.trace}" for one in report.findings]
        figures.n_each += bool(protocol.tables.eaches)
        figures.n_call += bool(protocol.tables.calls)
        if protocol.has_members or protocol.tables.calls:
            continue  # the whole broker is played without members and calls only
        arena = Arena(protocol)
        for number in range(WHOLE):
            run = Run(arena, Choices(f"whole-{number}"), new_desk=RecordDesk)
            figures.n_whole += 1
            try:
                run.play()
            except Fault as fault:
                figures.findings.append(f"{name}: whole broker: {fault} (seed whole-{number}) {run.trace}")
    return figures


def written() -> list[tuple[str, str]]:
    """Return the specs that ship and those of the corpus that tests hold."""
    files = [
        *sorted((ROOT / "specs").glob("*.protocol.yaml")),
        *sorted((ROOT / "tests/spec/data").glob("*.protocol.yaml")),
    ]
    texts = [(file.name, file.read_text(encoding="utf-8")) for file in files]
    corpus = (ROOT / "tests/spec/data/corpus.jsonl").read_text(encoding="utf-8").splitlines()
    for line in map(json.loads, corpus):
        texts.append((f"{line['name']} ({line['source'][-40:]})", line["yaml"]))
    return texts


def batches(first: int, write: Callable[[int], str] = random_protocol) -> Iterator[list[tuple[str, str]]]:
    """Yield random texts of *write*, seed after seed, without end."""
    while True:
        yield [(f"{write.__name__} {seed}", write(seed)) for seed in range(first, first + BATCH)]
        first += BATCH


def main() -> int:
    """Print the figures; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--protocols", type=int, default=2000, help="distinct random protocols to be played")
    parser.add_argument("--gatherings", type=int, default=1000, help="distinct ones with members or calls beside them")
    parser.add_argument("--runs", type=int, default=200, help="runs of each")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    wanted = parser.parse_args()
    begin = time.monotonic()
    fixed = Figures()
    fixed.add(prove(written(), wanted.runs, frozenset()))
    show("specs and corpus", fixed, time.monotonic() - begin)
    findings = [*fixed.findings]
    for title, write, n in (
        ("random protocols", random_protocol, wanted.protocols),
        ("random protocols with members and calls", random_gathering, wanted.gatherings),
    ):
        begin = time.monotonic()
        drawn = play_drawn(batches(wanted.first, write), n, runs=wanted.runs, jobs=wanted.jobs)
        show(title, drawn, time.monotonic() - begin)
        findings += drawn.findings
    for finding in findings:
        print(finding)
    return 1 if findings else 0


def play_drawn(work: Iterator[list[tuple[str, str]]], n: int, *, runs: int, jobs: int) -> Figures:
    """Play protocols from *work* until *n* distinct ones were played."""
    drawn = Figures()
    with ProcessPoolExecutor(jobs) as pool:
        while len(drawn.digests) < n:
            pieces = [*islice(work, jobs * 2)]
            known = frozenset(drawn.digests)
            for figures in pool.map(prove, pieces, [runs] * len(pieces), [known] * len(pieces)):
                drawn.add(figures)
            print(f"\r{len(drawn.digests):,} of {n:,} protocols", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return drawn


def show(title: str, figures: Figures, seconds: float) -> None:
    """Print what was seen."""
    rules = ", ".join(f"{rule} {n / figures.n_texts:.1%}" for rule, n in figures.refused.most_common())
    print(
        f"{title}: {figures.n_texts:,} texts, {len(figures.digests):,} distinct accepted ones played, "
        f"{figures.n_each:,} with each, {figures.n_call:,} with call\n"
        f"  {figures.n_runs:,} runs, {figures.n_whole:,} more through the whole broker, in {seconds:,.0f} s\n"
        f"  {figures.n_messages:,} messages, {figures.n_events:,} bus events, {figures.n_illegal:,} forbidden messages "
        f"tried, {figures.n_superseded:,} superseded\n"
        f"  ended as failed {figures.outcomes['failed']:,}, cut {figures.outcomes['cut']:,}\n"
        f"  refused by (share of all texts; one text may break several): {rules or 'none'}\n"
        f"  findings: {len(figures.findings)}"
    )


if __name__ == "__main__":
    sys.exit(main())
