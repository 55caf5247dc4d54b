"""A small protocol with everything that an agent meets: streams, at-most-once, interrupts, deadlines, a call."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from bus.spec.compile import compile_protocol

WORK = """
language: 1
protocol: work
version: 1.0.0
keys: [job]
roles: {client: {}, worker: {}}
messages:
  Ask: {fields: {job: string, n: int}}
  Part: {delivery: at-least-once, window: 100, fields: {n: int}}
  Note: {delivery: at-most-once, fields: {n: int}}
  Done: {fields: {job: string, n: int}}
  Again: {fields: {}}
  Bye: {fields: {}}
  Stop: {fields: {}}
  Stopped: {fields: {n: int}}
outcomes: {done: All is done., stopped: The client stopped it.}
conversation:
  - scope: job
    do:
      - loop: rounds
        do:
          - client -> worker: Ask
          - loop: steps
            do:
              - choice: worker
                within: 60s
                branches:
                  part: [worker -> client: Part]
                  note: [worker -> client: Note]
                  done:
                    - worker -> client: Done
                    - break
          - choice: client
            within: 10m
            branches:
              again: [client -> worker: Again]
              bye:
                - client -> worker: Bye
                - end: done
    interrupts:
      - client -> worker: Stop
        then:
          - worker -> client: Stopped
          - end: stopped
"""

work = compile_protocol(WORK)


def on_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test, within a minute on however busy a machine."""

    @wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        async def limited() -> None:
            async with asyncio.timeout(60):
                await test(*arguments, **named)

        asyncio.run(limited())

    return run


def bodies(entries: list[dict[str, Any]]) -> list[tuple[str | None, str | None]]:
    """Return (sender, type) of each message of a transcript."""
    return [(entry["sender"], entry["type"]) for entry in entries if entry["kind"] == "message"]
