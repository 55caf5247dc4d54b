"""The pydantic classes of a spec: one for each struct and message type.

Also finds what only validation can find: E-BAD-DEFAULT, E-BAD-EXAMPLE, patterns that are none.
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError, ValidationInfo, create_model, model_validator
from pydantic import Field as FieldInfo
from pydantic_core import PydanticCustomError, SchemaError

from bus.spec.diagnostic import SYNTAX, Report
from bus.spec.field import CONFIG, Artifact, annotation, misplaced
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


def build_models(spec: Spec, report: Report) -> dict[str, type[BaseModel]]:
    """Return the classes of all structs and messages of *spec*, by name.

    The names in *spec* resolve. Classes of faulty declarations are left out, and *report* has errors.
    """
    models: dict[str, type[BaseModel]] = {"Artifact": Artifact}
    structs: dict[str, type[BaseModel]] = {}
    for struct in _in_order(spec.types, report):
        made = _make(spec, struct, (), structs, report)
        if made is not None:
            structs[struct.name] = models[struct.name] = made
    for declaration in spec.messages:
        if not all(field.type is None or _resolves(field.type.name, structs) for field in declaration.fields):
            continue  # the struct was reported
        rules = [compile_rule(text, [field.name for field in declaration.fields]) for text in declaration.rules]
        made = _make(spec, declaration, rules, structs, report)
        if made is not None:
            models[declaration.name] = made
            _check_examples(declaration, made, report)
    return models


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


def _resolves(name: str, structs: Mapping[str, type[BaseModel]]) -> bool:
    return name[0].islower() or name in structs


def _in_order(structs: tuple[Struct, ...], report: Report) -> list[Struct]:
    """Return the structs, each behind those that it holds; those that hold themselves are reported."""
    by_name = {struct.name: struct for struct in structs}
    done: dict[str, bool] = {}  # False while we are inside it
    order: list[Struct] = []

    def visit(struct: Struct) -> bool:
        if struct.name in done:
            return done[struct.name]
        done[struct.name] = False
        fine = True
        for field in struct.fields:
            inner = by_name.get(field.type.name) if field.type else None
            if inner is None or visit(inner):
                continue
            if fine:
                message = f"types.{struct.name}.{field.name}: a type may not hold itself, got {inner.name!r}"
                report.error(field.mark, "E-RECURSIVE-TYPE", message, suggestion="use 'any' for trees")
            fine = False
        if fine:
            order.append(struct)
        done[struct.name] = fine
        return fine

    for struct in structs:
        visit(struct)
    return order


def _make(
    spec: Spec,
    declared: Struct | MessageDeclaration,
    rules: list[Rule] | tuple[()],
    structs: Mapping[str, type[BaseModel]],
    report: Report,
) -> type[BaseModel] | None:
    """Return the class of a struct or message, or None where one of its fields is wrong."""
    fields: dict[str, Any] = {}
    names = {field.name: attribute_name(field.name) for field in declared.fields}
    for field in declared.fields:
        where = f"{declared.name}.{field.name}"
        found = _field(field, where, names[field.name], structs, report)
        if found is None:
            return None
        fields[names[field.name]] = found
    is_message = isinstance(declared, MessageDeclaration)
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


def _field(
    field: Field, where: str, attribute: str, structs: Mapping[str, type[BaseModel]], report: Report
) -> tuple[Any, Any] | None:
    """Return what ``create_model`` wants of a field, or None where it is wrong."""
    wrong = misplaced(field)
    for message in wrong:
        report.error(field.mark, SYNTAX, f"{where}: {message}")
    if wrong:
        return None
    kind = annotation(field, structs)
    facts: dict[str, Any] = {"description": field.doc or None, "repr": not field.secret}
    if attribute != field.name:
        facts["alias"] = field.name
    if field.deprecated:
        facts["json_schema_extra"] = {"deprecated": True}  # pydantic's own mark warns at each access
    optional = field.type is not None and field.type.optional
    if optional and not field.has_default:
        facts["default"] = None
    if field.pattern is None and not field.has_default and not field.has_example:
        return kind, FieldInfo(**facts)
    try:
        adapter: TypeAdapter[object] = TypeAdapter(kind, config=None if _is_model(kind) else CONFIG)
    except SchemaError:
        report.error(field.mark, SYNTAX, f"{where}.pattern: expected a regular expression, got {field.pattern!r}")
        return None
    if field.has_default:
        fine, facts["default"] = _try(adapter, field, field.default, "E-BAD-DEFAULT", f"{where}.default", report)
        if not fine:
            return None
    if field.has_example:
        fine, _ = _try(adapter, field, field.example, "E-BAD-EXAMPLE", f"{where}.example", report)
        if not fine:
            return None
        facts["examples"] = [field.example]
    return kind, FieldInfo(**facts)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _try(
    adapter: TypeAdapter[object], field: Field, value: object, rule: str, where: str, report: Report
) -> tuple[bool, object]:
    try:
        return True, adapter.validate_python(value)
    except ValidationError as error:
        report.error(field.mark, rule, f"{where}: {_first(error)}")
        return False, None


def _check_examples(declaration: MessageDeclaration, model: type[BaseModel], report: Report) -> None:
    for index, example in enumerate(declaration.examples):
        try:
            model.model_validate(example)
        except ValidationError as error:
            place = f"messages.{declaration.name}.examples[{index}]"
            report.error(declaration.mark, "E-BAD-EXAMPLE", f"{place}: {_first(error)}")


def _first(error: ValidationError) -> str:
    """Return the first mistake; what specs say is no secret."""
    detail = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in detail["loc"])
    expected = detail["msg"].removeprefix("Input should be ")
    return f"{path + ': ' if path else ''}expected {expected}, got {str(detail['input'])[:60]!r}"


def _check_rules(rules: list[Rule] | tuple[()], names: Mapping[str, str]) -> Any:
    """Return the validator that refuses a message which breaks one of *rules*."""
    aliased = {name: attribute for name, attribute in names.items() if name != attribute}

    def check(message: BaseModel, info: ValidationInfo) -> BaseModel:
        if info.context and info.context.get("without_rules"):
            return message
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
