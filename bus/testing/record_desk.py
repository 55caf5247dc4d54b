"""The same conversation through the whole broker: frames in, frames out, journal and all, on a clock of its own.

Each role is a peer that speaks records; what a run does goes through HELLO, OPEN, SEND, COMMIT, HANDLED and
NACK, and what it reads must have come as DELIVER.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from bus.broker.conversation import Conversation
from bus.broker.delivery import Delivery
from bus.broker.mailbox import Mailbox
from bus.clock import ManualClock
from bus.engine.memory import MemoryEngine
from bus.ids import ID_BYTES, conversation_id
from bus.settings import Settings
from bus.spec.protocol import Delivery as DeliveryClass
from bus.spec.protocol import Protocol
from bus.spec.tables import EventKind
from bus.testing.desk import Answer
from bus.testing.judge import Label
from bus.wire.codec import decode_frame, encode_body, encode_frame
from bus.wire.record import WIRE_VERSION, Kind, Record

_EMPTY = encode_body({})
_FENCE, _POSITION, _COMMITS, _TYPE, _SENDER, _STATE = 4, 5, 7, 8, 9, 12  # places in DELIVER (docs/wire.md)
_NAME = "fuzz"


class NotDelivered(Exception):
    """Raised when the broker counts a delivery as handed out that never came, or came as something else."""


class _Player:
    """A peer that plays one role and keeps everything that it is sent until asked."""

    def __init__(self, engine: MemoryEngine, name: str) -> None:
        self.name = name
        self.n = 0
        self.answers: list[Record] = []
        self.revoked = False
        self.given: dict[tuple[int, int], Record] = {}  # (fence, position) → DELIVER
        self._commits: dict[tuple[int, int], int] = {}
        self._peer = engine.connect(self._read)

    def put(self, *records: Record) -> None:
        self._peer.send(encode_frame([[int(record[0]), *record[1:]] for record in records]))

    def number(self) -> int:
        self.n += 1
        return self.n

    def commit_number(self, fence: int, position: int) -> int:
        """Return the number of the turn's next commit: the broker says how many earlier attempts have made."""
        key = (fence, position)
        number = self._commits.get(key) or int(self.given[key][_COMMITS])
        self._commits[key] = number + 1
        return number

    def _read(self, frame: bytes) -> None:
        for record in decode_frame(frame):
            if record[0] == Kind.DELIVER and record[_POSITION]:
                self.given[record[_FENCE], record[_POSITION]] = record
            elif record[0] == Kind.NOTICE and record[1] == "revoked":
                self.revoked = True
            elif record[0] in (Kind.REFUSED, Kind.NOTICE, Kind.REPLY):
                self.answers.append(record)


