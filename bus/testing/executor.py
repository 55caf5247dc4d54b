"""A random run of one conversation through the real monitor, held to the judge at every step.

Every role is played by a client that does only what its own projection allows, from what it has read so
far, which may be long out of date: handlers are slow. Bus events strike wherever the monitor lets them.
At random points everything is tried that the judge forbids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from bus.broker.entry import CANCELED
from bus.broker.mailbox import Delivery, DeliveryState, Mailbox
from bus.broker.refusal import out_of_turn
from bus.spec.projection import Projections, project
from bus.spec.protocol import Protocol
from bus.spec.tables import NO_EVENT, NO_TIMER, EventKind
from bus.testing.choices import Choices
from bus.testing.desk import Answer, Desk, Label
from bus.testing.judge import Judge

MISHAP = 0.06  # of the steps of a run in which mishaps happen at all
PROBE = 0.1  # of the steps before which one forbidden message is tried


class Fault(Exception):
    """Raised when a run breaks one of the claims; *kind* names it."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(kind, text)
        self.kind = kind
        self.text = text

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass(slots=True)
class Tally:
    """What was seen in the runs of one protocol.

    Attributes:
        outcomes: How often a run ended so; ``"(cut)"`` where it was stopped after its steps.
        reached: For each role the states in which it stood.
    """

    n_runs: int = 0
    n_messages: int = 0
    n_events: int = 0
    n_illegal: int = 0
    n_superseded: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    reached: list[set[int]] = field(default_factory=list)


class Arena:
    """What all runs of one protocol share: its judge, what each role's states mean, what was verified already."""

    def __init__(self, protocol: Protocol, found: Projections | None = None) -> None:
        self.protocol = protocol
        self.judge = Judge(protocol.spec)
        self.points = [view.points for view in (found or project(protocol.spec)).views]
        self.events = {event.name: number for number, event in enumerate(protocol.tables.events)}
        machines = protocol.tables.machines
        labels = {label for machine in machines for moves in machine.send for label in moves}
        self.labels = sorted({(type, address) for type, _ in labels for _, address in labels})
        self.interrupts = {
            (machine.role, label)
            for machine in machines
            for moves in machine.send
            for label, move in moves.items()
            if move.interrupt >= 0
        }
        self.tally = Tally(reached=[set() for _ in machines])
        self.verified: set[tuple[int, tuple[int, ...], tuple[int, ...]]] = set()
        start = self.judge.ruling(self.judge.begin())
        self.openers = [role for role, sends in enumerate(start.sends) if sends] or [0]

    def say(self, role: int, label: Label) -> str:
        """Return ``a -> b: M``."""
        protocol = self.protocol
        to = ", ".join(protocol.roles[one].name for one in protocol.tables.addresses[label[1]])
        return f"{protocol.roles[role].name} -> {to}: {protocol.messages[label[0]].name}"


class _Client:
    """One role as its agent sees it."""

    __slots__ = ("at", "epoch", "position", "turn")

    def __init__(self, at: int) -> None:
        self.at = at
        self.epoch = 0
        self.position = 0
        self.turn: Delivery | None = None

    def lose_lease(self) -> None:
        """Forget the turn; the broker's word on the state counts for what comes next, as in a new ``Seat``."""
        self.turn = None
        self.epoch = -1
        self.position = 0


