"""Keeps the section of docs/training.md on data true: its rows are read, its order is taken, its commands work."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bus.cli.training_file import load_training_file
from training_service.row import parse_row

ROOT = Path(__file__).parent.parent.parent
SECTION = (ROOT / "docs" / "training.md").read_text().partition("\n## Data and its audit\n")[2].partition("\n## ")[0]
LIMIT = 100.0
ROWS = [{"prompt": f"Capital of {name}?", "completion": name[::-1]} for name in ("Norway", "Sweden", "Finland", "Mali")]
MASKED = {"messages": [{"role": "user", "content": "Capital of nowhere?"}]}
FLEET = "fleet: school\nagents:\n  trainer: {program: training_service}\n"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)


def test_no_block_of_the_section_is_of_a_kind_that_is_not_tested() -> None:
    assert set(re.findall(r"```(\w+)\n", SECTION)) == {"jsonl", "yaml", "sh"}


def test_rows_shown_are_read_as_the_section_says() -> None:
    rows, preferences = (
        [parse_row(line.encode(), number, "x") for number, line in enumerate(block.splitlines(), 1)]
        for block in blocks("jsonl")
    )

    assert [row.trained for row in rows] == [(2,), (3,), (1, 3), (1,), (1,), ()]
    assert rows[4].messages[1]["content"][rows[4].begun :] == " Bergen."
    assert rows[5].text == "Oslo is the capital of Norway."
    assert all(row.rejected is not None and row.trained == row.rejected.trained == (1,) for row in preferences)


def write_project(folder: Path) -> Path:
    (folder / "capitals.training.yaml").write_text(blocks("yaml")[0])
    (folder / "capitals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (*ROWS, MASKED)))
    (folder / "school.fleet.yaml").write_text(FLEET)
    return folder


def test_order_shown_is_an_order(tmp_path: Path) -> None:
    order = load_training_file(write_project(tmp_path) / "capitals.training.yaml")

    assert order.fields["evaluation_share"] == 0.25


@pytest.mark.integration
@pytest.mark.slow
def test_commands_shown_are_refused_for_the_warning_and_taken_with_it(tmp_path: Path) -> None:
    write_project(tmp_path)
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}

    def palaver(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bus.cli", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
        )

    up = palaver("up", "school.fleet.yaml", "--detach")
    try:
        refused, trained = (palaver(*shlex.split(line)[1:]) for line in blocks("sh")[0].splitlines())
    finally:
        palaver("down")

    assert up.returncode == 0, up.stderr
    assert refused.returncode == 12, refused.stderr
    assert "warning: nothing to train, left out: 1 row (line 5)" in refused.stdout
    assert "--accept-warnings" in refused.stdout
    assert trained.returncode == 0, trained.stdout
    assert "warning: nothing to train, left out: 1 row (line 5)" in trained.stdout
