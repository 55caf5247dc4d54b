"""Real processes: what they print, how they end, and that nothing outlives its supervisor."""

import asyncio
import os
import select
import signal
import subprocess
import sys

import pytest

from bus.fleet.process import Command, FleetProcess

pytestmark = [pytest.mark.integration, pytest.mark.slow]
LIMIT = 20.0


def python(tmp_path, text, **environment):
    return Command([sys.executable, "-c", text], tmp_path, environment)


async def run(command, during=lambda process, line: None):
    """Start *command*, call *during* for each line, return (exit code, lines)."""
    lines = []

    def take(line):
        lines.append(line.decode())
        during(process, line.decode())

    async with asyncio.timeout(LIMIT):
        process = await FleetProcess.start(command, take)
        return await process.wait(), lines


def wait_gone(pid):
    """Wait until no process *pid* is left; a zombie counts as gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(descriptor)
        assert poll.poll(LIMIT * 1000), f"process {pid} is still there"
    finally:
        os.close(descriptor)


def test_output_and_errors_and_the_exit_code_arrive(tmp_path):
    text = "import os, sys; print(os.environ['X']); print('to stderr', file=sys.stderr); sys.exit(7)"

    code, lines = asyncio.run(run(python(tmp_path, text, X="hello")))

    assert code == 7
    assert sorted(lines) == ["hello", "to stderr"]


def test_a_signal_is_a_negative_exit_code(tmp_path):
    code, _ = asyncio.run(run(python(tmp_path, "import os; os.kill(os.getpid(), 9)")))

    assert code == -signal.SIGKILL


def test_a_process_can_be_asked_to_end(tmp_path):
    text = "import signal; print('up'); signal.pause()"

    code, _ = asyncio.run(run(python(tmp_path, text), lambda process, line: process.terminate()))

    assert code == -signal.SIGTERM


GRANDCHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print(child.pid)
"""


def test_what_a_process_leaves_running_ends_with_it_though_it_holds_the_pipe(tmp_path):
    code, lines = asyncio.run(run(python(tmp_path, GRANDCHILD)))

    assert code == 0
    wait_gone(int(lines[0]))


def test_a_lifeline_ends_the_process_when_its_supervisor_is_killed(tmp_path):
    held = """
import signal
from bus.fleet.lifeline import hold_lifeline
hold_lifeline(0)
print("up")
signal.pause()
"""
    supervisor = f"""
import asyncio, os, pathlib, sys
from bus.fleet.process import Command, FleetProcess
async def main():
    up = asyncio.Event()
    held = Command([sys.executable, "-c", {held!r}], pathlib.Path("."))
    process = await FleetProcess.start(held, lambda line: up.set())
    await up.wait()
    print(process.pid, flush=True)
    await process.wait()
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", supervisor], stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        process.kill()

    wait_gone(pid)
