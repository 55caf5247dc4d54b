"""The whole demo as a person without a terminal starts it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.integration]


@pytest.mark.timeout(300)
def test_the_demo_holds_its_claims_and_leaves_nothing_running(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bus.cli", "demo", "--seed", "1", "--report", "report.json"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["accuracy_before"] <= 0.5
    assert report["accuracy_after"] >= 0.9
    assert report["held_out_rows"] >= 100
    assert report["answer_before"] != report["answer_after"] == "GenAI cohort by courses.chaicode.com"
    assert report["losses_lora"][0] > 10 * report["losses_lora"][-1]
    assert report["losses_full"][0] > 10 * report["losses_full"][-1]
    assert report["story"]["published"] == report["story"]["corrected"]
    names, pids = zip(*((one["name"], one["pid"]) for one in report["processes"]), strict=True)
    assert names == ("researcher", "summarizer", "writer", "editor", "trainer")
    assert len(set(pids)) == len(pids)
    assert not [pid for pid in pids if is_running(pid)]


def test_missing_documents_are_refused_by_name_before_anything_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bus.cli", "demo", "--yes", "--docs", "no-library"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)

    assert done.returncode != 0
    assert "no-library" in done.stderr
    assert "Brief" not in done.stdout


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
