"""A random run of one conversation through the real monitor, held to the judge at every step.

Clients act in any order and as late as they like; bus events strike wherever the monitor lets them; at random
points something is tried that the judge forbids. After every step what the monitor has recorded is followed by
the judge, and the two are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import inf

from bus.broker.delivery import DeliveryState
from bus.broker.mailbox import Mailbox
from bus.broker.refusal import allowed_moves
from bus.spec.tables import NO_EVENT, NO_TIMER, EventKind
from bus.testing.arena import Arena, Fault
from bus.testing.choices import Choices
from bus.testing.clients import Clients
from bus.testing.desk import Answer, Desk, MonitorDesk, event_of
from bus.testing.hall import Hall, Halls

MISHAPS = (0.0, 0.05, 0.2)  # of the steps of a run something goes wrong in so many; each run has one of these
PROBE = 0.1  # of the steps before which one forbidden message is tried
STEPS = 120  # after which a run is cut: an endless protocol has no other end
CUT = "(cut)"  # stands for the outcome of a run that was cut


class Run:
    """One conversation, from its opening to its end.

    Args:
        arena: The protocol's.
        choices: Where every decision comes from.
        calm: Let nothing go wrong.
        absent: Roles that somebody else plays.
        new_desk: Makes what the run acts on.

    Attributes:
        trace: What happened, in the order in which the bus decided it.
        desk: What the run acts on.
    """

    def __init__(
        self, arena: Arena | Halls, choices: Choices, *, steps: int = STEPS, calm: bool = False,
        absent: Collection[int] = (), new_desk: Callable[..., Desk] = MonitorDesk,
    ) -> None:  # fmt: skip
        self.arena: Arena | Hall = arena.draw(choices)
        self.choices = choices
        self.trace: list[str] = []
        self._left = steps
        self._absent = absent
        # Each run is of its own temper: who is slow, how much goes wrong, how far ahead agents read.
        self._mishap = 0.0 if calm else MISHAPS[choices.pick(len(MISHAPS))]
        openers = [role for role in self.arena.openers if role not in absent] or [
            role for role in range(len(self.arena.names)) if role not in absent
        ]
        opener = openers[choices.pick(len(openers))]
        self.desk = new_desk(arena.protocol, opener=opener, credit=(1, 2, 100)[choices.pick(3)], **self._with())
        self._clients = Clients(self.arena, self.desk, choices, absent=absent)
        self._place = self.arena.judge.begin()
        self._seen = 0
        self._raised: dict[int, int] = {}  # role → epoch in which it spoke last and a bus event came
        self._before: dict[int, int] = {}  # epoch → the judge's place when it ended
        arena.tally.n_runs += 1

    def play(self) -> str:
        """Play to the end and return the outcome, ``CUT`` where the run was cut.

        Raises:
            Fault: A claim is broken; ``trace`` tells the way there.
        """
        self.follow()
        while self.is_on:
            if not self.step():
                self.go_on()
            self.follow()
        return self.finish()

    @property
    def is_on(self) -> bool:
        """Whether the conversation lives and there are steps left."""
        return self._left > 0 and self.desk.conversation.outcome is None

    def step(self, *, calm: bool = False) -> bool:
        """Let one thing happen, no mishap where *calm*; return False where nobody of the run's can do anything."""
        self._left -= 1
        if self.choices.chance(PROBE):
            self._probe()
        if self.desk.conversation.calls.running and self.choices.chance(PROBE) and self._return():
            return True
        happens = self.choices.chance(self._mishap) and not calm
        return (happens and self._befall()) or self._clients.act()

    def finish(self) -> str:
        """Cut the run if it is still on, see that nothing is left behind, and return the outcome."""
        outcome = self.desk.conversation.outcome
        if outcome is None:
            self.desk.cancel()
            self.follow()
        conversation = self.desk.conversation
        for mailbox in () if self.arena.is_cut_short(conversation) else conversation.mailboxes:
            if not conversation.reason and not mailbox.machine.final[mailbox.at]:
                name = self.arena.names[mailbox.role]
                raise Fault("inconsistent", f"the conversation is over, and {name} does not know it")
            if mailbox.early:
                sender = conversation.cast.speaker(mailbox.early[0].sender)
                name = self.arena.protocol.messages[mailbox.early[0].type].name
                raise Fault("orphan", f"{name} of {sender} was accepted and can never be delivered")
        self.arena.tally.outcomes[outcome or CUT] += 1
        return outcome or CUT

    def _with(self) -> dict[str, object]:
        """Return what a desk is told of members, where there are any."""
        return {"members": self.arena.members} if self.arena.members else {}

    def _return(self) -> bool:
        """Let a protocol that was called end, in any way that it may; False where none runs."""
        conversation, choices = self.desk.conversation, self.choices
        running = sorted(conversation.calls.running)
        if not running:
            return False
        call = running[choices.pick(len(running))]
        outcomes = conversation.tables.calls[call].events
        self.desk.end_call(call, outcomes[choices.pick(len(outcomes))][0])
        return True

    # -- mishaps -----------------------------------------------------------------------------------

    def _befall(self) -> bool:
        """Let something befall the conversation; False where nothing can."""
        kinds = (self._miss, self._time_is_up, self._lose, self._interrupt, self._bury)
        first = self.choices.pick(len(kinds))
        return any(kind() for kind in (*kinds[first:], *kinds[:first]))

    def _any_mailbox(self) -> Mailbox:
        mailboxes = self.desk.conversation.mailboxes
        return mailboxes[self.choices.pick(len(mailboxes))]

    def _interrupt(self) -> bool:
        return self._clients.interrupt(self._any_mailbox().role)

    def _lose(self) -> bool:
        mailbox = self._any_mailbox()
        event = event_of(self.desk.conversation, mailbox, EventKind.LOST)
        if event is None or mailbox.agent is None or mailbox.human:
            return False
        self.desk.strike(event)
        return True

    def _miss(self) -> bool:
        """Let somebody be late; deadlines that only end the conversation pass more rarely than others."""
        conversation, choices = self.desk.conversation, self.choices
        timers = conversation.tables.timers
        waiting = [
            (one, timer)
            for one in conversation.mailboxes
            for timer in one.waits or (one.timer,)
            if timer != NO_TIMER and (one.waits[timer][0] if one.waits else one.deadline) < inf
        ]
        late = [(one, timer) for one, timer in waiting if timers[timer].event != NO_EVENT]
        if not late and choices.pick(8) == 0:
            late = waiting
        if late:
            self.desk.miss(*late[choices.pick(len(late))])
        return bool(late)

    def _time_is_up(self) -> bool:
        conversation = self.desk.conversation
        inside = {scope for one in conversation.mailboxes for scope in one.machine.scopes[one.at]}
        timeouts = [event for scope in sorted(inside) for _, event in conversation.tables.scopes[scope].timeouts]
        if timeouts:
            self.desk.strike(timeouts[self.choices.pick(len(timeouts))])
        return bool(timeouts)

    def _bury(self) -> bool:
        desk, mailbox = self.desk, self._any_mailbox()
        if not mailbox.leased or mailbox.leased[0].type < 0 or mailbox.role in (desk.opener, *self._absent):
            return False
        if event_of(desk.conversation, mailbox, EventKind.FAILED) is None and self.choices.pick(8):
            return False
        desk.bury(mailbox)
        return True

    # -- what must hold ----------------------------------------------------------------------------

    def follow(self) -> None:
        """Let the judge follow what the monitor has recorded since the last look, and compare the two.

        Raises:
            Fault: They differ.
        """
        desk, arena = self.desk, self.arena
        conversation = desk.conversation
        self._clients.catch_up()
        for index in range(self._seen - conversation.sequence, 0):
            self._follow_entry(index)
        arena.note_reached(conversation)
        if conversation.outcome is not None:
            return
        key = (self._place, arena.state_key(conversation), tuple(conversation.counters), *conversation.calls.running)
        if key not in arena.verified:
            self._verify()
            arena.verified.add(key)
        if arena.judge.place(self._place).is_even and any(mailbox.early for mailbox in conversation.mailboxes):
            raise Fault("orphan", "a message waits to be expected although everything before it has happened")

    def _follow_entry(self, index: int) -> None:
        arena, judge = self.arena, self.arena.judge
        entry = self.desk.conversation.transcript[index]
        if entry.sequence != self._seen + 1:
            raise Fault("sequence", f"expected entry {self._seen + 1} of the transcript, got {entry.sequence}")
        self._seen += 1
        if entry.sender >= 0:
            self._before[entry.epoch] = self._place  # the message may interrupt, and end the epoch
            said = arena.say(entry.sender, (entry.type, entry.address))
            self.trace.append(said)
            arena.tally.n_messages += 1
            after = judge.send(self._place, entry.sender, entry.type, entry.address)
            if after is None:
                raise Fault("illegal-accepted", f"{said} was accepted")
            if self.desk.conversation.mailboxes[entry.sender].epoch > entry.epoch:
                self._raised[entry.sender] = entry.epoch
        else:
            self._before[entry.epoch - 1] = self._place
            self.trace.append(f"the bus: {entry.event}")
            arena.tally.n_events += 1
            if index == -1 and self.desk.conversation.reason:
                return  # it was closed from outside: failed or canceled
            after = judge.fire(self._place, arena.events[entry.event])
            if after is None:
                raise Fault("event-out-of-place", f"{entry.event} may not come here")
            if judge.place(after).is_over and not judge.place(after).is_even:
                raise Fault("orphan", f"{entry.event} comes while something sent before stands behind it")
        self._place = after

    def _verify(self) -> None:
        """Try every kind of message of every role, and compare every role's state with the conversation's."""
        arena, conversation = self.arena, self.desk.conversation
        ruling, place = arena.judge.ruling(self._place), arena.judge.place(self._place)
        for mailbox in conversation.mailboxes:
            allowed = ruling.allowed(mailbox.role)
            for label in arena.labels:
                is_allowed = conversation.find_move(mailbox, *label) is not None
                if is_allowed is not (label in allowed):
                    said = arena.say(mailbox.role, label)
                    if is_allowed:
                        raise Fault("illegal-accepted", f"{said} would be accepted")
                    raise Fault("legal-refused", f"{said} would be refused")
            arena.tally.n_illegal += len(arena.labels) - len(allowed)
        if ruling.due != NO_EVENT:
            raise Fault("event-missing", f"{arena.event_name(ruling.due)} is due and does not come")
        if place.is_even:
            misplaced = arena.misplaced(conversation, self._place)
            if misplaced is not None:
                raise Fault("inconsistent", "{} is not where the conversation is (state {})".format(*misplaced))
            self._verify_calls(ruling.sudden)

    def _verify_calls(self, sudden: frozenset[int]) -> None:
        """See that the calls that run are those at which the conversation stands."""
        conversation, arena = self.desk.conversation, self.arena
        for call, table in enumerate(conversation.tables.calls):
            is_due = arena.events[conversation.tables.events[table.events[0][1]].name] in sudden
            if is_due is not (call in conversation.calls.running):
                text = "does not run where the conversation waits for it" if is_due else "runs out of place"
                raise Fault("call", f"call {table.name} {text}")

    def _probe(self) -> None:
        """Try one forbidden message, as of now or of an older epoch: refused or superseded, and nothing changes."""
        arena, conversation, choices = self.arena, self.desk.conversation, self.choices
        if not arena.labels:  # only members ever speak, and there are none
            return
        role, label = choices.pick(len(conversation.mailboxes)), arena.labels[choices.pick(len(arena.labels))]
        allowed = arena.judge.ruling(self._place).allowed(role)
        if label in allowed or role in self._absent:
            return
        arena.tally.n_illegal += 1
        epoch = conversation.epoch - choices.pick(min(conversation.epoch + 1, 4))
        before = self._fingerprint()
        answer = self.desk.send(role, label, epoch)
        said = arena.say(role, label)
        if self._fingerprint() != before:
            raise Fault("illegal-changed", f"{said} is not allowed and changed something")
        if answer is Answer.ACCEPTED or answer not in self._verdicts(role, label, epoch):
            raise Fault("wrong-verdict", f"{said} of epoch {epoch}, now {conversation.epoch}, was {answer}")
        if answer is Answer.SUPERSEDED:
            self._clients.superseded.add(role)
        listed = {(one.type, one.address) for one in allowed_moves(conversation, conversation.mailboxes[role])}
        if listed != allowed:
            raise Fault("allowed-list", f"the refusal of {said} lists {sorted(listed)}, not {sorted(allowed)}")

    def _verdicts(self, role: int, label: tuple[int, int], epoch: int) -> tuple[Answer, ...]:
        """Return what a forbidden message may be told."""
        if (role, label) in self.arena.interrupts:  # it may have crossed with what its sender has not read yet
            return (Answer.REFUSED, Answer.SUPERSEDED)
        if epoch == self.desk.conversation.epoch:
            return (Answer.REFUSED,)
        if self.desk.conversation.players[role].member >= 0:  # what befell other members since is none of its business
            was_moved = self.desk.conversation.mailboxes[role].epoch > epoch
            return (Answer.REFUSED, Answer.SUPERSEDED) if was_moved else (Answer.REFUSED,)
        if epoch <= self._raised.get(
            role, -1
        ):  # it has itself raised an interrupt since, and knows of that epoch's end
            return (Answer.REFUSED, Answer.SUPERSEDED)
        was_allowed = label in self.arena.judge.ruling(self._before[epoch]).allowed(role)
        if not was_allowed and (role, label) in self.arena.guarded:  # a full stream of an older epoch: either will do
            return (Answer.REFUSED, Answer.SUPERSEDED)
        if was_allowed:
            return (Answer.SUPERSEDED,)
        return (Answer.REFUSED, Answer.SUPERSEDED) if role in self._clients.superseded else (Answer.REFUSED,)

    def _fingerprint(self) -> tuple[object, ...]:
        conversation = self.desk.conversation
        return (
            conversation.sequence, conversation.epoch, conversation.outcome, tuple(conversation.counters),
            tuple([(one.at, len(one), one.settled, one.timer, one.epoch) for one in conversation.mailboxes]),
        )  # fmt: skip

    def go_on(self) -> None:
        """Nobody can do anything: a dead letter waits for a person, or the conversation is stuck.

        Raises:
            Fault: It is stuck.
        """
        arena, conversation = self.arena, self.desk.conversation
        for mailbox in conversation.mailboxes:
            if mailbox.queued and mailbox.queued[0].state is DeliveryState.DEAD:
                self.desk.requeue(mailbox)
                return
        if self._return():
            return
        ruling = arena.judge.ruling(self._place)
        may = [arena.say(role, label) for role, labels in enumerate(ruling.sends) for label in sorted(labels)]
        if may:
            raise Fault("silent", f"may be sent, but nothing makes its sender speak: {'; '.join(may)}")
        raise Fault("stuck", "nobody may say anything, and no bus event is due")
