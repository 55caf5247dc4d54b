"""A fleet of real processes: up, seen, killed, restarted, given up, ended; nothing is left behind."""

import json
import os
import re
import select
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LIMIT = 60.0
PALAVER = [sys.executable, "-m", "bus.cli"]
FLEET = """\
fleet: little
agents:
  echo: {program: answering.py}
  second: {program: answering.py, instances: 2}
restart: {at_most: 2, within: 1m}
"""
PROGRAM = """
from bus import Agent, load_protocol

echo = load_protocol("echo")
agent = Agent(plays=echo.role("echo"))


@agent.on(echo.Say)
async def answer(said, conversation):
    return echo.Said(text=said.text)


@agent.on(echo.Bye)
async def leave(bye, conversation):
    pass
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "little.fleet.yaml").write_text(FLEET)
    (tmp_path / "answering.py").write_text(PROGRAM)
    yield tmp_path
    palaver(tmp_path, "down")


def environment():
    return {name: value for name, value in os.environ.items() if not name.startswith("PALAVER_")}


def palaver(project, *arguments):
    """Run one command in *project*; return its CompletedProcess."""
    return subprocess.run(
        [*PALAVER, *arguments], cwd=project, env=environment(), capture_output=True, text=True, timeout=LIMIT
    )


def start(project, *arguments):
    """Start one command in *project* and go on."""
    return subprocess.Popen(
        [*PALAVER, *arguments],
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_until(stream, pattern):
    """Return the first line of *stream* that *pattern* is found in, and all before it."""
    lines = []
    for line in stream:
        lines.append(line)
        if re.search(pattern, line):
            return lines
    raise AssertionError(f"no {pattern!r} in {lines}")


@contextmanager
def fleet(project, *options):
    """Run ``palaver up`` in the foreground, registered; end it afterwards."""
    process = subprocess.Popen(
        [*PALAVER, "up", *options],
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        process.before = read_until(process.stdout, "agents registered after")
        yield process
    finally:
        process.kill()
        process.wait(LIMIT)
        process.stdout.close()


def processes(project):
    """Return name → pid of what the running fleet's record names."""
    facts = json.loads(palaver(project, "status", "--json").stdout)
    return {one["name"]: one["pid"] for one in facts["fleet"]["processes"]}


def wait_gone(pids):
    """Wait until none of the processes is left."""
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            poll = select.poll()
            poll.register(descriptor)
            assert poll.poll(LIMIT * 1000), f"process {pid} is still there"
        finally:
            os.close(descriptor)


def test_up_registers_all_and_ctrl_c_leaves_nothing(project):
    with fleet(project) as running:
        pids = processes(project)
        status = palaver(project, "status")
        running.send_signal(signal.SIGINT)
        rest = running.stdout.read()

        assert running.wait(LIMIT) == 130
    assert set(pids) == {"broker", "echo", "second.0", "second.1"}
    assert len(set(pids.values())) == 4
    assert re.search(rf"second\.1 +echo\.echo +{pids['second.1']}", status.stdout)
    assert "fleet.stopped" in rest
    assert "Traceback" not in rest
    wait_gone(pids.values())
    assert not (project / ".palaver" / "fleet.json").exists()
    assert not (project / ".palaver" / "broker.json").exists()


def test_a_killed_agent_is_started_again_and_serves(project):
    with fleet(project) as running:
        before = processes(project)
        os.kill(before["echo"], signal.SIGKILL)
        read_until(running.stdout, '"agent.restarted"')
        read_until(running.stdout, r"echo \| .*agent.started")

        sent = palaver(
            project, "send", "echo", '{"Say": {"text": "hello"}}', '{"Bye": {}}', "--json", "--timeout", "20"
        )

        after = processes(project)
    assert after["echo"] not in (None, before["echo"])
    assert after["second.0"] == before["second.0"]
    assert (sent.returncode, sent.stderr) == (0, "")
    lines = [json.loads(line) for line in sent.stdout.splitlines()]
    assert lines[:3] == [
        {"sent": "Say", "fields": {"text": "hello"}},
        {"received": "Said", "fields": {"text": "hello"}},
        {"sent": "Bye", "fields": {}},
    ]
    assert lines[3]["outcome"] == "done"


def test_a_killed_broker_is_started_again_and_agents_find_it(project):
    with fleet(project) as running:
        before = processes(project)
        os.kill(before["broker"], signal.SIGKILL)
        read_until(running.stdout, r"broker \| .*broker.started")

        sent = palaver(project, "send", "echo", '{"Say": {"text": "again"}}', '{"Bye": {}}', "--timeout", "20")

        after = processes(project)
    assert sent.returncode == 0
    assert after["broker"] != before["broker"]
    assert {name: after[name] for name in after if name != "broker"} == {
        name: before[name] for name in before if name != "broker"
    }


