"""The client: a script's way to the bus, to open conversations and to ask the broker."""

from __future__ import annotations

import uuid
from types import TracebackType
from typing import Any

from pydantic import BaseModel

from bus.errors import LocalProtocolError
from bus.sdk.address import find_bus
from bus.sdk.connector import BusConnector
from bus.sdk.link import Connector, Link
from bus.sdk.opened import Bindings, OpenConversation
from bus.sdk.openings import Openings
from bus.sdk.part import Receivers, part_of
from bus.sdk.session import Session
from bus.settings import Settings
from bus.spec.compile import compile_protocol
from bus.spec.protocol import Protocol
from bus.wire.codec import encode_body

FIRST_CONNECTION = 5.0  # seconds that a client waits for the broker
_LEAVE = 2.0  # seconds that the last records get to be accepted when a client closes


class Client:
    """A connection for scripts: ``async with Client() as client``.

    Args:
        bus: The bus's address; left out, ``PALAVER_BUS`` or the nearest project's.
        name: The name on the bus. A conversation belongs to the name that opened it: give the same name
            and the same request id to find it again. Left out, a name of its own.
        connector: A way to the broker other than an address.
        timeout: Seconds to wait for the broker.
    """

    def __init__(
        self,
        bus: str | None = None,
        name: str | None = None,
        *,
        connector: Connector | None = None,
        timeout: float = FIRST_CONNECTION,
    ) -> None:
        self.name = name or f"client-{uuid.uuid4().hex[:12]}"
        self._bus = bus
        self._connector = connector
        self._timeout = timeout
        self._link: Link | None = None
        self._openings: Openings | None = None

    async def __aenter__(self) -> Client:
        connector = self._connector or BusConnector(self._bus or find_bus())
        session = Session(name=self.name, credit=Settings.from_environment().credit)
        link = self._link = Link(session, connector)
        self._openings = link.owner = Openings(link, self.name)
        await link.start(self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        link = self._live()
        if error is None:
            await link.drain(_LEAVE)
        link.leave()
        self._link = self._openings = None

    def _live(self) -> Link:
        if self._link is None:
            raise LocalProtocolError("expected an open client: use it inside `async with Client() as client`")
        return self._link

    # -- conversations --------------------------------------------------------------------------------

    def open(
        self,
        protocol: Protocol,
        *,
        role: str | None = None,
        request_id: str | None = None,
        bind: Bindings | None = None,
        notices: bool = False,
    ) -> OpenConversation:
        """Return a conversation that is opened by ``async with``.

        Args:
            role: The role to play; needed only where more than one may speak first.
            request_id: Names the conversation together with the client's name: opening it again attaches
                to it. Left out, a new one.
            bind: Role → name or names of the agents that may play it.
            notices: Whether reading also gives the bus's notices (deadlines, interrupts …).

        Raises:
            LocalProtocolError: *role* is needed, or there is none such.
        """
        self._live()
        assert self._openings is not None
        return self._openings.new(
            protocol, role=role, request_id=request_id or uuid.uuid4().hex, bind=bind, notices=notices
        )

    # -- questions and commands -----------------------------------------------------------------------

    async def query(self, name: str, /, **arguments: Any) -> Any:
        """Ask the broker; docs/wire.md lists the questions.

        Raises:
            Refused: The broker answered with an error.
        """
        return await self._live().query(name, arguments)

    async def status(self) -> dict[str, Any]:
        """Return what the broker says of itself and of the registered agents."""
        status: dict[str, Any] = await self.query("status")
        return status

    async def conversations(self, *, live_only: bool = False, limit: int | None = None) -> list[dict[str, Any]]:
        """Return the conversations that the broker knows, newest last."""
        arguments: dict[str, Any] = {"live_only": live_only}
        if limit is not None:
            arguments["limit"] = limit
        found: list[dict[str, Any]] = await self.query("conversations", **arguments)
        return found

    async def transcript(self, conversation_id: bytes, *, after: int = 0) -> list[dict[str, Any]]:
        """Return the journaled messages and bus events of a conversation with sequence > *after*."""
        entries: list[dict[str, Any]] = []
        while page := await self.query("transcript", conversation=conversation_id, after=after):
            entries += page
            after = page[-1]["sequence"]
        return entries

    async def inbox(self, role: str | None = None) -> list[dict[str, Any]]:
        """Return what waits for people, for *role* alone where it is given."""
        items: list[dict[str, Any]] = await self.query("inbox", **({} if role is None else {"role": role}))
        return items

    async def answer(
        self, item: dict[str, Any], message: BaseModel, *, by: str, to: Receivers = None
    ) -> dict[str, Any]:
        """Take a person's turn.

        Args:
            item: What ``inbox`` gave; its position and epoch fence the answer.
            message: What the person says.
            by: Who answers; a second answerer is told.
            to: Needed only where the protocol leaves a choice of receivers.

        Raises:
            NotAllowed: The message is none of the item's ``allowed``.
            Refused: ``answered`` by somebody else, ``superseded`` or ``not-allowed``.
        """
        part = part_of(protocol := compile_protocol(item["source"]), protocol.role_index(item["role"]))
        offered = [(one["type"], one["address"], one["to"]) for one in item["allowed"]]
        index, address = part.pick(offered, message, to)
        body = encode_body(protocol.messages[index].to_plain(message))  # type: ignore[arg-type]  # pick has checked its class
        fence = {key: item[key] for key in ("conversation", "role", "position", "epoch")}
        given: dict[str, Any] = await self.query("answer", **fence, type=index, address=address, body=body, by=by)
        return given

    async def cancel(self, conversation_id: bytes, *, reason: str = "") -> str:
        """End a conversation and its children as ``canceled``; return the outcome that it has now."""
        arguments = {"reason": reason} if reason else {}
        answer: dict[str, Any] = await self.query("cancel", conversation=conversation_id, **arguments)
        return str(answer["outcome"])
