"""The mailbox: what one role of one conversation has been given and has not settled yet.

Deliveries are numbered by position, 1, 2, 3 … as the role's machine takes them in; the number is
never given again. Messages that the role's state does not expect yet wait as *early*. One session
at a time holds the mailbox under a lease, whose fence every commit must name.

The mailbox knows neither the broker nor time beyond the instants that it is handed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable
from math import inf

from bus.broker.delivery import DELIVERY_TRANSITIONS, Delivery, DeliveryState
from bus.broker.registry import Session
from bus.spec.tables import Machine, Timer

_REMEMBERED_STATES = 16  # a sender that has missed more bus events is judged by the oldest of these


class Mailbox:
    """Everything that the broker keeps for one role of one conversation.

    Attributes:
        at: The role's machine state after everything taken in and sent: what it may do *now*.
        overtaken_at: Epoch of the last bus event behind which nothing that was said before counts any more.
        overtaken: member → the same of what was said to that member alone.
        before: (epoch, states) for each of the last bus events that moved the role, oldest first, to tell superseded
            from forbidden: where it stood just before, and where messages that came too late would have led it.
        leased: Deliveries that the session has, oldest first.
        queued: Deliveries that the machine has taken in and no session has.
        early: Accepted messages that the state does not expect yet, in order of arrival.
        settled: Position of the newest settled delivery.
        commits: Commits already done of the turn on the oldest unsettled delivery.
        saved: What the role kept with its last commit.
        agent: Name of the agent that the role is bound to, or None.
        offered: Names that may play the role, given at opening; empty: anybody.
        keeper: (name, instance) of the session that had the last lease: after a restart it gets one grace period (18).
        fence: Number of the present or last lease.
        commit_fence: Fence of the last commit, to recognise its repetition.
        revoked_fence: Fence of the last lease that a bus event revoked.
        not_before: Back-off: nothing is delivered before this instant.
        waits: Where several deadlines run: each of them → (instant, next reminder, retries); *timer*, *deadline* and
            the like are then those of the nearest.
        deadline: Instant at which the role is late; ``inf`` where it need not act.
        unsettled: message type → unsettled deliveries of it, for types with a window.
        history: Settled deliveries of a caller's role, to be read again after a crash (RULES.md 17); else None.
        involved: The role has spoken or was given something; others hear no notices.
        answered: (position, by) of the last answer that a person gave.
        said: (turn, last position by then, type, address) of what the role has said since its oldest unhandled
            delivery came; see ``Cast.carry_over``.
        told_fence: The fence under which the session was last told of the saved state.
    """

    __slots__ = (
        "agent", "answered", "at", "before", "commit_fence", "commits", "deadline", "early", "epoch", "fence",
        "history", "human", "involved", "keeper", "last_position", "leased", "machine", "not_before", "offered",
        "overtaken", "overtaken_at", "queued", "remind_at", "reminders", "retries", "revoked_fence", "role", "said",
        "saved", "scheduled_at", "session", "settled", "timer", "told_fence", "told_nobody", "unsettled", "waits",
    )  # fmt: skip

    def __init__(self, machine: Machine, *, human: bool = False, windows: Iterable[int] = ()) -> None:
        self.machine = machine
        self.role = machine.role
        self.human = human
        self.at = machine.start
        self.epoch = 0
        self.overtaken_at = 0
        self.overtaken: dict[int, int] = {}
        self.before: deque[tuple[int, list[int]]] = deque(maxlen=_REMEMBERED_STATES)
        self.leased: deque[Delivery] = deque()
        self.queued: deque[Delivery] = deque()
        self.early: list[Delivery] = []
        self.last_position = 0
        self.settled = 0
        self.commits = 0
        self.saved: bytes | None = None
        self.agent: str | None = None
        self.offered: tuple[str, ...] = ()
        self.session: Session | None = None
        self.keeper: tuple[str, int] | None = None
        self.fence = 0
        self.commit_fence = 0
        self.revoked_fence = 0
        self.not_before = 0.0
        self.timer = -1
        self.deadline = inf
        self.scheduled_at = inf
        self.retries = 0
        self.remind_at = inf
        self.waits: dict[int, tuple[float, float, int]] = {}
        self.reminders = 0
        self.unsettled = dict.fromkeys(windows, 0)
        self.history: list[Delivery] | None = None
        self.involved = False
        self.answered: tuple[int, str] | None = None
        self.told_nobody = False
        self.told_fence = 0
        self.said: list[tuple[int, int, int, int]] = []

    @property
    def player(self) -> str | None:
        """Return the name that the role is bound to; None while it is free, and for people: whoever answers first."""
        return None if self.human else self.agent

    def __len__(self) -> int:
        """Return how many deliveries are not settled, early ones included."""
        return len(self.leased) + len(self.queued) + len(self.early)

    def may_speak(self) -> bool:
        """Return whether the role may send something now, interrupts left out."""
        return any(move.interrupt < 0 for move in self.machine.send[self.at].values())

    def allowed_before(self, type: int, address: int, epoch: int) -> bool:
        """Return whether the role might send this when the bus event came that ended *epoch* for it.

        What is superseded is said again after a reconnect, and what follows it is superseded too.
        """
        for epoch_before, states in self.before:
            if epoch > epoch_before:
                continue
            for state in states:
                move = self.machine.send[state].get((type, address))
                if move is not None:
                    if 0 <= move.next not in states and len(states) < _REMEMBERED_STATES:
                        states.append(move.next)
                    return True
            return False
        return False

    def was_allowed(self, type: int, address: int, epoch: int) -> bool:
        """Return whether a sender that had seen *epoch* was right to send this: superseded, no blame."""
        if self.allowed_before(type, address, epoch):
            return True
        # An interrupt may also cross with a message by which its scope was left: the role has not read that yet,
        # or does not see it at all. What it had not read before a bus event may be gone by now.
        sends = self.machine.send
        states = [self.at, *(one.state_before for one in (*self.leased, *self.queued) if one.state_before >= 0)]
        moves = [sends[state].get((type, address)) for state in states]
        if epoch < self.epoch:
            moves = [state.get((type, address)) for state in sends]
        return any(move is not None and move.interrupt >= 0 for move in moves)

    def can_go_on(self, turn: int, *, is_opener: bool) -> bool:
        """Return whether the role that interrupts needs no notice: it knows where it stands, and has a turn to go on.

        What it has not read yet would lead it back to before its own interrupt.
        """
        if turn:
            return True
        return not self.leased and not self.queued and (is_opener or not self.may_speak())

    def start_timers(
        self, running: tuple[int, ...], runs_on: Container[int], timers: tuple[Timer, ...], now: float, within: float
    ) -> None:
        """Let these deadlines run at the same time; the mailbox shows the nearest of them.

        Args:
            runs_on: Those that do not begin again where they have begun.
            timers: The conversation's.
            within: Seconds for a deadline without its own.
        """
        before = dict(self.waits)
        if self.timer >= 0:
            before[self.timer] = (self.deadline, self.remind_at, self.retries)
        self.waits = {}
        for timer in running:
            known = before.get(timer) if timer in runs_on else None
            if known is None:
                self.start_timer(timer, timers, now, within)
                known = (self.deadline, self.remind_at, self.retries)
            self.waits[timer] = known
        self.timer = min(running, key=lambda one: self.waits[one][0])
        self.deadline, self.remind_at, self.retries = self.waits[self.timer]
        if len(running) == 1:
            self.waits = {}

    def stop_timers(self) -> None:
        """End every deadline."""
        self.timer = -1
        self.waits = {}
        self.deadline = self.remind_at = inf

    def start_timer(self, timer: int, timers: tuple[Timer, ...], now: float, default_within: float) -> None:
        """Begin the deadline *timer*, -1 for none; the one that ran is over."""
        self.timer = timer
        self.retries = 0
        self.remind_at = inf
        if timer < 0:
            self.deadline = inf
            return
        entry = timers[timer]
        self.deadline = now + (default_within if entry.within is None else entry.within)
        if entry.remind is not None:
            self.remind_at = now + entry.remind

    def oldest(self) -> Delivery | None:
        """Return the oldest delivery that is not settled, or None."""
        if self.leased:
            return self.leased[0]
        return self.queued[0] if self.queued else None

    def is_oldest(self, position: int) -> bool:
        """Return whether the delivery at *position* is the oldest that is not settled."""
        oldest = self.oldest()
        return oldest is not None and oldest.position == position

    def newest(self) -> Delivery | None:
        """Return the delivery that the machine took in last and that is not settled, or None."""
        if self.queued:
            return self.queued[-1]
        return self.leased[-1] if self.leased else None

    def is_settled(self, position: int) -> bool:
        """Return whether the delivery at *position* is settled, and not here to be read again."""
        oldest = self.oldest()
        return position <= self.settled and (oldest is None or oldest.position > position)

    def take_in(self, delivery: Delivery) -> None:
        """Give *delivery* the next position; the caller has stepped the machine."""
        delivery.state = DELIVERY_TRANSITIONS[delivery.state, "expect"]
        self.last_position = delivery.position = self.last_position + 1
        delivery.state_after = self.at
        delivery.n_followed = len(self.said)
        delivery.epoch = self.epoch
        self.involved = True
        self.queued.append(delivery)

    def release(self, *, crashed: bool = False) -> None:
        """Put everything leased back in front, the lease ended; a crash counts as an attempt of the oldest (10)."""
        if crashed and self.leased:
            self.leased[0].attempt += 1
        while self.leased:
            delivery = self.leased.pop()
            delivery.move("release")
            self.queued.appendleft(delivery)

    def settle_through(self, position: int) -> int:
        """Settle every delivery up to *position* and return how many of them were leased."""
        n_leased = 0
        while True:
            if self.leased and self.leased[0].position <= position:
                delivery = self.leased.popleft()
                n_leased += 1
            elif not self.leased and self.queued and self.queued[0].position <= position:
                delivery = self.queued.popleft()
            else:
                break
            delivery.move("settle")
            self._forget(delivery)
            if self.history is not None:
                self.history.append(delivery)
        if position > self.settled:
            self.settled = position
            self.commits = 0
        return n_leased

    def discard(self, scope: int, *, since: int = 0, keep: int = 0) -> int:
        """Drop what belongs to *scope* and is not settled; return how many of it were leased.

        Args:
            since: Only what has a higher sequence number.
            keep: Position of a delivery whose turn goes on in the new state, 0 for none.
        """
        oldest, n_leased = self.oldest(), len(self.leased)
        for delivery in (*self.leased, *self.queued):
            if keep and delivery.position == keep:
                delivery.scopes = ()
        self.early = [delivery for delivery in self.early if not self._dropped(delivery, scope, since)]
        self.leased = deque(delivery for delivery in self.leased if not self._dropped(delivery, scope, since))
        self.queued = deque(delivery for delivery in self.queued if not self._dropped(delivery, scope, since))
        if self.oldest() is not oldest:
            self.commits = 0
        return n_leased - len(self.leased)

    def discard_all(self) -> int:
        """Drop everything that is not settled; return how many were leased."""
        n_leased = len(self.leased)
        for delivery in (*self.early, *self.leased, *self.queued):
            delivery.move("discard")
        self.early.clear()
        self.leased.clear()
        self.queued.clear()
        self.unsettled = dict.fromkeys(self.unsettled, 0)
        self.commits = 0
        return n_leased

    def discard_oldest(self) -> int:
        """Drop the oldest delivery, which must be there; return 1 if it was leased, else 0."""
        n_leased = 1 if self.leased else 0
        delivery = (self.leased or self.queued).popleft()
        delivery.move("discard")
        self._forget(delivery)
        self.settled = max(self.settled, delivery.position)
        self.commits = 0
        return n_leased

    def discard_newest(self) -> int:
        """Drop the delivery that the role was answering, if any; return 1 if it was leased, else 0."""
        newest = self.newest()
        if newest is None:
            return 0
        if newest is self.oldest():
            return self.discard_oldest()
        n_leased = 0 if self.queued else 1
        (self.queued or self.leased).pop()
        newest.move("discard")
        self._forget(newest)
        return n_leased

    def discard_dead(self) -> None:
        """Drop the dead letter, if there is one: the bus moved on, and what comes behind it must get through."""
        if self.queued and self.queued[0].state is DeliveryState.DEAD:
            self.discard_oldest()

    def bury(self, code: str, detail: str) -> Delivery:
        """Make the oldest delivery a dead letter; it blocks the mailbox until requeued, dropped or discarded."""
        self.release()
        delivery = self.queued[0]
        delivery.move("bury")
        delivery.reason = (code, detail)
        return delivery

    def read_again(self) -> None:
        """Queue everything ever settled once more, for a caller that begins its handler anew."""
        self.release()
        if self.history:
            for delivery in reversed(self.history):
                delivery.move("read again")
                self.queued.appendleft(delivery)
                if delivery.type in self.unsettled:
                    self.unsettled[delivery.type] += 1
            self.history = []

    def _dropped(self, delivery: Delivery, scope: int, since: int) -> bool:
        if scope not in delivery.scopes or delivery.sequence <= since:
            return False
        delivery.move("discard")
        self._forget(delivery)
        return True

    def _forget(self, delivery: Delivery) -> None:
        count = self.unsettled.get(delivery.type)
        if count is not None:
            self.unsettled[delivery.type] = count - 1
