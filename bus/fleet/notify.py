"""Telling people that something waits for them: runs the fleet file's ``notify`` command."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TypeAlias

import structlog

from bus.errors import PalaverError
from bus.sdk.client import Client

log = structlog.get_logger()

LOOK_EVERY = 2.0  # seconds; a person takes longer to answer
_COMMAND_LIMIT = 60.0  # seconds that one run of the command may take

Seen: TypeAlias = frozenset[tuple[bytes, str, int, int]]


async def watch_inbox(address: str, command: Sequence[str]) -> None:
    """Run *command* for everything new in the inbox, and again with each reminder, until canceled.

    The command learns what waits from ``PALAVER_ROLE``, ``PALAVER_PROTOCOL`` and ``PALAVER_CONVERSATION``.
    """
    seen: Seen = frozenset()
    while True:
        with suppress(PalaverError):
            async with Client(address) as client:
                while True:
                    items = await client.inbox()
                    for item in new_items(items, seen):
                        await run_command(command, item)
                    seen = seen_of(items)
                    await asyncio.sleep(LOOK_EVERY)
        await asyncio.sleep(LOOK_EVERY)


def new_items(items: Sequence[Mapping[str, object]], seen: Seen) -> list[Mapping[str, object]]:
    """Return what a person was not told of yet: a new delivery, or one more reminder of an old one."""
    return [item for item in items if _key(item) not in seen]


def seen_of(items: Sequence[Mapping[str, object]]) -> Seen:
    """Return what a person has been told of once *items* were shown."""
    return frozenset(_key(item) for item in items)


def _key(item: Mapping[str, object]) -> tuple[bytes, str, int, int]:
    conversation, position, reminders = item["conversation"], item["position"], item.get("reminders") or 0
    assert isinstance(conversation, bytes)  # the broker's word: docs/wire.md
    assert isinstance(position, int)
    assert isinstance(reminders, int)
    return conversation, str(item["role"]), position, reminders


async def run_command(command: Sequence[str], item: Mapping[str, object]) -> None:
    """Run *command* about one item of the inbox; what goes wrong is logged."""
    conversation = item["conversation"]
    about = {
        "PALAVER_ROLE": str(item["role"]),
        "PALAVER_PROTOCOL": str(item["protocol"]),
        "PALAVER_CONVERSATION": conversation.hex() if isinstance(conversation, bytes) else "",
    }
    try:
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **about})
    except OSError as error:
        log.warning("notify.failed", command=command[0], reason=str(error))
        return
    try:
        async with asyncio.timeout(_COMMAND_LIMIT):
            code = await process.wait()
        if code:
            log.warning("notify.failed", command=command[0], code=code)
    except TimeoutError:
        log.warning("notify.failed", command=command[0], reason=f"not done after {_COMMAND_LIMIT:g} s")
    finally:
        if process.returncode is None:
            process.kill()
