"""The compiled, immutable form of a spec: its types, its names and the tables of ``bus.spec.tables``."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import BaseModel

from bus.spec.diagnostic import did_you_mean
from bus.spec.message_type import MessageType
from bus.spec.syntax import Delivery as Delivery
from bus.spec.syntax import Role, Spec
from bus.spec.tables import Tables


@dataclass(frozen=True, slots=True)
class Player:
    """One who takes part in a conversation: a role, or one member of a role that has many.

    Attributes:
        role: Index in ``Protocol.roles``.
        name: As people read it: ``"manager"``, ``"bidder:alice"``.
        member: Its place among the members of the role, or -1.
    """

    role: int
    name: str
    member: int = -1


@dataclass(frozen=True, eq=False, repr=False)
class Protocol:
    """A compiled protocol. Message types and structs are attributes: ``newsroom.Draft`` is a pydantic model class.

    Attributes:
        digest: 16 hex digits over the spec's canonical form (docs, examples and layout left out).
        outcomes: The spec's own outcomes, then ``failed`` and ``canceled`` (RULES.md 2), each once;
            a conversation that can fall off its end also has ``done``.
        callees: What its ``call`` steps name, as written (``"training@^1"``) → that protocol.
        models: The classes of message types, of ``types`` and ``Artifact``, by name.
        type_of: Model class of a message → index of its message type.
        players: The roles that are one agent, as they take part in every conversation. Where a role has many
            members (``has_members``), each conversation has these as further players behind them.
        played_by: Role → the role whose members play it: itself, or the one that a sub-role is from.
        windows: Message type → how many of it a receiver may have unsettled, for types with a ``window``.
    """

    spec: Spec
    name: str
    version: str
    digest: str
    roles: tuple[Role, ...]
    messages: tuple[MessageType, ...]
    outcomes: tuple[str, ...]
    tables: Tables
    models: dict[str, type[BaseModel]]
    callees: dict[str, Protocol] = field(default_factory=dict)
    type_of: dict[type[BaseModel], int] = field(init=False)
    windows: dict[int, int] = field(init=False)
    players: tuple[Player, ...] = field(init=False)
    played_by: tuple[int, ...] = field(init=False)
    has_members: bool = field(init=False)
    _role_of: dict[str, int] = field(init=False)
    _message_of: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        found = object.__setattr__
        found(self, "type_of", {one.model: one.index for one in self.messages})
        self.__dict__.update(self.models)  # capitalised as they are, they hide nothing
        found(self, "windows", {one.index: one.window for one in self.messages if one.window is not None})
        found(self, "_role_of", {role.name: index for index, role in enumerate(self.roles)})
        single = (
            Player(index, role.name)
            for index, role in enumerate(self.roles)
            if role.many is None and role.source is None
        )
        found(self, "players", tuple(single))
        numbers = self._role_of
        found(self, "played_by", tuple(numbers[self.spec.root_of(role.name).name] for role in self.roles))
        found(self, "has_members", any(role.many is not None for role in self.roles))
        found(self, "_message_of", {one.name: one.index for one in self.messages})

    @property
    def identity(self) -> str:
        """``name@major``, which stands for the protocol on the wire together with the digest."""
        return f"{self.name}@{self.version.partition('.')[0]}"

    def role(self, name: str) -> RoleOf:
        """Return the role called *name* as something an agent can play.

        Raises:
            LookupError: The protocol has no such role; the message lists those it has.
        """
        index = self.role_index(name)
        role = self.roles[index]
        return RoleOf(self, index, name, role.human, role.pool)

    def role_index(self, name: str) -> int:
        """Return the number of the role called *name*.

        Raises:
            LookupError: The protocol has no such role; the message lists those it has.
        """
        return _look_up(self._role_of, name, f"a role of {self.name}")

    def message_index(self, name: str) -> int:
        """Return the number of the message type called *name*.

        Raises:
            LookupError: The protocol has no such message type; the message lists those it has.
        """
        return _look_up(self._message_of, name, f"a message type of {self.name}")

    def __getattr__(self, name: str) -> type[BaseModel]:
        # Only reached for what is no attribute; copying asks for dunder names before there are any fields.
        hint = did_you_mean(name, self.__dict__.get("models", {}))
        raise AttributeError(
            f"expected a message type or type of {self.__dict__.get('name', 'a protocol')}, got {name!r}"
            + (f"; {hint}" if hint else "")
        )

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.models})

    def __repr__(self) -> str:
        return f"<Protocol {self.name} {self.version} {self.digest}>"


@dataclass(frozen=True, slots=True)
class RoleOf:
    """A role together with its protocol: what an agent plays."""

    protocol: Protocol
    index: int
    name: str
    human: bool = False
    pool: bool = False

    def __str__(self) -> str:
        return f"{self.name} of {self.protocol.name}"


def _look_up(numbers: dict[str, int], name: str, what: str) -> int:
    if name in numbers:
        return numbers[name]
    hint = did_you_mean(name, numbers)
    raise LookupError(f"expected {what} ({', '.join(numbers)}), got {name!r}" + (f"; {hint}" if hint else ""))
