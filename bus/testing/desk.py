"""What a random run acts on: one conversation of the real monitor, with or without the records around it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any
from typing import Protocol as Shape

from bus.broker.conversation import Conversation
from bus.broker.delivery import Delivery, DeliveryState
from bus.broker.entry import FAILED
from bus.broker.mailbox import Mailbox
from bus.broker.turn import check_commit, find_late_move
from bus.ids import ID_BYTES
from bus.spec.mode import Mode
from bus.spec.protocol import Delivery as DeliveryClass
from bus.spec.protocol import Protocol
from bus.spec.tables import EventKind
from bus.testing.judge import Label
from bus.wire.codec import encode_body

_EMPTY = encode_body({})
_STATE_BYTES = 65_536
_MAILBOX = 10_000
_WITHIN = 300.0


class Answer(StrEnum):
    """What becomes of something that a role says."""

    ACCEPTED = "accepted"
    SUPERSEDED = "superseded"
    REFUSED = "refused"


class Desk(Shape):
    """A conversation, its roles' leases, and the mishaps that may befall it.

    Attributes:
        conversation: The monitor's own; only looked at.
        opener: The role that opened it and speaks outside turns.
        lossy: For each message type whether it is at-most-once.
        revoked: Roles whose lease was taken back since the run last looked.
        why_refused: The monitor's words on the last refusal.
    """

    conversation: Conversation
    opener: int
    lossy: tuple[bool, ...]
    revoked: list[int]
    why_refused: str

    def send(self, role: int, label: Label, epoch: int) -> Answer:
        """Say a message outside a turn, having seen *epoch*."""

    def commit(self, role: int, delivery: Delivery, labels: Sequence[Label], *, settles: bool) -> Answer:
        """Make one commit of the turn on *delivery*."""

    def begin(self, role: int, delivery: Delivery) -> None:
        """Take up a delivery that was handed out."""

    def settle(self, role: int, delivery: Delivery) -> None:
        """Settle what a script has read."""

    def has_room(self, label: Label) -> bool:
        """Return whether the message would be taken at once rather than held."""

    def miss(self, mailbox: Mailbox, timer: int) -> None:
        """Let one of the role's deadlines pass."""

    def strike(self, event: int) -> None:
        """Let a scope's time be up, or a role be lost."""

    def bury(self, mailbox: Mailbox) -> None:
        """Let the oldest delivery become a dead letter."""

    def requeue(self, mailbox: Mailbox) -> None:
        """Let a person try the dead letter again."""

    def end_call(self, call: int, outcome: str) -> None:
        """Let the protocol that a step has called end so."""

    def cancel(self) -> None:
        """End the conversation from outside."""


def event_of(conversation: Conversation, mailbox: Mailbox, kind: EventKind) -> int | None:
    """Return the LOST or FAILED event of the role in the innermost of its scopes that has one, or None."""
    for scope in reversed(mailbox.machine.scopes[mailbox.at]):
        table = conversation.tables.scopes[scope]
        for role, event in table.lost if kind is EventKind.LOST else table.failed:
            if role == mailbox.role:
                return event
    return None


