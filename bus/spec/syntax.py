"""What a spec says, as values: the tree that ``parse`` builds and ``automaton`` reads.

Nothing here is checked beyond its type; ``check`` does that. Durations are float seconds,
``math.inf`` is the written word ``forever``, None means that the spec says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


class Delivery(StrEnum):
    """The delivery class of a message type (LANGUAGE.md, "Delivery")."""

    DURABLE = "durable"
    AT_LEAST_ONCE = "at-least-once"
    AT_MOST_ONCE = "at-most-once"


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class TypeExpression:
    """``[optional] [list of|map of] NAME``; *name* is a built-in type or a struct of the spec."""

    name: str
    container: str | None = None  # "list" or "map"
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message type or struct. Exactly one of *type* and *enum* is given."""

    mark: Mark
    name: str
    type: TypeExpression | None = None
    enum: tuple[str, ...] = ()
    open: bool = False
    has_default: bool = False
    default: object = None
    min: float | None = None
    max: float | None = None
    min_len: int | None = None
    max_len: int | None = None
    min_items: int | None = None
    max_items: int | None = None
    pattern: str | None = None
    doc: str = ""
    deprecated: bool | str = False
    secret: bool = False
    has_example: bool = False
    example: object = None


@dataclass(frozen=True, slots=True)
class Struct:
    """A type declared under ``types``."""

    mark: Mark
    name: str
    fields: tuple[Field, ...] = ()
    doc: str = ""


@dataclass(frozen=True, slots=True)
class MessageDeclaration:
    """A message type as declared under ``messages``."""

    mark: Mark
    name: str
    fields: tuple[Field, ...] = ()
    doc: str = ""
    delivery: str | None = None
    window: int | None = None
    rules: tuple[str, ...] = ()
    examples: tuple[object, ...] = ()
    deprecated: bool | str = False
    reserved: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Role:
    """A role as declared under ``roles``. *many* is (least, most), most None for ``*``."""

    mark: Mark
    name: str
    doc: str = ""
    pool: bool = False
    many: tuple[int, int | None] | None = None
    source: str | None = None  # the key is `from`
    human: bool = False


@dataclass(frozen=True, slots=True)
class Send:
    """``sender -> receivers: Message`` with its options; *repeat* is "", "*" or "+"."""

    mark: Mark
    sender: str
    receivers: tuple[str, ...]
    message: str
    repeat: str = ""
    within: float | None = None
    otherwise: Block | None = None  # the key is `else`
    retry: int = 0
    remind: float | None = None
    max: int | None = None
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Branch:
    """A named branch of a choice, parallel or call."""

    mark: Mark
    name: str
    body: Block


@dataclass(frozen=True, slots=True)
class Choice:
    """``choice: role``: the role decides by what it sends first."""

    mark: Mark
    decider: str
    branches: tuple[Branch, ...]
    within: float | None = None
    otherwise: Block | None = None
    retry: int = 0
    remind: float | None = None
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Loop:
    """``loop: name``: falling off the end begins again."""

    mark: Mark
    name: str
    body: Block
    max: int | None = None
    within: float | None = None
    otherwise: Block | None = None
    endless: bool = False
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Parallel:
    """Branches that go on side by side and join when all are done."""

    mark: Mark
    branches: tuple[Branch, ...]
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Interrupt:
    """What may cut a scope short. Exactly one trigger is given: *message*, *timeout*, *lost* or *failed*."""

    mark: Mark
    body: Block  # the key is `then`
    message: Send | None = None
    timeout: float | None = None
    lost: str | None = None
    failed: str | None = None
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Scope:
    """``scope: name``: steps that interrupts may cut short."""

    mark: Mark
    name: str
    body: Block
    interrupts: tuple[Interrupt, ...] = ()
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Each:
    """``each: role``: the block once for every member. *until* is "all", "any" or a number as text."""

    mark: Mark
    role: str
    body: Block
    until: str = "all"
    within: float | None = None
    late: Block | None = None
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Enroll:
    """Put this member into the sub-role."""

    mark: Mark
    role: str


@dataclass(frozen=True, slots=True)
class Call:
    """Run another protocol; *roles* maps the callee's roles to ours."""

    mark: Mark
    protocol: str
    roles: tuple[tuple[str, str], ...]
    outcomes: tuple[Branch, ...]
    within: float | None = None
    doc: str = ""


@dataclass(frozen=True, slots=True)
class End:
    """The conversation is over."""

    mark: Mark
    outcome: str


@dataclass(frozen=True, slots=True)
class Break:
    """Leave the named or the innermost loop."""

    mark: Mark
    loop: str | None = None


@dataclass(frozen=True, slots=True)
class Continue:
    """Begin the named loop again."""

    mark: Mark
    loop: str


Step: TypeAlias = Send | Choice | Loop | Parallel | Scope | Each | Enroll | Call | End | Break | Continue
Block: TypeAlias = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Import:
    """A file whose declarations are used here, as ``name@range``."""

    mark: Mark
    text: str


@dataclass(frozen=True, slots=True)
class Spec:
    """One ``*.protocol.yaml``.

    *source* travels to the broker at registration: the file's text, or a bundle (``bus.spec.bundle``) where
    it needs other files. A *library* has neither roles nor a conversation; *protocol* is its name then.
    """

    mark: Mark
    protocol: str
    version: str
    roles: tuple[Role, ...]
    messages: tuple[MessageDeclaration, ...]
    conversation: Block
    source: str
    language: int = 1
    status: str = "stable"
    doc: str = ""
    imports: tuple[Import, ...] = ()
    delivery: str = "durable"  # defaults.delivery
    within: float | None = None  # defaults.within; None: settings.within where nothing else bounds the wait
    keys: tuple[str, ...] = ()
    types: tuple[Struct, ...] = ()
    outcomes: tuple[tuple[str, str], ...] = ()  # (name, doc)
    library: bool = False

    def role(self, name: str) -> Role | None:
        """Return the role called *name*, or None."""
        return next((role for role in self.roles if role.name == name), None)

    def root_of(self, name: str) -> Role:
        """Return the role whose members play *name*: the one itself, or the one that a sub-role is from in the end.

        Raises:
            LookupError: There is no role of that name, or of one that it is from.
        """
        for _ in self.roles:
            role = self.role(name)
            if role is None:
                break
            if role.source is None:
                return role
            name = role.source
        raise LookupError(f"expected a role that is not from itself, got {name!r}")
