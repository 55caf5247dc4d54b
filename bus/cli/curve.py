"""A loss curve: drawn in the terminal, with plotext where it is installed, or as a picture, with matplotlib.

Both are optional, and loaded when the first curve is wanted.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bus.errors import PalaverError

BARS = "▁▂▃▄▅▆▇█"
HEIGHT = 14  # lines of a curve in the terminal


class NoPlotting(PalaverError):
    """Raised when a picture is wanted and the package for it is not installed."""

    code = "no-plotting"


def draw_curve(points: Sequence[tuple[int, float]], *, width: int, plain: bool = False) -> str:
    """Return *points* (step, loss) as lines of text, at most *width* characters wide.

    Args:
        plain: Whether to draw one line of bars even where plotext is installed.
    """
    finite = [(step, loss) for step, loss in points if math.isfinite(loss)]
    if not finite:
        return "no loss yet"
    if plain or importlib.util.find_spec("plotext") is None:
        return draw_bars(finite, width=width)
    plotext: Any = importlib.import_module("plotext")
    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, HEIGHT)
    figure.draw(figure.signal([step for step, _ in finite], [loss for _, loss in finite]))
    figure.title("loss")
    lines = str(plotext.uncolorize(str(figure.build()))).splitlines()
    return "\n".join(line.rstrip() for line in lines).rstrip()


def draw_bars(points: Sequence[tuple[int, float]], *, width: int) -> str:
    """Return *points* as one line of bars between the first and the last value; each bar is the mean of its steps."""
    losses = [loss for _, loss in points]
    first, last = f"loss {losses[0]:.4g} ", f" {losses[-1]:.4g}  (steps {points[0][0]} to {points[-1][0]})"
    n_bars = max(1, min(len(losses), width - len(first) - len(last)))
    means = []
    for at in range(n_bars):
        part = losses[at * len(losses) // n_bars : (at + 1) * len(losses) // n_bars]
        means.append(sum(part) / len(part))
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    bars = "".join(BARS[min(len(BARS) - 1, int((mean - low) / span * len(BARS)))] for mean in means)
    return f"{first}{bars}{last}"


def save_curve(history: dict[str, Any], path: Path) -> None:
    """Write the loss and the held-out losses of one run as a picture; the file's ending says which kind.

    Raises:
        NoPlotting: matplotlib is not installed, or has no such kind of picture.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise NoPlotting("a picture needs matplotlib, which is not installed: pip install 'palaver[plot]'")
    figures: Any = importlib.import_module("matplotlib.figure")
    figure = figures.Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    metrics, one = history["metrics"], history["run"]
    axes.plot([point["step"] for point in metrics], [point["loss"] for point in metrics], label="training", lw=1)
    for variant, label in (("base", "base"), ("system-prompt", "with system prompt"), ("tuned", "tuned")):
        found = [
            (evaluation["step"], score["loss"])
            for evaluation in history["evaluations"]
            for score in evaluation["scores"]
            if score["variant"] == variant
        ]
        if found:
            steps, losses = zip(*found, strict=True)
            axes.plot(steps, losses, label=f"held out, {label}", marker="o", ms=4, lw=1, ls="--")
    axes.set(title=f"{one.get('adapter') or one['task_id']} on {one['base']}", xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        figure.savefig(path, dpi=120)
    except ValueError as error:
        raise NoPlotting(f"expected a file such as loss.png, got {str(path)!r}: {error}") from error