class MonitorDesk:
    """The conversation alone: ``Conversation`` decides everything.

    The few lines here do for it what the broker's admission, history and dispatch do with their records: settle
    what was handled, take leases back. ``RecordDesk`` is the whole broker, and thirty times slower.

    Args:
        credit: How many deliveries a role is handed before it has settled some.
    """

    def __init__(
        self, protocol: Protocol, *, opener: int, credit: int = 1, members: dict[str, list[str]] | None = None
    ) -> None:
        self.lossy = tuple(one.delivery is DeliveryClass.AT_MOST_ONCE for one in protocol.messages)
        self.conversation = Conversation(
            conversation_id=bytes(ID_BYTES), protocol=protocol, opener=opener, request_id="fuzz", now=0.0,
            default_within=_WITHIN, mode=Mode.ENFORCE, members=members,
        )  # fmt: skip
        self.opener = opener
        self.revoked: list[int] = []
        self.why_refused = ""
        self._credit = credit
        self._n_ids = 0
        self._serve()

    # -- what roles do -----------------------------------------------------------------------------

    def send(self, role: int, label: Label, epoch: int) -> Answer:
        """Take a message outside a turn, as ``Admission.send`` does."""
        conversation = self.conversation
        mailbox = conversation.mailboxes[role]
        move = find_late_move(conversation, mailbox, *label, epoch)
        if move is None:
            late = conversation.outcome is not None or mailbox.was_allowed(*label, epoch)
            return Answer.SUPERSEDED if late else Answer.REFUSED
        if not self.lossy[label[0]]:
            mailbox.agent = "fuzz"
            conversation.admit(mailbox, move, *label, self._new_id(), _EMPTY, None, 0.0)
            self._serve()
        return Answer.ACCEPTED

    def commit(self, role: int, delivery: Delivery, labels: Sequence[Label], *, settles: bool) -> Answer:
        """Take one commit of a turn, as ``Admission.commit`` and ``History`` do."""
        conversation = self.conversation
        mailbox = conversation.mailboxes[role]
        sends: list[list[Any]] = [[self._new_id(), *label, None, None, _EMPTY] for label in labels]
        refusal, is_superseded = check_commit(
            conversation, mailbox, delivery, settles=settles, sends=sends, saved=None, state_bytes=_STATE_BYTES
        )
        if refusal is not None:
            self.why_refused = refusal.message
            return Answer.REFUSED
        answer = Answer.ACCEPTED
        if is_superseded:
            answer, labels, sends = Answer.SUPERSEDED, (), []
        mailbox.agent = "fuzz"
        mailbox.involved = True
        mailbox.commits += 1
        for label, sent in zip(labels, sends, strict=True):
            move = conversation.find_move(mailbox, *label)
            if move is None:  # an earlier send of this turn made the bus move on
                answer = Answer.SUPERSEDED
                break
            conversation.admit(mailbox, move, *label, sent[0], _EMPTY, None, 0.0, delivery.position)
        if settles:
            mailbox.settle_through(delivery.position)
            conversation.touched[mailbox] = None
        self._serve()
        return answer

    def begin(self, role: int, delivery: Delivery) -> None:
        """Nothing is to be done: what is leased was handed out."""

    def settle(self, role: int, delivery: Delivery) -> None:
        """Settle what a script has read, as ``Admission.handled`` does."""
        mailbox = self.conversation.mailboxes[role]
        mailbox.settle_through(delivery.position)
        self.conversation.touched[mailbox] = None
        self._serve()

    def has_room(self, label: Label) -> bool:
        """Return whether the message would be taken at once rather than held."""
        return self.conversation.has_room(*label, _MAILBOX)

    # -- mishaps -----------------------------------------------------------------------------------

    def miss(self, mailbox: Mailbox, timer: int) -> None:
        """Let one of the role's deadlines pass, as ``Broker`` does with the nearest."""
        conversation = self.conversation
        if timer != mailbox.timer:  # it began so much earlier than the others
            mailbox.timer = timer
            mailbox.deadline, mailbox.remind_at, mailbox.retries = mailbox.waits[timer]
        self._miss(conversation, mailbox)
        self._serve()

    @staticmethod
    def _miss(conversation: Conversation, mailbox: Mailbox) -> None:
        timer = conversation.tables.timers[mailbox.timer]
        if mailbox.retries < timer.retry:
            conversation.retry(mailbox, 0.0)
        elif timer.event >= 0 and not conversation.cast.is_known_to_all(timer.event, conversation.mailboxes):
            conversation.wait_again(mailbox, 0.0)
        elif timer.event >= 0:
            conversation.fire(timer.event, 0.0)
        else:
            conversation.close(FAILED, "a deadline passed", 0.0)

    def strike(self, event: int) -> None:
        """Let a scope's time be up, or a role be lost."""
        self.conversation.fire(event, 0.0)
        self._serve()

    def bury(self, mailbox: Mailbox) -> None:
        """Let the oldest delivery become a dead letter, as ``History`` does."""
        conversation = self.conversation
        conversation.end_lease(mailbox)
        mailbox.bury("error", "fuzz")
        event = event_of(conversation, mailbox, EventKind.FAILED)
        if event is not None:
            conversation.fire(event, 0.0)
        elif mailbox.timer < 0:
            conversation.close(FAILED, "a dead letter", 0.0)
        self._serve()

    def requeue(self, mailbox: Mailbox) -> None:
        """Let a person try the dead letter again."""
        mailbox.queued[0].move("requeue")
        self.conversation.touched[mailbox] = None
        self._serve()

    def end_call(self, call: int, outcome: str) -> None:
        """Tell how the called protocol ended, as ``Calling`` does."""
        self.conversation.fire(self.conversation.calls.end(call, outcome), 0.0)
        self._serve()

    def cancel(self) -> None:
        """End the conversation from outside."""
        self.conversation.close("canceled", "the run was cut", 0.0)
        self._serve()

    # -- leases ------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Take revoked leases back and hand out what is queued, as ``Dispatch`` does."""
        conversation = self.conversation
        for call, child in conversation.calls.take_news():
            if not child:
                conversation.calls.running[call] = b"called"  # it is played by ``end_call`` alone
        while conversation.overtaken:
            conversation.take_away_turn(conversation.overtaken.pop())
        if conversation.revoked:
            for mailbox, _ in conversation.revoked:
                mailbox.release()
                self.revoked.append(mailbox.role)
            conversation.revoked.clear()
        conversation.settled.clear()
        for mailbox in conversation.touched:
            while mailbox.queued and len(mailbox.leased) < self._credit:
                delivery = mailbox.queued[0]
                if delivery.state is not DeliveryState.QUEUED:
                    break
                mailbox.queued.popleft()
                delivery.move("lease")
                mailbox.leased.append(delivery)
        conversation.touched.clear()

    def _new_id(self) -> bytes:
        self._n_ids += 1
        return self._n_ids.to_bytes(ID_BYTES, "big")
