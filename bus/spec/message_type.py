"""Message types: pydantic model classes made from a spec, and their way to plain values and back.

Plain values are what msgpack knows: None, bool, int, float, str, bytes, list, dict with text keys.
Bytes are the business of ``wire``; nothing here packs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from bus.errors import BodyInvalid
from bus.spec.field import CONFIG, READING
from bus.spec.syntax import Delivery

_SHOWN_ERRORS = 5


class Message(BaseModel, frozen=True):  # said here, too, for type checkers
    """What every message class is: strict, frozen, with no field beside those of its type.

    Attributes:
        __protocol__: ``name@major`` of the protocol that the class belongs to.
        __message_type__: Name of the message type.
    """

    model_config = CONFIG

    __protocol__: ClassVar[str] = ""
    __message_type__: ClassVar[str] = ""


@dataclass(frozen=True, slots=True, eq=False)
class MessageType:
    """A message type of a compiled protocol.

    Attributes:
        index: Its number in the protocol, also on the wire.
        window: At most this many unprocessed at the receiver, or None.
        model: The class of its messages.
        keys: Its fields that keep one value during a conversation, as named on the wire.
        key_names: The same in UTF-8, as the broker looks for them in a packed body.
        secret: Wire names of the fields that are never logged or shown in errors.
        lists: Where attributes are the plain values already (no rich type, no map, no alias): the fields that are
            lists, with the types that their items may have. None where only the serializer knows the wire form.
    """

    name: str
    index: int
    delivery: Delivery
    window: int | None
    model: type[Message]
    keys: tuple[str, ...] = ()
    secret: frozenset[str] = frozenset()
    doc: str = ""
    lists: Mapping[str, frozenset[type]] | None = None
    key_names: frozenset[bytes] = field(init=False, repr=False)
    _serialize: Callable[..., dict[str, object]] = field(init=False, repr=False)
    _validate: Callable[..., Message] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key_names", frozenset(name.encode() for name in self.keys))
        object.__setattr__(self, "_serialize", self.model.__pydantic_serializer__.to_python)
        object.__setattr__(self, "_validate", self.model.__pydantic_validator__.validate_python)

    def to_plain(self, message: Message) -> dict[str, object]:
        """Return the fields of *message*, an instance of ``model``, under their wire names.

        Raises:
            BodyInvalid: A list or map in it was changed after it was made and no longer fits.
        """
        if self.lists is None:
            try:
                return self._serialize(message, warnings="error")
            except PydanticSerializationError:
                raise self._changed() from None  # the cause would show values, secret ones too
        fields: dict[str, object] = message.__dict__.copy()  # frozen, so but for lists as it was validated
        for name, kinds in self.lists.items():
            value = fields[name]
            if value is not None and not (isinstance(value, list) and kinds.issuperset(map(type, value))):
                raise self._changed()
        return fields

    def from_plain(self, fields: object, *, context: Mapping[str, bool] = READING) -> Message:
        """Return the message that a peer sent as *fields*; fields that we do not know are left out.

        Args:
            context: ``READING_ANOTHER`` where the peer speaks another version.

        Raises:
            BodyInvalid: A field, rule or the whole is not what the type says. Values of secret fields
                are never in the text, and nothing holds on to the body.
        """
        try:
            return self._validate(fields, extra="ignore", context=context)
        except ValidationError as error:
            raise BodyInvalid(self._explain(error)) from None

    def build(self, fields: Mapping[str, object]) -> Message:
        """Return a message to send, made of *fields* that a person or program wrote (JSON, say).

        Raises:
            BodyInvalid: As ``from_plain``, and for fields that the type lacks.
        """
        try:
            return self._validate(dict(fields))
        except ValidationError as error:
            raise BodyInvalid(self._explain(error)) from None

    def _changed(self) -> BodyInvalid:
        return BodyInvalid(
            f"{self._where}: a field was changed after the message was made and no longer fits its type; "
            "make a new message"
        )

    @property
    def _where(self) -> str:
        return f"{self.model.__protocol__} {self.name}"

    def _explain(self, error: ValidationError) -> str:
        details = error.errors(include_url=False)
        lines = [self._line(detail) for detail in details[:_SHOWN_ERRORS]]
        if len(details) > _SHOWN_ERRORS:
            lines.append(f"and {len(details) - _SHOWN_ERRORS} more")
        return f"{self._where}: {'; '.join(lines)}"

    def _line(self, detail: Mapping[str, Any]) -> str:
        path = ".".join(str(part)[:60] for part in detail["loc"])
        place = f"{path}: " if path else ""
        if detail["type"] == "missing":
            return f"{place}expected a value, got none"
        if detail["type"] == "extra_forbidden":
            known = ", ".join(one.alias or name for name, one in self.model.model_fields.items())
            return f"{place}expected one of the fields {known or '(none)'}"
        expected = str(detail["msg"]).removeprefix("Input should be ").removeprefix("Value should be ")
        return f"{place}expected {expected}, got {self._got(detail)}"

    def _got(self, detail: Mapping[str, Any]) -> str:
        """Return the type of what was got; a number's value too, where it is no secret."""
        value = detail["input"]
        kind = type(value).__name__
        hidden = self.secret and (not detail["loc"] or not self.secret.isdisjoint(detail["loc"]))
        if isinstance(value, int | float) and not hidden:
            return f"{kind} {str(value)[:30]}" if not isinstance(value, int) or abs(value) < 2**64 else kind
        return kind
