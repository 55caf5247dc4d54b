"""QUERY: what people and tools ask of the broker, and the few commands that they may give it.

Arguments come from outside and are read through pydantic models; data goes back as plain values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from bus.broker.admission import Admission
from bus.broker.attendance import Attendance, HelloRefused
from bus.broker.conversation import Conversation
from bus.broker.dead_letter import DeadLetters
from bus.broker.dispatch import Dispatch
from bus.broker.entry import BUS, CANCELED
from bus.broker.mailbox import Mailbox
from bus.broker.opening import find_pin
from bus.broker.question import (
    Answer,
    Arguments,
    DeadLetter,
    Inbox,
    Listing,
    Name,
    Nothing,
    One,
    Pin,
    QueryRefused,
    Requeue,
    Source,
    Transcript,
    find_conversation,
)
from bus.broker.refusal import Refusal, allowed_moves, out_of_turn
from bus.broker.registry import Session
from bus.broker.state import BrokerState
from bus.broker.turn import check_keys, owes_after
from bus.ids import message_id
from bus.spec.mode import not_enforced
from bus.spec.protocol import Delivery as DeliveryClass
from bus.wire.record import Kind, Record

_REPLY_BYTES = 1 << 19  # of bodies in one answer; a frame holds twice as much


class Queries:
    """Answers QUERY records."""

    def __init__(self, state: BrokerState, dispatch: Dispatch, admission: Admission, attendance: Attendance) -> None:
        self._state = state
        self._dispatch = dispatch
        self._admission = admission
        self._attendance = attendance
        self._letters = DeadLetters(state, admission)
        self._answers: dict[str, tuple[type[Arguments], Callable[[Any], object]]] = {
            "status": (Nothing, self._status),
            "conversations": (Listing, self._conversations),
            "transcript": (Transcript, self._transcript),
            "inbox": (Inbox, self._inbox),
            "answer": (Answer, self._answer),
            "cancel": (One, self._cancel),
            "dead": (Nothing, lambda _: self._letters.list_all()),
            "letter": (DeadLetter, lambda query: self._letters.show(query.conversation, query.role)),
            "requeue": (Requeue, lambda query: self._letters.requeue(query.conversation, query.role, query.body)),
            "drop": (DeadLetter, lambda query: self._letters.drop(query.conversation, query.role)),
            "gave-up": (Name, self._gave_up),
        }

    def answer(self, session: Session, record: Record) -> None:
        """Answer one QUERY with one REPLY; a command's REPLY waits until it is on disk (RULES.md 13)."""
        _, q, name, arguments = record
        reply: Record
        try:
            reply = [int(Kind.REPLY), q, True, self._find_answer(session, name, arguments)]
        except QueryRefused as error:
            reply = [int(Kind.REPLY), q, False, error.data]
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            reply = [
                int(Kind.REPLY),
                q,
                False,
                {"code": "bad-arguments", "message": f"{name}: {where}: {first['msg']}"},
            ]
        if name in ("answer", "cancel", "requeue", "drop"):
            self._state.ledger.send_synced(session, reply)
        else:
            self._state.send(session, reply)

    def _find_answer(self, session: Session, name: str, arguments: dict[str, object]) -> object:
        if name == "learn":
            try:
                return {"number": self._attendance.learn(session, Source.model_validate(arguments).source)}
            except HelloRefused as error:
                raise QueryRefused(error.code, error.message) from error
        if name == "pin":
            return {"digest": self._pin(session, Pin.model_validate(arguments))}
        if name not in self._answers:
            known = ", ".join(sorted([*self._answers, "learn", "pin"]))
            raise QueryRefused("unknown-query", f"expected one of {known}; got {name!r}")
        model, function = self._answers[name]
        return function(model.model_validate(arguments))

    # -- reading --------------------------------------------------------------------------------------

    def _status(self, _: Nothing) -> object:
        state = self._state
        agents = [
            {
                "name": session.name,
                "instance": session.instance,
                "roles": sorted(self._role_name(digest, role) for digest, role in session.plays),
                "since": session.since,
                "open_deliveries": self._open_deliveries(session),
            }
            for session in state.registry.sessions()
        ]
        n_live = sum(conversation.outcome is None for conversation in state.conversations.values())
        n_all = len(state.conversations) + len(state.finished)
        return {
            "term": state.term,
            "bus_time": state.now,
            "agents": agents,
            "n_conversations": n_all,
            "n_live": n_live,
            "n_violations": sum(
                one.watch.n_violations for one in [*state.conversations.values(), *state.finished.values()]
            ),
            "modes": not_enforced(state.modes),
        }

    def _open_deliveries(self, session: Session) -> int:
        known = self._state.conversations
        return sum(len(known[key].mailboxes[role].leased) for key, role in session.leases if key in known)

    def _role_name(self, digest: str, role: int) -> str:
        protocol = self._state.protocols[digest]
        return f"{protocol.name}.{protocol.roles[role].name}"

    def _conversations(self, query: Listing) -> object:
        state = self._state
        known = [*state.finished.values(), *state.conversations.values()]
        known.sort(key=lambda conversation: conversation.opened_at)
        wanted = [one for one in known if one.outcome is None or not query.live_only]
        return [self._summary(conversation) for conversation in wanted[-query.limit :]]

    def _summary(self, conversation: Conversation) -> dict[str, object]:
        players = conversation.players
        by_bus = conversation.opener == BUS
        return {
            "conversation": conversation.conversation_id,
            "parent": None if conversation.parent is None else conversation.parent.conversation,
            "protocol": f"{conversation.protocol.name}@{conversation.protocol.version}",
            "opener": None if by_bus else conversation.mailboxes[conversation.opener].agent,
            "outcome": conversation.outcome,
            "reason": conversation.reason,
            "states": {players[mailbox.role].name: mailbox.at for mailbox in conversation.mailboxes},
            "players": {players[mailbox.role].name: mailbox.agent for mailbox in conversation.mailboxes},
            "sequence": conversation.sequence,
            "epoch": conversation.epoch,
            "mode": conversation.watch.mode.value,
            "n_violations": conversation.watch.n_violations,
            "since": conversation.opened_at,
        }

    def _transcript(self, query: Transcript) -> object:
        conversation = find_conversation(self._state, query.conversation)
        protocol = conversation.protocol
        entries: list[dict[str, object]] = []
        n_bytes = 0
        for entry in conversation.transcript:
            if entry.sequence <= query.after:
                continue
            n_bytes += len(entry.body)
            if len(entries) >= query.limit or (entries and n_bytes > _REPLY_BYTES):
                break  # the rest is asked for with another *after*
            is_message = entry.type >= 0
            receivers = conversation.tables.addresses[entry.address] if is_message else ()
            entries.append(
                {
                    "sequence": entry.sequence,
                    "epoch": entry.epoch,
                    "kind": "message" if is_message else "event",
                    "sender": conversation.players[entry.sender].name if is_message else None,
                    "receivers": [conversation.players[player].name for player in receivers],
                    "type": protocol.messages[entry.type].name if is_message else None,
                    "body": entry.body,
                    "event": entry.event or None,
                }
            )
        return entries

    # -- people ---------------------------------------------------------------------------------------

    def _inbox(self, query: Inbox) -> object:
        items = []
        for conversation in self._state.conversations.values():
            for mailbox in conversation.mailboxes:
                role = conversation.players[mailbox.role].name
                if mailbox.human and conversation.outcome is None and query.role in (None, role):
                    items += self._items(conversation, mailbox, role)
        return items

    def _items(self, conversation: Conversation, mailbox: Mailbox, role: str) -> list[dict[str, object]]:
        newest = mailbox.newest()
        if newest is None:
            return []
        protocol = conversation.protocol
        messages = [
            {
                "type": protocol.messages[delivery.type].name if delivery.type >= 0 else "notice",
                "sender": conversation.cast.speaker(delivery.sender) if delivery.sender >= 0 else "bus",
                "body": delivery.body,
                "sequence": delivery.sequence,
            }
            for delivery in (*mailbox.leased, *mailbox.queued)
        ]
        allowed = [
            {"type": one.type, "address": one.address, "name": one.name, "to": list(one.to)}
            for one in allowed_moves(conversation, mailbox)
        ]
        return [
            {
                "conversation": conversation.conversation_id,
                "protocol": f"{protocol.name}@{protocol.version}",
                "source": protocol.spec.source,
                "role": role,
                "position": newest.position,
                "epoch": mailbox.epoch,
                "messages": messages,
                "allowed": allowed,
                "remaining": None if mailbox.timer < 0 else max(0.0, mailbox.deadline - self._state.now),
                "reminders": mailbox.reminders,
            }
        ]

    def _answer(self, query: Answer) -> object:
        conversation = find_conversation(self._state, query.conversation)
        mailbox = self._human_mailbox(conversation, query.role)
        if mailbox.answered is not None and query.position <= mailbox.answered[0]:
            by = mailbox.answered[1]
            raise QueryRefused("answered", f"this was already answered, by {by}", by=by)
        newest = mailbox.newest()
        if newest is None or newest.position != query.position or query.epoch != mailbox.epoch:
            text = "the conversation moved on before the answer came; look at the inbox again"
            raise QueryRefused("superseded", text)
        move = conversation.find_move(mailbox, query.type, query.address)
        if move is None:
            if not 0 <= query.type < len(conversation.protocol.messages):
                raise QueryRefused("not-allowed", "no such message type")
            refusal = out_of_turn(conversation, mailbox, query.type)
            raise QueryRefused(refusal.code, refusal.message, allowed=refusal.allowed)
        if conversation.protocol.messages[query.type].delivery is DeliveryClass.AT_MOST_ONCE:
            raise QueryRefused("not-allowed", "an at-most-once message is no answer")
        fault = check_keys(conversation, query.type, query.body)
        if fault is not None:
            raise QueryRefused(fault.code, fault.message)
        commit = mailbox.commits if newest is mailbox.oldest() else 0
        sent = message_id(query.conversation, mailbox.role, query.position, commit, 0)
        sends = [[sent, query.type, query.address, None, query.body]]
        settles = not owes_after(conversation, mailbox, move)  # else what is left to say stands in the inbox
        conversation.end_lease(mailbox)
        turn = [self._state.new_fence(), query.position, commit, settles]
        row: Record = ["commit", query.conversation, mailbox.role, query.by, *turn, sends, None]
        self._admission.decide(row, urgent=True)
        return {"sequence": conversation.sequence}

    def _human_mailbox(self, conversation: Conversation, role: str) -> Mailbox:
        for mailbox in conversation.mailboxes:
            if conversation.players[mailbox.role].name == role:
                if not mailbox.human:
                    raise QueryRefused("not-a-person", f"{role!r} is played by an agent, not by a person")
                return mailbox
        raise QueryRefused("unknown-role", f"no role {role!r} in {conversation.protocol.name}")

    # -- commands -------------------------------------------------------------------------------------

    def _cancel(self, query: One) -> object:
        conversation = find_conversation(self._state, query.conversation)
        if conversation.outcome is None:
            self._admission.decide(["close", query.conversation, CANCELED, query.reason], urgent=True)
        return {"outcome": conversation.outcome}

    def _pin(self, session: Session, query: Pin) -> str:
        """Say which version a conversation that is to be opened would follow, or one that is open follows (15)."""
        pinned = find_pin(
            self._state, session, query.digest, query.role, conversation_id=query.conversation, names=query.bindings
        )
        if isinstance(pinned, Refusal):
            raise QueryRefused(pinned.code, pinned.message)
        self._dispatch.teach(session, pinned)
        return pinned

    def _gave_up(self, query: Name) -> object:
        """A supervisor will not start this agent again: its roles are lost now (12)."""
        self._attendance.lose(query.name)
        return {"live": self._state.registry.is_live(query.name)}
