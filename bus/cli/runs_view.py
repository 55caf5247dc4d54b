"""What a person sees of training runs: the list, one run's facts, evaluations and loss, and how it goes."""

from __future__ import annotations

from typing import Any, TypeAlias

from bus.cli.curve import draw_curve
from bus.cli.output import console, print_json, print_table, show_seconds

Fields: TypeAlias = dict[str, Any]

VARIANTS = ("base", "system-prompt", "tuned")
"""In the order of the columns: the untouched base, the base that is told what to do, and the result."""


def print_runs(found: list[Fields]) -> None:
    """Print the list."""
    rows = [
        [
            one["task_id"][:8],
            state_of(one),
            one["method"],
            one["base"],
            f"{one['step']}/{one['of_steps']}",
            show_number(one.get("loss")),
            str(one["priority"]),
            one.get("adapter") or "–",
        ]
        for one in found
    ]
    columns = ["id", "state", "method", "base", "step", "loss", "priority", "adapter"]
    print_table(columns, rows, empty="no training runs yet: palaver train FILE")


def state_of(one: Fields) -> str:
    """Return a run's state in words: one that waits says how many are before it."""
    position = one.get("position")
    return f"{one['state']}, {position} before it" if position else str(one["state"])


def print_history(history: Fields) -> None:
    """Print one run: facts, evaluations side by side, and its loss as a curve."""
    one = history["run"]
    facts = [
        ("run", one["task_id"]),
        ("state", state_of(one)),
        ("method", f"{one['method']} on {one['base']}"),
        ("adapter", one.get("adapter") or "–"),
        ("priority", str(one["priority"])),
        ("steps", f"{one['step']} of {one['of_steps']}"),
        ("loss", show_number(one.get("loss"))),
        ("time", show_seconds(one["seconds"])),
    ]
    if one.get("detail"):
        facts.append(("because", one["detail"]))
    for name, value in facts:
        console.print(f"{name:<9} {value}", markup=False, soft_wrap=True)
    if history["evaluations"]:
        console.print()
        print_evaluations(history["evaluations"])
    metrics = history["metrics"]
    if metrics:
        console.print()
        losses = [(point["step"], point["loss"]) for point in metrics]
        console.print(draw_curve(losses, width=min(console.width, 100)), markup=False, soft_wrap=True)


def print_evaluations(evaluations: list[Fields]) -> None:
    """Print the evaluations, one a line, the variants side by side: the loss and, where rows ask, what was right."""
    rows = []
    for one in evaluations:
        scores = {score["variant"]: score for score in one["scores"]}
        rows.append([str(one["step"]), *(_score(scores.get(variant)) for variant in VARIANTS)])
    console.print("held-out loss (share of answers that are right)", style="dim")
    print_table(["step", "base", "with system prompt", "tuned"], rows, empty="")


def _score(score: Fields | None) -> str:
    if score is None:
        return "–"
    right = score["metrics"].get("exact_match")
    return show_number(score["loss"]) + ("" if right is None else f" ({right:.0%})")


def print_steered(one: Fields) -> None:
    """Print where a run stands after it was paused, resumed or canceled."""
    why = f": {one['detail']}" if one.get("detail") else ""
    console.print(f"{one['task_id'][:8]} is {state_of(one)}{why}", markup=False, soft_wrap=True)


class FollowView:
    """Shows what is told of one run.

    Attributes:
        state: Where the run stands, as far as was told.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.state = ""
        self._as_json = as_json

    def show(self, name: str, fields: Fields) -> None:
        """Show one message, *name* being its type."""
        one = fields["run"]
        self.state = one["state"]
        if self._as_json:
            print_json({"received": name, "fields": fields})
            return
        evaluation = fields.get("evaluation")
        if evaluation is not None:
            print_evaluations([evaluation])
            return
        word = "checkpoint" if fields.get("what") == "checkpoint" else state_of(one)
        words = [f"{word}: step {one['step']}/{one['of_steps']}"]
        words += [f"loss {show_number(one['loss'])}"] if one.get("loss") is not None else []
        words += [one["detail"]] if one.get("detail") else []
        words += [f"registered as {one['adapter']}"] if name == "Over" and one.get("adapter") else []
        console.print(", ".join(words), markup=False, soft_wrap=True)


def show_number(value: float | None) -> str:
    """Return a figure for people; a dash for None."""
    return "–" if value is None else f"{value:.4g}"
