"""Programs of the tests over a real socket: ``python echo_program.py broker|agent|stubborn ADDRESS FOLDER``."""

import os
import sys
import time
from pathlib import Path

from bus import Agent, load_protocol
from bus.engine.server import serve
from bus.settings import Settings

echo = load_protocol("echo")
agent = Agent(plays=echo.role("echo"))


@agent.on(echo.Say)
async def answer(said, conversation):
    n = conversation.state["n"] = conversation.state.get("n", 0) + 1
    if said.text == "die once" and conversation.attempt == 1:
        os.kill(os.getpid(), 9)
    if said.text == "busy":
        time.sleep(1.5)  # noqa: ASYNC251 (a handler that blocks the loop for longer than the lease)
    return echo.Said(text=f"{n} {said.text} {conversation.attempt}")


if __name__ == "__main__":
    _, what, address, folder = sys.argv
    settings = Settings(lease=1.0, heartbeat_interval=0.2)
    if what == "broker":
        sys.exit(serve(address, Path(folder), settings))
    agent.run(bus=address, settings={})
