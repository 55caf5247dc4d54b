"""The numbered records of a peer: OPEN, SEND, COMMIT, HANDLED, NACK; checked, then journaled and applied.

A record is refused whole and changes nothing, or becomes one journal row. Numbers in brackets name
the rules of RULES.md.
"""

from __future__ import annotations

from collections import deque

from bus.broker.conversation import Conversation
from bus.broker.delivery import Delivery
from bus.broker.dispatch import Dispatch
from bus.broker.entry import BUS
from bus.broker.held import behind_held, hold
from bus.broker.history import History
from bus.broker.mailbox import Mailbox
from bus.broker.opening import bind_members, check_opening
from bus.broker.refusal import Refusal, gone, lease_lost, not_a_player, not_yours, out_of_turn
from bus.broker.registry import Session
from bus.broker.state import Alarm, BrokerState
from bus.broker.turn import (
    Fault,
    check_commit,
    check_keys,
    check_turn,
    find_late_move,
    is_message,
    wrong_id,
)
from bus.broker.violation import is_waived, note_violation
from bus.ids import ID_BYTES, show_id
from bus.spec.protocol import Delivery as DeliveryClass
from bus.wire.record import Kind, Record

MAX_CODE, MAX_DETAIL = 100, 4000  # characters kept of why a handler failed


