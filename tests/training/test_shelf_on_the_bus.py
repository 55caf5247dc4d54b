"""Protocol ``adapters``, played by the service with its real child and its real merging process."""

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from bus.testing import MemoryBus
from training_service import agent as program
from training_service.agent import adapters, training
from training_service.shelf_message import REFUSALS

TASK = UUID(int=3)


async def delegate(bus: MemoryBus, folder: Path) -> str:
    """Have a small adapter made and return its name and version."""
    rows = [{"prompt": "red", "completion": "stop"}, {"prompt": "green", "completion": "go"}]
    path = folder / "lights.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    request = training.TrainRequest(
        task_id=TASK,
        base="tiny-gemma3",
        method="lora",
        dataset=training.Artifact(**program.Artifact.from_file(path).model_dump()),
        max_steps=2,
        adapter="lights",
        accept_warnings=True,
    )
    async with bus.client() as client, client.open(training) as conversation:
        await conversation.send(request)
        async for message in conversation:
            if isinstance(message, training.Quote):
                await conversation.send(training.Accept(task_id=TASK))
        assert conversation.outcome == "trained"
    return str(message.adapter)  # type: ignore[attr-defined]  # of Trained


async def ask(bus: MemoryBus, question: Any) -> Any:
    async with bus.client() as client, client.open(adapters) as conversation:
        return await conversation.request(question)


@pytest.mark.slow
@pytest.mark.integration
def test_adapters_are_listed_named_merged_exported_and_deleted(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    settings = {"models": str(models_dir), "state": str(tmp_path / "state"), "roots": [str(tmp_path)]}

    async def talk() -> None:
        async with MemoryBus() as bus:
            running = await bus.start(program.agent, settings=settings)
            label = await delegate(bus, tmp_path)
            named = await ask(bus, adapters.SetAlias(alias="stable", adapter="lights"))
            needed = await ask(bus, adapters.Delete(adapter=label))
            merged = await ask(bus, adapters.Merge(adapter="stable", name="whole"))
            copied = await ask(bus, adapters.Export(adapter="whole", folder=str(tmp_path / "out")))
            outside = await ask(bus, adapters.Export(adapter="whole", folder="/elsewhere"))
            await ask(bus, adapters.DropAlias(alias="stable"))
            gone = await ask(bus, adapters.Delete(adapter=label))
            listed = await ask(bus, adapters.List())
            unknown = await ask(bus, adapters.SetAlias(alias="x", adapter="nothing"))
            await running.stop()

        assert (named.adapter.name, named.adapter.aliases) == ("lights", ["stable"])
        assert (needed.code, outside.code, unknown.code) == ("in-use", "bad-request", "no-such-adapter")
        assert (merged.adapter.kind, merged.adapter.name) == ("model", "whole")
        assert copied.folder == str(tmp_path / "out")
        assert gone.detail == "lights@1 is deleted"
        assert [(one.name, one.version) for one in listed.adapters] == [("whole", 1)]
        assert listed.adapters[0].task_id == TASK

    async def limited() -> None:
        async with asyncio.timeout(100):
            await talk()

    asyncio.run(limited())
    assert (tmp_path / "out" / "config.json").is_file()


def test_the_words_for_refusals_are_those_of_the_protocol() -> None:
    (refused,) = [one for one in adapters.spec.messages if one.name == "Refused"]
    (code,) = [one for one in refused.fields if one.name == "code"]

    assert set(code.enum) == REFUSALS
