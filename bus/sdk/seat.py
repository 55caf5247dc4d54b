"""A seat: where one role of one conversation stands, as this process sees it.

The seat steps the role's machine for every delivery and every send, so that a send which the
protocol forbids fails here, at once, and not at the broker. The broker's word on the state is taken
wherever the local step could not know better: with a new lease and after each bus event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

from bus.errors import BodyInvalid, TooLarge
from bus.ids import show_id
from bus.sdk.part import Part, Receivers
from bus.sdk.session import MAX_BODY_BYTES
from bus.spec.tables import Move
from bus.wire.codec import decode_body, encode_body
from bus.wire.record import Record

if TYPE_CHECKING:
    from bus.spec.message_type import MessageType

# Places of DELIVER's fields (docs/wire.md).
CONVERSATION, PROTOCOL, ROLE, FENCE, POSITION, ATTEMPT, COMMITS, TYPE, SENDER = range(1, 10)
EPOCH, SEQUENCE, STATE, REMAINING, TRACE, MESSAGE_ID, SAVED, BODY = range(10, 18)


class Seat:
    """The local view of one role of one conversation.

    Attributes:
        at: The role's machine state after the last delivery taken and every message sent since.
        epoch: Bus events that this side has seen.
        fence: The lease under which deliveries come, 0 before the first.
        position: The newest delivery that has arrived under this or an older fence.
        keys: The conversation's key fields and the values that they took.
        is_enforced: Whether order and keys are checked here; where not, the broker sees what it makes of them.
    """

    __slots__ = ("at", "conversation_id", "epoch", "fence", "is_enforced", "key", "keys", "part", "position")

    def __init__(self, conversation_id: bytes, part: Part, *, is_enforced: bool = True) -> None:
        self.conversation_id = conversation_id
        self.part = part
        self.key = (conversation_id, part.role)
        self.is_enforced = is_enforced
        self.at = part.machine.start
        self.epoch = 0
        self.fence = 0
        self.position = 0
        self.keys: dict[str, object] = {}

    def take(self, record: Record) -> None:
        """Step the machine by the delivery *record*, which the reader now has in hand."""
        index: int = record[TYPE]
        if record[EPOCH] == self.epoch and index >= 0:
            if self.part.lossy[index] or record[SEQUENCE] < 0:
                return  # an at-most-once message or an aside: neither ever steps a state
            move = self.part.machine.receive[self.at].get((record[SENDER], index))
            self.at = self._told(record) if move is None else self.part.after(self.at, move)
        elif record[EPOCH] >= self.epoch:
            self.at = self._told(record)
            self.epoch = record[EPOCH]

    def _told(self, record: Record) -> int:
        """Return the broker's word on the state; a notice comes with its word on who was enrolled."""
        gathering, at = self.part.gathering, record[STATE]
        if gathering is None:
            return int(at)
        if record[TYPE] < 0:
            gathering.members.note_enrolled(decode_body(record[BODY]).get("enrolled", {}))
        return gathering.read_state(self.part.role, at)

    def about(self, record: Record) -> int:
        """Return the member that the delivery *record* is about, or -1."""
        gathering = self.part.gathering
        if gathering is None:
            return -1
        members = gathering.members
        mine = members.players[self.part.role].member
        if mine >= 0:
            return mine
        if record[SENDER] < 0:
            name = decode_body(record[BODY]).get("member")
            return next(
                (number for names in members.names.values() for number, one in enumerate(names) if one == name), -1
            )
        player, member = members.voices[record[SENDER]]
        return member if member >= 0 else members.players[player].member

    def speaker(self, record: Record) -> str | None:
        """Return who sent the delivery *record*: a role, or the agent that is one of its members; None: the bus."""
        gathering, sender = self.part.gathering, record[SENDER]
        if sender < 0:
            return None
        if gathering is None:
            return self.part.protocol.roles[sender].name
        player = gathering.members.voices[sender][0]
        return gathering.members.agent(player) or gathering.members.players[player].name

    def read(self, record: Record) -> BaseModel:
        """Return the message that *record* delivers.

        Raises:
            BodyInvalid: The body breaks its message type, or a key of the conversation.
            MalformedFrame: The body is no msgpack map.
        """
        message_type = self.part.messages[record[TYPE]]
        fields = decode_body(record[BODY])
        message = message_type.from_plain(fields)
        if message_type.keys and self.is_enforced:
            self._keep_keys(message_type, fields)
        return message

    def choose(self, message: BaseModel, to: Receivers, about: int = -1) -> tuple[list[tuple[int, int, Move]], bytes]:
        """Return the (type, address, move) of sending *message* now, and its body; nothing changes until ``sent``.

        There is more than one where the message goes to several members, each by itself; see ``Part.find``.

        Raises:
            NotAllowed: Order or receivers.
            BodyInvalid: The body breaks a rule of its type or a key of the conversation.
            TooLarge: The body does not fit into a frame.
        """
        find = self.part.find if self.is_enforced else self.part.find_anywhere
        return find(self.at, message, to, self.conversation_id, about), self.encode(message)

    def encode(self, message: BaseModel) -> bytes:
        """Return the body of *message*, one of the protocol's; see ``choose``."""
        message_type = self.part.messages[self.part.type_of[type(message)]]
        fields = message_type.to_plain(message)  # type: ignore[arg-type]  # its class is the type's own: type_of
        try:
            body = encode_body(fields)
        except (TypeError, OverflowError) as error:
            raise BodyInvalid(f"{message_type.name}: expected values that msgpack can carry: {error}") from error
        if len(body) > MAX_BODY_BYTES:
            raise TooLarge(
                f"expected a body of at most {MAX_BODY_BYTES} bytes, got {message_type.name!r} of {len(body)}: "
                f"send big data as an artifact"
            )
        if message_type.keys and self.is_enforced:
            self._keep_keys(message_type, fields)
        return body

    def move(self, index: int, address: int) -> Move:
        """Return the move of sending what is allowed now, by its numbers: each send may bring another state."""
        return self.part.machine.send[self.at][index, address]

    def sent(self, move: Move) -> None:
        """Step the machine by a message that ``choose`` allowed."""
        self.at = self.part.after(self.at, move)

    def allowed(self) -> list[type[BaseModel]]:
        """Return the classes of the messages that may be sent now."""
        return self.part.allowed(self.at)

    def members(self, role: str) -> tuple[str, ...]:
        """Return the agents that are members of *role*; see ``Conversation.members``."""
        index = self.part.protocol.role_index(role)
        gathering = self.part.gathering
        if gathering is None or (index not in gathering.members.names and index not in gathering.members.enrolled):
            raise LookupError(f"expected a role with members, got {role!r}, which is one agent")
        return gathering.members.members_of(index)

    def owes(self) -> bool:
        """Return whether the role must speak before anything else can reach it."""
        return self.part.machine.owes[self.at]

    def owed(self) -> str:
        """Return the names of what may follow, for an error's text."""
        return " or ".join(one.__name__ for one in self.allowed()) or "nothing"

    def _keep_keys(self, message_type: MessageType, fields: dict[str, object]) -> None:
        for name in message_type.keys:
            value = fields.get(name)
            if value is None:
                continue  # it says nothing about the key
            known = self.keys.setdefault(name, value)
            if known != value:
                if name in message_type.secret:
                    raise BodyInvalid(
                        f"{message_type.name}.{name}: expected the value that this conversation's key has had since "
                        f"its first message, got another; it is secret (conversation {show_id(self.conversation_id)})"
                    )
                raise BodyInvalid(
                    f"{message_type.name}.{name}: expected {known!r}, the value that this conversation's key has had "
                    f"since its first message, got {value!r} (conversation {show_id(self.conversation_id)})"
                )


