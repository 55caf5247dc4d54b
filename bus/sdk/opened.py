"""Conversations that this side opened: by a client, or by a handler that calls another protocol.

What arrives is read, by ``receive`` or ``async for``, and settled as it is read. Message ids derive
from the conversation, the role and the count of messages sent, so that the same program, run
again under the same request id, finds its conversation and sends nothing twice (RULES.md 16, 17).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeAlias

from pydantic import BaseModel

from bus.errors import ConversationEnded, NotAllowed, PalaverError
from bus.ids import conversation_id, derive_id, show_id
from bus.sdk.link import Link
from bus.sdk.notice import Ended, NobodyPlays, Notice, parse_notice
from bus.sdk.part import Part, Receivers, part_of
from bus.sdk.seat import BODY, FENCE, MESSAGE_ID, POSITION, TYPE, Seat
from bus.sdk.session import Key
from bus.spec.gathering import Gathering
from bus.spec.members import Members
from bus.spec.protocol import Protocol
from bus.spec.tables import Move
from bus.wire.codec import decode_body
from bus.wire.record import NOTICE_TYPE, Kind, Record

Bindings: TypeAlias = Mapping[str, str | Sequence[str]]
_SEND = int(Kind.SEND)


class OpenConversation:
    """A conversation from the side of the role that opened it.

    Use it as ``async with client.open(newsroom) as conversation``. Leaving the block waits until what
    was sent is accepted; the conversation itself goes on until it ends, and opening it again with the
    same request id attaches to it.

    Attributes:
        id: The conversation's id, 16 bytes.
        protocol: The protocol that it follows: once the block is entered, the version that is pinned for it.
        bindings: Role → names of the agents that may play it.
        role: The name of the role that this side plays.
        outcome: How it ended, or None while it goes on.
        reason: Why it ended so, where the bus knows.
    """

    def __init__(
        self,
        link: Link,
        part: Part,
        *,
        opener: str,
        request_id: str,
        pin: Callable[[OpenConversation], Awaitable[Protocol]],
        enter: Callable[[OpenConversation], None],
        leave: Callable[[OpenConversation], None],
        bind: Bindings | None = None,
        parent: tuple[bytes, int, int, int] | None = None,
        notices: bool = False,
        remaining: float | None = None,
        trace: str | None = None,
    ) -> None:
        self._link = link
        self._pin = pin
        self._enter = enter
        self._leave = leave
        self.id = conversation_id(opener, part.protocol.name, request_id)
        self.protocol = part.protocol
        self.role = part.name
        self.outcome: str | None = None
        self.reason = ""
        self._request_id = request_id
        self.bindings = {
            role: [names] if isinstance(names, str) else list(names) for role, names in (bind or {}).items()
        }
        self._parent = parent
        self._with_notices = notices
        self._remaining = remaining
        self._trace = trace
        self._seat = Seat(self.id, part, is_enforced=part.protocol.name not in link.session.modes)
        self._prefix = derive_id("sent", self.id, part.role)[:8]
        self._n_sent = 0
        self._read = 0  # position of the newest delivery that was read
        self._settled = 0
        self._last: Record | None = None
        self._unread: deque[Record | Notice] = deque()
        self._open: deque[tuple[int, bytes]] = deque()  # (position, message id) of what is not settled
        self._waiter: asyncio.Future[None] | None = None
        self._gathered: asyncio.Future[None] | None = link.loop.create_future() if part.protocol.has_members else None
        self._failure: PalaverError | None = None

    async def __aenter__(self) -> OpenConversation:
        protocol = await self._pin(self)
        if protocol is not self.protocol:
            self._follow(protocol)
        self._enter(self)
        return self

    def _follow(self, protocol: Protocol) -> None:
        """Speak another version on the wire from here on, and go on in the classes of the own one."""
        part = part_of(protocol, protocol.role_index(self.role), self._seat.part.own)
        self.protocol = protocol
        self._seat = Seat(self.id, part)
        self._prefix = derive_id("sent", self.id, part.role)[:8]

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self.flush()
        finally:
            self._leave(self)

    def __repr__(self) -> str:
        return f"<{self.protocol.name} conversation {show_id(self.id)} as {self.role}: {self.outcome or 'live'}>"

    # -- sending --------------------------------------------------------------------------------------

    def allowed(self) -> list[type[BaseModel]]:
        """Return the classes of the messages that may be sent now, as far as this side has read."""
        return [] if self.outcome is not None else self._seat.allowed()

    async def send(self, message: BaseModel, to: Receivers = None) -> None:
        """Send *message*; waits only while the window is full.

        It is checked here before it leaves and by the broker afterwards; ``flush`` waits for the
        broker's word, and a refusal is raised by the next call on this conversation.

        Raises:
            NotAllowed: The order forbids it; the text says what is allowed.
            BodyInvalid: The body breaks a rule of its type or a key of the conversation.
            ConversationEnded: The conversation is over.
            Refused: The broker refused an earlier message.
        """
        self._check()
        if self.outcome is not None:
            raise ConversationEnded(
                f"{type(message).__name__!r} cannot be sent: the conversation ended as {self.outcome!r}; open another",
                self.outcome,
            )
        if self._gathered is not None:
            await self._gathered  # until the bus has said who takes part
            self._check()
        found, body = self._seat.choose(message, to)
        for index, address, move in found:
            await self._send(index, address, move if len(found) == 1 else self._seat.move(index, address), body)

    async def _send(self, index: int, address: int, move: Move, body: bytes) -> None:
        seat = self._seat
        lossy = seat.part.lossy[index]
        session = self._link.session
        if not lossy and not session.has_room():
            await self._link.room()
        number = self._n_sent
        self._n_sent = number + 1
        record: Record = [
            _SEND, 0, self._prefix + number.to_bytes(8, "big"), self.id, seat.part.role, index, address, seat.epoch,
            self._remaining, self._trace, body,
        ]  # fmt: skip
        if lossy:
            if session.put_lossy(record):
                self._link.touch()
            return
        seat.sent(move)
        self._last = record
        session.put(record)
        self._settle()
        self._link.touch()

    async def flush(self) -> None:
        """Wait until everything sent so far is accepted; durable messages are then on disk.

        Raises:
            Refused: The broker refused one of them.
        """
        self._check()
        if self._last is not None and self._failure is None:
            await self._link.accepted(self._last)
        self._check()

    async def request(self, message: BaseModel, to: Receivers = None) -> BaseModel:
        """Send *message* and return the next message that comes."""
        await self.send(message, to)
        answer = await self.receive()
        assert isinstance(answer, BaseModel) or self._with_notices
        return answer  # type: ignore[return-value]  # a notice only where they were asked for

    # -- receiving ------------------------------------------------------------------------------------

    async def receive(self, timeout: float | None = None) -> BaseModel | Notice:  # noqa: ASYNC109 (what a script writes)
        """Return the next message and settle it; a notice only where ``open(notices=True)`` asked for them.

        Raises:
            ConversationEnded: It ended; nothing more comes.
            TimeoutError: Nothing came within *timeout* seconds.
            Refused: The broker refused something that was sent.
        """
        if timeout is not None:
            async with asyncio.timeout(timeout):
                return await self.receive()
        while True:
            self._check()
            while self._unread:
                item = self._take(self._unread.popleft())
                if item is not None:
                    return item
            if self.outcome is not None:
                raise ConversationEnded(f"the conversation ended as {self.outcome!r}: nothing more comes", self.outcome)
            await self._wait()

    def __aiter__(self) -> AsyncIterator[BaseModel]:
        return self

    async def __anext__(self) -> BaseModel:
        try:
            return await self.receive()  # type: ignore[return-value]  # a notice only where they were asked for
        except ConversationEnded:
            raise StopAsyncIteration from None

    async def wait_ended(self) -> str:
        """Wait for the end, dropping what has not been read, and return the outcome."""
        async for _ in self:
            pass
        assert self.outcome is not None
        return self.outcome

    async def _wait(self) -> None:
        if self._waiter is not None:
            raise NotAllowed("one reader at a time: something else already waits for this conversation's next message")
        waiter = self._waiter = self._link.loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def _take(self, item: Record | Notice) -> BaseModel | Notice | None:
        """Settle *item* and return what the reader gets to see of it."""
        if not isinstance(item, list):
            return item if self._with_notices else None
        seat = self._seat
        seat.take(item)
        position = item[POSITION]
        if position:
            self._read = position
            if self._settle():
                self._link.touch_settled()
        else:
            self._link.session.take_lossy()
            self._link.touch_later()
        if item[TYPE] != NOTICE_TYPE:
            return seat.read(item)
        notice = parse_notice(decode_body(item[BODY]))
        if isinstance(notice, Ended):
            self._end(notice)
            return None
        return notice if self._with_notices else None

    def _settle(self) -> bool:
        """Settle what was read, unless the role owes a message: then with that message (RULES.md 6)."""
        if self._read == self._settled or (self._seat.owes() and self._seat.is_enforced and self.outcome is None):
            return False
        self._settled = self._read
        while self._open and self._open[0][0] <= self._read:
            self._open.popleft()
        self._link.session.settle(self._seat.key, self._seat.fence, self._read)
        return True

    def _end(self, notice: Ended) -> None:
        self.outcome = notice.outcome
        self.reason = notice.reason

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    # -- what the link tells --------------------------------------------------------------------------

    @property
    def key(self) -> Key:
        """(conversation, role), by which deliveries find this object."""
        return self._seat.key

    def open_record(self, number: int) -> Record:
        """Return the OPEN that opens this conversation, or attaches to it again."""
        parent = None if self._parent is None else list(self._parent)
        return [int(Kind.OPEN), 0, self.id, number, self._seat.part.plays, self._request_id, self.bindings, parent]

    def follow_mode(self) -> None:
        """Check what is sent as the broker that was just met wants it."""
        self._seat.is_enforced = self.protocol.name not in self._link.session.modes

    def attach(self, record: Record) -> None:
        """Note the OPEN just posted; a flush without messages waits for it."""
        if self._last is None:
            self._last = record

    def on_deliver(self, record: Record) -> None:
        """Queue a delivery for the reader; what was read before is settled again under its new lease."""
        seat = self._seat
        position = record[POSITION]
        if position:
            seat.fence = record[FENCE]
            if position <= seat.position:
                if position <= self._settled:
                    self._link.session.settle(seat.key, seat.fence, position)
                return
            seat.position = position
            self._open.append((position, record[MESSAGE_ID]))
        self._unread.append(record)
        self._wake()

    def on_members(self, told: Mapping[str, Any]) -> None:
        """Take the bus's word on who takes part: with the lease, so again after a change of connection."""
        assert self._gathered is not None  # only of a protocol with members
        old = self._seat
        if not self._gathered.done():
            gathering = Gathering(Members(self.protocol, told["members"]))
            gathering.members.note_enrolled(told["enrolled"])
            self._seat = Seat(self.id, Part(self.protocol, old.part.plays, old.part.own, gathering, old.part.role))
            self._seat.fence, self._seat.position, self._seat.epoch = old.fence, old.position, old.epoch
            self._gathered.set_result(None)

    def members(self, role: str) -> tuple[str, ...]:
        """Return the agents that are members of *role*; see ``Conversation.members``."""
        return self._seat.members(role)

    def on_end(self, outcome: str, reason: str) -> None:
        """Note the end, told apart from any delivery."""
        if self.outcome is None and not self._unread:
            self._end(Ended(outcome, reason))
            self._wake()

    def on_nobody(self, role: str) -> None:
        """Tell the reader that nobody plays *role* yet."""
        self._unread.append(NobodyPlays(role))
        self._wake()

    def fail(self, error: PalaverError) -> None:
        """Make every further call raise *error*, or what was wrong before: the rest follows from that."""
        if self._failure is None:
            self._failure = error
        if self._gathered is not None and not self._gathered.done():
            self._gathered.set_result(None)
        self._wake()

    def held(self) -> tuple[bytes, int, int, int, bytes] | None:
        """Return the lease that this side still works on, or None."""
        return (*self._seat.key, self._seat.fence, *self._open[0]) if self._open else None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
