"""What modules made by ``palaver codegen`` stand on: views that offer what one role may do, and nothing else.

A view holds the plain object and passes on; what the types promise the tables still enforce, here and at the
broker. Message classes are the protocol's own, so that messages of typed and of plain agents are the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeAlias, TypeVar, overload

from pydantic import BaseModel as BaseModel

from bus.errors import LocalProtocolError, ProgramError
from bus.sdk.agent import Agent
from bus.sdk.conversation import Conversation, Result, SyncConversation
from bus.sdk.handler import Handler as RegisteredHandler
from bus.sdk.handler import HandlerKind
from bus.sdk.notice import Notice
from bus.sdk.opened import Bindings, OpenConversation
from bus.sdk.part import Receivers as Receivers
from bus.spec.compile import load_protocol
from bus.spec.field import Artifact as Artifact
from bus.spec.message_type import Message as Message
from bus.spec.protocol import Protocol

Heard = TypeVar("Heard")
Other = TypeVar("Other")
View = TypeVar("View", bound="RoleConversation")
ThreadView = TypeVar("ThreadView", bound="RoleSyncConversation")
Said = TypeVar("Said")

# A handler is any of the four kinds of function that ``Agent.on`` takes; what it returns or yields is sent.
Handler: TypeAlias = (
    Callable[[Heard, View], Awaitable[Said | None]]
    | Callable[[Heard, View], AsyncIterator[Said]]
    | Callable[[Heard, ThreadView], Said | None]
    | Callable[[Heard, ThreadView], Iterator[Said]]
)

LEFT_OUT: Any = object()  # stands for a field's own default where Python cannot write it into a signature


def load_exactly(name: str, *, version: str, digest: str, module: str) -> Protocol:
    """Return the protocol that the generated *module* was made from.

    Args:
        name: The protocol's name; the spec is looked for as by ``load_protocol``.
        version: The version that the module was made from, for the error's text.
        digest: The digest that it had.
        module: The module's file.

    Raises:
        ProgramError: The spec that is found says something else: the types would lie.
        SpecError: There is no such spec, or it is wrong.
    """
    protocol = load_protocol(name)
    if protocol.digest != digest:
        raise ProgramError(
            f"{Path(module).name}: expected the protocol {name} {version} ({digest}) that it was generated from, "
            f"got {protocol.version} ({protocol.digest}): run `palaver codegen {name} -o {Path(module).name}` again"
        )
    return protocol


def given(**fields: Any) -> dict[str, Any]:
    """Return *fields* without those that were left out."""
    return {name: value for name, value in fields.items() if value is not LEFT_OUT}


class Speaker(ABC):
    """Whatever a role speaks through; the generated sends are written against it."""

    __slots__ = ()

    @abstractmethod
    async def _send(self, message: BaseModel, to: Receivers) -> None: ...


class RoleConversation(Speaker):
    """What a handler of a role's agent holds: ``Conversation``, with the sends of that role alone.

    Attributes:
        plain: The conversation itself.
    """

    __slots__ = ("plain",)

    def __init__(self, plain: Conversation) -> None:
        self.plain = plain

    @property
    def id(self) -> bytes:
        """See ``Conversation.id``."""
        return self.plain.id

    @property
    def sender(self) -> str | None:
        """See ``Conversation.sender``."""
        return self.plain.sender

    def members(self, role: str) -> tuple[str, ...]:
        """See ``Conversation.members``."""
        return self.plain.members(role)

    @property
    def attempt(self) -> int:
        """See ``Conversation.attempt``."""
        return self.plain.attempt

    @property
    def message_id(self) -> bytes:
        """See ``Conversation.message_id``."""
        return self.plain.message_id

    @property
    def state(self) -> dict[str, Any]:
        """See ``Conversation.state``."""
        return self.plain.state

    @property
    def remaining(self) -> float:
        """See ``Conversation.remaining``."""
        return self.plain.remaining

    @property
    def canceled(self) -> bool:
        """See ``Conversation.canceled``."""
        return self.plain.canceled

    def allowed(self) -> list[type[BaseModel]]:
        """See ``Conversation.allowed``."""
        return self.plain.allowed()

    def tools(self) -> list[dict[str, Any]]:
        """See ``Conversation.tools``."""
        return self.plain.tools()

    async def send_tool_call(self, name: str, arguments: str | dict[str, Any]) -> None:
        """See ``Conversation.send_tool_call``."""
        await self.plain.send_tool_call(name, arguments)

    async def commit(self) -> None:
        """See ``Conversation.commit``."""
        await self.plain.commit()

    async def call(
        self, protocol: Protocol, request: BaseModel, *, request_id: str | None = None, bind: Bindings | None = None
    ) -> Result:
        """See ``Conversation.call``."""
        return await self.plain.call(protocol, request, request_id=request_id, bind=bind)

    def open(
        self,
        protocol: Protocol,
        *,
        role: str | None = None,
        request_id: str | None = None,
        bind: Bindings | None = None,
    ) -> OpenConversation:
        """See ``Conversation.open``."""
        return self.plain.open(protocol, role=role, request_id=request_id, bind=bind)

    async def _send(self, message: BaseModel, to: Receivers) -> None:
        await self.plain.send(message, to)


class RoleSyncConversation:
    """The same for handlers that are plain ``def`` and so run in a thread: see ``SyncConversation``.

    Attributes:
        plain: The conversation itself.
    """

    __slots__ = ("plain",)

    def __init__(self, plain: SyncConversation) -> None:
        self.plain = plain

    @property
    def id(self) -> bytes:
        """See ``Conversation.id``."""
        return self.plain.id

    @property
    def sender(self) -> str | None:
        """See ``Conversation.sender``."""
        return self.plain.sender

    def members(self, role: str) -> tuple[str, ...]:
        """See ``Conversation.members``."""
        return self.plain.members(role)

    @property
    def attempt(self) -> int:
        """See ``Conversation.attempt``."""
        return self.plain.attempt

    @property
    def message_id(self) -> bytes:
        """See ``Conversation.message_id``."""
        return self.plain.message_id

    @property
    def state(self) -> dict[str, Any]:
        """See ``Conversation.state``."""
        return self.plain.state

    @property
    def remaining(self) -> float:
        """See ``Conversation.remaining``."""
        return self.plain.remaining

    @property
    def canceled(self) -> bool:
        """See ``Conversation.canceled``."""
        return self.plain.canceled

    def allowed(self) -> list[type[BaseModel]]:
        """See ``Conversation.allowed``."""
        return self.plain.allowed()

    def tools(self) -> list[dict[str, Any]]:
        """See ``Conversation.tools``."""
        return self.plain.tools()

    def send_tool_call(self, name: str, arguments: str | dict[str, Any]) -> None:
        """See ``Conversation.send_tool_call``."""
        self.plain.send_tool_call(name, arguments)

    def commit(self) -> None:
        """See ``Conversation.commit``."""
        self.plain.commit()

    def call(
        self, protocol: Protocol, request: BaseModel, *, request_id: str | None = None, bind: Bindings | None = None
    ) -> Result:
        """See ``Conversation.call``."""
        return self.plain.call(protocol, request, request_id=request_id, bind=bind)

    def _send(self, message: BaseModel, to: Receivers) -> None:
        self.plain.send(message, to)


class RoleOpenConversation(Speaker, Generic[Heard]):
    """A conversation from the side of the role that opened it: ``OpenConversation``, with what that role may do.

    Use it as ``async with DeskOpenConversation(client.open(PROTOCOL, role="desk")) as conversation``.

    Args:
        plain: A conversation opened without ``notices``.

    Attributes:
        plain: The conversation itself.

    Raises:
        LocalProtocolError: It follows another protocol, or another role was taken in it.
    """

    __slots__ = ("plain",)
    _role = ""
    _digest = ""

    def __init__(self, plain: OpenConversation) -> None:
        if (plain.role, plain.protocol.digest) != (self._role, self._digest):
            raise LocalProtocolError(
                f"{type(self).__name__}: expected a conversation opened as {self._role} of the protocol it was "
                f"generated from, got {plain.role} of {plain.protocol.name} {plain.protocol.version}"
            )
        self.plain = plain

    async def __aenter__(self) -> Self:
        await self.plain.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.plain.__aexit__(kind, error, trace)

    @property
    def id(self) -> bytes:
        """The conversation's id, 16 bytes."""
        return self.plain.id

    @property
    def outcome(self) -> str | None:
        """How it ended, or None while it goes on."""
        return self.plain.outcome

    @property
    def reason(self) -> str:
        """Why it ended so, where the bus knows."""
        return self.plain.reason

    def allowed(self) -> list[type[BaseModel]]:
        """See ``OpenConversation.allowed``."""
        return self.plain.allowed()

    async def flush(self) -> None:
        """See ``OpenConversation.flush``."""
        await self.plain.flush()

    async def receive(self, timeout: float | None = None) -> Heard:  # noqa: ASYNC109 (what a script writes)
        """See ``OpenConversation.receive``."""
        return await self.plain.receive(timeout)  # type: ignore[return-value]  # the tables let nothing else come

    def __aiter__(self) -> AsyncIterator[Heard]:
        return self

    async def __anext__(self) -> Heard:
        return await self.plain.__anext__()  # type: ignore[return-value]  # the tables let nothing else come

    async def wait_ended(self) -> str:
        """See ``OpenConversation.wait_ended``."""
        return await self.plain.wait_ended()

    async def _send(self, message: BaseModel, to: Receivers) -> None:
        await self.plain.send(message, to)