class Run:
    """One conversation, from its opening to its end.

    Args:
        arena: The protocol's.
        choices: Where every decision comes from.
        steps: After so many the run is cut; an endless protocol has no other end.
        calm: Let nothing go wrong.
        new_desk: Makes what the run acts on.

    Attributes:
        trace: What happened, in the order in which the bus decided it.
    """

    def __init__(
        self, arena: Arena, choices: Choices, *, steps: int = 120, calm: bool = False,
        new_desk: Callable[..., Desk] = Desk,
    ) -> None:  # fmt: skip
        self.arena = arena
        self.choices = choices
        self.trace: list[str] = []
        self._steps = steps
        n_roles = len(arena.protocol.roles)
        # Each run is of its own temper: who is slow, how much goes wrong, how far ahead agents read.
        self._mishap = 0.0 if calm or choices.chance(0.3) else MISHAP
        self._slow = [choices.chance(0.3) for _ in range(n_roles)]
        opener = arena.openers[choices.pick(len(arena.openers))]
        self.desk: Desk = new_desk(arena.protocol, opener=opener, credit=(1, 2, 100)[choices.pick(3)])
        self._clients = [_Client(machine.start) for machine in arena.protocol.tables.machines]
        self._place = arena.judge.begin()
        self._seen = 0
        self._before: dict[int, int] = {}  # epoch → the judge's place when it ended

    def play(self) -> str:
        """Play to the end and return the outcome, ``"(cut)"`` where the run was cut.

        Raises:
            Fault: A claim is broken; ``trace`` tells the way there.
        """
        tally, choices = self.arena.tally, self.choices
        tally.n_runs += 1
        self._follow()
        conversation = self.desk.conversation
        for _ in range(self._steps):
            if conversation.outcome is not None:
                break
            if choices.chance(PROBE):
                self._probe()
            if not (choices.chance(self._mishap) and self._befall()) and not self._act():
                self._cannot_go_on()
            self._follow()
        outcome = conversation.outcome
        if outcome is None:
            self.desk.close(CANCELED)
            self._follow()
        self._drain()
        tally.outcomes[outcome or "(cut)"] += 1
        return outcome or "(cut)"

    # -- what clients do ---------------------------------------------------------------------------

    def _act(self) -> bool:
        """Let one client do one thing; slow ones mostly do nothing while others can. False: nobody can."""
        n_roles = len(self._clients)
        first = self.choices.pick(n_roles)
        late = []
        for role in (*range(first, n_roles), *range(first)):
            if self._slow[role] and self.choices.chance(0.9):
                late.append(role)
            elif self._do(role):
                return True
        return any(self._do(role) for role in late)

    def _do(self, role: int) -> bool:
        client, mailbox = self._clients[role], self.desk.conversation.mailboxes[role]
        if client.turn is None and mailbox.leased:
            self._begin(client, mailbox, mailbox.leased[0])
            return True
        if client.turn is None and role != self.desk.opener:
            return False
        wanted = self._sayable(client, mailbox)
        labels = [label for label in wanted if self.desk.has_room(label)]  # the others would be held
        if labels and (role != self.desk.opener or client.turn is None or self.choices.pick(4)):
            self._say(role, client, mailbox, labels[self.choices.pick(len(labels))])
            return True
        # A script settles what it reads at once; an agent's turn goes on while it has something to say.
        if client.turn is not None and (role == self.desk.opener or not wanted):
            self._finish(role, client)
            return True
        return False

    def _begin(self, client: _Client, mailbox: Mailbox, delivery: Delivery) -> None:
        """Take the delivery as ``Seat.take`` does."""
        client.turn = delivery
        self.desk.begin(delivery, mailbox.role)
        if delivery.position <= client.position:
            return  # a script that gets again what it has read
        client.position = delivery.position
        if delivery.epoch == client.epoch and delivery.type >= 0:
            move = mailbox.machine.receive[client.at].get((delivery.sender, delivery.type))
            client.at = delivery.state_after if move is None else move.next
        elif delivery.epoch >= client.epoch:
            client.at = delivery.state_after
            client.epoch = delivery.epoch

    def _sayable(self, client: _Client, mailbox: Mailbox) -> list[Label]:
        """Return the ordinary messages that the client may send for all it knows: it counts its own streams."""
        conversation = self.desk.conversation
        limits = conversation.tables.counters
        found = []
        for label, move in mailbox.machine.send[client.at].items():
            if move.interrupt < 0 and all(conversation.counters[counter] < limits[counter].limit for counter in move.guards
            ):
                found.append(label)
        return found

    def _say(self, role: int, client: _Client, mailbox: Mailbox, label: Label) -> None:
        desk = self.desk
        if client.turn is None or desk.lossy[label[0]]:
            answer = desk.send(role, label, client.epoch)
            labels = [label]
        else:
            labels = self._bundle(client, mailbox, label)
            settles = not self._owes(mailbox, self._after(client, mailbox, labels)) and self.choices.pick(3) == 0
            answer = desk.commit(role, client.turn, labels, settles=settles)
            if settles:
                client.turn = None
        self._judge_answer(role, client, mailbox, label, answer)
        if not desk.lossy[label[0]]:
            client.at = self._after(client, mailbox, labels)

    def _bundle(self, client: _Client, mailbox: Mailbox, label: Label) -> list[Label]:
        """Return one or more messages for one commit; only the first needs the counters' word."""
        labels, at = [label], mailbox.machine.send[client.at][label].next
        while self.choices.pick(3) == 0:
            onward = [
                one
                for one, move in mailbox.machine.send[at].items()
                if move.interrupt < 0 and not move.guards and not move.counts and not self.desk.lossy[one[0]]
            ]
            if not onward or mailbox.machine.send[client.at][label].counts:
                break
            labels.append(onward[self.choices.pick(len(onward))])
            at = mailbox.machine.send[at][labels[-1]].next
        return labels

    @staticmethod
    def _after(client: _Client, mailbox: Mailbox, labels: list[Label]) -> int:
        at = client.at
        for label in labels:
            at = mailbox.machine.send[at][label].next
        return at

    def _owes(self, mailbox: Mailbox, state: int) -> bool:
        """Return whether the client goes on speaking: a fair one says all that it may before its turn ends."""
        return any(move.interrupt < 0 for move in mailbox.machine.send[state].values())

    def _judge_answer(self, role: int, client: _Client, mailbox: Mailbox, label: Label, answer: Answer) -> None:
        """A client that keeps to its projection is never blamed, and only superseded where the bus moved on."""
        if answer is Answer.ACCEPTED:
            return
        said = self.arena.say(role, label)
        if answer is Answer.REFUSED:
            raise Fault("blamed", f"{said} keeps to what its sender has seen and was refused: {self.desk.why_refused}")
        self.arena.tally.n_superseded += 1
        is_current = client.epoch == self.desk.conversation.epoch and self.desk.conversation.outcome is None
        if is_current and (role, label) not in self.arena.interrupts:
            raise Fault("superseded", f"{said} was superseded although its sender had seen every bus event")

    def _finish(self, role: int, client: _Client) -> None:
        assert client.turn is not None  # the caller has looked
        turn, client.turn = client.turn, None
        if role == self.desk.opener:
            self.desk.settle(role, turn)
        elif self.desk.commit(role, turn, (), settles=True) is not Answer.ACCEPTED:
            raise Fault("blamed", f"the end of a turn was refused: {self.desk.why_refused}")

    # -- mishaps and interrupts --------------------------------------------------------------------

    def _befall(self) -> bool:
        """Let something befall the conversation; False where nothing can."""
        desk, conversation = self.desk, self.desk.conversation
        kind = self.choices.pick(8)
        mailbox = conversation.mailboxes[self.choices.pick(len(conversation.mailboxes))]
        if kind < 3:
            waiting = [one for one in conversation.mailboxes if one.timer != NO_TIMER and one.deadline < float("inf")]
            with_else = [one for one in waiting if conversation.tables.timers[one.timer].event != NO_EVENT]
            choice = with_else or (waiting if self.choices.pick(8) == 0 else [])
            if choice:
                late = choice[self.choices.pick(len(choice))]
                desk.miss(late)
            return bool(choice)
        if kind < 5:
            return self._time_is_up()
        if kind == 5:
            event = desk.event_of(mailbox, EventKind.LOST)
            if event is not None and mailbox.agent is not None and not mailbox.human:
                desk.strike(event)
                return True
            return False
        if kind == 6:
            return self._interrupt(mailbox)
        return self._bury(mailbox)

    def _time_is_up(self) -> bool:
        conversation = self.desk.conversation
        inside = {scope for one in conversation.mailboxes for scope in one.machine.scopes[one.at]}
        timeouts = [event for scope in sorted(inside) for _, event in conversation.tables.scopes[scope].timeouts]
        if timeouts:
            self.desk.strike(timeouts[self.choices.pick(len(timeouts))])
        return bool(timeouts)

    def _interrupt(self, mailbox: Mailbox) -> bool:
        """Let the role interrupt, inside its turn or outside, as far as it knows that it may."""
        client = self._clients[mailbox.role]
        labels = [label for label, move in mailbox.machine.send[client.at].items() if move.interrupt >= 0]
        if not labels:
            return False
        label = labels[self.choices.pick(len(labels))]
        if client.turn is not None and self.choices.pick(2):
            answer = self.desk.commit(mailbox.role, client.turn, [label], settles=False)
        else:
            answer = self.desk.send(mailbox.role, label, client.epoch)
        self._judge_answer(mailbox.role, client, mailbox, label, answer)
        if answer is Answer.ACCEPTED:
            client.at = mailbox.machine.send[client.at][label].next
        return True

    def _bury(self, mailbox: Mailbox) -> bool:
        if not mailbox.leased or mailbox.leased[0].type < 0 or mailbox.role == self.desk.opener:
            return False
        if self.desk.event_of(mailbox, EventKind.FAILED) is None and self.choices.pick(8):
            return False
        self.desk.bury(mailbox)
        return True

    # -- what must hold ----------------------------------------------------------------------------

    def _follow(self) -> None:
        """Let the judge follow what the monitor has recorded since the last look, and compare the two."""
        desk, arena = self.desk, self.arena
        conversation, judge = desk.conversation, arena.judge
        for role in desk.revoked:
            if role == desk.opener:
                self._clients[role].turn = None
            else:
                self._clients[role].lose_lease()
        desk.revoked.clear()
        if conversation.sequence != self._seen:
            for index in range(self._seen - conversation.sequence, 0):
                self._step(index)
            if len(conversation.transcript) and conversation.transcript[-1].sequence != conversation.sequence:
                raise Fault("sequence", f"{conversation.transcript[-1]} stands at {conversation.sequence}")
        for client, mailbox in zip(self._clients, conversation.mailboxes, strict=True):
            if client.turn is not None and (not mailbox.leased or mailbox.leased[0] is not client.turn):
                client.turn = None  # a bus event has settled it
        ats = tuple([mailbox.at for mailbox in conversation.mailboxes])
        for role, at in enumerate(ats):
            arena.tally.reached[role].add(at)
        if conversation.outcome is not None:
            return
        key = (self._place, ats, tuple(conversation.counters))
        if key not in arena.verified:
            self._verify(ats)
            arena.verified.add(key)
        place = judge.place(self._place)
        if place.is_even and any(mailbox.early for mailbox in conversation.mailboxes):
            raise Fault("orphan", "a message waits to be expected although everything before it has happened")

    def _step(self, index: int) -> None:
        arena = self.arena
        entry = self.desk.conversation.transcript[index]
        if entry.sequence != self._seen + 1:
            raise Fault("sequence", f"expected {self._seen + 1}, got {entry.sequence}")
        self._seen += 1
        self._before[entry.epoch] = self._place
        if entry.sender >= 0:
            said = arena.say(entry.sender, (entry.type, entry.address))
            self.trace.append(said)
            arena.tally.n_messages += 1
            after = arena.judge.send(self._place, entry.sender, entry.type, entry.address)
            if after is None:
                raise Fault("illegal-accepted", f"{said} was accepted")
        else:
            self.trace.append(f"the bus: {entry.event}")
            arena.tally.n_events += 1
            self._before[entry.epoch - 1] = self._place
            if index == -1 and self.desk.was_closed:
                return
            after = arena.judge.fire(self._place, arena.events[entry.event])
            if after is None:
                raise Fault("event-out-of-place", f"{entry.event} may not come here")
            if arena.judge.place(after).is_over and not arena.judge.place(after).is_even:
                raise Fault("orphan", f"{entry.event} comes while something sent before stands behind it")
        self._place = after

    def _verify(self, ats: tuple[int, ...]) -> None:
        """Try every kind of message of every role, and compare every role's state with the conversation's."""
        arena, conversation = self.arena, self.desk.conversation
        ruling, place = arena.judge.ruling(self._place), arena.judge.place(self._place)
        for mailbox in conversation.mailboxes:
            allowed = ruling.allowed(mailbox.role)
            for label in arena.labels:
                is_allowed = conversation.find_move(mailbox, *label) is not None
                if is_allowed is not (label in allowed):
                    said = arena.say(mailbox.role, label)
                    raise Fault(*(("illegal-accepted", f"{said} would be accepted") if is_allowed
                                  else ("legal-refused", f"{said} would be refused")))  # fmt: skip
            arena.tally.n_illegal += len(arena.labels) - len(allowed)
        if ruling.due != NO_EVENT:
            raise Fault("event-missing", f"{arena.protocol.tables.events[ruling.due].name} is due and does not come")
        if place.is_even:
            for role, at in enumerate(ats):
                if place.point not in arena.points[role][at]:
                    name = arena.protocol.roles[role].name
                    raise Fault("inconsistent", f"{name} is not where the conversation is (state {at})")

    def _probe(self) -> None:
        """Try one forbidden message, as of now and as of an older epoch: refused or superseded, and nothing changes."""
        arena, conversation = self.arena, self.desk.conversation
        mailbox = conversation.mailboxes[self.choices.pick(len(conversation.mailboxes))]
        label = arena.labels[self.choices.pick(len(arena.labels))] if arena.labels else (0, 0)
        allowed = arena.judge.ruling(self._place).allowed(mailbox.role)
        if label in allowed:
            return
        arena.tally.n_illegal += 1
        epoch = conversation.epoch - self.choices.pick(min(conversation.epoch + 1, 4))
        before = self._fingerprint()
        answer = self.desk.send(mailbox.role, label, epoch)
        said = arena.say(mailbox.role, label)
        if self._fingerprint() != before:
            raise Fault("illegal-changed", f"{said} is not allowed and changed something")
        expected = Answer.REFUSED
        if epoch < conversation.epoch and epoch in self._before:
            old = arena.judge.ruling(self._before[epoch]).allowed(mailbox.role)
            expected = Answer.SUPERSEDED if label in old else answer
        if (mailbox.role, label) in arena.interrupts and answer is Answer.SUPERSEDED:
            return  # it may have crossed with what its sender had not read yet
        if answer is not expected:
            raise Fault("wrong-verdict", f"{said} of epoch {epoch}, now {conversation.epoch}: {answer}, not {expected}")
        listed = {(one.type, one.address) for one in out_of_turn(conversation, mailbox, label[0]).allowed or ()}
        if listed != allowed:
            raise Fault("allowed-list", f"the refusal of {said} lists {listed}, allowed is {set(allowed)}")

    def _fingerprint(self) -> tuple[object, ...]:
        conversation = self.desk.conversation
        return (
            conversation.sequence, conversation.epoch, conversation.outcome, tuple(conversation.counters),
            tuple([(one.at, len(one), one.settled, one.timer, one.epoch) for one in conversation.mailboxes]),
        )  # fmt: skip

    def _cannot_go_on(self) -> None:
        """Nobody can do anything: a dead letter waits for a person, or the conversation is stuck."""
        arena, conversation = self.arena, self.desk.conversation
        for mailbox in conversation.mailboxes:
            if mailbox.queued and mailbox.queued[0].state is DeliveryState.DEAD:
                self.desk.requeue(mailbox)
                return
        ruling = arena.judge.ruling(self._place)
        may = [arena.say(role, label) for role, labels in enumerate(ruling.sends) for label in sorted(labels)]
        if may:
            raise Fault("silent", f"may be sent, but nothing makes its sender speak: {'; '.join(may)}")
        raise Fault("stuck", "nobody may say anything, and no bus event is due")

    def _drain(self) -> None:
        """Read what is left: everything accepted reaches its receiver, but what the rules discard."""
        conversation = self.desk.conversation
        for mailbox in conversation.mailboxes:
            if mailbox.early:
                sender = self.arena.protocol.roles[mailbox.early[0].sender].name
                name = self.arena.protocol.messages[mailbox.early[0].type].name
                raise Fault("orphan", f"{name} of {sender} was accepted and can never be delivered")
