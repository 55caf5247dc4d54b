"""One turn: the handling of one delivery, from its arrival to the commit that settles it.

Sends are checked here and gathered; one COMMIT carries them with the delivery handled and the state
kept, so that all of it happens or none (RULES.md 3). A streaming handler commits as it goes: the
kept bytes then say how far it got, and a handler that is begun again skips that many messages.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias

from pydantic import BaseModel

from bus.errors import CommitFirst, LeaseLost, PalaverError, Refused, Revoked, TooLarge, TurnEnded, TurnUnfinished
from bus.ids import derive_id, message_id, new_id
from bus.sdk.link import Link
from bus.sdk.part import Receivers
from bus.sdk.seat import COMMITS, MESSAGE_ID, POSITION, REMAINING, TRACE, TYPE, Seat, SeatState
from bus.sdk.session import MAX_BODY_BYTES
from bus.spec.tables import Move
from bus.wire.record import NOTICE_TYPE, Kind, Record

Sent: TypeAlias = list[Any]  # [message_id, type, address, remaining, trace, body]

_COMMIT, _SEND, _NACK = int(Kind.COMMIT), int(Kind.SEND), int(Kind.NACK)
STREAM_COMMIT = 64  # messages of a stream in one commit: a frame's worth
STREAM_AHEAD = 4  # commits of a stream under way unaccepted: a slow receiver stops its own sender only
MAX_SENDS = 4096  # of one commit; more would make one decision of the broker too long for the others


class Turn:
    """What one handler does with one delivery; lives on the loop.

    Attributes:
        lost: Why the turn was taken back, or None while it is good.
        ended: The handler has returned and the delivery is settled.
        position: The delivery's place; 0 for an at-most-once message, which has nothing to settle.
    """

    __slots__ = (
        "_awaited", "_commit", "_done", "_last", "_ordinal", "_sends", "_since", "_skip", "_task", "_under_way",
        "ended", "link", "lost", "position", "record", "seat", "state",
    )  # fmt: skip

    def __init__(self, link: Link, seat: Seat, state: SeatState, record: Record) -> None:
        self.link = link
        self.seat = seat
        self.state = state
        self.record = record
        self.position: int = record[POSITION]
        self.lost: TurnEnded | None = None
        self.ended = False
        self._commit: int = record[COMMITS]
        self._sends: list[Sent] = []
        self._ordinal = 0
        self._since = 0.0 if record[REMAINING] is None else link.loop.time()
        self._task: asyncio.Task[None] | None = None
        self._last: Record | None = None
        self._awaited: Record | None = None
        self._skip = state.done  # messages of a stream that an earlier attempt has committed
        self._done = 0  # messages of the stream so far, the skipped ones included
        self._under_way: list[Record] = []

    def message_id(self) -> bytes:
        """Return the id of what is handled, the same on every attempt."""
        given: bytes = self.record[MESSAGE_ID]
        return given or derive_id("notice", self.seat.conversation_id, self.seat.part.role, self.position)

    def remaining(self) -> float:
        """Return the seconds until the turn's deadline, ``inf`` where it has none."""
        given = self.record[REMAINING]
        if given is None:
            return float("inf")
        return max(0.0, float(given) - (self.link.loop.time() - self._since))

    def call_id(self) -> str:
        """Return the request id of the next conversation that this turn opens (RULES.md 17)."""
        seat = self.seat
        identifier = derive_id("call", seat.conversation_id, seat.part.role, self.position, self._commit, self._ordinal)
        self._ordinal += 1
        return identifier.hex()

    def check(self) -> None:
        """Raise why the turn can do nothing any more, if that is so."""
        if self.lost is not None:
            raise self.lost
        if self.ended:
            raise TurnEnded("the turn is over: its handler has returned, and what it sent is committed")

    # -- sends ----------------------------------------------------------------------------------------

    def add(self, message: BaseModel, to: Receivers = None) -> None:
        """Take *message* into the turn; see ``Conversation.send``."""
        if self.lost is not None:
            raise self.lost
        seat = self.seat
        about = -1 if seat.part.gathering is None else seat.about(self.record)
        found, body = seat.choose(message, to, about)
        for index, address, move in found:
            self._add(index, address, move if len(found) == 1 else seat.move(index, address), body)

    def add_to(self, message: BaseModel, address: int) -> None:
        """Take *message* into the turn, to go to *address*, which is allowed now."""
        self.check()
        seat = self.seat
        body = seat.encode(message)
        index = seat.part.type_of[type(message)]
        self._add(index, address, seat.move(index, address), body)

    def _add(self, index: int, address: int, move: Move, body: bytes) -> None:
        seat = self.seat
        if seat.part.lossy[index]:
            self._send_now(index, address, body)
            return
        if self.ended or not self.position:
            # Outside a turn only an interrupt may be raised, as a commit of its own (RULES.md 6).
            if self.ended and move.interrupt < 0:
                self.check()
            seat.sent(move)
            self.link.post(self._send_record(index, address, body))
            return
        if len(self._sends) >= MAX_SENDS:
            raise TooLarge(f"expected at most {MAX_SENDS} messages in one commit: commit sooner")
        window = seat.part.messages[index].window
        if window is not None and len(self._sends) >= window:
            n_same = sum(1 for sent in self._sends if sent[1] == index)
            if n_same >= window:
                name = seat.part.messages[index].name
                raise TooLarge(f"expected at most {window} {name!r} in one commit, their window: commit sooner")
        identifier = message_id(seat.conversation_id, seat.part.role, self.position, self._commit, len(self._sends))
        self._sends.append([identifier, index, address, None, self.record[TRACE], body])
        seat.sent(move)

    def add_result(self, message: BaseModel | None) -> None:
        """Take what a handler returned into the turn."""
        if message is not None:
            self.add(message)

    def _send_now(self, index: int, address: int, body: bytes) -> None:
        if self._sends:
            name = self.seat.part.messages[index].name
            raise CommitFirst(
                f"{name!r} is at-most-once and leaves at once, before the {len(self._sends)} messages that this turn "
                f"has not committed: call `await conversation.commit()` first"
            )
        if self.link.session.put_lossy(self._send_record(index, address, body)):
            self.link.touch()

    def _send_record(self, index: int, address: int, body: bytes) -> Record:
        seat = self.seat
        return [
            _SEND, 0, new_id(), seat.conversation_id, seat.part.role, index, address, seat.epoch, None,
            self.record[TRACE], body,
        ]  # fmt: skip

    # -- commits --------------------------------------------------------------------------------------

    async def commit(self) -> None:
        """Publish what has gathered and keep the turn; see ``Conversation.commit``."""
        self.check()
        saved = self.state.encode(whole=self._streams())
        record = self._post_commit(settles=False, saved=saved)
        self.state.kept(saved)
        self._skip = self._done = 0
        await self._accepted(record)

    def finish(self, *, is_over: bool = False) -> None:
        """Settle the delivery: the handler has returned.

        Args:
            is_over: The conversation has ended, so that nothing is owed any more.

        Raises:
            TurnUnfinished: The role still owes a message. The delivery is not settled.
            TooLarge: The state or the commit. The delivery is not settled.
        """
        if self.lost is not None or self.ended:
            return
        seat = self.seat
        if not self.position:
            self.ended = True
            if self.record[TYPE] != NOTICE_TYPE:
                self.link.session.take_lossy()
            return
        if seat.owes() and not is_over and seat.is_enforced:
            raise TurnUnfinished(
                f"{seat.part.name} must send {seat.owed()} before its turn ends, and its handler returned without"
            )
        saved = self.state.encode(whole=self._streams())
        if self._sends or saved is not None or self._commit:
            self._post_commit(settles=True, saved=saved)
            self.state.kept(saved)
        else:
            self.link.session.settle(seat.key, seat.fence, self.position)
            self.link.touch_settled()
        self.ended = True

    def _post_commit(self, *, settles: bool, saved: bytes | None) -> Record:
        """Send the COMMIT of what has gathered; the next one has the next number."""
        sends = self._sends
        size = sum([len(sent[5]) + 64 for sent in sends]) + len(saved or b"")
        if size > MAX_BODY_BYTES:
            raise TooLarge(
                f"expected a commit of at most {MAX_BODY_BYTES} bytes, got {len(sends)} messages with {size}: "
                f"commit sooner"
            )
        seat = self.seat
        record: Record = [
            _COMMIT, 0, seat.conversation_id, seat.part.role, seat.fence, self.position, self._commit, settles,
            seat.epoch, sends, saved,
        ]  # fmt: skip
        self._sends = []
        self._commit += 1
        self._ordinal = 0
        self._last = record
        self.link.post(record)
        return record

    async def _accepted(self, record: Record) -> None:
        self._awaited = record
        try:
            await self.link.accepted(record)
        except Refused as error:
            raise turn_error(error) from error
        finally:
            self._awaited = None
        self.check()

    # -- streams --------------------------------------------------------------------------------------

    async def stream(self, message: BaseModel) -> None:
        """Send one message of a streaming handler; it is committed together with what else is ready."""
        self.check()
        self._done += 1
        if self._done <= self._skip:
            return
        part = self.seat.part
        index = part.type_of.get(type(message), -1)
        if index >= 0 and part.lossy[index]:
            if self._sends:
                await self._commit_stream()
            self.add(message)
            return
        self.add(message)
        if not self.position:
            return
        if len(self._sends) >= min(STREAM_COMMIT, part.messages[index].window or STREAM_COMMIT):
            await self._commit_stream()
        elif len(self._sends) == 1:
            self.link.loop.call_soon(self._pause, self._commit)

    def _streams(self) -> bool:
        """Return whether the bytes at the bus tell of a stream, so that plain state must follow them."""
        return self._skip > 0 or self._done > 0

    def _pause(self, commit: int) -> None:
        """The handler waits for something; what it has sent so far need not wait with it."""
        if self._commit == commit and self._sends and self.lost is None and not self.ended:
            self._post_stream()

    def _post_stream(self) -> None:
        self._under_way.append(self._post_commit(settles=False, saved=self.state.in_stream(self._done)))

    async def _commit_stream(self) -> None:
        self._post_stream()
        while len(self._under_way) > STREAM_AHEAD:
            await self._accepted(self._under_way.pop(0))
        if not self.link.session.has_room():
            await self.link.room()
            self.check()

    # -- what the runtime does with it ----------------------------------------------------------------

    def run_by(self, task: asyncio.Task[None]) -> None:
        """Note which task runs the handler, to be canceled with the turn."""
        self._task = task

    def take_away(self, error: TurnEnded, *, refused: Record | None = None) -> None:
        """Take the turn back: the handler is canceled; a thread sees ``canceled`` and gets *error*.

        Args:
            refused: The record whose refusal is the cause; a handler that waits for it is told by that.
        """
        self.lost = error
        waits = refused is not None and refused is self._awaited
        if self._task is not None and not self.ended and not waits:
            self._task.cancel()

    def has_committed(self, n: int) -> bool:
        """Return whether record *n* is a commit of this turn that was not seen accepted."""
        return any(record[1] == n for record in (self._last, *self._under_way) if record is not None)

    def nack_record(self, code: str, detail: str, *, final: bool) -> Record:
        """Return the NACK that gives the delivery back, or up where *final*."""
        seat = self.seat
        return [_NACK, 0, seat.conversation_id, seat.part.role, seat.fence, self.position, code, detail, final]


def turn_error(error: Refused) -> PalaverError:
    """Return what a handler is told when the broker refuses its commit."""
    if error.code == "superseded":
        return Revoked(str(error))
    if error.code == "lease-lost":
        return LeaseLost(str(error))
    return error