class SeatState:
    """What a role keeps with the bus, as bytes and, once asked for, as a dict.

    The kept bytes are a msgpack map. While a streaming handler is under way they are an array: the
    kept bytes that the turn began with, and how many messages of the turn are committed already,
    so that the handler, begun again, skips them (RULES.md 3, 21).
    """

    __slots__ = ("_encoded", "_limit", "_value", "done")

    def __init__(self, saved: bytes | None, limit: int) -> None:
        self._encoded: bytes | None = None
        self._value: dict[str, object] | None = None
        self._limit = limit
        self.done = 0
        self.restore(saved)

    def restore(self, saved: bytes | None) -> None:
        """Go back to what the bus has kept."""
        self._value = None
        self.done = 0
        if saved is not None:
            kept = decode_body(saved)
            if isinstance(kept, list):
                saved, self.done = kept
            else:
                self._value = kept
        self._encoded = saved

    @property
    def value(self) -> dict[str, object]:
        """The dict; changes are committed with the turn."""
        if self._value is None:
            self._value = {} if self._encoded is None else decode_body(self._encoded)
        return self._value

    def encode(self, *, whole: bool = False) -> bytes | None:
        """Return the bytes to commit, or None where nothing changed since the last commit.

        Args:
            whole: Give the bytes even so: what the bus holds is not this state.

        Raises:
            TooLarge: Above the limit.
            BodyInvalid: Something in it is no plain value.
        """
        if self._value is None:
            return (self._encoded or encode_body({})) if whole else None
        try:
            encoded = encode_body(self._value)
        except (TypeError, ValueError, OverflowError) as error:
            raise BodyInvalid(
                f"conversation.state: expected None, bool, int, float, str, bytes, lists and dicts of these: {error}"
            ) from error
        if not whole and (encoded == self._encoded or (self._encoded is None and not self._value)):
            return None
        if len(encoded) > self._limit:
            raise TooLarge(f"conversation.state: expected at most {self._limit} bytes, got {len(encoded)}: keep less")
        return encoded

    def kept(self, encoded: bytes | None) -> None:
        """Note that *encoded*, given by ``encode``, is what the bus keeps from now on."""
        if encoded is not None:
            self._encoded = encoded
            self.done = 0

    def forget(self) -> None:
        """Go back to what was committed last; changes since then are dropped."""
        self._value = None

    def in_stream(self, done: int) -> bytes:
        """Return the bytes to commit in the middle of a stream of which *done* messages are committed then."""
        return encode_body([self._encoded, done])