def test_past_the_intensity_the_fleet_fails_loudly_and_leaves_nothing(project):
    with fleet(project) as running:
        pids = list(processes(project).values())
        for _ in range(2):
            os.kill(processes(project)["echo"], signal.SIGKILL)
            read_until(running.stdout, r"echo \| .*agent.started")
        os.kill(processes(project)["echo"], signal.SIGKILL)
        rest = running.stdout.read()

        assert running.wait(LIMIT) == 5
    assert '"agent.gave_up"' in rest
    assert "fleet little failed: echo: died 3 times within 60 s, at most 2 allowed" in rest
    wait_gone(pids)


def test_a_killed_supervisor_leaves_nothing_running(project):
    with fleet(project) as running:
        pids = processes(project).values()

        running.kill()

        wait_gone(pids)
    assert palaver(project, "down").stdout == "no fleet runs here\n"


def test_a_second_fleet_in_the_project_is_refused(project):
    with fleet(project):
        second = palaver(project, "up")

    assert second.returncode == 1
    assert re.search(r"expected no running fleet, got fleet 'little' \(pid \d+\)", second.stderr)


def test_detached_it_goes_on_until_down(project):
    up = palaver(project, "up", "--detach")
    pids = processes(project).values()
    listed = palaver(project, "logs", "broker")
    again = palaver(project, "up", "--detach")
    down = palaver(project, "down", "--json")

    assert (up.returncode, up.stderr) == (0, "")
    assert "fleet little is up" in up.stdout
    assert "broker.started" in listed.stdout
    assert again.returncode == 1
    assert "a fleet already runs here" in again.stderr
    assert (down.returncode, json.loads(down.stdout)) == (0, {"fleet": "little"})
    wait_gone(pids)


@pytest.mark.parametrize("options", [[], ["--detach"]])
def test_an_agent_that_cannot_be_launched_is_named_at_once(project, options):
    (project / "wrong.py").write_text(PROGRAM.replace("echo.Say", "echo.Sya"))

    up = palaver(project, "up", "--agent", "second=wrong.py", *options)

    assert up.returncode == 5
    assert re.search(
        r"fleet little failed: second\.[01]: could not be launched: wrong\.py:8: the program failed", up.stderr
    )
    assert palaver(project, "down").stdout == "no fleet runs here\n"


def test_a_missing_program_is_refused_before_anything_starts(project):
    (project / "little.fleet.yaml").write_text(
        FLEET.replace("second: {program: answering.py", "second: {program: anwsering.py")
    )

    up = palaver(project, "up")

    assert up.returncode == 1
    assert (
        "little.fleet.yaml:4:21: E-NO-PROGRAM: agents.second.program: expected a program, got 'anwsering.py'"
        in up.stderr
    )
    assert not (project / ".palaver").exists()


def test_a_conversation_can_be_listed_and_canceled(project):
    with fleet(project), start(project, "send", "echo", '{"Say": {"text": "x"}}') as sending:
        while not (live := json.loads(palaver(project, "conversations", "--live", "--json").stdout)):
            assert sending.poll() is None
        canceled = palaver(project, "cancel", live[0]["conversation"][:6])
        out, _ = sending.communicate(timeout=LIMIT)
        listed = palaver(project, "conversations")

    assert (canceled.returncode, canceled.stdout) == (0, f"{live[0]['conversation'][:8]}: canceled\n")
    assert sending.returncode == 11
    assert "■ canceled" in out
    assert re.search(r"echo@1.0.0 .*canceled", listed.stdout)


def test_a_time_limit_ends_the_command_and_not_the_conversation(project):
    with fleet(project):
        sent = palaver(project, "send", "echo", '{"Say": {"text": "x"}}', "--timeout", "6")
        live = json.loads(palaver(project, "conversations", "--live", "--json").stdout)

    assert sent.returncode == 4
    assert f"conversation {live[0]['conversation'][:8]} goes on" in sent.stderr
    assert sent.stderr.endswith("palaver: the time limit passed\n")


def test_sending_again_under_the_same_request_id_attaches_to_the_same_conversation(project):
    with fleet(project):
        messages = ['{"Say": {"text": "once"}}', '{"Bye": {}}', "--request-id", "r1", "--json", "--timeout", "20"]
        first = palaver(project, "send", "echo", *messages)
        second = palaver(project, "send", "echo", *messages)
        listed = json.loads(palaver(project, "conversations", "--json").stdout)

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert second.stdout == first.stdout
    assert len(listed) == 1
