"""Pumps: standing tasks in which handlers run, one turn at a time for each place.

A handler that never waits costs neither a task nor a future of its own. When one does wait, the next
turn of the loop wakes another pump, which goes on with what is ready.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from bus.sdk.handler import HandlerTable
from bus.sdk.seat import Seat, SeatState
from bus.sdk.turn import Turn
from bus.wire.record import Record


class Place:
    """One lease of this agent on a role of a conversation: its seat, its state and what waits for a handler.

    Attributes:
        busy: A pump has a turn of this place in hand.
        lost: The lease is gone; nothing under it counts any more.
        turn: The open turn, or None.
    """

    __slots__ = ("busy", "lost", "seat", "state", "table", "turn", "waiting")

    def __init__(self, seat: Seat, state: SeatState, table: HandlerTable) -> None:
        self.seat = seat
        self.state = state
        self.table = table
        self.waiting: deque[Record] = deque()
        self.busy = False
        self.lost = False
        self.turn: Turn | None = None


RunTurn: TypeAlias = Callable[[Place, Record, asyncio.Task[None]], Awaitable[None]]


class _Mark:
    """Tells whether a pump has given the loop a turn since the mark was set."""

    __slots__ = ("passed", "working")

    def __init__(self) -> None:
        self.passed = False
        self.working = True


class Pumps:
    """Runs what is ready, in as many tasks as there are handlers that wait.

    Args:
        run: Runs one turn inside the pump's task; must not raise but for cancellation.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, run: RunTurn) -> None:
        self._loop = loop
        self._run = run
        self._ready: deque[tuple[Place, Record]] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._waking = False
        self._stopped = False
        self._tasks: set[asyncio.Task[None]] = set()

    def push(self, place: Place, record: Record) -> None:
        """Have the turn of *record* run, after what is ready already."""
        self._ready.append((place, record))
        if not self._waking:
            self._wake()

    def clear(self) -> None:
        """Drop what is ready and has not begun."""
        self._ready.clear()

    async def stop(self) -> None:
        """Cancel every pump, open turns with them."""
        self._stopped = True
        self._ready.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _wake(self) -> None:
        self._waking = True
        while self._idle:
            future = self._idle.pop()
            if not future.done():
                future.set_result(None)
                return
        task = self._loop.create_task(self._pump())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pump(self) -> None:
        loop, ready = self._loop, self._ready
        task = asyncio.current_task()
        assert task is not None
        while not self._stopped:
            self._waking = False
            mark: _Mark | None = None
            while ready and not self._stopped:
                place, record = ready.popleft()
                if place.lost:
                    continue
                if place.busy:
                    place.waiting.append(record)
                    continue
                if ready and (mark is None or mark.passed):
                    mark = _Mark()
                    loop.call_soon(self._check, mark)
                place.busy = True
                await self._run(place, record, task)
                place.busy = False
                if place.waiting:
                    ready.appendleft((place, place.waiting.popleft()))
            if mark is not None:
                mark.working = False
            future: asyncio.Future[None] = loop.create_future()
            self._idle.append(future)
            await future

    def _check(self, mark: _Mark) -> None:
        mark.passed = True
        if mark.working and self._ready and not self._waking:
            self._wake()
