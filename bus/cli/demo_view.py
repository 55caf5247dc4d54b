"""What a person sees of the demo: short scenes, one line for each message, bars on a terminal.

Knows how things look and nothing of how they come about. Where output is no terminal everything
is a plain line and a bar becomes a line at each quarter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_WIDTH = 96  # of a quoted text
_PLAIN_WIDTH = 140  # of a line where output is no terminal


@dataclass(frozen=True, slots=True)
class Speech:
    """One journaled message of a conversation: who said what to whom.

    Attributes:
        facts: The message's fields as plain values.
    """

    sender: str
    receivers: tuple[str, ...]
    type: str
    facts: Mapping[str, Any]


def narrate(speech: Speech) -> str:
    """Return what *speech* says, as half a sentence for people; unknown messages are called by their name."""
    facts = speech.facts
    match speech.type:
        case "Brief":
            return f"Brief: “{facts['topic']}”"
        case "Finding":
            return f"Finding from “{facts['sources'][0]['title']}”: {shorten(facts['text'], 56)}"
        case "FindingsDone":
            return f"that was all, {facts['count']} findings"
        case "Digest":
            return f"Digest: {shorten(facts['summary'], _WIDTH)}"
        case "Draft":
            return f"Draft {facts['revision']}, filed under {facts['section']!r}"
        case "Revise" | "Kill":
            return f"{speech.type}: {facts.get('comments') or facts.get('reason')}"
        case "Approve":
            return f"Approve: {facts.get('note') or 'publish as it stands'}"
        case "Published":
            return f"Published under {facts['section']!r}: {facts['headline']}"
        case "Spiked":
            return f"Spiked: {facts['reason']}"
        case "TrainRequest":
            rank = f" of rank {facts['lora']['rank']}" if facts.get("lora") else ""
            what = "a LoRA adapter" if facts["method"] == "lora" else "all parameters"
            return f"TrainRequest: {what}{rank} on {facts['base']}, {facts['max_steps']} steps"
        case "Quote":
            audit = facts["audit"]
            memory = facts["peak_memory_bytes"] / 1e6
            return (
                f"Quote: {audit['rows']} rows, {audit['trained_tokens']} of {audit['tokens']} tokens trained, "
                f"about {facts['seconds']:.0f} s and {memory:.0f} MB on {facts['device']}"
            )
        case "Evaluated":
            return f"Evaluated at step {facts['step']}: " + "; ".join(_score(one) for one in facts["scores"])
        case "Trained":
            name = facts.get("adapter")
            return f"Trained in {facts['used']['seconds']:.0f} s" + (f": adapter {name}" if name else "")
        case "Refused" | "TrainFailed":
            return f"{speech.type}: {facts['code']}: {facts['detail']}"
        case _:
            return speech.type


def shorten(text: str, width: int) -> str:
    """Return *text* on one line of at most *width* letters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


class DemoView:
    """Prints to one console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._quarter = 0

    def scene(self, title: str) -> None:
        """Begin a new scene."""
        self.end_progress()
        self._console.print(f"\n[bold]{escape(title)}[/bold]")

    def say(self, text: str) -> None:
        """Print a line of the story-teller's own."""
        self._print(f"  {escape(text)}")

    def speech(self, speech: Speech, *, indent: int = 2) -> None:
        """Print one message of a conversation."""
        way = f"{speech.sender} → {', '.join(speech.receivers)}"
        said = shorten(narrate(speech), self._width - indent - 25)
        self._print(f"{' ' * indent}[cyan]{escape(f'{way:<24}')}[/cyan] {escape(said)}")

    def processes(self, processes: Sequence[Mapping[str, object]]) -> None:
        """Print who runs."""
        text = "  ".join(f"{one['name']} {one['pid']}" for one in processes)
        self._print(f"  process ids: {escape(text)}")

    def draft(self, headline: str, body: str, section: str) -> None:
        """Print a whole draft for the person who decides."""
        self._print(f"\n  [bold]{escape(headline)}[/bold], filed under [yellow]{escape(repr(section))}[/yellow]")
        self._print(f"  {escape(body)}")

    def ask(self, question: str) -> None:
        """Print *question* and stay on its line."""
        self._console.print(f"  {escape(question)} ", end="", highlight=False)

    def progress(self, done: int, total: int, note: str) -> None:
        """Move the bar of the run under way."""
        if not self._console.is_terminal:
            quarter = 4 * done // max(total, 1)
            if quarter > self._quarter:
                self._quarter = quarter
                self._print(f"    step {done} of {total}, {note}")
            return
        if self._bar is None:
            columns = (
                TextColumn("    {task.completed:.0f}/{task.total:.0f}"),
                BarColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Progress(*columns, TimeRemainingColumn(), console=self._console, transient=False)
            self._task = self._bar.add_task("", total=total, note=note)
            self._bar.start()
        self._bar.update(self._task, completed=done, note=note)

    def end_progress(self) -> None:
        """Leave the bar as it stands; the next run gets a new one."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self._quarter = 0

    def verdict(self, holds: bool, text: str) -> None:
        """Print one claim and whether it held."""
        mark = "[green]yes[/green]" if holds else "[red]no [/red]"
        self._print(f"  {mark}  {escape(text)}")

    @property
    def _width(self) -> int:
        """Letters on a line; a file or pipe takes what a wide terminal would."""
        return max(self._console.width, 60) if self._console.is_terminal else _PLAIN_WIDTH

    def _print(self, markup: str) -> None:
        # Plain output is not wrapped: whoever reads it line by line shall find one line for one thing.
        self._console.print(markup, highlight=False, soft_wrap=not self._console.is_terminal)


def _score(score: dict[str, Any]) -> str:
    matched = score["metrics"].get("exact_match")
    rate = "" if matched is None else f", {matched:.0%} of the held-out digests filed right"
    return f"{score['variant']} loss {score['loss']:.3f}{rate}"
