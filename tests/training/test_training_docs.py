"""Keeps what docs/training.md says of runs true: its commands exist and its code runs against the shipped protocol."""

import asyncio
import re
from pathlib import Path
from uuid import UUID

import typer.main

from bus import Agent, load_protocol
from bus.cli.main import new_app
from bus.cli.runs import Action
from bus.testing import MemoryBus

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
SECTION = PAGE[PAGE.index("## Runs:") :]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)


def test_commands_shown_are_taken_by_the_command_line() -> None:
    lines = [line.split() for line in blocks("sh")[0].splitlines()]
    command = typer.main.get_command(new_app(["runs"]))
    shown = set()
    for line in lines:
        group, rest = line[1], line[2:]
        context = command.commands[group].make_context(group, rest)  # type: ignore[attr-defined]  # a group has them
        shown.add(context.params["action"])

    assert shown == set(Action)


def test_the_script_shown_pauses_what_runs() -> None:
    runs = load_protocol("runs")
    agent, asked = Agent(plays=runs.role("trainer")), []

    def run(number: int, state: str) -> object:
        facts = {"method": "lora", "base": "tiny", "priority": 5, "step": 0, "of_steps": 9, "seconds": 0.0}
        return runs.Run(task_id=UUID(int=number), state=state, **facts)

    @agent.on(runs.List)
    async def list_runs(order, conversation):
        asked.append(order.owner_key)
        return runs.Runs(runs=[run(1, "running"), run(2, "trained"), run(3, "queued")])

    @agent.on(runs.PauseRun)
    async def pause(order, conversation):
        return runs.Done(run=run(order.task_id.int, "paused"))

    @agent.on(runs.Show, runs.ResumeRun, runs.CancelRun, runs.Follow)
    async def refuse(order, conversation):
        return runs.Refused(code="busy", detail="not here")

    namespace: dict[str, object] = {}
    exec(compile(blocks("python")[0], "docs/training.md", "exec"), namespace)

    async def talk() -> list[UUID]:
        async with MemoryBus() as bus:
            running = await bus.start(agent)
            async with bus.client() as client:
                paused: list[UUID] = await namespace["pause_all"](client, "correct horse battery")  # type: ignore[operator]  # it is a function
            await running.stop()
        return paused

    assert asyncio.run(talk()) == [UUID(int=1), UUID(int=3)]
    assert asked == ["correct horse battery"]
