"""How the demo tells what happens."""

import io
from typing import Any

import pytest
from rich.console import Console

from bus.cli.demo_view import DemoView, Speech, narrate, shorten


def speech(type: str, **facts: Any) -> Speech:
    return Speech("writer", ("editor",), type, facts)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (speech("Draft", revision=2, section="storage"), "Draft 2, filed under 'storage'"),
        (speech("Revise", comments="wrong desk"), "Revise: wrong desk"),
        (speech("Approve"), "Approve: publish as it stands"),
        (
            speech("Evaluated", step=0, scores=[{"variant": "base", "loss": 1.5, "metrics": {"exact_match": 0.25}}]),
            "25% of the held-out digests",
        ),
        (speech("Evaluated", step=0, scores=[{"variant": "base", "loss": 1.5, "metrics": {}}]), "base loss 1.500"),
        (speech("Trained", used={"seconds": 21.7}, adapter="sections@1"), "Trained in 22 s: adapter sections@1"),
        (speech("TrainFailed", code="lost", detail="the child died"), "TrainFailed: lost: the child died"),
        (speech("Queued", position=0), "Queued"),
    ],
)
def test_a_message_is_told_in_half_a_sentence(said: Speech, words: str) -> None:
    assert words in narrate(said)


def test_long_texts_are_cut_and_say_so() -> None:
    assert shorten("one two\nthree", 40) == "one two three"
    assert shorten("word " * 50, 20) == "word word word word…"


def test_markup_in_a_message_is_shown_and_not_obeyed() -> None:
    output = io.StringIO()

    DemoView(Console(file=output)).speech(speech("Revise", comments="[red]not a color[/red]"))

    assert "[red]not a color[/red]" in output.getvalue()


def test_without_a_terminal_progress_is_one_line_at_each_quarter() -> None:
    output = io.StringIO()
    view = DemoView(Console(file=output))

    for step in range(1, 101):
        view.progress(step, 100, "loss 1.000")

    assert [line.strip() for line in output.getvalue().splitlines()] == [
        f"step {step} of 100, loss 1.000" for step in (25, 50, 75, 100)
    ]
