"""The broker: events in, records and journal rows out.

Pure: no socket, clock, file, random or log. The shell (``bus.engine.server``) hands in decoded
frames and the bus time, journals what ``take_rows`` gives, reports what is on disk with ``synced``,
and sends what ``take_output`` gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from bus.broker.admission import Admission
from bus.broker.attendance import Attendance, HelloRefused
from bus.broker.conversation import Conversation
from bus.broker.dispatch import Dispatch
from bus.broker.entry import CANCELED, FAILED
from bus.broker.history import History
from bus.broker.ledger import Ledger
from bus.broker.mailbox import Mailbox
from bus.broker.query import Queries
from bus.broker.refusal import Refusal
from bus.broker.registry import Session
from bus.broker.state import Alarm, BrokerState, LogLine
from bus.ids import show_id
from bus.settings import Settings
from bus.spec.mode import Mode
from bus.wire.record import NUMBERED, Kind, Record, is_well_formed


class Broker:
    """Everything that the bus decides.

    Args:
        settings: The numbers of the bus.
        term: Number of this ownership of the state folder, greater than any before.
        modes: Protocol name → how strictly it is held to its order; all others are enforced.
        rng_seed: Bytes that nobody else knows; session tokens derive from them.
    """

    def __init__(
        self, *, settings: Settings, term: int, rng_seed: bytes, modes: Mapping[str, Mode] | None = None
    ) -> None:
        ledger = Ledger(window=settings.window)
        self._state = BrokerState(settings=settings, term=term, ledger=ledger, modes=dict(modes or {}))
        self._history = History(self._state)
        self._dispatch = Dispatch(self._state)
        self._admission = Admission(self._state, self._history, self._dispatch)
        self._attendance = Attendance(self._state, self._history, self._dispatch, self._admission, secret=rng_seed)
        self._queries = Queries(self._state, self._dispatch, self._admission, self._attendance)
        self._strangers: dict[bytes, list[Record]] = {}
        self._is_started = False

    @property
    def log(self) -> list[LogLine]:
        """Return the log lines since they were last cleared; the shell writes and clears them."""
        return self._state.log

    # -- events ---------------------------------------------------------------------------------------

    def replay(self, rows: list[Record], bus_time: float) -> None:
        """Apply journaled rows, in order and at the bus time of each, before anything else is handed in.

        Every ``now`` that follows continues the last of these times (RULES.md 18).
        """
        self._state.now = max(self._state.now, bus_time)
        for row in rows:
            self._history.apply(row)
        self._state.log.clear()

    def receive(self, peer: bytes, frame: list[Record], now: float) -> None:
        """Take one decoded frame from the routing id *peer*."""
        state = self._state
        self._start(now)
        state.now = now
        session = state.registry.by_peer.get(peer)
        if session is not None:
            session.last_heard = now
        take = self._admission.take
        for record in frame:
            if not is_well_formed(record):
                self._refuse_malformed(peer, session, record)
            elif session is not None and record[0] in NUMBERED:
                take(session, record)
            else:
                self._admission.serve_changed()
                session = self._take_other(peer, session, record)
        self._admission.serve_changed()

    def malformed(self, peer: bytes, message: str, now: float) -> None:
        """Answer a frame that could not be decoded; the session goes on."""
        self._start(now)
        self._state.now = now
        self._answer_stranger(peer, [int(Kind.REFUSED), 0, "malformed", {"message": message}])
        self._state.note("warning", "frame.refused", code="malformed", reason=message)

    def gone(self, peer: bytes, now: float) -> None:
        """Note that nothing can be sent to *peer* any more: its connection is closed, or it does not read.

        Its next heartbeat is answered as a stranger's, so a process that lives registers again, on a fresh
        connection, and keeps what it works on; one that died loses its lease as ever.
        """
        self._state.now = now
        session = self._state.registry.by_peer.get(peer)
        if session is not None:
            self._state.registry.by_token.pop(session.token, None)

    def tick(self, now: float) -> None:
        """Do what is due at *now*; cheap where nothing is."""
        self._start(now)
        state = self._state
        state.now = now
        while (due := state.agenda.pop_due(now)) is not None:
            alarm, subject = due
            if alarm is Alarm.DEADLINE:
                self._check_deadline(*cast(tuple[Conversation, Mailbox], subject))
            elif alarm is Alarm.SCOPE:
                self._check_scope(cast(Conversation, subject))
            elif alarm is Alarm.CALL:
                self._check_call(cast(Conversation, subject))
            elif alarm is Alarm.RETRY:
                self._serve_again(*cast(tuple[Conversation, Mailbox, int], subject))
            elif alarm is Alarm.LEASES:
                self._attendance.end_silent()
            elif alarm is Alarm.LOST:
                self._check_lost(cast(str, subject))
            elif alarm is Alarm.RETIRE:
                self._retire(cast(Conversation, subject))
            else:
                state.ledger.journal(["clock"], session=None, n=0, urgent=False, now=now)
                state.agenda.add(now + state.settings.clock_interval, Alarm.CLOCK)
            self._admission.serve_changed()

    def synced(self, ticket: int, now: float) -> None:
        """All rows handed out up to the *ticket*-th batch are on disk."""
        self._state.now = now
        self._state.ledger.synced(ticket, now)

    def stop(self, now: float) -> None:
        """Ask every peer to finish and leave."""
        self._state.now = now
        for session in self._state.registry.sessions():
            self._state.send(session, [int(Kind.NOTICE), "drain", {}])

    # -- what the shell fetches -----------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """Return the bus time at which ``tick`` (or a write or a send) is due at the latest, or None."""
        instants = (self._state.agenda.next_at(), self._state.ledger.next_deadline())
        return min((instant for instant in instants if instant is not None), default=None)

    def take_rows(self, *, all_of_them: bool = False) -> list[Record]:
        """Return the rows to write now as one batch, or [] while lazy ones wait for company."""
        return self._state.ledger.take_rows(self._state.now, all_of_them=all_of_them)

    def rows_urgent(self) -> bool:
        """Return whether somebody waits for rows that are not handed out yet."""
        return self._state.ledger.rows_urgent()

    def take_output(self) -> dict[bytes, list[Record]]:
        """Return the records to send now, by routing id, in order."""
        output = self._state.ledger.take_output(self._state.now)
        if self._strangers:
            for peer, records in self._strangers.items():
                output.setdefault(peer, []).extend(records)
            self._strangers = {}
        return output

    # -- records that are not numbered ----------------------------------------------------------------

    def _take_other(self, peer: bytes, session: Session | None, record: Record) -> Session | None:
        kind = record[0]
        if kind == Kind.HELLO:
            return self._hello(peer, session, record)
        if kind == Kind.HEARTBEAT:
            if self._attendance.heard(record[1]):
                self._answer_stranger(peer, [int(Kind.HEARTBEAT), b""])
            else:
                self._answer_stranger(peer, [int(Kind.NOTICE), "hello", {}])
        elif session is None:
            self._answer_stranger(peer, [int(Kind.NOTICE), "hello", {}])
        elif kind == Kind.CREDIT:
            session.lossy_credit += max(0, record[1])
            self._dispatch.deliver_newest(session)
        elif kind == Kind.QUERY:
            self._queries.answer(session, record)
        else:  # BYE
            self._attendance.bye(session)
            return None
        return session

    def _hello(self, peer: bytes, session: Session | None, record: Record) -> Session | None:
        if session is not None:
            self._attendance.bye(session)
        try:
            return self._attendance.hello(peer, record)
        except HelloRefused as refused:
            answer: Record = [int(Kind.REFUSED), 0, refused.code, {"message": refused.message, **refused.facts}]
            self._answer_stranger(peer, answer)
            self._state.note("warning", "agent.refused", code=refused.code, reason=refused.message)
            return None

    def _refuse_malformed(self, peer: bytes, session: Session | None, record: Record) -> None:
        text = f"expected a record as docs/wire.md describes it, got kind {record[0]} with {len(record)} items"
        if session is None:
            self._answer_stranger(peer, [int(Kind.REFUSED), 0, "malformed", {"message": text}])
            return
        has_number = record[0] in NUMBERED and len(record) > 1 and type(record[1]) is int
        self._admission.refuse(session, record[1] if has_number else 0, Refusal("malformed", text))

    def _answer_stranger(self, peer: bytes, record: Record) -> None:
        self._strangers.setdefault(peer, []).append(record)

    # -- time -----------------------------------------------------------------------------------------

    def _start(self, now: float) -> None:
        """At the first event after recovery: arm everything that replay left standing."""
        if self._is_started:
            return
        self._is_started = True
        state = self._state
        state.now = now
        state.grace_until = now + state.settings.lease
        state.known_before = frozenset(state.journaled_plays)
        state.agenda.add(state.grace_until, Alarm.LEASES)
        state.agenda.add(now + state.settings.clock_interval, Alarm.CLOCK)
        names = set()
        for conversation in list(state.conversations.values()):
            for mailbox in conversation.mailboxes:
                conversation.touched[mailbox] = None
                if mailbox.agent is not None and not mailbox.human:
                    names.add(mailbox.agent)
            self._dispatch.serve_touched(conversation)
        for name in sorted(names):
            state.agenda.add(now + state.settings.lost_after, Alarm.LOST, name)

    def _check_deadline(self, conversation: Conversation, mailbox: Mailbox) -> None:
        """The role may be late, or a person due a reminder; an entry that came too early is put back."""
        state = self._state
        mailbox.scheduled_at = float("inf")
        if conversation.outcome is not None or mailbox.timer < 0:
            return
        timer = conversation.tables.timers[mailbox.timer]
        if mailbox.deadline <= state.now:
            self._miss(conversation, mailbox)
        elif mailbox.remind_at <= state.now and timer.remind is not None:
            mailbox.reminders += 1
            mailbox.remind_at = state.now + timer.remind
            state.note(
                "info", "delivery.reminded", conversation_id=show_id(conversation.conversation_id),
                role=conversation.players[mailbox.role].name, reminders=mailbox.reminders,
            )  # fmt: skip
        conversation.touched[mailbox] = None
        self._dispatch.serve_touched(conversation)

    def _miss(self, conversation: Conversation, mailbox: Mailbox) -> None:
        timer = conversation.tables.timers[mailbox.timer]
        who = conversation.players[mailbox.role].name
        conversation_id = conversation.conversation_id
        self._state.note(
            "warning", "delivery.expired", conversation_id=show_id(conversation_id), role=who, step=timer.step
        )
        if mailbox.retries < timer.retry:
            self._admission.decide(["retry", conversation_id, mailbox.role])
        elif timer.event >= 0 and not conversation.cast.is_known_to_all(timer.event, conversation.mailboxes):
            conversation.wait_again(mailbox, self._state.now)
        elif timer.event >= 0:
            self._admission.decide(["event", conversation_id, timer.event])
        else:
            state = (
                "nobody took its message" if mailbox.session is None and len(mailbox) else "it did not answer in time"
            )
            self._admission.decide(["close", conversation_id, FAILED, f"{who} missed {timer.step!r}: {state}"])

    def _check_scope(self, conversation: Conversation) -> None:
        conversation.scopes.scheduled_at = float("inf")
        timeout = conversation.scopes.next_timeout()
        if timeout is None:
            return
        if timeout[0] <= self._state.now:
            self._admission.decide(["event", conversation.conversation_id, timeout[1]])
        self._dispatch.serve_touched(conversation)

    def _check_call(self, called: Conversation) -> None:
        if called.outcome is None:
            row = ["close", called.conversation_id, CANCELED, "it took longer than the step that called it may"]
            self._admission.decide(row)

    def _serve_again(self, conversation: Conversation, mailbox: Mailbox, suspected_fence: int) -> None:
        """Back-off is over, or a suspect has outlived its lease and lets the next one through (RULES.md 10)."""
        if suspected_fence and mailbox.session is not None and mailbox.fence == suspected_fence:
            self._dispatch.cleared(mailbox.session.name, mailbox)
        if mailbox.queued and conversation.conversation_id in self._state.conversations:
            self._dispatch.serve(conversation, mailbox)

    def _check_lost(self, name: str) -> None:
        last_seen = self._state.registry.last_seen
        if name in last_seen and self._state.now < last_seen[name] + self._state.settings.lost_after:
            return  # it came back, and left again: that has an entry of its own
        last_seen.pop(name, None)
        self._attendance.lose(name)

    def _retire(self, conversation: Conversation) -> None:
        if conversation.is_retained:
            self._state.agenda.add(self._state.now + self._state.settings.lost_after, Alarm.RETIRE, conversation)
        else:
            self._dispatch.retire(conversation)
