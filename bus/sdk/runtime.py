"""The runtime: takes an agent's deliveries, runs its handlers and has their turns committed or given back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import structlog
from pydantic import BaseModel

from bus.errors import (
    Failure,
    LeaseLost,
    LocalProtocolError,
    MalformedFrame,
    Refused,
    Revoked,
    TurnEnded,
)
from bus.ids import show_id
from bus.sdk.conversation import Conversation, SyncConversation
from bus.sdk.handler import Handler, HandlerKind, HandlerTable
from bus.sdk.link import Connector, Link
from bus.sdk.notice import Ended, NobodyPlays, Notice, parse_notice
from bus.sdk.openings import Openings
from bus.sdk.part import Part
from bus.sdk.pump import Place, Pumps
from bus.sdk.seat import ATTEMPT, BODY, FENCE, MESSAGE_ID, POSITION, PROTOCOL, ROLE, SAVED, TYPE, Seat, SeatState
from bus.sdk.session import Key, Session
from bus.sdk.turn import Turn
from bus.spec.gathering import Gathering
from bus.spec.members import Members
from bus.spec.protocol import Protocol
from bus.wire.codec import decode_body
from bus.wire.record import NOTICE_TYPE, Kind, Record

log = structlog.get_logger()

_COMMIT = int(Kind.COMMIT)
_DETAIL_LENGTH = 2000  # of an exception's text in a NACK: enough to find the place
_LAST_WORD = 0.1  # seconds that the last records get to be accepted even where the grace is used up


class Runtime:
    """An agent at work on one link.

    Args:
        tables: (protocol digest, role) → the handlers of that part.
        threads: How many handlers may run in threads at once.
        state_bytes: The largest state that a role may keep.
    """

    def __init__(
        self,
        tables: dict[tuple[str, int], HandlerTable],
        session: Session,
        connector: Connector,
        *,
        threads: int,
        state_bytes: int,
    ) -> None:
        self.link = Link(session, connector)
        self.link.owner = self
        self.openings = Openings(self.link, session.name)
        self._tables = tables
        self._state_bytes = state_bytes
        self._places: dict[Key, Place] = {}
        self._members: dict[bytes, dict[str, Any]] = {}  # conversation → who takes part, as its lease told
        self._pumps = Pumps(self.link.loop, self._run_turn)
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=session.name)
        self._draining = False
        self._n_turns = 0
        self._quiet = asyncio.Event()  # set when the last open turn ends while stopping

    # -- what the link tells --------------------------------------------------------------------------

    def on_deliver(self, record: Record) -> None:
        """Have the handler of a delivery run."""
        if self._draining:
            return  # goes back with BYE
        key = (record[1], record[ROLE])
        place = self._places.get(key)
        if place is None or place.seat.fence != record[FENCE]:
            if self.openings.on_deliver(record):
                return
            place = self._new_place(key, record)
            if place is None:
                return
        position = record[POSITION]
        if position:
            if position <= place.seat.position:
                return
            place.seat.position = position
        self._pumps.push(place, record)

    def _new_place(self, key: Key, record: Record) -> Place | None:
        old = self._places.get(key)
        if old is not None:
            if record[FENCE] < old.seat.fence:
                return None
            self._drop(old, LeaseLost("the delivery came again under another lease"))
        protocol = self.link.session.numbering.of_broker(record[PROTOCOL])
        gathering = self._gather(protocol, record[1]) if protocol.has_members else None
        plays = record[ROLE] if gathering is None else gathering.members.players[record[ROLE]].role
        table = self._tables.get((protocol.digest, plays)) or self._adapt(protocol, plays)
        if table is None:
            return None  # of a child that its caller has not opened again yet; it is delivered anew then
        part = table.part if gathering is None else Part(protocol, plays, table.part.own, gathering, record[ROLE])
        seat = Seat(record[1], part, is_enforced=protocol.name not in self.link.session.modes)
        seat.fence = record[FENCE]
        seat.epoch = -1  # so that the broker's word on the state counts for the first delivery
        place = self._places[key] = Place(seat, SeatState(record[SAVED], self._state_bytes), table)
        return place

    def _gather(self, protocol: Protocol, conversation_id: bytes) -> Gathering:
        """Return the tables of a conversation with members, as the bus told them with the lease."""
        told = self._members[conversation_id]
        gathering = Gathering(Members(protocol, told["members"]))
        gathering.members.note_enrolled(told["enrolled"])
        return gathering

    def _adapt(self, protocol: Protocol, role: int) -> HandlerTable | None:
        """Return the handlers of the same role of another version, for a conversation pinned at *protocol* (15)."""
        name = protocol.roles[role].name
        for table in self._tables.values():
            part = table.part
            if part.name == name and part.protocol is part.own and part.own.identity == protocol.identity:
                adapted = self._tables[protocol.digest, role] = table.for_version(protocol)
                return adapted
        return None

    def on_refused(self, record: Record, error: Refused) -> None:
        """A record changed nothing: its turn, or its child conversation, is void."""
        if self.openings.on_refused(record, error) or record[0] != _COMMIT:
            return
        place = self._places.get((record[2], record[3]))
        if place is None or place.seat.fence != record[4]:
            return
        if error.code not in ("superseded", "lease-lost"):
            log.error(
                "turn.refused", agent=self.link.session.name, conversation_id=show_id(record[2]),
                role=place.seat.part.name, code=error.code, reason=str(error.detail.get("message", "")),
            )  # fmt: skip
        lost = Revoked(str(error)) if error.code == "superseded" else LeaseLost(str(error))
        self._drop(place, lost, refused=record)

    def on_notice(self, kind: str, detail: dict[str, Any]) -> None:
        """The bus said something about the session or one of its conversations."""
        if kind == "revoked":
            place = self._places.get((detail["conversation"], detail["role"]))
            if place is not None and place.seat.fence == detail["fence"]:
                self._drop(place, Revoked("a bus event moved the conversation on while the handler worked"))
        elif kind == "superseded":
            self._supersede(detail)
        elif kind == "nobody-plays":
            self._tell_nobody(detail)
        elif kind == "members":
            self._members[detail["conversation"]] = detail
        self.openings.on_notice(kind, detail)

    def _supersede(self, detail: dict[str, Any]) -> None:
        """What an open turn commits no longer counts: stop its handler and settle its delivery without sends."""
        for place in self._places.values():
            turn = place.turn
            if turn is None or place.seat.conversation_id != detail.get("conversation"):
                continue
            if turn.has_committed(detail.get("n", 0)):
                self._take_away(turn, Revoked("a bus event moved the conversation on; what was sent does not count"))
                place.state.forget()
                self.link.session.settle(place.seat.key, place.seat.fence, turn.position)
                self.link.touch_later()

    def _tell_nobody(self, detail: dict[str, Any]) -> None:
        """Have the handler for ``NobodyPlays`` run, where there is one: outside any turn, with nothing to settle."""
        for place in list(self._places.values()):
            seat = place.seat
            if seat.conversation_id != detail.get("conversation") or NobodyPlays not in place.table.of_notice:
                continue
            record: Record = [
                int(Kind.DELIVER), seat.conversation_id, 0, seat.part.role, seat.fence, 0, 1, 0, NOTICE_TYPE, -1,
                seat.epoch, 0, seat.at, None, None, b"", None, detail.get("role"),
            ]  # fmt: skip
            self._pumps.push(place, record)

    def on_welcome(self, kept: frozenset[Key]) -> None:
        """Drop the work whose lease did not outlive the change of connection."""
        self._pumps.clear()
        for place in list(self._places.values()):
            if place.seat.key not in kept or place.turn is None:
                self._drop(place, LeaseLost("the lease went to another while the broker was away"))
                continue
            # What had not begun is delivered again behind the turn that goes on.
            place.waiting.clear()
            place.seat.position = place.turn.position
        self.openings.on_welcome(kept)

    def held(self) -> Iterator[tuple[bytes, int, int, int, bytes]]:
        """Yield the lease of every open turn and of every child that has something unread."""
        for place in self._places.values():
            turn = place.turn
            if turn is not None and turn.position and turn.lost is None:
                yield (*place.seat.key, place.seat.fence, turn.position, turn.record[MESSAGE_ID])
        yield from self.openings.held()

    def _drop(self, place: Place, error: TurnEnded, *, refused: Record | None = None) -> None:
        """Forget a lease that is gone; its open turn ends with *error*."""
        if self._places.get(place.seat.key) is place:
            del self._places[place.seat.key]
        place.lost = True
        place.waiting.clear()
        if place.turn is not None:
            self._take_away(place.turn, error, refused=refused)

    def _take_away(self, turn: Turn, error: TurnEnded, *, refused: Record | None = None) -> None:
        if turn.lost is None and not turn.ended:
            seat = turn.seat
            log.info(
                "turn.revoked", conversation_id=show_id(seat.conversation_id), role=seat.part.name, reason=str(error)
            )
            turn.take_away(error, refused=refused)

    # -- turns ----------------------------------------------------------------------------------------

    async def _run_turn(self, place: Place, record: Record, task: asyncio.Task[None]) -> None:
        """Run the handler of one delivery and settle it, or give it back."""
        seat = place.seat
        turn = Turn(self.link, seat, place.state, record)
        turn.run_by(task)
        place.turn = turn
        self._n_turns += 1
        message: BaseModel | Notice | None = None
        try:
            seat.take(record)
            message, handler = self._find(place, record)
            if handler is not None:
                conversation = Conversation(self.openings, turn)
                if handler.kind is HandlerKind.ASYNC and handler.limit is None:
                    turn.add_result(await handler.function(message, conversation))
                else:
                    await self._run(handler, message, conversation, turn)
            turn.finish(is_over=isinstance(message, Ended))
        except asyncio.CancelledError:
            if turn.lost is None:
                raise
        except Exception as error:
            self._failed(turn, error)
        finally:
            place.turn = None
            self._n_turns -= 1
            if self._draining and not self._n_turns:
                self._quiet.set()
            if turn.lost is not None:
                while task.cancelling():
                    task.uncancel()
        if isinstance(message, Ended) and self._places.get(seat.key) is place:
            del self._places[seat.key]
            self._members.pop(seat.conversation_id, None)

    def _find(self, place: Place, record: Record) -> tuple[BaseModel | Notice, Handler | None]:
        """Return what was delivered and its handler; without one it is settled, which ``check_duties`` allows."""
        seat, index = place.seat, record[TYPE]
        if index == NOTICE_TYPE:
            notice: Notice
            if record[POSITION]:
                notice = parse_notice(decode_body(record[BODY]))
            else:
                notice = NobodyPlays(str(record[BODY]))
            return notice, place.table.of_notice.get(type(notice))
        return seat.read(record), place.table.of_message[index]

    async def _run(self, handler: Handler, message: BaseModel | Notice, conversation: Conversation, turn: Turn) -> None:
        """Run a handler that has a limit, streams or belongs in a thread."""
        timer = None
        if handler.limit is not None:
            timer = self.link.loop.call_later(handler.limit, self._over_limit, turn, handler)
        try:
            if handler.kind is HandlerKind.ASYNC:
                turn.add_result(await handler.function(message, conversation))
            elif handler.kind is HandlerKind.ASYNC_STREAM:
                async for one in handler.function(message, conversation):
                    await turn.stream(one)
            else:
                call = self._in_thread(handler, message, conversation, turn)
                turn.add_result(await self.link.loop.run_in_executor(self._pool, call))
        finally:
            if timer is not None:
                timer.cancel()

    def _in_thread(
        self, handler: Handler, message: BaseModel | Notice, conversation: Conversation, turn: Turn
    ) -> Callable[[], BaseModel | None]:
        """Return what a thread is to run. It cannot be stopped: a turn that is taken away is told by ``canceled``."""
        loop = self.link.loop
        in_thread = SyncConversation(conversation, loop)

        def call() -> BaseModel | None:
            result = handler.function(message, in_thread)
            if handler.kind is HandlerKind.SYNC:
                return result  # type: ignore[no-any-return]  # checked when it is added to the turn
            for one in result:
                asyncio.run_coroutine_threadsafe(turn.stream(one), loop).result()
            return None

        return call

    def _over_limit(self, turn: Turn, handler: Handler) -> None:
        if turn.lost is None and not turn.ended:
            detail = f"{handler.function.__name__} was still at work after its limit of {handler.limit:g} s"
            turn.take_away(LeaseLost(detail))
            self._give_back(turn, "limit", detail, final=False)

    def _failed(self, turn: Turn, error: Exception) -> None:
        """Give the delivery back, or up: what the handler raised says which (RULES.md 7, 10)."""
        if turn.lost is not None:
            return
        turn.lost = LeaseLost("the handler raised, and its delivery was given back")
        if isinstance(error, Failure):
            self._give_back(turn, error.code, error.detail, final=not error.retryable)
        elif isinstance(error, LocalProtocolError | MalformedFrame):
            self._give_back(turn, error.code, str(error), final=True)
        else:
            self._give_back(turn, "raised", f"{type(error).__name__}: {error}", final=False)
        log.warning(
            "delivery.failed", agent=self.link.session.name, conversation_id=show_id(turn.seat.conversation_id),
            role=turn.seat.part.name, attempt=turn.record[ATTEMPT], exc_info=error,
        )  # fmt: skip

    def _give_back(self, turn: Turn, code: str, detail: str, *, final: bool) -> None:
        """Say NACK: the delivery comes again under another lease, and what stood behind it with it."""
        if turn.position:
            self.link.post(turn.nack_record(code, detail[:_DETAIL_LENGTH], final=final))
            place = self._places.get(turn.seat.key)
            if place is not None and place.seat is turn.seat:
                place.lost = True
                place.waiting.clear()
                del self._places[turn.seat.key]

    # -- life -----------------------------------------------------------------------------------------

    async def stop(self, grace: float) -> None:
        """Finish the open turns within *grace* seconds, give everything else back and leave."""
        loop = self.link.loop
        self._draining = True
        self._pumps.clear()
        deadline = loop.time() + grace
        for place in self._places.values():
            place.waiting.clear()
        if self._n_turns and grace:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._quiet.wait()
        if grace:
            await self.link.drain(max(_LAST_WORD, deadline - loop.time()))
        await self._pumps.stop()
        self.link.leave()
        self._pool.shutdown(wait=False, cancel_futures=True)
