"""A whole bus in this process, a clock that only tests move, and peers made from a protocol.

The broker is the real one and the frames are those of the wire; only sockets and the disk are left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeAlias

from pydantic import BaseModel

from bus.clock import ManualClock
from bus.engine.memory import MemoryEngine, MemoryPeer
from bus.sdk.agent import Agent
from bus.sdk.client import Client
from bus.sdk.conversation import Conversation
from bus.sdk.duty import find_duties
from bus.sdk.notice import Notice
from bus.sdk.part import Part, part_of
from bus.settings import Settings
from bus.spec.mode import read_mode
from bus.spec.protocol import Protocol, RoleOf
from bus.spec.syntax import Field, TypeExpression
from bus.spec.tables import Machine, Move
from bus.wire.codec import encode_frame
from bus.wire.record import Kind

_TICK = 0.001  # seconds of real time between two looks at whether the bus has come to rest
_TICKS = 6  # looks without a new frame after which it has
_STEP = 0.003  # bus time that passes with each: lingering acknowledgements and lazy rows then move
_REGISTER = 10.0  # seconds of real time in which an agent registers, or the test is wrong

Answer: TypeAlias = BaseModel | Sequence[BaseModel] | Callable[[Any], BaseModel | None]


class MemoryBus:
    """A broker, its clock and its journal in this process.

    Args:
        modes: Protocol name → ``"observe"`` or ``"off"``, for those that are not enforced.

    Attributes:
        clock: Bus time; a few milliseconds pass with each exchange, anything longer only by ``advance``.
        engine: The engine below, e.g. to hold its journal back.
    """

    def __init__(self, settings: Settings | None = None, *, modes: Mapping[str, str] | None = None) -> None:
        self.clock = ManualClock()
        self.settings = settings or Settings()
        read = {name: read_mode(mode) for name, mode in (modes or {}).items()}
        self.engine = MemoryEngine(settings=self.settings, clock=self.clock, modes=read)
        self._hearts: set[_Heart] = set()
        self._running: list[RunningAgent] = []
        self._is_up = True
        self._ticks_left = 0
        self._rest = asyncio.Event()
        self._rest.set()

    async def __aenter__(self) -> MemoryBus:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for running in self._running:
            await running.kill()
        self._ticks_left = 0

    async def start(
        self, agent: Agent, *, name: str | None = None, instance: int = 0,
        settings: Mapping[str, object] | None = None, connector: MemoryConnector | None = None,
    ) -> RunningAgent:  # fmt: skip
        """Run *agent* on this bus; returns once the broker knows it.

        Args:
            connector: How it reaches the bus, e.g. one that looks at what goes by.

        Raises:
            MissingHandler: See ``Agent.check``.
        """
        connector = connector or MemoryConnector(self)
        stop, registered = asyncio.Event(), asyncio.Event()
        serve = agent.serve(
            name=name, instance=instance, settings=settings, numbers=self.settings, connector=connector, stop=stop,
            registered=registered, grace=1.0,
        )  # fmt: skip
        task = asyncio.create_task(serve)
        waiting = asyncio.create_task(registered.wait())
        try:
            async with asyncio.timeout(_REGISTER):
                await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if task.done():
            await task  # raises why it could not start
        running = RunningAgent(task, stop, connector)
        self._running.append(running)
        return running

    def client(self, name: str | None = None) -> Client:
        """Return a client of this bus, to be used in ``async with``."""
        return Client(name=name, connector=MemoryConnector(self))

    async def settle(self) -> None:
        """Wait until nothing is on its way any more. Handlers that wait for something else stay as they are."""
        self._touch()
        await self._rest.wait()

    async def advance(self, duration: float) -> None:
        """Let *duration* seconds of bus time pass, with every living process proving that it lives."""
        await self.settle()
        self.beat()
        self.clock.advance(duration)
        self.engine.step()
        await self.settle()

    def beat(self) -> None:
        """Let every living process prove that it lives."""
        for heart in self._hearts:
            heart.beat()

    def crash_broker(self) -> None:
        """Kill the broker: frames under way and unsynced journal rows are lost."""
        self.engine.crash()
        self._is_up = False

    async def restart_broker(self) -> None:
        """Start a broker on what the journal holds; every peer finds it by its next heartbeat."""
        self.engine.start()
        self._is_up = True
        for heart in list(self._hearts):
            heart.beat()
        await self.settle()

    # -- parts ----------------------------------------------------------------------------------------

    def connect(self, on_frame: Callable[[bytes], None]) -> MemoryPeer:
        """Open a connection whose frames come to *on_frame*."""
        return self.engine.connect(partial(self._bring, on_frame))

    def _bring(self, on_frame: Callable[[bytes], None], frame: bytes) -> None:
        self._touch()
        on_frame(frame)

    def _touch(self) -> None:
        if self._ticks_left == 0:
            self._rest.clear()
            asyncio.get_running_loop().call_later(_TICK, self._tick)
        self._ticks_left = _TICKS

    def _tick(self) -> None:
        if self._ticks_left == 0:
            return  # the bus was left
        self._ticks_left -= 1
        self.clock.advance(_STEP)
        if self._is_up:
            self.engine.step()
        if self._ticks_left:
            asyncio.get_running_loop().call_later(_TICK, self._tick)
        else:
            self._rest.set()


class RunningAgent:
    """An agent at work on a ``MemoryBus``."""

    def __init__(self, task: asyncio.Task[None], stop: asyncio.Event, connector: MemoryConnector) -> None:
        self._task = task
        self._stop = stop
        self._connector = connector

    async def stop(self) -> None:
        """Let it finish its open turns and leave."""
        self._stop.set()
        await self._task

    async def kill(self) -> None:
        """End it as SIGKILL ends a process: the bus hears nothing more of it, and its lease runs out."""
        self._connector.cut()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class MemoryConnector:
    """Connects one process to a ``MemoryBus``."""

    address = "memory"

    def __init__(self, bus: MemoryBus) -> None:
        self._bus = bus
        self._peers: list[MemoryPeer] = []
        self._is_cut = False

    def connect(self, on_frame: Callable[[bytes], None]) -> MemoryPeer:
        """Open a connection."""
        peer = self._bus.connect(on_frame)
        self._peers.append(peer)
        if self._is_cut:
            peer.close()
        return peer

    def beat(self, token: bytes, interval: float, lease: float, on_silence: Callable[[], None]) -> _Heart:
        """Prove life whenever the test lets time pass."""
        return _Heart(self._bus, token, on_silence)

    def cut(self) -> None:
        """Let nothing through any more, in either direction."""
        self._is_cut = True
        for peer in self._peers:
            peer.close()


class _Heart:
    """A process's heartbeat: its own connection, as on the wire."""

    def __init__(self, bus: MemoryBus, token: bytes, on_silence: Callable[[], None]) -> None:
        self._bus = bus
        self._frame = encode_frame([[int(Kind.HEARTBEAT), token]])
        self._alive = encode_frame([[int(Kind.HEARTBEAT), b""]])
        self._on_silence = on_silence
        self._peer = bus.connect(self._on_frame)
        bus._hearts.add(self)

    def beat(self) -> None:
        """Say that the process lives."""
        self._peer.send(self._frame)

    def close(self) -> None:
        """Stop."""
        self._bus._hearts.discard(self)
        self._peer.close()

    def _on_frame(self, frame: bytes) -> None:
        if frame != self._alive:
            self._on_silence()


