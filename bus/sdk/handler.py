"""Handlers: which function answers what, and how it wants to be called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bus.errors import LocalProtocolError
from bus.sdk.notice import Notice
from bus.sdk.part import Part, part_of
from bus.spec.protocol import Protocol


class HandlerKind(StrEnum):
    """How a handler is run."""

    ASYNC = "async def"
    ASYNC_STREAM = "async generator"
    SYNC = "def"
    SYNC_STREAM = "generator"


@dataclass(frozen=True, slots=True)
class Handler:
    """A registered function; *limit* is seconds, or None."""

    function: Callable[..., Any]
    kind: HandlerKind
    limit: float | None = None


def new_handler(function: Callable[..., Any], limit: float | None) -> Handler:
    """Return *function* as a handler.

    Raises:
        LocalProtocolError: It is no function of (message, conversation), or *limit* is not positive.
    """
    if limit is not None and limit <= 0:
        raise LocalProtocolError(f"expected a limit of more than 0 s for {function.__name__!r}, got {limit!r}")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise LocalProtocolError(
            f"expected a handler of two arguments, (message, conversation), got {function.__name__}"
            f"{inspect.signature(function)}"
        ) from error
    if inspect.isasyncgenfunction(function):
        kind = HandlerKind.ASYNC_STREAM
    elif inspect.iscoroutinefunction(function):
        kind = HandlerKind.ASYNC
    elif inspect.isgeneratorfunction(function):
        kind = HandlerKind.SYNC_STREAM
    else:
        kind = HandlerKind.SYNC
    return Handler(function, kind, limit)


class HandlerTable:
    """The handlers of one part.

    Attributes:
        of_message: One entry a message type; None where there is no handler.
        of_notice: Notice class → handler.
    """

    __slots__ = ("of_message", "of_notice", "part")

    def __init__(self, part: Part) -> None:
        self.part = part
        self.of_message: list[Handler | None] = [None] * len(part.messages)
        self.of_notice: dict[type[Notice], Handler] = {}

    def for_version(self, protocol: Protocol) -> HandlerTable:
        """Return the same handlers for another version of the protocol, found by the names of what they handle.

        Raises:
            LookupError: *protocol* lacks the role.
        """
        own = self.part.own
        table = HandlerTable(part_of(protocol, protocol.role_index(self.part.name), own))
        names = {one.name: one.index for one in own.messages}
        for one in protocol.messages:
            if one.name in names:
                table.of_message[one.index] = self.of_message[names[one.name]]
        table.of_notice = self.of_notice
        return table

    def handled(self) -> set[int | type[Notice]]:
        """Return the message types and notice classes that have a handler."""
        types: set[int | type[Notice]] = {index for index, one in enumerate(self.of_message) if one is not None}
        return types | set(self.of_notice)
