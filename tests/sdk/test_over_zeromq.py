"""Agents, clients and the broker as processes over a real socket."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from work_protocol import bodies, on_loop

from bus.errors import BrokerUnavailable
from bus.sdk.client import Client
from bus.spec.compile import load_protocol

pytestmark = [pytest.mark.integration, pytest.mark.slow]

echo = load_protocol("echo")
PROGRAM = Path(__file__).parent / "echo_program.py"


class Processes:
    """The processes of one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"ipc://{folder}/bus.sock"
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, what: str) -> subprocess.Popen[bytes]:
        """Start the broker or an agent."""
        command = [sys.executable, str(PROGRAM), what, self.address, str(self.folder)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.started.append(process)
        return process

    def client(self, name: str = "script") -> Client:
        """Return a client that waits for the broker as long as a test may."""
        return Client(self.address, name, timeout=30)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    found = Processes(tmp_path)
    yield found
    for process in found.started:
        process.kill()
        process.wait()


@on_loop
async def test_killed_agent_is_given_its_message_again(processes: Processes) -> None:
    processes.start("broker")
    first = processes.start("agent")
    async with processes.client() as client, client.open(echo) as conversation:
        assert await conversation.request(echo.Say(text="a")) == echo.Said(text="1 a 1")
        await conversation.send(echo.Say(text="die once"))
        first.wait()
        processes.start("agent")
        assert await conversation.receive() == echo.Said(text="2 die once 2")
        await conversation.send(echo.Bye())
        assert await conversation.wait_ended() == "done"
        said = bodies(await client.transcript(conversation.id))

    assert said == [("client", "Say"), ("echo", "Said"), ("client", "Say"), ("echo", "Said"), ("client", "Bye")]


@on_loop
async def test_killed_broker_comes_back_and_everybody_goes_on(processes: Processes) -> None:
    broker = processes.start("broker")
    processes.start("agent")
    async with processes.client() as client, client.open(echo) as conversation:
        assert await conversation.request(echo.Say(text="a")) == echo.Said(text="1 a 1")
        await conversation.send(echo.Say(text="b"))
        broker.kill()
        broker.wait()
        processes.start("broker")
        answer = await conversation.receive()
        await conversation.send(echo.Bye())
        await conversation.wait_ended()
        said = bodies(await client.transcript(conversation.id))

    assert answer.text.startswith("2 b")
    assert said == [("client", "Say"), ("echo", "Said"), ("client", "Say"), ("echo", "Said"), ("client", "Bye")]


@on_loop
async def test_busy_handler_keeps_its_lease(processes: Processes) -> None:
    processes.start("broker")
    processes.start("agent")
    async with processes.client() as client, client.open(echo) as conversation:
        assert await conversation.request(echo.Say(text="busy")) == echo.Said(text="1 busy 1")


@on_loop
async def test_agent_and_client_may_start_before_the_broker(processes: Processes) -> None:
    processes.start("agent")
    client = processes.client()
    processes.start("broker")
    async with client, client.open(echo) as conversation:
        assert await conversation.request(echo.Say(text="a")) == echo.Said(text="1 a 1")


@on_loop
async def test_terminated_agent_leaves_cleanly(processes: Processes) -> None:
    processes.start("broker")
    agent = processes.start("agent")
    async with processes.client() as client, client.open(echo) as conversation:
        await conversation.request(echo.Say(text="a"))
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(30) == 0
        while len((await client.status())["agents"]) > 1:
            pass


@on_loop
async def test_missing_broker_is_named(tmp_path: Path) -> None:
    with pytest.raises(BrokerUnavailable, match=r"bus\.sock within 0\.1 s"):
        async with Client(f"ipc://{tmp_path}/bus.sock", timeout=0.1):
            pass


IMPORT = "import sys; before = set(sys.modules); import bus; print(*sorted(set(sys.modules) - before))"
EVERYTHING = (
    "import sys, bus; [getattr(bus, name) for name in bus.__all__]; print('torch' in sys.modules, len(bus.__all__))"
)


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": ""}
    ).stdout.strip()


def test_importing_bus_loads_nothing_else_of_weight() -> None:
    assert not {"pydantic", "zmq", "msgpack", "structlog", "asyncio", "torch"} & set(run_python(IMPORT).split())


def test_public_names_are_few_and_load_no_torch() -> None:
    torch_loaded, n_names = run_python(EVERYTHING).split()

    assert torch_loaded == "False"
    assert int(n_names) <= 25


def test_import_is_cheap() -> None:
    def best(code: str) -> float:
        """Return seconds of processor time: a busy machine does not count."""
        seconds = []
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            run_python(code)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        return min(seconds)

    assert best("import bus") - best("pass") <= 0.2
