"""Plays a protocol against one real agent, to test the agent: every other role is played at random.

The agent runs on a ``MemoryBus`` in this process, unchanged. What it is sent is valid, random, in any order that
the protocol allows and as late as that; bus time only moves where nobody can do anything. Found are handlers
that raise, that send what may not be sent, that leave a turn unfinished or never end, and agents that owe a
message and do not send it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from time import monotonic

from bus.broker.delivery import DeliveryState
from bus.engine.memory import MemoryPeer
from bus.errors import BodyInvalid, MissingHandler, NotAllowed, PalaverError, TurnUnfinished
from bus.sdk.agent import Agent
from bus.spec.protocol import Protocol
from bus.testing.arena import Arena, Fault, Tally
from bus.testing.choices import Choices
from bus.testing.executor import Run
from bus.testing.fuzzer import Finding
from bus.testing.memory import MemoryBus, MemoryConnector
from bus.testing.random_message import random_message
from bus.testing.record_desk import RecordDesk
from bus.wire.codec import decode_body, decode_frame, encode_body
from bus.wire.record import Kind

AGENT_RUNS = 50
PATIENCE = 2.0  # seconds of real time that a handler gets before bus time moves on
_STEPS = 60
_PAUSES = 4  # in the time up to a deadline: agents with timeouts of their own answer in between
_MARGIN = 0.1  # seconds of bus time by which the last pause misses the deadline
_ROUNDS = 20  # turns of the event loop in which an agent answers what it was sent
_KINDS = {
    NotAllowed.code: "illegal",
    BodyInvalid.code: "illegal",
    TurnUnfinished.code: "unfinished",
    "raised": "raises",
}
_NO_FAULT = ("superseded", "lease-lost", "ended", "revoked")  # the bus was faster, which nobody can help


@dataclass(slots=True)
class AgentReport:
    """What all runs against an agent have shown."""

    protocol: Protocol
    role: str
    agent: str
    tally: Tally
    findings: list[Finding] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        """Keep the finding, or the shorter of two of one kind and text."""
        for index, known in enumerate(self.findings):
            if (known.kind, _likeness(known.text)) == (finding.kind, _likeness(finding.text)):
                shorter = min(known, finding, key=lambda one: len(one.trace))
                self.findings[index] = replace(shorter, n_runs=known.n_runs + 1)
                return
        self.findings.append(finding)


def _likeness(text: str) -> str:
    """Return *text* without what differs from one conversation to the next: ids, and values in quotes."""
    return re.sub(r"conversation [0-9a-f]{8}|'[0-9a-f]{8}-[0-9a-f-]{27}'", "", text)


async def fuzz_agent(
    agent: Agent,
    protocol: Protocol,
    role: str,
    *,
    runs: int = AGENT_RUNS,
    seed: int = 0,
    patience: float = PATIENCE,
    settings: Mapping[str, object] | None = None,
    on_run: Callable[[int], None] | None = None,
) -> AgentReport:
    """Play *protocol* with *agent* in *role*, again and again, and return what was seen.

    Args:
        seed: Equal seeds send an agent the same, as far as its answers are the same.
        patience: Seconds of real time that a handler gets before bus time moves on.
        settings: Becomes ``agent.settings``.
        on_run: Is called with the number of each run that was played.

    Raises:
        LookupError: The protocol has no such role.
        PalaverError: The agent plays no such role of this very protocol, or could not be started.
    """
    index = protocol.role_index(role)
    mine = {one.index: agent.name for one in agent.roles if one.protocol.digest == protocol.digest}
    if index not in mine:
        plays = ", ".join(f"{one} ({one.protocol.digest})" for one in agent.roles)
        raise PalaverError(f"expected an agent that plays {role!r} of {protocol!r}, got one that plays {plays}")
    if protocol.has_members:
        raise PalaverError(f"{protocol.name} has roles with many members, among which no agent can be tested yet")
    if len(mine) == len(protocol.roles):
        raise PalaverError(f"expected a role of {protocol.name} that {agent.name!r} does not play, to talk to it")
    arena = Arena(protocol)
    report = AgentReport(protocol, role, agent.name, arena.tally)
    async with MemoryBus() as bus:
        watch = _Watch(bus)
        try:
            await bus.start(agent, settings=settings, connector=watch)
        except MissingHandler as error:
            report.add(Finding("missing-handler", str(error), f"{seed}-0", ()))
            return report
        for number in range(runs):
            meeting = _Meeting(bus, watch, arena, mine, name=f"{seed}-{number}", patience=patience)
            found = await meeting.play()
            if found is not None:
                report.add(found)
            if on_run is not None:
                on_run(number + 1)
    return report


class _Watch(MemoryConnector):
    """The agent's connection, with an eye on what it gives back and what is refused."""

    def __init__(self, bus: MemoryBus) -> None:
        super().__init__(bus)
        self.faults: list[tuple[str, str]] = []

    def connect(self, on_frame: Callable[[bytes], None]) -> MemoryPeer:
        """Open a connection."""
        peer = super().connect(partial(self._hear, on_frame))
        send = peer.send

        def watched(frame: bytes) -> None:
            for record in decode_frame(frame):
                if record[0] == Kind.NACK:
                    self._note(record[6], record[7])
            send(frame)

        peer.send = watched  # type: ignore[method-assign]  # one connection is watched, not all
        return peer

    def _hear(self, on_frame: Callable[[bytes], None], frame: bytes) -> None:
        for record in decode_frame(frame):
            if record[0] == Kind.REFUSED and record[2] not in _NO_FAULT:
                self._note(record[2], record[3]["message"])
        on_frame(frame)

    def _note(self, code: str, text: str) -> None:
        self.faults.append((_KINDS.get(code, code), text))


