"""One question to the training service, asked in a conversation of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from pydantic import BaseModel

from bus.errors import ConversationEnded, PalaverError
from bus.sdk.client import Client
from bus.sdk.notice import NobodyPlays
from bus.sdk.opened import OpenConversation
from bus.spec.protocol import Protocol

Fields: TypeAlias = dict[str, Any]


class NoAnswer(PalaverError):
    """Raised when the training service refuses a question, or there is none to ask."""

    code = "no-answer"


async def ask(client: Client, protocol: Protocol, name: str, fields: Fields) -> Fields:
    """Send message *name* and return the answer as plain data.

    Raises:
        NoAnswer: It is a refusal, or nobody is there to answer.
    """
    async with opened(client, protocol, name, fields) as conversation:
        return (await receive(protocol, conversation))[1]


@asynccontextmanager
async def opened(client: Client, protocol: Protocol, name: str, fields: Fields) -> AsyncIterator[OpenConversation]:
    """Give the conversation that message *name* has opened."""
    message = protocol.messages[protocol.message_index(name)]
    async with client.open(protocol, role="client", notices=True) as conversation:
        await conversation.send(message.build(fields))
        yield conversation


async def receive(protocol: Protocol, conversation: OpenConversation) -> tuple[str, Fields]:
    """Return the next message's name and fields.

    Raises:
        NoAnswer: It is a refusal, or nobody is there to answer.
    """
    try:
        message = await conversation.receive()
        while not isinstance(message, BaseModel | NobodyPlays):
            message = await conversation.receive()
    except ConversationEnded as error:
        raise NoAnswer("the training service was too slow or was lost; ask again") from error
    if isinstance(message, NobodyPlays):
        raise NoAnswer("no training service is up to answer: start one, e.g. with `palaver up`, and ask again")
    message_type = protocol.messages[protocol.type_of[type(message)]]
    fields = message_type.to_plain(message)  # type: ignore[arg-type]  # its own class
    if message_type.name == "Refused":
        raise NoAnswer(f"refused: {fields['code']}: {fields['detail']}")
    return message_type.name, fields
