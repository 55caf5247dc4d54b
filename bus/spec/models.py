"""The pydantic classes of a spec: one for each struct and message type. ``check_fields`` comes first."""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, create_model, model_validator
from pydantic import Field as FieldInfo
from pydantic_core import PydanticCustomError

from bus.spec.field import CONFIG, Artifact, annotation
from bus.spec.message_type import Message, MessageType
from bus.spec.rules import Rule, compile_rule
from bus.spec.syntax import Delivery, Field, MessageDeclaration, Spec, Struct

# Types whose Python values are those of the wire, with the classes that these values have.
_UNCHANGED: dict[str, frozenset[type]] = {
    "string": frozenset({str}),
    "int": frozenset({int}),
    "number": frozenset({float, int}),
    "bool": frozenset({bool}),
    "bytes": frozenset({bytes}),
}


class Models:
    """The classes of a spec, each made when it is first asked for: most of a check needs none of them.

    Attributes:
        defaults: (declaration, field) → the default as its type has it, noted by ``check_fields``.
    """

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._declared: dict[str, Struct | MessageDeclaration] = {one.name: one for one in spec.types}
        self._declared |= {one.name: one for one in spec.messages}
        self._made: dict[str, type[BaseModel]] = {"Artifact": Artifact}
        self.defaults: dict[tuple[str, str], object] = {}

    def of(self, name: str) -> type[BaseModel]:
        """Return the class of a struct or message type, which ``check_fields`` has found in order."""
        made = self._made.get(name)
        if made is None:
            # Whoever asks goes from the inner to the outer structs, so this is no deep recursion.
            made = self._made[name] = _make(self._spec, self._declared[name], self)
        return made

    def structs_of(self, field: Field) -> dict[str, type[BaseModel]]:
        """Return the class that the field's type names, by name; empty where it is a built-in type."""
        name = field.type.name if field.type else ""
        return {name: self.of(name)} if name in self._declared else {}

    def all(self) -> dict[str, type[BaseModel]]:
        """Return the classes of all structs and messages, by name."""
        for struct in self._spec.types:
            self.of(struct.name)
        return {"Artifact": Artifact} | {name: self.of(name) for name in self._declared}


def message_types(spec: Spec, models: Mapping[str, type[BaseModel]]) -> tuple[MessageType, ...]:
    """Return the message types of *spec*, whose classes are in *models*."""
    types = []
    for index, declaration in enumerate(spec.messages):
        model = models[declaration.name]
        assert issubclass(model, Message)  # structs and messages share no name: check_names
        names = {field.name for field in declaration.fields}
        types.append(
            MessageType(
                name=declaration.name,
                index=index,
                delivery=Delivery(declaration.delivery or spec.delivery),
                window=declaration.window,
                model=model,
                keys=tuple(key for key in spec.keys if key in names),
                secret=_secrets(declaration.fields, spec.types),
                doc=declaration.doc,
                lists=_lists(declaration.fields),
            )
        )
    return tuple(types)


def attribute_name(name: str) -> str:
    """Return the Python name of the field called *name*: with ``_`` behind where pydantic or Python has it."""
    taken = hasattr(Message, name) or name.startswith("model_") or keyword.iskeyword(name)
    return f"{name}_" if taken else name


def _lists(fields: tuple[Field, ...]) -> dict[str, frozenset[type]] | None:
    """Return ``MessageType.lists``: None where a Python value or name is not that of the wire."""
    lists = {}
    for field in fields:
        if attribute_name(field.name) != field.name:
            return None
        if field.type is None:  # an enum: text
            continue
        if field.type.name not in _UNCHANGED or field.type.container not in (None, "list"):
            return None
        if field.type.container == "list":
            lists[field.name] = _UNCHANGED[field.type.name]
    return lists


def _make(spec: Spec, declared: Struct | MessageDeclaration, models: Models) -> type[BaseModel]:
    """Return the class of a struct or message."""
    names = {field.name: attribute_name(field.name) for field in declared.fields}
    fields: dict[str, Any] = {}
    for field in declared.fields:
        kind = annotation(field, models.structs_of(field))
        default = models.defaults.get((declared.name, field.name))
        fields[names[field.name]] = kind, _facts(field, names[field.name], default)
    is_message = isinstance(declared, MessageDeclaration)
    rules = [compile_rule(text, names) for text in declared.rules] if isinstance(declared, MessageDeclaration) else []
    model: type[BaseModel] = create_model(
        declared.name,
        __doc__=declared.doc or f"{declared.name} of the protocol {spec.protocol}.",
        __module__=f"{spec.protocol}.protocol",
        __validators__={"check_rules": _check_rules(rules, names)} if rules else None,
        **({"__base__": Message} if is_message else {"__config__": CONFIG}),
        **fields,
    )
    if issubclass(model, Message):
        model.__protocol__ = f"{spec.protocol}@{spec.version.partition('.')[0]}"
        model.__message_type__ = declared.name
    return model


def _facts(field: Field, attribute: str, default: object) -> Any:
    facts: dict[str, Any] = {"description": field.doc or None, "repr": not field.secret}
    if attribute != field.name:
        facts["alias"] = field.name
    if field.deprecated:
        facts["json_schema_extra"] = {"deprecated": True}  # pydantic's own mark warns at each access
    if field.has_default or (field.type is not None and field.type.optional):
        facts["default"] = default
    if field.has_example:
        facts["examples"] = [field.example]
    return FieldInfo(**facts)


def _check_rules(rules: list[Rule], names: Mapping[str, str]) -> Any:
    """Return the validator that refuses a message which breaks one of *rules*."""
    aliased = {name: attribute for name, attribute in names.items() if name != attribute}

    def check(message: BaseModel) -> BaseModel:
        values = message.__dict__
        if aliased:
            values = values | {name: values[attribute] for name, attribute in aliased.items()}
        for rule in rules:
            if not rule.holds(values):
                raise PydanticCustomError("rule", "a message of which '{rule}' is true", {"rule": rule.text})
        return message

    return model_validator(mode="after")(check)


def _secrets(fields: tuple[Field, ...], structs: tuple[Struct, ...]) -> frozenset[str]:
    """Return the names of secret fields, those of structs inside too."""
    by_name = {struct.name: struct for struct in structs}
    found: set[str] = set()
    pending = list(fields)
    seen: set[str] = set()
    while pending:
        field = pending.pop()
        if field.secret:
            found.add(field.name)
        if field.type and field.type.name in by_name and field.type.name not in seen:
            seen.add(field.type.name)
            pending.extend(by_name[field.type.name].fields)
    return frozenset(found)