class Admission:
    """Takes numbered records from sessions."""

    def __init__(self, state: BrokerState, history: History, dispatch: Dispatch) -> None:
        self._state = state
        self._history = history
        self._dispatch = dispatch
        self._changed: dict[Conversation, None] = {}
        self._take = {
            int(Kind.OPEN): self.open,
            int(Kind.SEND): self.send,
            int(Kind.COMMIT): self.commit,
            int(Kind.HANDLED): self.handled,
            int(Kind.NACK): self.nack,
        }

    def decide(self, row: Record, *, session: Session | None = None, n: int = 0, urgent: bool = False) -> None:
        """Journal *row* and apply it; whatever it changed is served by ``serve_changed`` at the latest."""
        state = self._state
        state.ledger.journal(row, session=session, n=n, urgent=urgent, now=state.now)
        self._follow(self._history.apply(row))

    def _follow(self, changed: list[Conversation]) -> None:
        for conversation in changed:
            # A message alone can wait for its company in the frame; what ends turns or leases cannot.
            if conversation.is_pressing():
                self._serve(conversation)
            else:
                self._changed[conversation] = None

    def serve_changed(self) -> None:
        """Deliver what the records of a frame, or an instant of the agenda, have brought."""
        while self._changed:
            conversation = next(iter(self._changed))
            del self._changed[conversation]
            self._serve(conversation)

    def _serve(self, conversation: Conversation) -> None:
        self._settle_overtaken(conversation)
        self._dispatch.serve_touched(conversation)
        if conversation.held:
            self._retry_held(conversation)

    def bury(self, conversation: Conversation, mailbox: Mailbox, delivery: Delivery, *, code: str, detail: str) -> None:
        """Make *delivery*, which is leased, a dead letter; the turns before it are over (11)."""
        where = (conversation.conversation_id, mailbox.role)
        if mailbox.leased[0] is not delivery:
            assert mailbox.session is not None
            self.decide(["handled", *where, mailbox.session.name, mailbox.fence, delivery.position - 1])
        self.decide(["dead", *where, code[:MAX_CODE], detail[:MAX_DETAIL]], urgent=True)

    def _settle_overtaken(self, conversation: Conversation) -> None:
        """Journal which open turns an interrupt has left behind: only the living broker knows them (5)."""
        overtaken, conversation.overtaken = conversation.overtaken, []
        for mailbox in overtaken:
            row: Record = ["overtaken", conversation.conversation_id, mailbox.role]
            self._state.ledger.journal(row, session=None, n=0, urgent=False, now=self._state.now)
            self._history.apply(row)

    def refuse(self, session: Session, n: int, refusal: Refusal) -> None:
        """Tell the peer that its record *n* changed nothing, and why."""
        state = self._state
        detail: dict[str, object] = {"message": refusal.message}
        if refusal.allowed is not None:
            detail["allowed"] = refusal.allowed
        state.send(session, [int(Kind.REFUSED), n, refusal.code, detail])
        if n:
            state.ledger.take(session, n, state.now)
        state.note("warning", "frame.refused", agent=session.name, code=refusal.code, reason=refusal.message)

    # -- OPEN -----------------------------------------------------------------------------------------

    def open(self, session: Session, record: Record) -> None:
        """Open a conversation, or attach to the one of that id again (16)."""
        _, n, conversation_id, number, role, request_id, bindings, parent = record
        state = self._state
        existing = state.find(conversation_id)
        if existing is not None:
            self._attach(session, n, existing, role, session.numbers.get(number))
            return
        digest = session.numbers.get(number, "")
        bindings = bind_members(state, digest, bindings)
        refusal = check_opening(state, digest, role, conversation_id, bindings, parent)
        if refusal is not None:
            self.refuse(session, n, refusal)
            return
        link = None if parent is None else [parent[0], parent[1], parent[3]]
        row: Record = ["open", conversation_id, digest, role, session.name, request_id, bindings, link]
        self.decide(row, session=session, n=n)
        conversation = state.conversations[conversation_id]
        self._dispatch.lease(conversation, conversation.mailboxes[conversation.opener], session)

    def _attach(self, session: Session, n: int, conversation: Conversation, role: int, digest: str | None) -> None:
        state = self._state
        mailbox = conversation.mailboxes[conversation.opener] if conversation.opener != BUS else None
        is_opener = mailbox is not None and role == conversation.players[conversation.opener].role
        if mailbox is None or not is_opener or mailbox.agent != session.name:
            self.refuse(session, n, not_yours(conversation))
            return
        if conversation.digest != digest:
            text = f"the conversation was opened with {conversation.protocol!r}; name that text in HELLO"
            self.refuse(session, n, Refusal("unknown-protocol", text))
            return
        state.ledger.take(session, n, state.now)
        is_live = conversation.conversation_id in state.conversations
        if is_live:
            self._dispatch.give_back(conversation, mailbox)
            mailbox.read_again()
        if not is_live or (conversation.outcome is not None and not mailbox.queued):
            facts = {"conversation": conversation.conversation_id, "outcome": conversation.outcome}
            state.send(session, [int(Kind.NOTICE), "ended", facts])
            return
        self._dispatch.lease(conversation, mailbox, session)
        self._dispatch.serve(conversation, mailbox)

    # -- SEND -----------------------------------------------------------------------------------------

    def send(self, session: Session, record: Record) -> None:
        """Take a message outside a turn: from a script, a call, or an interrupt."""
        _, n, message_id, conversation_id, role, type, address, epoch, _, trace, body = record
        state = self._state
        conversation = state.conversations.get(conversation_id)
        if conversation is None:
            self.refuse(session, n, gone(conversation_id, self._state.finished.get(conversation_id)))
            return
        if message_id in conversation.seen:
            state.ledger.take(session, n, state.now)
            return
        mailbox = self._mailbox_of(session, conversation, role)
        if mailbox is None:
            self.refuse(session, n, not_a_player(session, conversation, role))
            return
        if len(message_id) != ID_BYTES:
            self.refuse(session, n, wrong_id(message_id))
            return
        move = find_late_move(conversation, mailbox, type, address, epoch)
        if move is None:
            refusal = self._judge_order(session, n, conversation, mailbox, type, address, epoch)
            if refusal is None:
                return
        else:
            refusal = check_keys(conversation, type, body)
        if refusal is not None and not is_waived(conversation, refusal):
            self.refuse(session, n, refusal)
            return
        delivery_class = conversation.protocol.messages[type].delivery
        is_lossy = delivery_class is DeliveryClass.AT_MOST_ONCE
        if not is_lossy and not conversation.has_room(type, address, state.settings.mailbox):
            hold(session, conversation, record)
            return
        if refusal is not None:
            note_violation(state, self._history, conversation, mailbox, refusal)
        if is_lossy:
            voice = mailbox.role if move is None else move.voice
            self._dispatch.pass_on(conversation, voice, record, is_aside=move is None)
            state.ledger.take(session, n, state.now)
            return
        if mailbox.session is None:
            self._dispatch.lease(conversation, mailbox, session)
        message = (message_id, type, address, trace, body)
        if move is None:
            row: Record = ["aside", conversation_id, role, session.name, *message]
            self.decide(row, session=session, n=n, urgent=delivery_class is DeliveryClass.DURABLE)
            return
        row = ["message", conversation_id, role, session.name, *message]
        state.ledger.journal(row, session=session, n=n, urgent=delivery_class is DeliveryClass.DURABLE, now=state.now)
        self._follow(self._history.admit(conversation, mailbox, session.name, move, *message))

    def _mailbox_of(self, session: Session, conversation: Conversation, role: int) -> Mailbox | None:
        """Return the role's mailbox where the session may speak for it (14, 15)."""
        state = self._state
        if not 0 <= role < len(conversation.mailboxes):
            return None
        mailbox = conversation.mailboxes[role]
        if mailbox.session is session:
            return mailbox
        if mailbox.agent == session.name:
            is_known = conversation.digest in session.protocols
            return (
                mailbox
                if is_known or state.versions.may_play(session, conversation.digest, conversation.players[role].role)
                else None
            )
        offered = mailbox.player is None and (not mailbox.offered or session.name in mailbox.offered)
        may_play = state.versions.may_play(session, conversation.digest, conversation.players[role].role)
        return mailbox if offered and may_play else None

    def _retry_held(self, conversation: Conversation) -> None:
        waiting, conversation.held = conversation.held, deque()
        while waiting:
            session, record = waiting.popleft()
            session.held.remove(record[1])
            self.take(session, record)
            if conversation.held:  # still no room: keep the order of what follows
                waiting.appendleft(conversation.held.pop())
                conversation.held = waiting
                return

    # -- COMMIT ---------------------------------------------------------------------------------------

    def commit(self, session: Session, record: Record) -> None:
        """Take one commit of a turn: all of it or nothing (3)."""
        _, n, conversation_id, role, fence, position, commit, settles, _, sends, saved = record
        state = self._state
        conversation = state.conversations.get(conversation_id)
        if conversation is None or not 0 <= role < len(conversation.mailboxes):
            self.refuse(session, n, gone(conversation_id, self._state.finished.get(conversation_id)))
            return
        mailbox = conversation.mailboxes[role]
        delivery = self._held_delivery(session, mailbox, fence, position)
        if delivery is None or commit != mailbox.commits * (delivery is mailbox.leased[0]):
            if self._is_repeated(mailbox, fence, position, commit):
                state.ledger.take(session, n, state.now)
                return
            self.refuse(session, n, lease_lost(mailbox, fence))
            if delivery is not None:  # an earlier commit was lost with the journal's tail: once more from the last one
                conversation.end_lease(mailbox)
                self._dispatch.serve_touched(conversation)
            return
        faults: list[Fault] = []
        refusal, is_superseded = check_commit(
            conversation, mailbox, delivery, settles=settles, sends=sends, saved=saved,
            state_bytes=state.settings.state_bytes, faults=faults,
        )  # fmt: skip
        if is_superseded:
            state.send(session, [int(Kind.NOTICE), "superseded", {"n": n, "conversation": conversation_id}])
            sends, saved = [], None
        if refusal is not None:
            self.refuse(session, n, refusal)
            self.bury(conversation, mailbox, delivery, code=refusal.code, detail=refusal.message)
            return
        urgent = saved is not None
        kept = []
        for identifier, type, address, _, trace, body in sends:
            if not conversation.has_room(type, address, state.settings.mailbox):
                hold(session, conversation, record)
                return
            urgent = urgent or conversation.protocol.messages[type].delivery is DeliveryClass.DURABLE
            kept.append([identifier, type, address, trace, body])
        self._pass_over(conversation, mailbox, faults, kept)
        turn = (fence, position, commit, settles)
        row: Record = ["commit", conversation_id, role, session.name, *turn, kept, saved]
        self.decide(row, session=session, n=n, urgent=urgent)

    def _is_repeated(self, mailbox: Mailbox, fence: int, position: int, commit: int) -> bool:
        if fence != mailbox.commit_fence:
            return False
        oldest = mailbox.oldest()
        if oldest is not None and position == oldest.position:
            return commit < mailbox.commits
        return mailbox.is_settled(position)

    def _held_delivery(self, session: Session, mailbox: Mailbox, fence: int, position: int) -> Delivery | None:
        """Return the delivery where the session still has it under this fence."""
        if mailbox.session is not session or mailbox.fence != fence:
            return None
        for delivery in mailbox.leased:
            if delivery.position == position:
                return delivery
        return None

    # -- HANDLED, NACK --------------------------------------------------------------------------------

    def handled(self, session: Session, record: Record) -> None:
        """Settle every delivery up to a position, without sends."""
        _, n, conversation_id, role, fence, position = record
        state = self._state
        conversation = state.conversations.get(conversation_id)
        if conversation is None or not 0 <= role < len(conversation.mailboxes):
            state.ledger.take(session, n, state.now)
            return
        mailbox = conversation.mailboxes[role]
        if fence == mailbox.commit_fence and mailbox.is_settled(position):
            state.ledger.take(session, n, state.now)
            return
        if mailbox.session is not session or mailbox.fence != fence:
            self.refuse(session, n, lease_lost(mailbox, fence))
            return
        newest = mailbox.leased[-1] if mailbox.leased else None
        if newest is None or not mailbox.leased[0].position <= position <= newest.position:
            self.refuse(session, n, Refusal("malformed", f"position {position} was not delivered"))
            return
        # Who opened the conversation reads it and speaks outside turns: a script, or a call inside another turn.
        if newest.position == position and role != conversation.opener:
            faults: list[Fault] = []
            refusal = check_turn(
                conversation, mailbox, newest, settles=True, sends=[], saved=None, state_bytes=0, faults=faults
            )  # fmt: skip
            if refusal is not None:
                self.refuse(session, n, refusal)
                self.bury(conversation, mailbox, newest, code=refusal.code, detail=refusal.message)
                return
            self._pass_over(conversation, mailbox, faults, [])
        self.decide(["handled", conversation_id, role, session.name, fence, position], session=session, n=n)

    def nack(self, session: Session, record: Record) -> None:
        """A handler failed: try again after a pause, or bury the delivery (7, 10, 11)."""
        _, n, conversation_id, role, fence, position, code, detail, final = record
        state = self._state
        state.ledger.take(session, n, state.now)
        conversation = state.conversations.get(conversation_id)
        if conversation is None or not 0 <= role < len(conversation.mailboxes):
            return
        mailbox = conversation.mailboxes[role]
        delivery = self._held_delivery(session, mailbox, fence, position)
        if delivery is None:
            return
        failures = delivery.attempt
        who = conversation.players[role].name
        if final or failures >= state.settings.max_attempts:
            self.bury(conversation, mailbox, delivery, code=code, detail=detail)
            return
        if mailbox.leased[0] is not delivery:  # what stands before it was handled; HANDLED is on its way no more
            self.decide(["handled", conversation_id, role, session.name, fence, position - 1])
        conversation.end_lease(mailbox)
        delivery.attempt += 1
        pause = min(state.settings.back_off * 2 ** (failures - 1), state.settings.back_off_limit)
        mailbox.not_before = state.now + pause
        state.agenda.add(mailbox.not_before, Alarm.RETRY, (conversation, mailbox, 0))
        state.note(
            "warning", "delivery.failed", conversation_id=show_id(conversation_id), role=who, attempt=failures,
            code=code[:MAX_CODE], detail=detail[:MAX_DETAIL], again_in=pause,
        )  # fmt: skip
        self._dispatch.serve_touched(conversation)

    def take(self, session: Session, record: Record) -> None:
        """Carry out one numbered record whose shape was checked."""
        if session.held and (conversation := behind_held(self._state, session, record)) is not None:
            hold(session, conversation, record)
        else:
            self._take[record[0]](session, record)

    def _judge_order(
        self, session: Session, n: int, conversation: Conversation, mailbox: Mailbox, type: int, address: int,
        epoch: int,
    ) -> Refusal | None:  # fmt: skip
        """Return why what the order forbids is to be refused, or None where it is superseded, of which it is told."""
        state = self._state
        if not is_message(conversation, type):
            return Refusal("malformed", f"no message type {type} in {conversation.protocol.name}")
        if not 0 <= address < len(conversation.tables.addresses):
            return Refusal("malformed", f"no address {address} in {conversation.protocol.name}")
        if conversation.outcome is not None or mailbox.was_allowed(type, address, epoch):
            facts = {"n": n, "conversation": conversation.conversation_id}
            state.send(session, [int(Kind.NOTICE), "superseded", facts])
            state.ledger.take(session, n, state.now)
            return None
        return out_of_turn(conversation, mailbox, type)

    def _pass_over(self, conversation: Conversation, mailbox: Mailbox, faults: list[Fault], kept: list[Record]) -> None:
        """Note the faults of a turn that its protocol's mode lets pass, and mark its asides in the row."""
        for index, refusal in faults:
            note_violation(self._state, self._history, conversation, mailbox, refusal)
            if refusal.code == "not-allowed":
                kept[index].append(True)
