"""Keeps the code that docs/training.md shows true: it runs against the shipped protocols, and its commands exist."""

import asyncio
from pathlib import Path
from uuid import UUID

import typer.main
from training_page import blocks

from bus import Agent, load_protocol
from bus.cli.main import new_app
from bus.cli.runs import Action
from bus.testing import MemoryBus

FIRST = "From a file to a served adapter"
RUNS = "Runs: the queue, their owners, and what survives what"
AUDIT = {
    "rows": 1, "tokens": 9, "trained_tokens": 2, "rows_masked": 0, "rows_truncated": 0, "rows_duplicated": 0,
    "rows_shared_with_evaluation": 0, "double_bos": False, "pad_is_eos": False, "stop_token_trained": True,
    "first_example": "", "notes": [], "warnings": [],
}  # fmt: skip


def script(section: str) -> dict[str, object]:
    """Return what the one script of a section defines."""
    namespace: dict[str, object] = {"__name__": "shown"}
    (text,) = blocks(section, "python")
    exec(compile(text, "docs/training.md", "exec"), namespace)
    return namespace


def new_school() -> tuple[Agent, list[UUID]]:
    """Return an agent that trains and answers at once, and the ids of what was ordered of it."""
    training, generation = load_protocol("training"), load_protocol("generation")
    agent, ordered = Agent(plays=[training.role("trainer"), generation.role("generator")]), []

    @agent.on(training.TrainRequest)
    async def quote(order, conversation):
        ordered.append(order.task_id)
        figures = {"peak_memory_bytes": 1, "disk_bytes": 1, "steps": 1, "seconds": 1.0, "device": "cpu"}
        return training.Quote(task_id=order.task_id, audit=training.Audit(**AUDIT), **figures)

    @agent.on(training.Accept)
    async def train(order, conversation):
        used = {"peak_memory_bytes": 1, "seconds": 1.0, "quoted_peak_memory_bytes": 1, "quoted_seconds": 1.0}
        yield training.Queued(task_id=order.task_id, position=0)
        yield training.Started(task_id=order.task_id, run_id="run")
        yield training.Trained(
            task_id=order.task_id,
            artifact=training.Artifact(uri="file:///a", sha256="0" * 64, size=1, media_type="x"),
            adapter="lights@1",
            metrics=training.Metrics(step=1, loss=0.0, learning_rate=0.0),
            used=training.Usage(**used),
        )

    @agent.on(training.Decline, training.Pause, training.Resume, training.Cancel, generation.Cancel)
    async def nothing(order, conversation):
        pass

    @agent.on(generation.Generate)
    async def answer(order, conversation):
        facts = {"n_prompt_tokens": 1, "n_tokens": 1, "finish_reason": "stop", "adapter": order.adapter}
        return generation.Generated(request_id=order.request_id, text=order.messages[0].content.upper(), **facts)

    return agent, ordered


def test_the_script_shown_learns_inside_a_handler_too(tmp_path: Path) -> None:
    rows = tmp_path / "lights.jsonl"
    rows.write_text('{"text": "red"}\n')
    echo, shown = load_protocol("echo"), script(FIRST)
    learn, ask = shown["learn"], shown["ask"]
    pupil, asked_in = Agent(plays=echo.role("echo")), []

    @pupil.on(echo.Say)
    async def answer(said, conversation):
        task_id = UUID(bytes=conversation.message_id)
        asked_in.append(task_id)
        adapter = await learn(conversation, task_id, rows, "lights")  # type: ignore[operator]  # it is a function
        text = await ask(conversation, task_id, adapter, said.text)  # type: ignore[operator]  # it is a function
        return echo.Said(text=f"{adapter}: {text}")

    @pupil.on(echo.Bye)
    async def leave(bye, conversation):
        pass

    school, ordered = new_school()

    async def talk() -> object:
        async with MemoryBus() as bus:
            running = [await bus.start(school), await bus.start(pupil)]
            async with bus.client() as client, client.open(echo) as conversation:
                said = await conversation.request(echo.Say(text="red"))
                await conversation.send(echo.Bye())
            for one in running:
                await one.stop()
        return said

    assert asyncio.run(asyncio.wait_for(talk(), 60)) == echo.Said(text="lights@1: RED")
    assert ordered == asked_in


def test_commands_shown_are_taken_by_the_command_line() -> None:
    lines = [line.split() for line in blocks(RUNS, "sh")[0].splitlines()]
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

    namespace = script(RUNS)

    async def talk() -> list[UUID]:
        async with MemoryBus() as bus:
            running = await bus.start(agent)
            async with bus.client() as client:
                paused: list[UUID] = await namespace["pause_all"](client, "correct horse battery")  # type: ignore[operator]  # it is a function
            await running.stop()
        return paused

    assert asyncio.run(talk()) == [UUID(int=1), UUID(int=3)]
    assert asked == ["correct horse battery"]
