"""A delivery: one message or notice on its way to one role, from acceptance until it is settled or gone."""

from __future__ import annotations

from enum import StrEnum


class DeliveryState(StrEnum):
    """Where a delivery stands."""

    __hash__ = str.__hash__  # that of Enum runs Python code, and every delivery is looked up three times

    EARLY = "early"  # accepted, but the role's state does not expect it yet
    QUEUED = "queued"
    LEASED = "leased"
    ACKED = "acked"
    DEAD = "dead"
    DISCARDED = "discarded"


DELIVERY_TRANSITIONS = {
    (DeliveryState.EARLY, "expect"): DeliveryState.QUEUED,
    (DeliveryState.EARLY, "discard"): DeliveryState.DISCARDED,
    (DeliveryState.QUEUED, "lease"): DeliveryState.LEASED,
    (DeliveryState.QUEUED, "settle"): DeliveryState.ACKED,  # a person's answer, and replay
    (DeliveryState.QUEUED, "discard"): DeliveryState.DISCARDED,
    (DeliveryState.LEASED, "settle"): DeliveryState.ACKED,
    (DeliveryState.LEASED, "release"): DeliveryState.QUEUED,
    (DeliveryState.LEASED, "discard"): DeliveryState.DISCARDED,
    (DeliveryState.QUEUED, "bury"): DeliveryState.DEAD,
    (DeliveryState.ACKED, "read again"): DeliveryState.QUEUED,  # a caller's handler that begins anew (17)
    (DeliveryState.DEAD, "requeue"): DeliveryState.QUEUED,
    (DeliveryState.DEAD, "settle"): DeliveryState.ACKED,  # dropped by a person
    (DeliveryState.DEAD, "discard"): DeliveryState.DISCARDED,
}

_EARLY = DeliveryState.EARLY  # found faster than through the class, once a message


class Delivery:
    """One message or notice on its way to one role.

    Attributes:
        type: Message type, or -1 for a notice.
        state_after: The role's machine state once it has taken this in; what a handler may send follows from it.
        n_followed: How many of the mailbox's *said* the state has followed.
        state_before: The state in which it came, which is the role's until it has read this; -1 for a notice.
        epoch: The conversation's epoch at its place in the mailbox.
        scopes: Scopes whose closing discards it.
        is_aside: The order forbids it, and its protocol's mode let it pass: it steps nothing.
        reason: Why it is dead, as (code, detail), else None.
    """

    __slots__ = (
        "attempt",
        "body",
        "epoch",
        "is_aside",
        "message_id",
        "n_followed",
        "position",
        "reason",
        "scopes",
        "sender",
        "sequence",
        "state",
        "state_after",
        "state_before",
        "trace",
        "type",
    )  # fmt: skip

    def __init__(
        self, type: int, sender: int, sequence: int, message_id: bytes, body: bytes,
        trace: str | None = None, scopes: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        self.type = type
        self.sender = sender
        self.sequence = sequence
        self.message_id = message_id
        self.body = body
        self.trace = trace
        self.scopes = scopes
        self.state = _EARLY
        self.state_after = 0
        self.n_followed = 0
        self.state_before = -1
        self.epoch = 0
        self.position = 0
        self.attempt = 1
        self.is_aside = False
        self.reason: tuple[str, str] | None = None

    def copy(self) -> Delivery:
        """Return the same message for one receiver more."""
        return Delivery(self.type, self.sender, self.sequence, self.message_id, self.body, self.trace, self.scopes)

    def move(self, action: str) -> None:
        """Take the step *action* of ``DELIVERY_TRANSITIONS``; a missing entry is a bug of ours."""
        self.state = DELIVERY_TRANSITIONS[self.state, action]
