"""Checks of fields: E-RECURSIVE-TYPE, E-BAD-DEFAULT, E-BAD-EXAMPLE, constraints and patterns that mean nothing.

Only what a default or an example needs is made of the message classes: making them is most of the time that
a protocol takes, and a check has no other use for them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from bus.spec.diagnostic import SYNTAX, Report
from bus.spec.field import CONFIG, annotation, misplaced
from bus.spec.models import Models
from bus.spec.syntax import Field, MessageDeclaration, Spec, Struct

MAX_STRUCT_DEPTH = 32  # as deep as a document may be
_INSIDE, _WRONG = 0, -1  # instead of a depth: it is being looked at, or was reported


def check_fields(spec: Spec, report: Report) -> Models:
    """Report faults of structs' and messages' fields; the names in *spec* resolve.

    Returns:
        The classes, to be made of what is in order when they are needed.
    """
    models = Models(spec)
    sound: set[str] = set()
    names = {struct.name for struct in spec.types}
    for struct in _in_order(spec.types, report):
        if _check_declared(struct, names, sound, models, report):
            sound.add(struct.name)
    for declaration in spec.messages:
        if _check_declared(declaration, names, sound, models, report):
            _check_examples(declaration, models, report)
    return models


def _in_order(structs: tuple[Struct, ...], report: Report) -> list[Struct]:
    """Return the structs, each behind those that it holds; what holds itself is reported, once for each circle."""
    by_name = {struct.name: struct for struct in structs}
    depths: dict[str, int] = {}  # how many types stand inside one another, at most
    order: list[Struct] = []

    def visit(struct: Struct, level: int) -> int:
        if struct.name not in depths:
            depths[struct.name] = _INSIDE
            inner = [hold(struct, field, level) for field in struct.fields]
            if _WRONG in inner:
                depths[struct.name] = _WRONG
            else:
                depths[struct.name] = 1 + max(inner, default=0)
                order.append(struct)
        return depths[struct.name]

    def hold(struct: Struct, field: Field, level: int) -> int:
        inner = by_name.get(field.type.name) if field.type else None
        if inner is None:
            return 0  # a built-in type
        where = f"types.{struct.name}.{field.name}"
        depth = visit(inner, level + 1) if level < MAX_STRUCT_DEPTH else MAX_STRUCT_DEPTH
        if depth == _INSIDE:
            message = f"{where}: a type may not hold itself, got {inner.name!r}"
        elif depth >= MAX_STRUCT_DEPTH:  # whoever goes through a value goes as deep as its type
            message = f"{where}: expected at most {MAX_STRUCT_DEPTH} types inside one another, got more"
        else:
            return depth
        report.error(field.mark, "E-RECURSIVE-TYPE", message, suggestion="use 'any' for trees")
        return _WRONG

    for struct in structs:
        visit(struct, 1)
    return order


def _check_declared(
    declared: Struct | MessageDeclaration, structs: Collection[str], sound: Collection[str], models: Models,
    report: Report,
) -> bool:  # fmt: skip
    """Return whether the declaration's fields are in order; report the first that is not.

    Where a struct in it was reported already, nothing more is said.
    """
    named = {field.type.name for field in declared.fields if field.type is not None}
    if not all(name in sound for name in named if name in structs):
        return False
    return all(_check_field(field, declared.name, models, report) for field in declared.fields)


def _check_field(field: Field, owner: str, models: Models, report: Report) -> bool:
    where = f"{owner}.{field.name}"
    wrong = misplaced(field)
    for message in wrong:
        report.error(field.mark, SYNTAX, f"{where}: {message}")
    if wrong:
        return False
    if field.pattern is None and not field.has_default and not field.has_example:
        return True
    kind = annotation(field, models.structs_of(field))
    try:
        adapter: TypeAdapter[object] = TypeAdapter(kind, config=None if _is_model(kind) else CONFIG)
    except SchemaError:
        report.error(field.mark, SYNTAX, f"{where}.pattern: expected a regular expression, got {field.pattern!r}")
        return False
    if field.has_default:
        fine, default = _try(adapter, field, field.default, "E-BAD-DEFAULT", f"{where}.default", report)
        if not fine:
            return False
        models.defaults[owner, field.name] = default
    if field.has_example:
        fine, _ = _try(adapter, field, field.example, "E-BAD-EXAMPLE", f"{where}.example", report)
        return fine
    return True


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


def _check_examples(declaration: MessageDeclaration, models: Models, report: Report) -> None:
    for index, example in enumerate(declaration.examples):
        try:
            models.of(declaration.name).model_validate(example)
        except ValidationError as error:
            place = f"messages.{declaration.name}.examples[{index}]"
            report.error(declaration.mark, "E-BAD-EXAMPLE", f"{place}: {_first(error)}")


def _first(error: ValidationError) -> str:
    """Return the first mistake; what specs say is no secret."""
    detail = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in detail["loc"])
    expected = detail["msg"].removeprefix("Input should be ")
    return f"{path + ': ' if path else ''}expected {expected}, got {str(detail['input'])[:60]!r}"
