"""The roles of a random run, each played by a client that does only what its own projection allows.

A client knows what it has read and what it has said, which may be long out of date. It is fair: a turn goes on
while its role may speak. Everything else is drawn: who acts, what is said, how much one commit holds.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from bus.broker.cast import Cast
from bus.broker.delivery import Delivery
from bus.broker.mailbox import Mailbox
from bus.testing.arena import Arena, Fault
from bus.testing.choices import Choices
from bus.testing.desk import Answer, Desk
from bus.testing.hall import Hall
from bus.testing.judge import Label


class Client:
    """One role as its agent sees it; see ``bus.sdk.seat.Seat``.

    Attributes:
        at: The state in which the role stands, for all that the agent knows.
        turn: The delivery at work.
    """

    __slots__ = ("at", "epoch", "position", "turn")

    def __init__(self, at: int) -> None:
        self.at = at
        self.epoch = 0
        self.position = 0
        self.turn: Delivery | None = None

    def take(self, cast: Cast, mailbox: Mailbox, delivery: Delivery) -> None:
        """Begin a turn on *delivery*, as ``Seat.take`` does."""
        told = cast.state_of(mailbox, delivery)  # the broker's word on the state
        self.turn = delivery
        if delivery.position <= self.position:
            return  # a script that gets again what it has read
        self.position = delivery.position
        if delivery.epoch == self.epoch and delivery.type >= 0:
            move = mailbox.machine.receive[self.at].get((delivery.sender, delivery.type))
            self.at = told if move is None else cast.after(mailbox, self.at, move)
        elif delivery.epoch >= self.epoch:
            self.at = told
            self.epoch = delivery.epoch

    def lose_lease(self) -> None:
        """Forget the turn; the broker's word on the state counts for what comes next, as in a new ``Seat``."""
        self.turn = None
        self.epoch = -1
        self.position = 0


