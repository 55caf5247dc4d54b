"""For tests of agents and protocols: a bus in this process, peers made from a protocol, and random execution.

::

    async with MemoryBus() as bus:
        await bus.start(agent)
        async with bus.client() as client, client.open(echo) as conversation:
            assert await conversation.request(echo.Say(text="hi")) == echo.Said(text="hi")

The broker is the real one and the frames are those of the wire; only sockets and the disk are left out.
"""

from bus.clock import ManualClock
from bus.testing.agent_fuzzer import AgentReport, fuzz_agent
from bus.testing.fuzzer import Finding, Report, fuzz_protocol, play_seed
from bus.testing.memory import MemoryBus, RunningAgent, play
from bus.testing.random_message import random_message
from bus.testing.random_protocol import random_protocol

__all__ = [
    "AgentReport",
    "Finding",
    "ManualClock",
    "MemoryBus",
    "Report",
    "RunningAgent",
    "fuzz_agent",
    "fuzz_protocol",
    "play",
    "play_seed",
    "random_message",
    "random_protocol",
]