def play(
    role: RoleOf, answers: Mapping[type[BaseModel] | type[Notice], Answer] | None = None, *, name: str | None = None
) -> Agent:
    """Return an agent that plays *role* as the protocol allows, saying no more than it must.

    Args:
        answers: What to send on a message or notice: a message, several, or a function of what came.
            Wherever the role must speak and nothing is given, the smallest valid message is sent.
        name: The agent's name; the role's if left out.
    """
    agent = Agent(plays=role, name=name)
    part = part_of(role.protocol, role.index)
    given = dict(answers or {})
    triggers: list[type[BaseModel] | type[Notice]] = [*given]
    for duty in find_duties(part):
        trigger: type[BaseModel] | type[Notice]
        trigger = part.messages[duty.trigger].model if isinstance(duty.trigger, int) else duty.trigger
        if trigger not in triggers:
            triggers.append(trigger)
    for trigger in triggers:
        agent.on(trigger)(_responder(part, given.get(trigger)))
    return agent


def _responder(part: Part, answer: Answer | None) -> Callable[[Any, Conversation], Any]:
    async def respond(message: Any, conversation: Conversation) -> None:
        said = answer(message) if callable(answer) and not isinstance(answer, BaseModel) else answer
        if isinstance(said, BaseModel):
            await conversation.send(said)
        elif said is not None:
            for one in said:
                await conversation.send(one)
        if said is None and answer is None:
            await _say_what_must_be(conversation)

    return respond


