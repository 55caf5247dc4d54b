"""The agent: which roles a program plays, its handlers, and how it is run."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import structlog
from pydantic import BaseModel

from bus.errors import LocalProtocolError
from bus.sdk.address import find_bus
from bus.sdk.connector import BusConnector
from bus.sdk.duty import check_duties
from bus.sdk.handler import HandlerTable, new_handler
from bus.sdk.link import Connector
from bus.sdk.loop import run
from bus.sdk.notice import NOTICES, Notice
from bus.sdk.part import part_of
from bus.sdk.runtime import Runtime
from bus.sdk.session import Session
from bus.settings import Settings
from bus.spec.protocol import RoleOf

log = structlog.get_logger()

SETTINGS_VARIABLE = "PALAVER_AGENT_SETTINGS"
FIRST_CONNECTION = 60.0  # seconds that an agent waits for the first broker; any later one it awaits for ever
GRACE = 5.0  # seconds that open turns get when an agent is told to stop

Function: TypeAlias = Callable[..., Any]
F = TypeVar("F", bound=Function)
Hook: TypeAlias = Callable[[], Awaitable[None] | None]
H = TypeVar("H", bound=Callable[[], Any])


class Agent:
    """A program's part in one or more protocols.

    Args:
        plays: The role or roles, e.g. ``newsroom.role("writer")``.
        name: The agent's name on the bus; left out, the name of its first role. Whoever launches it may
            give another.
        credit: Deliveries that it takes before it has settled some; left out, the setting ``credit``.
        threads: How many ``def`` handlers may run at once.

    Attributes:
        settings: What the fleet file (or ``PALAVER_AGENT_SETTINGS``, JSON) sets for this agent.
    """

    def __init__(
        self,
        plays: RoleOf | Sequence[RoleOf],
        *,
        name: str | None = None,
        credit: int | None = None,
        threads: int = 8,
    ) -> None:
        self.roles = (plays,) if isinstance(plays, RoleOf) else tuple(plays)
        if not self.roles:
            raise LocalProtocolError("expected an agent to play at least one role, got none")
        for role in self.roles:
            if role.protocol.played_by[role.index] != role.index:
                whole = role.protocol.roles[role.protocol.played_by[role.index]].name
                raise LocalProtocolError(f"{role} is filled from {whole!r} as the conversation goes on: play {whole!r}")
        self.name = name or self.roles[0].name
        self.settings: dict[str, Any] = _settings_from(os.environ)
        self._credit = credit
        self._threads = threads
        self._tables = {
            (role.protocol.digest, role.index): HandlerTable(part_of(role.protocol, role.index)) for role in self.roles
        }
        self._on_start: list[Hook] = []
        self._on_stop: list[Hook] = []

    def __repr__(self) -> str:
        return f"<Agent {self.name}: {', '.join(str(role) for role in self.roles)}>"

    # -- registration ---------------------------------------------------------------------------------

    def on(self, *what: type[BaseModel] | type[Notice], limit: float | None = None) -> Callable[[F], F]:
        """Register the decorated function as the handler of messages and notices.

        The function takes (message, conversation). ``async def`` runs on the loop, ``def`` in a thread; a
        generator of either kind streams what it yields. What it returns is sent; then the turn is
        committed: the delivery handled, everything sent and the state, all or nothing.

        Args:
            what: Message classes and notice classes.
            limit: Seconds after which the handler is stopped and its delivery tried again.

        Raises:
            LocalProtocolError: None of the agent's roles receives it, or it has a handler already.
        """
        if not what:
            raise LocalProtocolError("expected @agent.on(Message), got nothing to handle")

        def register(function: F) -> F:
            handler = new_handler(function, limit)
            for one in what:
                self._register(one, handler)
            return function

        return register

    def _register(self, what: type[BaseModel] | type[Notice], handler: Any) -> None:
        if what in NOTICES:
            for table in self._tables.values():
                if what in table.of_notice:
                    raise LocalProtocolError(f"{what.__name__} has a handler already: one handler for each")
                table.of_notice[what] = handler
            return
        found = False
        for table in self._tables.values():
            index = table.part.type_of.get(what)  # type: ignore[arg-type]  # a notice class is just not in it
            if index is None or not table.part.receives(index):
                continue
            if table.of_message[index] is not None:
                raise LocalProtocolError(f"{what.__name__} has a handler already: one handler for each")
            table.of_message[index] = handler
            found = True
        if not found:
            roles = ", ".join(str(role) for role in self.roles)
            raise LocalProtocolError(f"expected something that {roles} receives, got {what.__name__!r}")

    def on_start(self, hook: H) -> H:
        """Have *hook*, ``def`` or ``async def``, called before the agent registers; what it raises stops the start."""
        self._on_start.append(hook)
        return hook

    def on_stop(self, hook: H) -> H:
        """Have *hook* called when the agent has left the bus."""
        self._on_stop.append(hook)
        return hook

    def check(self) -> None:
        """Refuse to be launched where a role would have to speak and nothing could make it.

        Raises:
            MissingHandler: Names the role, the delivery without a handler, and what must follow it.
        """
        for table in self._tables.values():
            check_duties(table.part, table.handled())

    def _name_unhandled(self) -> None:
        """Say once which messages will be settled without anybody looking at them."""
        for table in self._tables.values():
            part = table.part
            missing = [
                one.name
                for one, handler in zip(part.messages, table.of_message, strict=True)
                if handler is None and part.receives(one.index)
            ]
            if missing:
                log.info("agent.ignored", agent=self.name, role=part.name, messages=missing)

    # -- life -----------------------------------------------------------------------------------------

    def run(
        self,
        *,
        bus: str | None = None,
        name: str | None = None,
        instance: int = 0,
        settings: Mapping[str, object] | None = None,
        numbers: Settings | None = None,
    ) -> None:
        """Run the agent until SIGTERM or Ctrl-C; then it finishes its open turns and leaves.

        Args:
            bus: The bus's address; left out, ``PALAVER_BUS`` or the project's.
            name: The name on the bus, instead of the agent's own.
            instance: 0, 1, … which of several agents of this name.
            settings: Becomes ``agent.settings``.
            numbers: The numbers of the bus.

        Raises:
            MissingHandler: See ``check``.
            BrokerUnavailable: No broker answered in time.
        """
        run(self._run(bus, name, instance, settings, numbers))

    async def _run(
        self,
        bus: str | None,
        name: str | None,
        instance: int,
        settings: Mapping[str, object] | None,
        numbers: Settings | None,
    ) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            await self.serve(bus=bus, name=name, instance=instance, settings=settings, numbers=numbers, stop=stop)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def serve(
        self,
        *,
        bus: str | None = None,
        name: str | None = None,
        instance: int = 0,
        settings: Mapping[str, object] | None = None,
        numbers: Settings | None = None,
        connector: Connector | None = None,
        stop: asyncio.Event | None = None,
        registered: asyncio.Event | None = None,
        grace: float = GRACE,
    ) -> None:
        """Serve on the running loop until *stop* is set; arguments as for ``run``. Canceled, it leaves at once.

        Args:
            connector: A way to the broker other than an address.
            stop: Set it to have the agent finish its open turns and leave.
            registered: Is set once the broker knows the agent.
            grace: Seconds that open turns get at the end.
        """
        self.check()
        if settings is not None:
            self.settings = dict(settings)
        numbers = numbers or Settings.from_environment()
        await _call(self._on_start)
        session = Session(name=name or self.name, instance=instance, credit=self._credit or numbers.credit)
        for role in self.roles:
            session.play(role.protocol, role.name)
        connector = connector or BusConnector(bus or find_bus())
        runtime = Runtime(self._tables, session, connector, threads=self._threads, state_bytes=numbers.state_bytes)
        try:
            await runtime.link.start(FIRST_CONNECTION)
            log.info("agent.started", agent=session.name, instance=instance, bus=connector.address)
            self._name_unhandled()
            if registered is not None:
                registered.set()
            await (stop or asyncio.Event()).wait()
        except asyncio.CancelledError:
            grace = 0.0
            raise
        finally:
            await runtime.stop(grace)
            await _call(self._on_stop)


def _settings_from(environment: Mapping[str, str]) -> dict[str, Any]:
    text = environment.get(SETTINGS_VARIABLE)
    if not text:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise LocalProtocolError(f"{SETTINGS_VARIABLE}: expected JSON, got: {error}") from error
    if not isinstance(value, dict):
        raise LocalProtocolError(f"{SETTINGS_VARIABLE}: expected a JSON object, got {text[:60]!r}")
    return value


async def _call(hooks: Sequence[Hook]) -> None:
    for hook in hooks:
        result = hook()
        if inspect.isawaitable(result):
            await result
