"""What a handler holds: the conversation, for the length of one turn.

A handler that runs in a thread gets the same with blocking methods, ``SyncConversation``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from bus.sdk.opened import Bindings, OpenConversation
from bus.sdk.openings import Openings
from bus.sdk.part import Receivers
from bus.sdk.seat import ATTEMPT, TRACE
from bus.sdk.turn import Turn
from bus.spec.protocol import Protocol
from bus.spec.tools import read_call, tools_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Result:
    """How a called conversation went.

    Attributes:
        outcome: One of the called protocol's outcomes, or ``failed`` or ``canceled``.
        message: The last message that came, or None.
        messages: Every message that came, in order.
    """

    outcome: str
    message: BaseModel | None
    messages: tuple[BaseModel, ...]


class Conversation:
    """A conversation in a handler's hands."""

    __slots__ = ("_openings", "_turn")

    def __init__(self, openings: Openings, turn: Turn) -> None:
        self._openings = openings
        self._turn = turn

    @property
    def id(self) -> bytes:
        """The conversation's id, 16 bytes."""
        return self._turn.seat.conversation_id

    @property
    def protocol(self) -> Protocol:
        """The protocol that the conversation follows."""
        return self._turn.seat.part.protocol

    @property
    def role(self) -> str:
        """The name of the role that this agent plays in it."""
        return self._turn.seat.part.name

    @property
    def attempt(self) -> int:
        """1, 2, … of this delivery."""
        attempt: int = self._turn.record[ATTEMPT]
        return attempt

    @property
    def message_id(self) -> bytes:
        """The id of what is handled, the same on every attempt: the idempotency key for things outside the bus."""
        return self._turn.message_id()

    @property
    def state(self) -> dict[str, Any]:
        """What the role keeps with the bus: plain values, at most 64 KiB, committed with the turn."""
        return self._turn.state.value

    @property
    def remaining(self) -> float:
        """Seconds until the deadline of this turn, ``inf`` where it has none, never below zero."""
        return self._turn.remaining()

    @property
    def canceled(self) -> bool:
        """Whether the turn was taken back, so that nothing it does will count; for threads to look at."""
        return self._turn.lost is not None

    @property
    def sender(self) -> str | None:
        """Who sent what is handled: a role, or of a role with many members the agent; None where it is the bus."""
        return self._turn.seat.speaker(self._turn.record)

    def members(self, role: str) -> tuple[str, ...]:
        """Return the agents that are members of *role*; of a sub-role, those enrolled when the bus last told.

        Raises:
            LookupError: The protocol has no such role, or it has no members.
        """
        return self._turn.seat.members(role)

    def allowed(self) -> list[type[BaseModel]]:
        """Return the classes of the messages that may be sent now, sorted by name."""
        return self._turn.seat.allowed()

    def tools(self) -> list[dict[str, Any]]:
        """Return an LLM tool for each message that may be sent now, in the shape of OpenAI's function calling.

        What the LLM calls goes out by ``send_tool_call``.
        """
        seat = self._turn.seat
        part = seat.part
        return tools_of(part.protocol.spec, part.tables, part.machine, seat.at, part.receivers())

    async def send_tool_call(self, name: str, arguments: str | dict[str, Any]) -> None:
        """Send the message that an LLM means which called the tool *name*; otherwise as ``send``.

        Args:
            name: One of ``tools``.
            arguments: The message's fields, as JSON text or read already.

        Raises:
            NotAllowed: No such tool is offered now; the text lists those that are.
            BodyInvalid: The arguments are no JSON object, or not what the message takes. The text is fit to be
                handed back to the LLM.
        """
        seat = self._turn.seat
        part = seat.part
        message, address = read_call(part.protocol, part.machine, seat.at, name, arguments, part.receivers())
        self._turn.add_to(message, address)

    async def send(self, message: BaseModel, to: Receivers = None) -> None:
        """Add *message* to the turn; it leaves with the next commit, an at-most-once one leaves at once.

        After the turn only an interrupt may still be raised. In an `each` the message goes to the member that the
        turn is about; where it is about none, to every member that it may go to now.

        Args:
            to: Name or names of the receivers, roles or members; needed only where the protocol leaves a choice.

        Raises:
            NotAllowed: The order forbids it; the text says what is allowed. Nothing was sent.
            BodyInvalid: The body breaks a rule of its type or a key of the conversation.
            CommitFirst: At-most-once while earlier sends of this turn are not committed (RULES.md 4).
            TooLarge: The commit would be too large: commit sooner.
            TurnEnded: The turn is over, or was taken back.
        """
        self._turn.add(message, to)

    async def commit(self) -> None:
        """Publish the sends and the state so far and keep the turn; returns when the broker has accepted them.

        Should the delivery come again, its handler begins with this state.

        Raises:
            Revoked: A bus event moved the conversation on; nothing of this commit counts.
            LeaseLost: Another instance has the delivery now.
            Refused: The broker refused it.
        """
        await self._turn.commit()

    async def call(
        self, protocol: Protocol, request: BaseModel, *, request_id: str | None = None, bind: Bindings | None = None
    ) -> Result:
        """Run *protocol* to its end with *request* as its first message and return how it went.

        The child's id derives from this turn: a handler that is begun again finds its child again
        and reads its messages from the first one (RULES.md 17).
        """
        async with self.open(protocol, request_id=request_id, bind=bind) as child:
            await child.send(request)
            messages = [message async for message in child]
        return Result(child.outcome or "failed", messages[-1] if messages else None, tuple(messages))

    def open(
        self,
        protocol: Protocol,
        *,
        role: str | None = None,
        request_id: str | None = None,
        bind: Bindings | None = None,
        notices: bool = False,
    ) -> OpenConversation:
        """Open a child conversation: ``async with conversation.open(training) as child``.

        Args:
            role: The role to play in it; needed only where more than one may speak first.
            request_id: Names the child; left out, it derives from this turn.
            bind: Role → name or names of the agents that may play it.
            notices: Whether reading the child also gives the bus's notices.
        """
        turn = self._turn
        turn.check()
        seat = turn.seat
        remaining = turn.remaining()
        return self._openings.new(
            protocol,
            role=role,
            request_id=turn.call_id() if request_id is None else request_id,
            bind=bind,
            parent=(seat.conversation_id, seat.part.role, seat.fence, turn.position),
            notices=notices,
            remaining=None if remaining == float("inf") else remaining,
            trace=turn.record[TRACE],
        )


