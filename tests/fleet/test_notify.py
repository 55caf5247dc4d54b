"""People are told of what waits for them: once when it comes, and again with each reminder."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

from bus.fleet.notify import new_items, run_command, seen_of
from bus.spec.compile import compile_protocol
from bus.testing import MemoryBus

ASKING = compile_protocol("""
language: 1
protocol: asking
version: 1.0.0
roles: {client: {}, boss: {human: true}}
messages: {Ask: {}, Yes: {}}
outcomes: {done: Well.}
conversation:
  - client -> boss: Ask
  - boss -> client: Yes
    within: 1h
    remind: 20m
  - end: done
""")
ITEM: Mapping[str, object] = {
    "conversation": b"c" * 16, "role": "boss", "protocol": "asking@1.0.0", "position": 1, "reminders": 0,
}  # fmt: skip


def test_each_reminder_of_the_bus_is_news_for_the_command() -> None:
    async def main() -> list[int]:
        told = []
        async with MemoryBus() as bus, bus.client() as client, client.open(ASKING) as conversation:
            await conversation.send(ASKING.Ask())
            seen = seen_of([])
            for minutes in (0, 5, 16, 1, 20):
                await bus.advance(60.0 * minutes)
                items = await client.inbox()
                told.append(len(new_items(items, seen)))
                seen = seen_of(items)
        return told

    assert asyncio.run(main()) == [1, 0, 1, 0, 1]


def test_command_is_told_whose_turn_it_is(tmp_path: Path) -> None:
    told = tmp_path / "told"
    text = f"import os; open({str(told)!r}, 'w').write(os.environ['PALAVER_ROLE'] + os.environ['PALAVER_CONVERSATION'])"
    asyncio.run(run_command([sys.executable, "-c", text], ITEM))

    assert told.read_text() == "boss" + "63" * 16


def test_command_that_cannot_be_run_is_no_reason_to_stop(tmp_path: Path) -> None:
    asyncio.run(run_command([str(tmp_path / "nothing")], ITEM))

    assert not (tmp_path / "nothing").exists()
