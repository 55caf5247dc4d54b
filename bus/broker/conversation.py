"""One conversation: where every role stands, and what each message or bus event does to all of them.

``admit`` is the monitor's step: look the move up, step the sender, give the message to its
receivers, then let the bus fire what has become due. Receivers step when their state expects the
message; until then it waits, so that a handler only ever sees what its state expects (LANGUAGE.md,
"The monitor"). Brackets name RULES.md's rules. Knows no session, journal or clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import inf

from bus.broker.calls import RunningCalls
from bus.broker.cast import Cast
from bus.broker.delivery import Delivery
from bus.broker.entry import FAILED, Parent, Transcript
from bus.broker.mailbox import Mailbox
from bus.broker.registry import Session
from bus.broker.scope_clock import ScopeClock
from bus.broker.seen import REMEMBERED, SeenIds
from bus.broker.watch import Watch
from bus.spec.mode import Mode
from bus.spec.protocol import Protocol
from bus.spec.tables import EventKind, Move
from bus.wire.codec import encode_body
from bus.wire.record import NOTICE_TYPE, Record


class Conversation:
    """The state of one conversation.

    Attributes:
        cast: Who takes part; *players* and *tables* are its own.
        mailboxes: One a player, by index; its ``role`` is that index.
        counters: Passes of loops and messages of streams so far, by index.
        outcome: How it ended, or None while it lives.
        touched: Mailboxes changed since the broker last looked; it serves them.
        settled: (mailbox, n) pairs: n leased deliveries left the session's hands since the broker last looked.
        revoked: (mailbox, fence) of leases that were taken back since then (5).
        held: (session, record) pairs that wait for room (8).
        is_retained: A calling turn may still read it again (17).
        calls: The ``call`` steps that run; whoever applies rows opens and closes their conversations.
        cancel_at: When the time of the step that called it is up; ``inf`` where it has none.
        ends_by: The same with the deadlines around that step: players are told no more time than is left.
        overtaken: Mailboxes whose open turn an interrupt has left behind; the broker settles it by a row of
            its own, because only the living broker knows which turns are open (5).
        scopes: When which scope began.
        seen: Ids of the messages admitted so far.
    """

    __slots__ = (
        "calls", "cancel_at", "cast", "children", "conversation_id", "counters", "default_within", "digest",
        "ends_by", "epoch", "held", "is_end_noted", "is_retained", "mailboxes", "opened_at", "opener", "outcome",
        "overtaken", "parent", "players", "protocol", "reason", "request_id", "revoked", "scopes", "seen", "sequence",
        "settled", "tables", "touched", "transcript", "watch",
    )  # fmt: skip

    def __init__(
        self, *, conversation_id: bytes, protocol: Protocol, opener: int, request_id: str, now: float, mode: Mode,
        default_within: float, parent: Parent | None = None, members: dict[str, list[str]] | None = None,
    ) -> None:  # fmt: skip
        self.conversation_id = conversation_id
        self.protocol = protocol
        self.digest = protocol.digest
        self.cast = Cast(protocol, members or {})
        self.tables = self.cast.tables
        self.players = self.cast.players
        self.opener = opener if opener < 0 else self.cast.player(opener)
        self.request_id = request_id
        self.opened_at = now
        self.default_within = default_within
        self.parent = parent
        self.children: set[bytes] = set()
        self.calls = RunningCalls(self.tables.calls)
        self.cancel_at = self.ends_by = inf
        self.mailboxes = [
            Mailbox(self.tables.machines[index], human=protocol.roles[player.role].human, windows=protocol.windows)
            for index, player in enumerate(self.players)
        ]
        for index, mailbox in enumerate(self.mailboxes):
            mailbox.agent = self.cast.agent(index)
        self.counters = [0] * len(self.tables.counters)
        self.epoch = 0
        self.sequence = 0
        self.outcome: str | None = None
        self.reason = ""
        self.seen = SeenIds()
        self.watch = Watch(protocol, mode)
        self.transcript = Transcript()
        self.touched: dict[Mailbox, None] = {}
        self.settled: list[tuple[Mailbox, int]] = []
        self.revoked: list[tuple[Mailbox, int]] = []
        self.held: deque[tuple[Session, Record]] = deque()
        self.is_retained = parent is not None and opener >= 0
        self.is_end_noted = False
        self.overtaken: list[Mailbox] = []
        self.scopes = ScopeClock(self.tables.scopes)
        self._begin(now)

    def _begin(self, now: float) -> None:
        if self.opener >= 0:
            opener = self.mailboxes[self.opener]
            opener.involved = True
            if self.parent is not None:
                opener.history = []
        facts: dict[str, object] = {"parent": self.parent.conversation} if self.parent is not None else {}
        for mailbox in self.mailboxes:
            self._enter(mailbox, mailbox.at, now)
            if mailbox.role != self.opener and mailbox.may_speak():
                self._notify(mailbox, "opened", "opened", "", facts)
        self._watch_scopes(now)
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
        if move.interrupt >= 0 and not self.cast.is_known_to_all(move.interrupt, self.mailboxes):
            return None
        return move

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

    def admit(
        self, mailbox: Mailbox, move: Move, type: int, address: int, message_id: bytes, body: bytes, trace: str | None,
        now: float, turn: int = 0,
    ) -> None:  # fmt: skip
        """Take the message into the conversation; the caller has found its *move* and journals it.

        Args:
            turn: Position of the delivery whose turn sends it, 0 outside a turn: an interrupt closes no turn that
                raises it itself.
        """
        if move.counts or move.resets:
            self.cast.count(move, self.counters, move.member)
        newest = self.seen.newest
        newest.add(message_id)
        if len(newest) >= REMEMBERED:
            self.seen.turn()
        if self.watch.keys is not None:
            self.watch.note(type, body)
        self.sequence = sequence = self.sequence + 1
        mailbox.involved = True
        self.transcript.rows.append((sequence, self.epoch, mailbox.role, type, address, body, ""))
        if move.interrupt >= 0:
            message = Delivery(type, move.voice, sequence, message_id, body, trace)
            self.fire(
                move.interrupt, now, raiser=mailbox, message=message, to=self.tables.addresses[address], turn=turn
            )
            return
        if move.next != mailbox.at:
            if mailbox.leased or mailbox.queued:
                self.cast.carry_over(mailbox, type, address, turn)
            elif mailbox.said:
                mailbox.said.clear()
        if self._step(mailbox, move, now) and mailbox.early:
            self._expect_early(mailbox, now)
        is_due = mailbox.machine.due[mailbox.at]
        for role in self.tables.addresses[address]:
            receiver = self.mailboxes[role]
            if type in receiver.unsettled:
                receiver.unsettled[type] += 1
            delivery = Delivery(type, move.voice, sequence, message_id, body, trace, move.scopes)
            self.touched[receiver] = None
            step = receiver.machine.receive[receiver.at].get((move.voice, type))
            if step is None:
                receiver.early.append(delivery)
            elif self._step(receiver, step, now, delivery) and receiver.early:
                self._expect_early(receiver, now)
            is_due = is_due or receiver.machine.due[receiver.at]
        if is_due:
            self._fire_due(self.mailboxes, now)

    def close(self, outcome: str, reason: str, now: float) -> None:
        """End the conversation from outside its own steps: failed or canceled; undelivered messages are dropped."""
        self.epoch += 1
        self.sequence += 1
        self.transcript.rows.append((self.sequence, self.epoch, -1, NOTICE_TYPE, -1, b"", f"{outcome}.end"))
        for mailbox in self.mailboxes:
            self._revoke(mailbox, mailbox.discard_all())
            mailbox.epoch = mailbox.overtaken_at = self.epoch
        self._end(outcome, reason)

    def retry(self, mailbox: Mailbox, now: float) -> None:
        """Begin the role's deadline again and deliver once more what it was answering; counts as no attempt (19)."""
        mailbox.retries += 1
        self.wait_again(mailbox, now)
        self.end_lease(mailbox)

    def wait_again(self, mailbox: Mailbox, now: float) -> None:
        """Begin the role's deadline again: its step is not enabled yet, but only within its reach, ahead of others."""
        retries = mailbox.retries
        mailbox.start_timer(mailbox.timer, self.tables.timers, now, self.default_within)
        mailbox.retries = retries
        if mailbox.waits:  # another one may be nearer now
            mailbox.start_timers((*mailbox.waits,), mailbox.waits, self.tables.timers, now, self.default_within)
        self.touched[mailbox] = None

    def end_lease(self, mailbox: Mailbox) -> None:
        """Take the mailbox's deliveries out of its session's hands; what is unsettled is queued again."""
        self._revoke(mailbox, len(mailbox.leased))
        mailbox.release()

    def _step(self, mailbox: Mailbox, move: Move, now: float, delivery: Delivery | None = None) -> bool:
        """Carry out *move*, by which the role sends or takes *delivery* in; return whether its state is a new one."""
        state, old = move.next, mailbox.at
        if state < 0:
            state = self.cast.after(mailbox, old, move)
        is_new = state != old or not move.keeps_timer  # one more of a stream, the hottest step, is not
        if is_new:
            self._enter(mailbox, state, now, move.keeps_timer, move.runs_on)
        if delivery is not None:
            delivery.state_before = old
            for counter in move.resets:  # a stream of the receiver's own begins behind this
                self.counters[counter] = 0
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

    def _enter(
        self, mailbox: Mailbox, state: int, now: float, keeps_timer: bool = False, runs_on: tuple[int, ...] = ()
    ) -> None:
        """Put the role into *state* and start or stop its deadlines and its scopes' clocks."""
        machine, old = mailbox.machine, mailbox.at
        self.touched[mailbox], mailbox.at = None, state
        timer = machine.timer[state]
        if machine.others[state] or mailbox.waits or (runs_on and timer >= 0):
            running = (timer, *machine.others[state])
            kept = running if keeps_timer else runs_on
            mailbox.start_timers(running, kept, self.tables.timers, now, self.default_within)
        elif timer != mailbox.timer or (timer >= 0 and not keeps_timer):
            mailbox.start_timer(timer, self.tables.timers, now, self.default_within)
        if machine.scopes[state] is not machine.scopes[old]:
            self._watch_scopes(now)

    def _watch_scopes(self, now: float) -> None:
        inside = {scope for one in self.mailboxes for scope in one.machine.scopes[one.at]}
        self.scopes.watch(inside, now, self.sequence - 1)  # what comes now may be the first that is said inside

    # -- bus events -----------------------------------------------------------------------------------

    def _fire_due(self, stepped: Iterable[Mailbox], now: float) -> None:
        """Fire the END, MAX or JOINED event that all have come to admit; begin the calls that they admit."""
        for mailbox in stepped:
            for event in mailbox.machine.due[mailbox.at]:
                call, counter = self.tables.events[event].call, self.tables.events[event].counter
                if call >= 0:
                    if (
                        self.outcome is None
                        and call not in self.calls.running
                        and self.cast.is_due(event, self.mailboxes)
                    ):
                        self.calls.begin(call)
                    continue
                if counter >= 0 and self.counters[counter] < self.tables.counters[counter].limit:
                    continue
                if self.outcome is None and self.cast.is_due(event, self.mailboxes):
                    self.fire(event, now)
                    return

    def fire(
        self, number: int, now: float, *, raiser: Mailbox | None = None, message: Delivery | None = None,
        to: tuple[int, ...] = (), turn: int = 0,
    ) -> None:  # fmt: skip
        """Move every role that knows the event, at once: one event, one epoch, one decision for all.

        Args:
            raiser: Who interrupts by *message*, which goes *to* these, in the *turn* on that position.
        """
        event, member = self.tables.events[number], self.cast.member_of(number)
        cut = self.cast.cut(number, self.mailboxes)
        closed = [(*one, self.scopes.since(one[0], self.sequence)) for one in self.cast.scopes_of(number, cut)]
        if event.kind is EventKind.LATE:
            self.cast.cut_counts(number, self.counters, cut)
        else:
            self.cast.count(event, self.counters, member)
        self.epoch += 1
        if message is None:
            self.sequence += 1
            self.transcript.rows.append((self.sequence, self.epoch, -1, NOTICE_TYPE, -1, b"", event.name))
        moved: list[Mailbox] = []
        for mailbox in self.mailboxes:
            state = self.cast.after_event(mailbox, number, cut)
            if state is None or (event.kind is EventKind.LATE and state == mailbox.at):
                continue
            moved.append(mailbox)
            if mailbox is not raiser:
                mailbox.before.append((self.epoch - 1, [mailbox.at]))
            mailbox.epoch = self.epoch
            self.cast.overtake(mailbox, number, cut, is_raiser=mailbox is raiser)
            for scope, one, since in closed:
                if self.cast.concerns(mailbox, one, number):
                    self._close_scope(mailbox, scope, one, since=since, keep=turn if mailbox is raiser else 0)
            if event.kind is EventKind.ELSE and event.role == mailbox.role:
                newest = mailbox.newest()
                if newest is not None and self.cast.is_about(mailbox, newest, member):
                    self._revoke(mailbox, mailbox.discard_newest())
            mailbox.discard_dead()
            self._enter(mailbox, state, now, runs_on=self.cast.running_on(mailbox, number))
            if mailbox is raiser:
                self.cast.carry_over_event(mailbox, number)
            if message is not None and mailbox.role in to:
                mailbox.take_in(message.copy())
            elif event.kind is not EventKind.END and not (
                mailbox is raiser and mailbox.can_go_on(turn, is_opener=mailbox.role == self.opener)
            ):
                facts = self.calls.facts(event) if event.call >= 0 else self.cast.facts(number, member, cut)
                self._notify(mailbox, event.kind.value, event.name, event.step, facts)
            self._expect_early(mailbox, now)
        if event.kind is EventKind.END:
            self._end(event.outcome or FAILED, "")
            return
        if self.calls.running:
            self.calls.keep(lambda one: self.cast.is_known_to_all(one, self.mailboxes))
        self._fire_due(moved, now)

    def _close_scope(self, mailbox: Mailbox, scope: int, member: int, *, since: int, keep: int) -> None:
        """Drop what belongs to the scope; an open turn that stands in it is revoked and settled (5).

        Args:
            member: Only a turn about this member stands in the scope; -1: any.
            since: Sequence number by which the scope began; what is older is of a pass that ended well.
            keep: Position of the delivery whose turn raised the interrupt: it goes on, in the new state.
        """
        open_turn = mailbox.leased[0] if len(mailbox.leased) == 1 and not mailbox.queued else None
        self._revoke(mailbox, mailbox.discard(scope, since=since, keep=keep))
        if open_turn is None or not mailbox.leased or open_turn.position == keep:
            return
        if self.cast.is_about(mailbox, open_turn, member):
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
        """Queue a notice, a built-in delivery, to a role that takes part, or must begin to (6)."""
        if not mailbox.involved and (self.outcome is not None or not mailbox.may_speak()):
            return
        body = encode_body({"kind": kind, "name": name, "step": step, **facts})
        notice = Delivery(type=NOTICE_TYPE, sender=-1, sequence=self.sequence, message_id=b"", body=body)
        mailbox.take_in(notice)
        self.touched[mailbox] = None

    def _end(self, outcome: str, reason: str) -> None:
        self.outcome = outcome
        self.reason = reason
        self.scopes.stop()
        self.calls.stop()
        for mailbox in self.mailboxes:
            mailbox.epoch = mailbox.overtaken_at = self.epoch  # also where one member's way has ended it for all
            mailbox.stop_timers()
            self._notify(mailbox, "end", outcome, "", {"outcome": outcome, "reason": reason})
            self.touched[mailbox] = None
