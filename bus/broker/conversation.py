"""One conversation: where every role stands, and what each message or bus event does to all of them.

``admit`` is the monitor's step: look the move up, step the sender, give the message to its
receivers, then let the bus fire what has become due. Receivers step when their state expects the
message; until then it waits, so that a handler only ever sees what its state expects (LANGUAGE.md,
"The monitor"). Numbers in brackets name the rules of RULES.md.

Knows neither sessions nor the journal; time comes in as an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import inf

from bus.broker.entry import FAILED, Entry, Parent
from bus.broker.keys import Keys
from bus.broker.mailbox import Delivery, Mailbox
from bus.broker.registry import Session
from bus.broker.scope_clock import ScopeClock
from bus.spec.mode import Mode
from bus.spec.protocol import Protocol
from bus.spec.tables import BusEvent, EventKind, Move
from bus.wire.codec import encode_body
from bus.wire.record import NOTICE_TYPE, Record

_REMEMBERED_IDS = 65_536  # message ids kept in each of two generations, to recognise repetitions
_TRANSCRIPT_ENTRIES = 10_000  # newest entries of a conversation that stay readable in memory


class Conversation:
    """The state of one conversation.

    Attributes:
        mailboxes: One a role, by index.
        keys: What its key fields are, or None where the protocol has none.
        n_violations: What the order or a key forbade and the *mode* let pass.
        counters: Passes of loops and messages of streams so far, by index.
        outcome: How it ended, or None while it lives.
        touched: Mailboxes changed since the broker last looked; it schedules and serves them.
        settled: (mailbox, n) pairs: n leased deliveries left the session's hands since the broker last looked.
        revoked: (mailbox, fence) of leases that were taken back since then (5).
        held: (session, record) pairs that wait for room (8).
        is_retained: A calling turn may still read it again (17).
        overtaken: Mailboxes whose open turn an interrupt has left behind; the broker settles it by a row of
            its own, because only the living broker knows which turns are open (5).
        scopes: When which scope began.
    """

    __slots__ = (
        "_new_ids", "_old_ids", "children", "conversation_id", "counters", "default_within", "digest", "epoch",
        "held", "is_end_noted", "is_retained", "keys", "mailboxes", "mode", "n_violations", "opened_at", "opener",
        "outcome", "overtaken", "parent", "protocol", "reason", "request_id", "revoked", "scopes", "sequence",
        "settled", "tables", "touched", "transcript",
    )  # fmt: skip

    def __init__(
        self, *, conversation_id: bytes, protocol: Protocol, opener: int, request_id: str, now: float,
        default_within: float, parent: Parent | None = None, mode: Mode = Mode.ENFORCE,
    ) -> None:  # fmt: skip
        self.conversation_id = conversation_id
        self.protocol = protocol
        self.digest = protocol.digest
        self.tables = protocol.tables
        self.opener = opener
        self.request_id = request_id
        self.opened_at = now
        self.default_within = default_within
        self.parent = parent
        self.children: set[bytes] = set()
        self.mailboxes = [
            Mailbox(machine, human=role.human, windows=protocol.windows)
            for machine, role in zip(self.tables.machines, protocol.roles, strict=True)
        ]
        self.keys = Keys() if protocol.spec.keys else None
        self.mode = mode
        self.n_violations = 0
        self.counters = [0] * len(self.tables.counters)
        self.epoch = 0
        self.sequence = 0
        self.outcome: str | None = None
        self.reason = ""
        self._new_ids: set[bytes] = set()
        self._old_ids: set[bytes] = set()
        self.transcript: deque[Entry] = deque(maxlen=_TRANSCRIPT_ENTRIES)
        self.touched: dict[Mailbox, None] = {}
        self.settled: list[tuple[Mailbox, int]] = []
        self.revoked: list[tuple[Mailbox, int]] = []
        self.held: deque[tuple[Session, Record]] = deque()
        self.is_retained = parent is not None
        self.is_end_noted = False
        self.overtaken: list[Mailbox] = []
        self.scopes = ScopeClock(self.tables.scopes)
        self._begin(now)

    def _begin(self, now: float) -> None:
        opener = self.mailboxes[self.opener]
        opener.involved = True
        if self.parent is not None:
            opener.history = []
        for mailbox in self.mailboxes:
            self._enter(mailbox, mailbox.at, now)
            if mailbox is not opener and mailbox.machine.owes[mailbox.at]:
                self._notify(mailbox, "opened", "opened", "", {})
        self._fire_due(self.mailboxes, now)

    # -- what may happen ------------------------------------------------------------------------------

    def find_move(self, mailbox: Mailbox, type: int, address: int) -> Move | None:
        """Return the move of sending *type* to *address* now, or None where the order forbids it."""
        if self.outcome is not None:
            return None
        move = mailbox.machine.send[mailbox.at].get((type, address))
        if move is None:
            return None
        for counter in move.guards:
            if self.counters[counter] >= self.tables.counters[counter].limit:
                return None
        if move.interrupt >= 0 and not self._known_to_all(move.interrupt):
            return None
        return move

    def _known_to_all(self, event: int) -> bool:
        return all(event in mailbox.machine.bus[mailbox.at] for mailbox in self.mailboxes)

    def was_allowed(self, mailbox: Mailbox, type: int, address: int, epoch: int) -> bool:
        """Return whether a sender that had seen *epoch* was right to send this: superseded, no blame."""
        return mailbox.past is not None and mailbox.past.was_allowed(mailbox.machine, (type, address), epoch)

    def has_room(self, type: int, address: int, limit: int) -> bool:
        """Return whether every receiver can take one more message of *type* (8)."""
        window = self.protocol.windows.get(type, limit)
        for role in self.tables.addresses[address]:
            mailbox = self.mailboxes[role]
            n_unsettled = len(mailbox.leased) + len(mailbox.queued) + len(mailbox.early)
            if n_unsettled >= limit or (n_unsettled >= window and mailbox.unsettled[type] >= window):
                return False
        return True

    def is_pressing(self) -> bool:
        """Return whether turns or leases have ended, so that the next record must not see the old ones."""
        return bool(self.settled or self.revoked or self.overtaken or self.held or self.outcome is not None)

    # -- what happens ---------------------------------------------------------------------------------

    def has_seen(self, message_id: bytes) -> bool:
        """Return whether a message of this id was admitted before."""
        return message_id in self._new_ids or message_id in self._old_ids

    def remember(self, message_id: bytes, type: int, body: bytes) -> None:
        """Keep the id of a message that was taken, and the values of the keys that it sets."""
        if self.keys is not None:
            self.keys.keep(self.protocol.messages[type], body)
        self._new_ids.add(message_id)
        if len(self._new_ids) >= _REMEMBERED_IDS:
            self._old_ids, self._new_ids = self._new_ids, set()

    def admit(
        self, mailbox: Mailbox, move: Move, type: int, address: int, message_id: bytes, body: bytes, trace: str | None,
        now: float, turn: int = 0,
    ) -> None:  # fmt: skip
        """Take the message into the conversation; the caller has found its *move* and journals it.

        Args:
            turn: Position of the delivery whose turn sends it, 0 outside a turn: an interrupt closes no turn that
                raises it itself.
        """
        self._count(move)
        self.remember(message_id, type, body)
        self.sequence = sequence = self.sequence + 1
        mailbox.involved = True
        self.transcript.append(Entry(sequence, self.epoch, mailbox.role, type, address, body, ""))
        if move.interrupt >= 0:
            self._fire(move.interrupt, now, raiser=mailbox, message=(type, address, message_id, body, trace), turn=turn)
            return
        if self._step(mailbox, move, now) and mailbox.early:
            self._expect_early(mailbox, now)
        is_due = mailbox.machine.due[mailbox.at]
        for role in self.tables.addresses[address]:
            receiver = self.mailboxes[role]
            if type in receiver.unsettled:
                receiver.unsettled[type] += 1
            delivery = Delivery(type, mailbox.role, sequence, message_id, body, trace, move.scopes)
            self.touched[receiver] = None
            step = receiver.machine.receive[receiver.at].get((mailbox.role, type))
            if step is None:
                receiver.early.append(delivery)
            elif self._step(receiver, step, now, delivery) and receiver.early:
                self._expect_early(receiver, now)
            is_due = is_due or receiver.machine.due[receiver.at]
        if is_due:
            self._fire_due(self.mailboxes, now)

    def _count(self, passed: Move | BusEvent) -> None:
        for counter in passed.resets:
            self.counters[counter] = 0
        for counter in passed.counts:
            self.counters[counter] += 1

    def fire(self, event: int, now: float) -> None:
        """Let the bus event happen: a deadline, a timeout, a lost or failed role."""
        self._fire(event, now)

    def close(self, outcome: str, reason: str, now: float) -> None:
        """End the conversation from outside its own steps: failed or canceled; undelivered messages are dropped."""
        self.epoch += 1
        self.sequence += 1
        self.transcript.append(Entry(self.sequence, self.epoch, -1, NOTICE_TYPE, -1, b"", f"{outcome}.end"))
        for mailbox in self.mailboxes:
            self._revoke(mailbox, mailbox.discard_all())
            mailbox.leave(self.epoch, is_told=True)
        self._end(outcome, reason)

    def retry(self, mailbox: Mailbox, now: float) -> None:
        """Begin the role's deadline again and deliver once more what it was answering; counts as no attempt (19)."""
        retries = mailbox.retries + 1
        self._start_timer(mailbox, mailbox.timer, now)
        mailbox.retries = retries
        self.end_lease(mailbox)
        self.touched[mailbox] = None

    def end_lease(self, mailbox: Mailbox) -> None:
        """Take the mailbox's deliveries out of its session's hands; what is unsettled is queued again."""
        if mailbox.leased:
            self.revoked.append((mailbox, mailbox.fence))
            self.settled.append((mailbox, len(mailbox.leased)))
            mailbox.release()

    def drop_held(self, session: Session) -> None:
        """Forget the records of a session that ended: it sends them again in its next life."""
        if self.held:
            self.held = deque(entry for entry in self.held if entry[0] is not session)

    def _step(self, mailbox: Mailbox, move: Move, now: float, delivery: Delivery | None = None) -> bool:
        """Carry out *move*, by which the role sends or takes *delivery* in; return whether its state is a new one."""
        is_new = move.next != mailbox.at or not move.keeps_timer  # one more of a stream, the hottest step, is not
        if is_new:
            self._enter(mailbox, move.next, now, keeps_timer=move.keeps_timer)
        if delivery is not None:
            mailbox.take_in(delivery)
        return is_new

    def _expect_early(self, mailbox: Mailbox, now: float) -> None:
        """Take in whatever the state now expects of what came early, in order of arrival."""
        index = 0
        while index < len(mailbox.early):
            delivery = mailbox.early[index]
            move = mailbox.machine.receive[mailbox.at].get((delivery.sender, delivery.type))
            if move is None:
                index += 1
                continue
            del mailbox.early[index]
            if self._step(mailbox, move, now, delivery):
                index = 0

    def _enter(self, mailbox: Mailbox, state: int, now: float, *, keeps_timer: bool = False) -> None:
        """Put the role into *state* and start or stop its deadline and its scopes' clocks."""
        machine = mailbox.machine
        old = mailbox.at
        self.touched[mailbox] = None
        mailbox.at = state
        timer = machine.timer[state]
        if not (keeps_timer and timer == mailbox.timer):
            self._start_timer(mailbox, timer, now)
        if machine.scopes[state] is not machine.scopes[old] or not self.sequence:
            self._watch_scopes(now)

    def _start_timer(self, mailbox: Mailbox, timer: int, now: float) -> None:
        mailbox.timer = timer
        mailbox.retries = 0
        mailbox.remind_at = inf
        if timer < 0:
            mailbox.deadline = inf
            return
        entry = self.tables.timers[timer]
        mailbox.deadline = now + (self.default_within if entry.within is None else entry.within)
        if entry.remind is not None:
            mailbox.remind_at = now + entry.remind

    def _watch_scopes(self, now: float) -> None:
        self.scopes.watch({scope for one in self.mailboxes for scope in one.machine.scopes[one.at]}, now, self.sequence)

    # -- bus events -----------------------------------------------------------------------------------

    def _fire_due(self, stepped: Iterable[Mailbox], now: float) -> None:
        """Fire the END or MAX event that every role's state has come to admit."""
        for mailbox in stepped:
            for event in mailbox.machine.due[mailbox.at]:
                counter = self.tables.events[event].counter
                if counter >= 0 and self.counters[counter] < self.tables.counters[counter].limit:
                    continue
                if self.outcome is None and self._known_to_all(event):
                    self._fire(event, now)
                    return

    def _fire(
        self, number: int, now: float, *, raiser: Mailbox | None = None,
        message: tuple[int, int, bytes, bytes, str | None] | None = None, turn: int = 0,
    ) -> None:  # fmt: skip
        """Move every role that knows the event, at once: one event, one epoch, one decision for all."""
        event = self.tables.events[number]
        self._count(event)
        self.epoch += 1
        if message is None:
            self.sequence += 1
            self.transcript.append(Entry(self.sequence, self.epoch, -1, NOTICE_TYPE, -1, b"", event.name))
        receivers = self.tables.addresses[message[1]] if message is not None else ()
        since = self.scopes.since(event.scope)
        moved: list[Mailbox] = []
        for mailbox in self.mailboxes:
            state = mailbox.machine.bus[mailbox.at].get(number)
            if state is None:
                continue
            moved.append(mailbox)
            mailbox.leave(self.epoch, is_told=mailbox.involved and mailbox is not raiser)
            if event.discards:
                self._close_scope(mailbox, event.scope, since=since, keep=turn if mailbox is raiser else 0)
            elif event.kind is EventKind.ELSE and event.role == mailbox.role:
                self._revoke(mailbox, mailbox.discard_newest())
            mailbox.discard_dead()
            self._enter(mailbox, state, now)
            if message is not None and mailbox.role in receivers:
                type, _, message_id, body, trace = message
                assert raiser is not None
                delivery = Delivery(
                    type=type,
                    sender=raiser.role,
                    sequence=self.sequence,
                    message_id=message_id,
                    body=body,
                    trace=trace,
                )
                mailbox.take_in(delivery)
            elif event.kind is not EventKind.END and mailbox is not raiser:
                self._notify(mailbox, event.kind.value, event.name, event.step, self._facts(number))
            self._expect_early(mailbox, now)
        if event.kind is EventKind.END:
            self._end(event.outcome or FAILED, "")
        else:
            self._fire_due(moved, now)

    def _facts(self, number: int) -> dict[str, object]:
        event = self.tables.events[number]
        role = self.protocol.roles[event.role].name if event.role >= 0 else None
        scope = self.tables.scopes[event.scope].name if event.scope >= 0 else None
        return {"role": role, "scope": scope}

    def _close_scope(self, mailbox: Mailbox, scope: int, *, since: int, keep: int) -> None:
        """Drop what belongs to the scope; an open turn that stands in it is revoked and settled (5).

        Args:
            since: Sequence number by which the scope began; what is older is of a pass that ended well.
            keep: Position of the delivery whose turn raised the interrupt: it goes on, in the new state.
        """
        open_turn = mailbox.leased[0] if len(mailbox.leased) == 1 and not mailbox.queued else None
        self._revoke(mailbox, mailbox.discard(scope, since=since, keep=keep))
        if open_turn is not None and mailbox.leased and open_turn.position != keep:
            self.overtaken.append(mailbox)

    def take_away_turn(self, mailbox: Mailbox) -> None:
        """Settle the delivery of the open turn, the oldest: an interrupt has left it behind (5)."""
        self._revoke(mailbox, mailbox.discard_oldest())
        self.touched[mailbox] = None

    def _revoke(self, mailbox: Mailbox, n_leased: int) -> None:
        if n_leased:
            self.revoked.append((mailbox, mailbox.fence))
            self.settled.append((mailbox, n_leased))

    def _notify(self, mailbox: Mailbox, kind: str, name: str, step: str, facts: dict[str, object]) -> None:
        """Queue a notice, a built-in delivery, to a role that takes part (6)."""
        if not mailbox.involved and kind != "opened":
            return
        body = encode_body({"kind": kind, "name": name, "step": step, **facts})
        notice = Delivery(type=NOTICE_TYPE, sender=-1, sequence=self.sequence, message_id=b"", body=body)
        mailbox.take_in(notice)
        self.touched[mailbox] = None

    def _end(self, outcome: str, reason: str) -> None:
        self.outcome = outcome
        self.reason = reason
        self.scopes.stop()
        for mailbox in self.mailboxes:
            mailbox.timer = -1
            mailbox.deadline = mailbox.remind_at = inf
            self._notify(mailbox, "end", outcome, "", {"outcome": outcome, "reason": reason})
            self.touched[mailbox] = None