class _Meeting:
    """One conversation with the agent."""

    def __init__(
        self, bus: MemoryBus, watch: _Watch, arena: Arena, mine: Mapping[int, str], *, name: str, patience: float
    ) -> None:
        self._bus = bus
        self._watch = watch
        self._arena = arena
        self._mine = mine
        self._name = name
        self._patience = patience
        self._random = Random(f"bodies of {name}")
        self._keys: dict[str, object] = {}
        watch.faults.clear()
        bus.beat()
        desk = partial(
            RecordDesk, engine=bus.engine, clock=bus.clock, absent=dict(mine), new_body=self._new_body,
            request_id=name, on_time=bus.beat,
        )  # fmt: skip
        self.run = Run(arena, Choices(name), steps=_STEPS, absent=mine, new_desk=desk)

    async def play(self) -> Finding | None:
        """Play to the end and return what the agent did wrong first, or None."""
        run = self.run
        try:
            await self._answer()
            while run.is_on:
                # Time does not pass while the agent may be at work: what it owes then is not late.
                if not run.step(calm=self._owes()) and not await self._wait(self._patience):
                    await self._let_time_pass()
                await self._answer()
            await self._end()
            run.finish()
        except Fault as fault:
            return Finding(fault.kind, fault.text, self._name, tuple(self._transcript()))
        finally:
            self._leave()
            await self._bus.settle()
        return None

    # -- the agent's part --------------------------------------------------------------------------

    def _owes(self) -> bool:
        mailboxes = self.run.desk.conversation.mailboxes
        return any(mailboxes[role].machine.owes[mailboxes[role].at] or mailboxes[role].leased for role in self._mine)

    async def _answer(self) -> None:
        """Let the agent do what it does at once, and look at all that was said."""
        for _ in range(_ROUNDS):
            await asyncio.sleep(0)
            if not self._bus.engine.step() and not self._owes():
                break
        self._look()

    async def _wait(self, patience: float) -> bool:
        """Give the agent real time to go on; return whether it did anything."""
        conversation, end = self.run.desk.conversation, monotonic() + patience
        before = self._progress()
        while monotonic() < end:
            await self._bus.settle()
            self._look()
            if self._progress() != before or conversation.outcome is not None:
                return True
            if not self._owes():
                return False
        return False

    def _progress(self) -> tuple[object, ...]:
        conversation = self.run.desk.conversation
        return (conversation.sequence, *(conversation.mailboxes[role].settled for role in self._mine))

    def _look(self) -> None:
        for kind, text in self._watch.faults:
            raise Fault(kind, text)
        conversation = self.run.desk.conversation
        for role in self._mine:
            queued = conversation.mailboxes[role].queued
            if queued and queued[0].state is DeliveryState.DEAD and queued[0].reason is not None:
                raise Fault("dead-letter", ": ".join(queued[0].reason))
        self.run.follow()

    async def _let_time_pass(self) -> None:
        """Nobody else can do anything: let bus time pass, up to the deadline of what the agent owes."""
        late = [role for role in self._mine if self._owed(role)]
        if not late:
            self.run.go_on()
            return
        mailbox, desk = self.run.desk.conversation.mailboxes[late[0]], self.run.desk
        assert isinstance(desk, RecordDesk)  # time passes there only
        name, owed = self._arena.protocol.roles[late[0]].name, " or ".join(self._owed(late[0]))
        for parts in range(_PAUSES, 0, -1):
            left = mailbox.deadline - self._bus.clock.now()
            if left == float("inf"):
                break
            desk.pass_time(max(0.0, left / parts - _MARGIN))
            try:
                if await self._wait(self._patience / _PAUSES) and not self._is_lost():
                    return
            except Fault:
                if not self._is_lost():
                    raise
        raise Fault("late", f"{name} owes {owed} and has not sent it by its deadline")

    def _is_lost(self) -> bool:
        """Return whether the conversation ended as failed because of what the agent did not send."""
        return bool(self.run.desk.conversation.reason)

    def _owed(self, role: int) -> list[str]:
        """Return the names of the messages of which the role must send one."""
        mailbox = self.run.desk.conversation.mailboxes[role]
        moves = mailbox.machine.send[mailbox.at].items() if mailbox.machine.owes[mailbox.at] else ()
        names = {self._arena.protocol.messages[type].name for (type, _), move in moves if move.interrupt < 0}
        return sorted(names)

    async def _end(self) -> None:
        """See that the agent's turns end once the conversation is over."""
        conversation = self.run.desk.conversation
        if conversation.outcome is None:
            return
        end = monotonic() + self._patience
        while monotonic() < end and any(conversation.mailboxes[role].leased for role in self._mine):
            await self._bus.settle()
            self._look()
        for role in self._mine:
            if conversation.mailboxes[role].leased:
                name = self._arena.protocol.roles[role].name
                raise Fault("unfinished", f"a turn of {name} never ends, although the conversation is over")

    def _leave(self) -> None:
        desk = self.run.desk
        if desk.conversation.outcome is None:
            desk.cancel()
        if isinstance(desk, RecordDesk):
            desk.leave()

    # -- what is said ------------------------------------------------------------------------------

    def _new_body(self, index: int) -> bytes:
        protocol = self._arena.protocol
        message_type = protocol.messages[index]
        self._learn_keys()
        plain = message_type.to_plain(random_message(protocol, index, self._random, given=self._keys))  # type: ignore[arg-type]  # its class is the type's own
        for key in message_type.keys:
            self._keys.setdefault(key, plain[key])
        return encode_body(plain)

    def _learn_keys(self) -> None:
        """Take over the keys that the agent has chosen, where it spoke first."""
        for entry in self.run.desk.conversation.transcript:
            if entry.sender in self._mine:
                keys = self._arena.protocol.messages[entry.type].keys
                fields = decode_body(entry.body) if keys else {}
                self._keys.update({key: fields[key] for key in keys if key not in self._keys})

    def _transcript(self) -> list[str]:
        """Return what was said, with bodies."""
        lines = []
        for entry in self.run.desk.conversation.transcript:
            if entry.sender < 0:
                lines.append(f"the bus: {entry.event}")
            else:
                lines.append(f"{self._arena.say(entry.sender, (entry.type, entry.address))} {decode_body(entry.body)}")
        return lines