class RoleAgent(Agent, Generic[View, ThreadView, Said]):
    """An agent that plays one role; every handler gets that role's view of the conversation.

    ``on_…`` methods of the generated class register the handlers of messages, ``on_notice`` those of notices.
    ``on`` is ``Agent.on``: it takes several message types at once, and its handlers' types are not checked.
    """

    _view: type[View]
    _thread_view: type[ThreadView]

    def _register(self, what: type[BaseModel] | type[Notice], handler: RegisteredHandler) -> None:
        function = handler.function
        in_thread = handler.kind in (HandlerKind.SYNC, HandlerKind.SYNC_STREAM)
        view: Callable[[Any], object] = self._thread_view if in_thread else self._view
        # What kind of function it is was found out before: calling it through another changes nothing.
        super()._register(what, replace(handler, function=lambda heard, plain: function(heard, view(plain))))

    @overload
    def on_notice(
        self, what: type[Heard], /, *, limit: float | None = None
    ) -> Callable[[Handler[Heard, View, Said, ThreadView]], Handler[Heard, View, Said, ThreadView]]: ...
    @overload
    def on_notice(
        self, what: type[Heard], other: type[Other], /, *, limit: float | None = None
    ) -> Callable[[Handler[Heard | Other, View, Said, ThreadView]], Handler[Heard | Other, View, Said, ThreadView]]: ...
    def on_notice(self, *what: type[Any], limit: float | None = None) -> Callable[[Any], Any]:
        """Register the decorated function as the handler of a notice, or of two: see ``Agent.on``."""
        return self.on(*what, limit=limit)
