"""A person takes part through ``palaver inbox`` and ``palaver answer``, over real processes."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LIMIT = 60.0
PALAVER = [sys.executable, "-m", "bus.cli"]
SPEC = """\
language: 1
protocol: desk
version: 1.0.0
defaults: {within: 5m}
roles:
  asker: {}
  clerk: {}
  chief: {human: true}
messages:
  Ask: {fields: {what: string}}
  Forward: {fields: {what: string}}
  Grant: {fields: {amount: {type: int, min: 1}, note: optional string}}
  Deny: {fields: {reason: string}}
outcomes:
  granted: It was.
  denied: It was not.
conversation:
  - asker -> clerk: Ask
  - clerk -> chief: Forward
  - choice: chief
    branches:
      grant:
        - chief -> asker: Grant
        - end: granted
      deny:
        - chief -> asker: Deny
        - end: denied
"""
CLERK = """
from bus import Agent, load_protocol

desk = load_protocol("desk")
agent = Agent(plays=desk.role("clerk"))


@agent.on(desk.Ask)
async def forward(ask, conversation):
    return desk.Forward(what=ask.what)
"""
FLEET = """\
fleet: desk
agents:
  clerk: {program: clerk.py}
  chief: {human: true}
notify: touch notified
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "desk.protocol.yaml").write_text(SPEC)
    (tmp_path / "clerk.py").write_text(CLERK)
    (tmp_path / "desk.fleet.yaml").write_text(FLEET)
    assert palaver(tmp_path, "up", "--detach").returncode == 0
    yield tmp_path
    palaver(tmp_path, "down")


def start(project, *arguments):
    names = {name: value for name, value in os.environ.items() if not name.startswith("PALAVER_")}
    return subprocess.Popen(
        [*PALAVER, *arguments],
        cwd=project,
        env=names,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def palaver(project, *arguments):
    """Run one command in *project*; return its CompletedProcess."""
    process = start(project, *arguments)
    out, err = process.communicate(timeout=LIMIT)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def ask(project):
    """Ask something as a person would in another window; return the process and the item that waits."""
    asking = start(project, "send", "desk", '{"what": "a chair"}', "--json")
    while not (items := json.loads(palaver(project, "inbox", "--json").stdout)):
        assert asking.poll() is None
    return asking, items[0]


def test_an_answer_ends_the_conversation_and_a_second_one_is_told_by_whom(project):
    asking, item = ask(project)
    short = item["conversation"][:8]
    shown = palaver(project, "answer", short)
    wrong = palaver(project, "answer", short, "Grant", "--field", "amount=0")
    first = palaver(project, "answer", short, "Deny", "--field", "reason=too dear")
    out, _ = asking.communicate(timeout=LIMIT)
    second = palaver(project, "answer", short, "Grant", "--field", "amount=1")

    assert item["messages"] == [{"type": "Forward", "sender": "clerk", "fields": {"what": "a chair"}}]
    assert "what: a chair" in shown.stdout
    assert "--field amount=…   int" in shown.stdout
    assert wrong.returncode == 1
    assert "Grant: amount: expected greater than or equal to 1, got int 0" in wrong.stderr
    assert (first.returncode, first.stdout) == (0, f"{short}: Deny sent\n")
    assert asking.returncode == 12
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[1] == {"received": "Deny", "fields": {"reason": "too dear"}}
    assert lines[2]["outcome"] == "denied"
    assert second.returncode == 1
    assert "nothing waits for you" in second.stderr


def test_the_notify_command_is_run_for_what_waits(project):
    asking, item = ask(project)
    while not (project / "notified").exists():
        assert palaver(project, "status").returncode == 0
    palaver(project, "answer", item["conversation"], "Grant", '{"amount": 3}')
    asking.communicate(timeout=LIMIT)

    assert asking.returncode == 0


def test_the_inbox_is_empty_where_nothing_waits(project):
    assert palaver(project, "inbox").stdout == "nothing waits for you\n"