class Clients:
    """All clients of a run.

    Args:
        absent: Roles that somebody else plays.

    Attributes:
        superseded: Roles of which a message came too late: what follows it in the same epoch does so too.
    """

    def __init__(self, arena: Arena | Hall, desk: Desk, choices: Choices, *, absent: Collection[int] = ()) -> None:
        self._arena = arena
        self._desk = desk
        self.superseded: set[int] = set()
        self._choices = choices
        self._clients = [Client(machine.start) for machine in desk.conversation.tables.machines]
        self._present = [role for role in range(len(self._clients)) if role not in absent]
        # Slow ones mostly do nothing while others can.
        self._slow = [choices.chance(0.3) for _ in self._clients]

    def catch_up(self) -> None:
        """Let clients know whose lease was taken back and whose turn a bus event has settled."""
        desk = self._desk
        for role in desk.revoked:
            if role == desk.opener:
                self._clients[role].turn = None
            else:
                self._clients[role].lose_lease()
        desk.revoked.clear()
        for client, mailbox in zip(self._clients, desk.conversation.mailboxes, strict=True):
            if client.turn is not None and (not mailbox.leased or mailbox.leased[0] is not client.turn):
                client.turn = None

    def act(self) -> bool:
        """Let one client do one thing; return False where nobody can do anything."""
        roles, choices = self._present, self._choices
        first = choices.pick(len(roles))
        late = []
        for role in (*roles[first:], *roles[:first]):
            if self._slow[role] and choices.chance(0.9):
                late.append(role)
            elif self._do(role):
                return True
        return any(self._do(role) for role in late)

    def interrupt(self, role: int) -> bool:
        """Let the role interrupt, inside its turn or outside, if it may for all that it knows."""
        if role not in self._present:
            return False
        desk, client = self._desk, self._clients[role]
        moves = desk.conversation.mailboxes[role].machine.send[client.at]
        labels = [label for label, move in moves.items() if move.interrupt >= 0]
        if not labels:
            return False
        label = labels[self._choices.pick(len(labels))]
        if client.turn is not None and self._choices.pick(2):
            answer = desk.commit(role, client.turn, [label], settles=False)
        else:
            answer = desk.send(role, label, client.epoch)
        self._judge(role, label, answer)
        if answer is Answer.ACCEPTED:
            client.at = desk.conversation.cast.after(desk.conversation.mailboxes[role], client.at, moves[label])
        return True

    # -- one client --------------------------------------------------------------------------------

    def _do(self, role: int) -> bool:
        desk, client = self._desk, self._clients[role]
        mailbox = desk.conversation.mailboxes[role]
        is_script = role == desk.opener
        if client.turn is None and mailbox.leased:
            desk.begin(role, mailbox.leased[0])
            client.take(desk.conversation.cast, mailbox, mailbox.leased[0])
            return True
        if client.turn is None and not is_script:
            return False
        wanted = self._sayable(client, mailbox)
        labels = [label for label in wanted if desk.has_room(label)]  # the others would be held
        if labels and not (is_script and client.turn is not None and self._choices.pick(4) == 0):
            self._say(role, client, mailbox, labels[self._choices.pick(len(labels))])
            return True
        # A script settles what it reads at once; an agent's turn goes on while it has something to say.
        if client.turn is not None and (is_script or not wanted):
            self._finish(role, client)
            return True
        return False

    def _sayable(self, client: Client, mailbox: Mailbox) -> list[Label]:
        """Return the ordinary messages that the client may send for all it knows: it counts its own streams."""
        conversation = self._desk.conversation
        limits = conversation.tables.counters
        found = []
        for label, move in mailbox.machine.send[client.at].items():
            if move.interrupt < 0 and all(
                conversation.counters[counter] < limits[counter].limit for counter in move.guards
            ):
                found.append(label)
        return found

    def _say(self, role: int, client: Client, mailbox: Mailbox, label: Label) -> None:
        desk = self._desk
        labels = [label]
        if client.turn is None or desk.lossy[label[0]]:
            answer = desk.send(role, label, client.epoch)
        else:
            labels = self._bundle(client, mailbox, label)
            may_speak_on = any(
                move.interrupt < 0 for move in mailbox.machine.send[self._after(client, mailbox, labels)].values()
            )
            settles = not may_speak_on and self._choices.pick(3) == 0
            answer = desk.commit(role, client.turn, labels, settles=settles)
            if settles:
                client.turn = None
        self._judge(role, label, answer)
        if not desk.lossy[label[0]]:
            client.at = self._after(client, mailbox, labels)

    def _bundle(self, client: Client, mailbox: Mailbox, label: Label) -> list[Label]:
        """Return one or more messages for one commit; only the first needs the counters' word."""
        after = partial(self._desk.conversation.cast.after, mailbox)
        labels, at = [label], after(client.at, mailbox.machine.send[client.at][label])
        while not mailbox.machine.send[client.at][label].counts and self._choices.pick(3) == 0:
            onward = [
                one
                for one, move in mailbox.machine.send[at].items()
                if move.interrupt < 0
                and not (move.guards or move.counts or self._desk.lossy[one[0]] or one in labels)
                and self._desk.has_room(one)
            ]
            if not onward:
                break
            labels.append(onward[self._choices.pick(len(onward))])
            at = after(at, mailbox.machine.send[at][labels[-1]])
        return labels

    def _finish(self, role: int, client: Client) -> None:
        assert client.turn is not None  # the caller has looked
        turn, client.turn = client.turn, None
        if role == self._desk.opener:
            self._desk.settle(role, turn)
        elif self._desk.commit(role, turn, (), settles=True) is not Answer.ACCEPTED:
            raise Fault("blamed", f"the end of a turn was refused: {self._desk.why_refused}")

    def _judge(self, role: int, label: Label, answer: Answer) -> None:
        """A client that keeps to its projection is never blamed, and only superseded where the bus moved on."""
        if answer is Answer.ACCEPTED:
            return
        said, conversation = self._arena.say(role, label), self._desk.conversation
        if answer is Answer.REFUSED:
            text = f"{said} keeps to what its sender has seen and was refused: {self._desk.why_refused}"
            raise Fault("blamed", text)
        self._arena.tally.n_superseded += 1
        self.superseded.add(role)
        is_current = self._clients[role].epoch == conversation.epoch and conversation.outcome is None
        if is_current and (role, label) not in self._arena.interrupts:
            raise Fault("superseded", f"{said} was superseded although its sender had seen every bus event")

    def _after(self, client: Client, mailbox: Mailbox, labels: list[Label]) -> int:
        at = client.at
        for label in labels:
            at = self._desk.conversation.cast.after(mailbox, at, mailbox.machine.send[at][label])
        return at
