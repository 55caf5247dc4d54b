"""Message types and structs as Python classes, for type checkers: at run time they are the protocol's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bus.spec.field_words import constraint_words, note_words
from bus.spec.models import attribute_name
from bus.spec.python_names import Names
from bus.spec.python_text import INDENT, docstring, literal, statement
from bus.spec.syntax import Field, MessageDeclaration, Spec, Struct

TYPED = "bus.sdk.typed"
_BUILT_IN = {"string": "str", "int": "int", "number": "float", "bool": "bool", "bytes": "bytes"}
_IMPORTED = {
    "uuid": ("uuid", "UUID"),
    "datetime": ("datetime", "datetime"),
    "duration": ("datetime", "timedelta"),
    "any": ("typing", "Any"),
    "artifact": (TYPED, "Artifact"),
}


class FieldTypes:
    """The Python types and defaults of fields."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def annotation(self, field: Field, beside: Sequence[Field] = ()) -> str:
        """Return the type of *field* as source.

        Args:
            beside: The fields of the class around it, whose names hide those of types (``list: list of string``).
        """
        hidden = {attribute_name(one.name) for one in beside}
        if field.type is None:
            words = ", ".join(map(literal, field.enum))
            return f"{self._names.use('typing', 'Literal')}[{words}]"
        name = field.type.name
        if name in _BUILT_IN:
            kind = self._built_in(_BUILT_IN[name], hidden)
        elif name in _IMPORTED:
            module, python = _IMPORTED[name]
            kind = self._names.use(module, python, hidden=python in hidden)
        else:
            kind = name
        if field.type.container == "list":
            kind = f"{self._built_in('list', hidden)}[{kind}]"
        elif field.type.container == "map":
            kind = f"{self._built_in('dict', hidden)}[{self._built_in('str', hidden)}, {kind}]"
        return f"{kind} | None" if field.type.optional and name != "any" else kind

    def default(self, field: Field) -> str:
        """Return the default as source, "" where the field is needed."""
        if not field.has_default:
            return "None" if field.type is not None and field.type.optional else ""
        simple = field.type is None or (field.type.container is None and field.type.name in _BUILT_IN)
        if field.default is None or simple:
            return literal(field.default)
        return self._names.use(TYPED, "LEFT_OUT")  # a list, say, or a time that the wire writes as text

    def _built_in(self, name: str, hidden: set[str]) -> str:
        return self._names.use("builtins", name, hidden=True) if name in hidden else name


def class_of(spec: Spec, declared: MessageDeclaration | Struct, types: FieldTypes, base: str) -> list[str]:
    """Return the lines of the class of a message type or struct."""
    paragraphs = [declared.doc.strip() or f"{declared.name} of the protocol {spec.protocol}."]
    if isinstance(declared, MessageDeclaration):
        paragraphs += [f"Always true: `{rule}`." for rule in declared.rules]
        if declared.deprecated:
            why = f": {declared.deprecated}" if isinstance(declared.deprecated, str) else "."
            paragraphs.append(f"Deprecated{why}")
    head = [f"{INDENT}class {declared.name}({base}, frozen=True):", *docstring(paragraphs, INDENT * 2)]
    fields = [line for field in declared.fields for line in _field(field, declared.fields, types)]
    return [*head, *([""] if fields else []), *fields]


def _field(field: Field, beside: Sequence[Field], types: FieldTypes) -> Iterator[str]:
    indent = INDENT * 2
    default = types.default(field)
    tail = f" = {default}" if default else ""
    yield from statement(attribute_name(field.name), types.annotation(field, beside), tail, indent)
    told = [text for text in (constraint_words(field), field.doc.strip(), *note_words(field)) if text]
    if told:
        sentences = (text if text.endswith((".", "!", "?")) else f"{text}." for text in told)
        yield from docstring([" ".join(text[0].upper() + text[1:] for text in sentences)], indent)
