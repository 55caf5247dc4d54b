"""Keeps README.md true: its pictures and specs are fresh, its agent runs, its commands exist."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bus import load_protocol
from bus.cli.main import GROUPS
from bus.spec.draw import draw_sequence

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PATIENCE = 30.0


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@contextmanager
def process(*command: str, cwd: Path, until: str) -> Iterator[None]:
    """Run *command* until the block ends, having waited for *until* in its log."""
    running = subprocess.Popen(
        [sys.executable, "-m", "bus.cli", *command],
        cwd=cwd,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert running.stderr is not None
    try:
        for line in running.stderr:
            if until in line:
                break
        else:
            raise AssertionError(f"{command}: ended without saying {until!r}")
        yield
    finally:
        running.terminate()
        running.communicate(timeout=PATIENCE)


def test_picture_of_the_newsroom_is_generated_from_its_protocol() -> None:
    assert blocks("mermaid") == [draw_sequence(load_protocol(ROOT / "specs" / "newsroom.protocol.yaml").spec)]


def test_protocol_shown_is_the_one_shipped() -> None:
    assert blocks("yaml") == [(ROOT / "specs" / "echo.protocol.yaml").read_text()]


def test_commands_shown_exist() -> None:
    known = {command for _, commands in GROUPS.values() for command in commands}
    shown = set(re.findall(r"palaver ([a-z]+)", "\n".join(blocks("sh")) + "\n".join(re.findall(r"`(.*?)`", README))))

    assert shown <= known


def test_make_targets_shown_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert set(re.findall(r"make ([a-z]+)", README)) <= targets | {"and"}


def test_delegation_shown_is_written_against_the_shipped_protocol() -> None:
    namespace: dict[str, object] = {"load_protocol": load_protocol}
    exec(compile(blocks("python")[1], "README.md", "exec"), namespace)
    training = load_protocol("training")

    assert namespace["learn"].__code__.co_names  # type: ignore[attr-defined]  # it is a function
    assert {training.Quote, training.Accept, training.Trained} <= set(training.type_of)


@pytest.mark.integration
@pytest.mark.slow
def test_first_agent_runs_as_the_readme_says(tmp_path: Path) -> None:
    agent = blocks("python")[0]
    subprocess.run([sys.executable, "-m", "bus.cli", "init", "newsroom"], cwd=tmp_path, check=True, timeout=PATIENCE)
    project = tmp_path / "newsroom"
    (project / "agents" / "shout.py").write_text(agent)

    with (
        process("broker", cwd=project, until="broker.started"),
        process("launch", "agents/shout.py", cwd=project, until="agent.started"),
    ):
        sent = subprocess.run(
            [sys.executable, "-m", "bus.cli", "send", "echo", '{"Say": {"text": "hello"}}', '{"Bye": {}}'],
            cwd=project, timeout=PATIENCE, text=True, capture_output=True, env={**os.environ, "NO_COLOR": "1"},
        )  # fmt: skip

    assert len([line for line in agent.splitlines() if line.strip()]) <= 15
    assert (sent.returncode, "HELLO!" in sent.stdout) == (0, True), sent.stderr


@pytest.mark.slow
def test_importing_bus_is_cheap_and_loads_no_torch() -> None:
    """Importing costs at most 0.2 s in a bench; here only what it loads is claimed, for a test must not be timed."""
    script = "import sys, bus; print(sorted({'torch', 'transformers', 'zmq', 'pydantic'} & set(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=PATIENCE
    )

    assert loaded.stdout.strip() == "[]"
