"""What a person sees of a training run: the audit, the quote, a progress bar, the result."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from pydantic import BaseModel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bus.cli.output import console, print_json, show_seconds
from bus.spec.protocol import Protocol

_LINE_EVERY = 10  # share of a run after which progress becomes a line where there is no terminal: a tenth


_VARIANTS = {
    "base": "the base alone",
    "system-prompt": "with a system prompt",
    "tuned": "tuned",
}


class TrainView:
    """Shows the messages of one run; a context manager, because the bar must end with it."""

    def __init__(self, protocol: Protocol, *, as_json: bool) -> None:
        self._protocol = protocol
        self._as_json = as_json
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._told = -1

    def __enter__(self) -> TrainView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_bar()

    def show(self, message: BaseModel) -> None:
        """Show one message of the trainer."""
        message_type = self._protocol.messages[self._protocol.type_of[type(message)]]
        fields: dict[str, Any] = message_type.to_plain(message)  # type: ignore[arg-type]  # its own class
        if self._as_json:
            print_json({"received": message_type.name, "fields": fields})
            return
        shower = getattr(self, f"_show_{message_type.name.lower()}", None)
        if shower is not None:
            shower(fields)

    def show_end(self, outcome: str, reason: str, conversation_id: bytes) -> None:
        """Show how it ended."""
        self._end_bar()
        if self._as_json:
            print_json({"outcome": outcome, "reason": reason or None, "conversation": conversation_id})
        else:
            style = "bold green" if outcome == "trained" else "bold red"
            console.print(f"■ {outcome}" + (f": {reason}" if reason else ""), style=style, markup=False)

    def _show_refused(self, fields: dict[str, Any]) -> None:
        if fields.get("audit") is not None:
            self._show_audit(fields["audit"])
        self._line(f"refused: {fields['code']}: {fields['detail']}", "red")

    def _show_audit(self, audit: dict[str, Any]) -> None:
        share = audit["trained_tokens"] / max(1, audit["tokens"])
        self._line("audit", "bold")
        self._line(
            f"  {audit['rows']} rows, {audit['tokens']} tokens, "
            f"of which {audit['trained_tokens']} ({share:.0%}) are trained"
        )
        for note in audit["notes"]:
            self._line(f"  note: {note}")
        for warning in audit["warnings"]:
            self._line(f"  warning: {warning}", "yellow")
        self._line("  the first row, trained parts marked:")
        for line in audit["first_example"].splitlines():
            printable = "".join(one if one.isprintable() else "\ufffd" for one in line)  # data must not move the cursor
            self._line(f"    {printable}", "dim")

    def _show_quote(self, fields: dict[str, Any]) -> None:
        self._show_audit(fields["audit"])
        memory = fields["peak_memory_bytes"] / 2**20
        span = show_seconds(fields["seconds"])
        self._line("quote", "bold")
        self._line(f"  {fields['steps']} steps, about {span}, at most {memory:,.0f} MiB on {fields['device']}")

    def _show_queued(self, fields: dict[str, Any]) -> None:
        place = fields["position"]
        self._line(f"queued, {place} before it" if place else "queued, next to run")

    def _show_started(self, fields: dict[str, Any]) -> None:
        self._line(f"run {fields['run_id']} started")

    def _show_progress(self, fields: dict[str, Any]) -> None:
        metrics, of_steps = fields["metrics"], fields["of_steps"]
        speed = metrics.get("tokens_per_second")
        left = fields.get("seconds_left")
        words = [f"loss {metrics['loss']:.4f}"]
        words += [f"{speed:,.0f} tokens/s"] if speed is not None else []
        words += [f"{show_seconds(left)} left"] if left is not None else []
        if fields.get("resumed_from_step") is not None:
            words.append(f"resumed from step {fields['resumed_from_step']}")
        if console.is_terminal:
            bar, task = self._begin_bar(of_steps)
            bar.update(task, completed=metrics["step"], facts=", ".join(words))
            return
        tenth = metrics["step"] * _LINE_EVERY // max(1, of_steps)
        if tenth != self._told:
            self._told = tenth
            self._line(f"step {metrics['step']}/{of_steps}: {', '.join(words)}")

    def _show_evaluated(self, fields: dict[str, Any]) -> None:
        self._line(f"evaluated at step {fields['step']}")
        for score in fields["scores"]:
            metrics = "".join(f", {name} {value:.4g}" for name, value in score["metrics"].items())
            self._line(f"  {_VARIANTS[score['variant']]:<24}loss {score['loss']:.4f}{metrics}")

    def _show_suspended(self, fields: dict[str, Any]) -> None:
        self._end_bar()
        why = "its owner paused it" if fields["reason"] == "owner" else "one of higher priority takes its place"
        self._line(f"suspended: {why}; it goes on from its checkpoint", "yellow")

    def _show_trained(self, fields: dict[str, Any]) -> None:
        self._end_bar(complete=True)
        used = fields["used"]
        self._line(f"trained in {show_seconds(used['seconds'])}, loss {fields['metrics']['loss']:.4f}", "green")
        self._line(
            f"  used {used['peak_memory_bytes'] / 2**20:,.0f} MiB at most; quoted were "
            f"{show_seconds(used['quoted_seconds'])} and {used['quoted_peak_memory_bytes'] / 2**20:,.0f} MiB",
            "dim",
        )
        if fields.get("adapter"):
            self._line(
                f"registered as {fields['adapter']}: palaver generate PROMPT --adapter {fields['adapter']}", "green"
            )
        self._line(f"  {fields['artifact']['uri']}  sha256 {fields['artifact']['sha256'][:16]}…", "dim")

    def _show_trainfailed(self, fields: dict[str, Any]) -> None:
        self._end_bar()
        self._line(f"failed: {fields['code']}: {fields['detail']}", "red")
        if fields.get("last_checkpoint"):
            self._line(f"  last checkpoint: {fields['last_checkpoint']['uri']}")
        if fields["retryable"]:
            self._line("  it may be tried again")

    def _line(self, text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, soft_wrap=True)

    def _begin_bar(self, of_steps: int) -> tuple[Progress, TaskID]:
        if self._bar is None or self._task is None:
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[facts]}"),
                console=console,
            )
            self._bar.start()
            self._task = self._bar.add_task("training", total=of_steps, facts="")
        return self._bar, self._task

    def _end_bar(self, *, complete: bool = False) -> None:
        if self._bar is not None and self._task is not None:
            if complete:
                self._bar.update(self._task, completed=self._bar.tasks[0].total)
            self._bar.stop()
            self._bar = self._task = None