async def _say_what_must_be(conversation: Conversation) -> None:
    """Send smallest messages until the role owes none, by the shortest way there."""
    seat = conversation._turn.seat
    part = seat.part  # of the version that is pinned, which need not be the agent's own
    while seat.owes():
        machine = part.protocol.tables.machines[part.plays]  # one member's, where the role talks with many
        ways = [
            (_sends_left(machine, move.next if part.gathering is None else move.then), _may_be_full(part, move), sent)
            for sent, move in part.machine.send[seat.at].items()
            if move.interrupt < 0
        ]
        _, _, (index, address) = min(ways, key=lambda way: (*way[:2], part.messages[way[2][0]].name))
        conversation._turn.add_to(smallest_message(part.protocol, index, given=seat.keys), address)


def _may_be_full(part: Part, move: Move) -> bool:
    """Return whether *move* enrolls into a sub-role with less room than there are members: the last to be tried."""
    if part.gathering is None:
        return False
    counters, n_players = part.tables.counters, len(part.gathering.members.players)
    return any(counters[guard].enrolls >= 0 and counters[guard].limit < n_players for guard in move.guards)


def _sends_left(machine: Machine, state: int) -> int:
    """Return how many messages the role must send at least before it owes none (breadth first)."""
    front, seen, n = {state}, {state}, 0
    while front and not any(not machine.owes[one] for one in front):
        ways = {move.next for one in front for move in machine.send[one].values() if move.interrupt < 0}
        front = ways - seen
        seen |= front
        n += 1
    return n if front else len(machine.owes)


def smallest_message(protocol: Protocol, index: int, *, given: Mapping[str, object] | None = None) -> BaseModel:
    """Return a valid message of type *index*: the spec's first example, else the smallest values there are.

    Args:
        given: Fields whose values are settled: a conversation's keys.

    Raises:
        BodyInvalid: Its rules or patterns ask for more; give the message yourself.
    """
    declared = protocol.spec.messages[index]
    settled = {name: value for name, value in (given or {}).items() if any(one.name == name for one in declared.fields)}
    if declared.examples:
        example = declared.examples[0]
        assert isinstance(example, Mapping)  # checked with the spec
        return protocol.messages[index].build({**example, **settled})
    return protocol.messages[index].build({**_smallest_fields(protocol, declared.fields), **settled})


def _smallest_fields(protocol: Protocol, fields: Sequence[Field]) -> dict[str, object]:
    return {
        field.name: _smallest(protocol, field)
        for field in fields
        if not field.has_default and not (field.type is not None and field.type.optional)
    }


def _smallest(protocol: Protocol, field: Field) -> object:
    if field.has_example:
        return field.example
    if field.enum:
        return field.enum[0]
    kind = field.type
    assert kind is not None  # a field has a type or an enum
    if kind.container == "list":
        item = Field(field.mark, field.name, type=TypeExpression(kind.name))
        return [_smallest(protocol, item)] * (field.min_items or 0)
    if kind.container == "map":
        return {}
    least = field.min if field.min is not None else min(0, field.max if field.max is not None else 0)
    plain: dict[str, object] = {
        "string": "x" * (field.min_len or 0),
        "int": int(least),
        "number": float(least),
        "bool": False,
        "bytes": b"x" * (field.min_len or 0),
        "uuid": "00000000-0000-4000-8000-000000000000",
        "datetime": "2026-01-01T00:00:00Z",
        "duration": "0s",
        "artifact": {"uri": "file:none", "sha256": "0" * 64, "size": 0},
        "any": None,
    }
    if kind.name in plain:
        return plain[kind.name]
    struct = next(one for one in protocol.spec.types if one.name == kind.name)
    return _smallest_fields(protocol, struct.fields)
