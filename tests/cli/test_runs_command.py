"""What ``palaver runs`` shows, from what the service answers; and what it says where nobody answers."""

import importlib.util
import json
import math
import subprocess
import sys

import pytest

from bus.cli import curve
from bus.cli.curve import BARS, NoPlotting, draw_bars, draw_curve, save_curve
from bus.cli.output import console
from bus.cli.runs_view import FollowView, print_history, print_runs
from bus.spec.compile import load_protocol

TASK = "5b0c1f0e-4b7c-4a55-9d0f-0f6f3a6a3a11"
RUN = {
    "task_id": TASK, "state": "running", "method": "lora", "base": "tiny", "adapter": "colors", "priority": 7,
    "position": None, "step": 30, "of_steps": 60, "loss": 0.51234, "seconds": 75.0, "detail": None,
}  # fmt: skip
HISTORY = {
    "run": RUN,
    "metrics": [{"step": step, "loss": 3 * math.exp(-step / 10), "learning_rate": 0.1} for step in range(1, 31)],
    "evaluations": [
        {
            "step": 0,
            "scores": [
                {"variant": "base", "loss": 4.0, "metrics": {"exact_match": 0.0}},
                {"variant": "system-prompt", "loss": 3.5, "metrics": {"exact_match": 0.25}},
            ],
        },
        {"step": 30, "scores": [{"variant": "tuned", "loss": 0.5, "metrics": {"exact_match": 0.975}}]},
    ],
    "request": "{}",
}
PALAVER = [sys.executable, "-m", "bus.cli"]


def test_the_list_says_where_each_run_stands(capsys: pytest.CaptureFixture[str]) -> None:
    print_runs([RUN, {**RUN, "state": "queued", "position": 2, "loss": None}])

    printed = capsys.readouterr().out
    assert "5b0c1f0e" in printed
    assert "0.5123" in printed
    assert "queued, 2 before it" in printed


def test_no_runs_yet_is_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    print_runs([])

    assert "no training runs yet" in capsys.readouterr().out


def test_a_run_is_shown_with_its_evaluations_side_by_side_and_a_curve(capsys: pytest.CaptureFixture[str]) -> None:
    print_history(HISTORY)

    lines = capsys.readouterr().out.splitlines()
    first, last = (next(line for line in lines if line.startswith(f"{step} ")) for step in (0, 30))
    assert first.split() == ["0", "4", "(0%)", "3.5", "(25%)", "–"]
    assert last.split() == ["30", "–", "–", "0.5", "(98%)"]
    assert any("┌" in line for line in lines)


def test_the_plain_curve_falls_with_the_loss() -> None:
    line = draw_bars([(step, 100.0 - step) for step in range(1, 81)], width=60)

    bars = [BARS.index(character) for character in line if character in BARS]
    assert bars == sorted(bars, reverse=True)
    assert (bars[0], bars[-1]) == (len(BARS) - 1, 0)
    assert len(line) <= 60


def test_the_curve_is_bars_where_plotext_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    assert draw_curve([(1, 2.0), (2, 1.0)], width=60) == draw_bars([(1, 2.0), (2, 1.0)], width=60)


def test_a_curve_is_no_wider_than_it_may_be_and_holds_no_colors() -> None:
    drawn = draw_curve([(step, 1 / step) for step in range(1, 400)], width=60)

    assert max(map(len, drawn.splitlines())) <= 60
    assert "\x1b" not in drawn


def test_losses_that_are_no_numbers_are_left_out_of_the_curve() -> None:
    assert draw_curve([(1, math.nan)], width=60) == "no loss yet"
    assert draw_curve([(1, 2.0), (2, math.nan)], width=60, plain=True).endswith("2  (steps 1 to 1)")


@pytest.mark.slow
def test_a_picture_is_written_and_a_kind_that_there_is_not_is_refused(tmp_path) -> None:
    save_curve(HISTORY, tmp_path / "loss.png")

    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(NoPlotting, match=r"loss\.png"):
        save_curve(HISTORY, tmp_path / "loss.poem")


def test_a_picture_without_matplotlib_says_what_to_install(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve.importlib.util, "find_spec", lambda name: None)

    with pytest.raises(NoPlotting, match=r"palaver\[plot\]"):
        save_curve(HISTORY, tmp_path / "loss.png")


def test_who_follows_for_a_program_gets_each_message_as_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    view = FollowView(as_json=True)
    view.show("Over", {"run": {**RUN, "state": "trained"}})

    assert json.loads(capsys.readouterr().out)["fields"]["run"]["adapter"] == "colors"
    assert view.state == "trained"


def test_who_follows_reads_how_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    view = FollowView(as_json=False)
    view.show("Changed", {"run": RUN, "what": "checkpoint"})
    view.show("Changed", {"run": RUN, "what": "evaluation", "evaluation": HISTORY["evaluations"][1]})
    view.show("Over", {"run": {**RUN, "state": "failed", "detail": "no more memory"}})

    printed = capsys.readouterr().out
    assert "checkpoint: step 30/60, loss 0.5123" in printed
    assert "tuned" in printed
    assert "failed: step 30/60, loss 0.5123, no more memory" in printed


def test_what_is_shown_is_what_the_protocol_has() -> None:
    runs = load_protocol("runs")
    fields = {field.name for struct in runs.spec.types if struct.name == "Run" for field in struct.fields}

    assert set(RUN) == fields


@pytest.mark.slow
@pytest.mark.integration
def test_where_no_training_service_is_up_it_says_so(tmp_path) -> None:
    bus = f"ipc://{tmp_path}/bus.sock"
    broker = subprocess.Popen(
        [*PALAVER, "broker", "--bus", bus], cwd=tmp_path, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    assert broker.stderr is not None
    assert any("broker.started" in line for line in broker.stderr)
    asked = subprocess.run(
        [*PALAVER, "runs", "--bus", bus], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    broker.terminate()
    broker.communicate(timeout=30)

    assert asked.returncode == 1
    assert "no training service is up" in asked.stderr


@pytest.mark.slow
@pytest.mark.integration
def test_arguments_that_do_not_belong_together_are_refused(tmp_path) -> None:
    for arguments in (["list", "abc"], ["show"], ["plot", "abc"], ["show", "abc", "-o", "x.png"]):
        asked = subprocess.run([*PALAVER, "runs", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert asked.returncode == 2, (arguments, asked.stderr)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "width", 120)
