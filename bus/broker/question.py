"""What a QUERY may ask with, read through pydantic models, and why it may have no answer."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from bus.broker.conversation import Conversation
from bus.broker.state import BrokerState
from bus.ids import show_id

Id = Annotated[bytes, Field(min_length=16, max_length=16)]


class QueryRefused(Exception):
    """Why a query has no answer; never leaves the broker."""

    def __init__(self, code: str, message: str, **facts: object) -> None:
        super().__init__(code, message)
        self.data: dict[str, object] = {"code": code, "message": message, **facts}


def find_conversation(state: BrokerState, conversation_id: bytes) -> Conversation:
    """Return the conversation, live or finished.

    Raises:
        QueryRefused: Nobody knows it.
    """
    conversation = state.find(conversation_id)
    if conversation is None:
        raise QueryRefused("unknown-conversation", f"no conversation {show_id(conversation_id)}")
    return conversation


class Arguments(BaseModel):
    """What every question's arguments are: exact, strict, and never shown in errors."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class Nothing(Arguments):
    """No arguments."""


class Listing(Arguments):
    """Which conversations to list."""

    live_only: bool = False
    limit: int = Field(default=200, ge=1, le=10_000)


class Transcript(Arguments):
    """Which part of which conversation's record."""

    conversation: Id
    after: int = 0
    limit: int = Field(default=1000, ge=1, le=10_000)


class Inbox(Arguments):
    """Whose inbox."""

    role: str | None = None


class Answer(Arguments):
    """A person's turn."""

    conversation: Id
    role: str
    position: int
    epoch: int
    type: int
    address: int
    body: bytes
    by: str = Field(min_length=1, max_length=200)


class One(Arguments):
    """One conversation, and why."""

    conversation: Id
    reason: str = "canceled by command"


class DeadLetter(Arguments):
    """One role of one conversation, whose mailbox a dead letter blocks."""

    conversation: Id
    role: str


class Name(Arguments):
    """An agent's name."""

    name: str


class Source(Arguments):
    """A protocol's text."""

    source: str


class Requeue(DeadLetter):
    """The same, to be delivered again.

    Attributes:
        body: What it says now, a packed map; left out: what it said.
    """

    body: bytes | None = None


class Pin(Arguments):
    """A conversation that is to be opened, or is open: which version does it follow?"""

    digest: str
    role: str
    conversation: Id
    bindings: dict[str, list[str]] = Field(default_factory=dict)