class SyncConversation:
    """A conversation for handlers that are plain ``def`` and so run in a thread: the same, without ``await``.

    Every method blocks until it is done. ``canceled`` says whether the turn was taken back.
    """

    __slots__ = ("_conversation", "_loop")

    def __init__(self, conversation: Conversation, loop: asyncio.AbstractEventLoop) -> None:
        self._conversation = conversation
        self._loop = loop

    @property
    def id(self) -> bytes:
        """See ``Conversation.id``."""
        return self._conversation.id

    @property
    def protocol(self) -> Protocol:
        """See ``Conversation.protocol``."""
        return self._conversation.protocol

    @property
    def role(self) -> str:
        """See ``Conversation.role``."""
        return self._conversation.role

    @property
    def sender(self) -> str | None:
        """See ``Conversation.sender``."""
        return self._conversation.sender

    def members(self, role: str) -> tuple[str, ...]:
        """See ``Conversation.members``."""
        return self._conversation.members(role)

    @property
    def attempt(self) -> int:
        """See ``Conversation.attempt``."""
        return self._conversation.attempt

    @property
    def message_id(self) -> bytes:
        """See ``Conversation.message_id``."""
        return self._conversation.message_id

    @property
    def state(self) -> dict[str, Any]:
        """See ``Conversation.state``."""
        return self._conversation.state

    @property
    def remaining(self) -> float:
        """See ``Conversation.remaining``."""
        return self._conversation.remaining

    @property
    def canceled(self) -> bool:
        """See ``Conversation.canceled``."""
        return self._conversation.canceled

    def allowed(self) -> list[type[BaseModel]]:
        """See ``Conversation.allowed``."""
        return self._conversation.allowed()

    def tools(self) -> list[dict[str, Any]]:
        """See ``Conversation.tools``."""
        return self._conversation.tools()

    def send_tool_call(self, name: str, arguments: str | dict[str, Any]) -> None:
        """See ``Conversation.send_tool_call``."""
        self._wait(self._conversation.send_tool_call(name, arguments))

    def send(self, message: BaseModel, to: Receivers = None) -> None:
        """See ``Conversation.send``."""
        self._wait(self._conversation.send(message, to))

    def commit(self) -> None:
        """See ``Conversation.commit``."""
        self._wait(self._conversation.commit())

    def call(
        self, protocol: Protocol, request: BaseModel, *, request_id: str | None = None, bind: Bindings | None = None
    ) -> Result:
        """See ``Conversation.call``."""
        return self._wait(self._conversation.call(protocol, request, request_id=request_id, bind=bind))

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
