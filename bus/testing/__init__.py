"""For tests of agents and protocols: a bus in this process, peers made from a protocol, and random execution.

::

    async with MemoryBus() as bus:
        await bus.start(agent)
        async with bus.client() as client, client.open(echo) as conversation:
            assert await conversation.request(echo.Say(text="hi")) == echo.Said(text="hi")

The broker is the real one and the frames are those of the wire; only sockets and the disk are left out.
"""

from bus.clock import ManualClock
from bus.testing.memory import MemoryBus, RunningAgent, play

__all__ = ["ManualClock", "MemoryBus", "RunningAgent", "play"]