class RecordDesk:
    """A ``bus.testing.desk.Desk`` whose every act is a frame to the real broker.

    Args:
        engine: The broker; left out, one of its own.
        clock: The engine's.
        absent: Role → name of the agent that plays it by itself.
        new_body: Makes the body of a message type, by its index.
        request_id: Names the conversation.
        on_time: Is called whenever bus time passes, so that others prove that they live.
    """

    def __init__(
        self, protocol: Protocol, *, opener: int, credit: int = 1, engine: MemoryEngine | None = None,
        clock: ManualClock | None = None, absent: dict[int, str] | None = None,
        new_body: Callable[[int], bytes] | None = None, request_id: str = "1",
        on_time: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self.protocol = protocol
        self.lossy = tuple(one.delivery is DeliveryClass.AT_MOST_ONCE for one in protocol.messages)
        self.opener = opener
        self.revoked: list[int] = []
        self.why_refused = ""
        self.settings = Settings()
        self.clock = clock or ManualClock()
        self.engine = engine or MemoryEngine(settings=self.settings, clock=self.clock)
        self._credit = credit
        self._n_ids = 0
        self._new_body = new_body or (lambda index: _EMPTY)
        self._on_time = on_time or (lambda: None)
        self._request = request_id
        absent = absent or {}
        self._players: dict[int, _Player] = {}
        for role in range(len(protocol.roles)):
            if role not in absent:
                self._register(role)
        player = self._players[opener]
        identifier = conversation_id(player.name, protocol.name, request_id)
        bindings = {one.name: [absent.get(index) or self._name(index)] for index, one in enumerate(protocol.roles)}
        player.put([Kind.OPEN, player.number(), identifier, 0, opener, request_id, bindings, None])
        self.engine.settle()
        # The monitor's own state is what the run is about; nothing but the broker changes it.
        self._find = partial(self.engine.broker._state.find, identifier)
        self.conversation = self._present()

    def leave(self) -> None:
        """Let every role of the run leave the bus."""
        for player in self._players.values():
            player.put([Kind.BYE])
        self.engine.settle()

    # -- what roles do -----------------------------------------------------------------------------

    def send(self, role: int, label: Label, epoch: int) -> Answer:
        """Send SEND."""
        player, n = self._players[role], self._players[role].number()
        body = self._new_body(label[0])
        player.put(
            [
                Kind.SEND,
                n,
                self._new_id(),
                self.conversation.conversation_id,
                role,
                *label,
                max(0, epoch),
                None,
                None,
                body,
            ]
        )
        return self._answer(player, n)

    def begin(self, role: int, delivery: Delivery) -> None:
        """Check that the delivery came as the broker counts it."""
        mailbox = self.conversation.mailboxes[role]
        record = self._players[role].given.get((mailbox.fence, delivery.position))
        if record is None or (record[_TYPE], record[_SENDER]) != (delivery.type, delivery.sender):
            raise NotDelivered(f"expected a DELIVER of position {delivery.position} to role {role}, got {record}")

    def settle(self, role: int, delivery: Delivery) -> None:
        """Send HANDLED."""
        player, fence = self._players[role], self.conversation.mailboxes[role].fence
        n = player.number()
        player.put([Kind.HANDLED, n, self.conversation.conversation_id, role, fence, delivery.position])
        self._answer(player, n)

    def commit(self, role: int, delivery: Delivery, labels: Sequence[Label], *, settles: bool) -> Answer:
        """Send COMMIT."""
        player, fence = self._players[role], self.conversation.mailboxes[role].fence
        n = player.number()
        sends = [[self._new_id(), *label, None, None, self._new_body(label[0])] for label in labels]
        number = player.commit_number(fence, delivery.position)
        player.put(
            [
                Kind.COMMIT, n, self.conversation.conversation_id, role, fence, delivery.position, number, settles,
                delivery.epoch, sends, None,
            ]
        )  # fmt: skip
        return self._answer(player, n)

    def has_room(self, label: Label) -> bool:
        """Return whether the message would be taken at once rather than held."""
        return self.conversation.has_room(*label, self.settings.mailbox)

    # -- mishaps -----------------------------------------------------------------------------------

    def miss(self, mailbox: Mailbox, timer: int) -> None:
        """Let time pass up to the next deadline of any role or scope."""
        self.pass_until_due()

    def strike(self, event: int) -> None:
        """Let time pass up to the next deadline, or lose the role that the event is about."""
        told = self.conversation.tables.events[event]
        if told.kind is not EventKind.LOST or told.role not in self._players or told.role == self.opener:
            self.pass_until_due()
            return
        self._players[told.role].put([Kind.BYE])
        self.engine.settle()
        self.pass_time(self.settings.lost_after)
        self.revoked.append(told.role)
        self._register(told.role)
        self._settle()

    def bury(self, mailbox: Mailbox) -> None:
        """Send a final NACK."""
        player, delivery = self._players[mailbox.role], mailbox.leased[0]
        where = [self.conversation.conversation_id, mailbox.role, mailbox.fence, delivery.position]
        player.put([Kind.NACK, player.number(), *where, "error", "fuzz", True])
        self.revoked.append(mailbox.role)
        self._settle()

    def requeue(self, mailbox: Mailbox) -> None:
        """Ask for the dead letter to be tried again."""
        role = self.protocol.roles[mailbox.role].name
        self._ask("requeue", conversation=self.conversation.conversation_id, role=role)

    def end_call(self, call: int, outcome: str) -> None:
        """Cancel what was called, whatever *outcome* was meant: nobody here plays it."""
        self._ask("cancel", conversation=self.conversation.calls.running[call])

    def cancel(self) -> None:
        """Cancel the conversation."""
        self._ask("cancel", conversation=self.conversation.conversation_id)

    def pass_until_due(self) -> None:
        """Let time pass up to the next instant at which a role is late or a scope's time is up."""
        conversation = self.conversation
        instants = [mailbox.deadline for mailbox in conversation.mailboxes]
        timeout = conversation.scopes.next_timeout()
        if timeout is not None:
            instants.append(timeout[0])
        if min(instants) < float("inf"):
            self.pass_time(max(0.0, min(instants) - self.clock.now()))

    def pass_time(self, duration: float) -> None:
        """Let *duration* seconds pass; everybody proves that he lives."""
        self.clock.advance(duration)
        for player in self._players.values():
            player.put([Kind.CREDIT, 0])
        self._on_time()
        self._settle()

    # -- parts -------------------------------------------------------------------------------------

    def _name(self, role: int) -> str:
        return f"{_NAME}-{self._request}-{self.protocol.roles[role].name}"

    def _register(self, role: int) -> None:
        player = self._players[role] = _Player(self.engine, self._name(role))
        plays = [] if role == self.opener else [[0, self.protocol.roles[role].name]]
        source = self.protocol.spec.source
        player.put([Kind.HELLO, WIRE_VERSION, player.name, 0, [source], plays, self._credit, []])
        self.engine.settle()

    def _ask(self, name: str, **arguments: object) -> None:
        self._players[self.opener].put([Kind.QUERY, 1, name, arguments])
        self._settle()

    def _answer(self, player: _Player, n: int) -> Answer:
        player.answers.clear()
        self._settle()
        for record in player.answers:
            if record[0] == Kind.REFUSED and record[1] == n:
                self.why_refused = f"{record[2]}: {record[3]['message']}"
                return Answer.SUPERSEDED if record[2] in ("superseded", "ended") else Answer.REFUSED
            if record[0] == Kind.NOTICE and record[1] == "superseded" and record[2]["n"] == n:
                return Answer.SUPERSEDED
        return Answer.ACCEPTED

    def _settle(self) -> None:
        self.engine.settle()
        self.conversation = self._present()
        for role, player in self._players.items():
            if player.revoked:
                player.revoked = False
                self.revoked.append(role)

    def _new_id(self) -> bytes:
        self._n_ids += 1
        return self._n_ids.to_bytes(ID_BYTES, "big")

    def _present(self) -> Conversation:
        found = self._find()
        assert found is not None  # it was opened, and an ended one stays readable
        return found
