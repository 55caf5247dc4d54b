"""JSON Schema (2020-12) of a spec's messages, made from the spec itself.

Two views, as the language has two readings of a body: what a sender may say (no field beside those
declared, no word beside those listed), and what a reader takes (unknown fields and, in open enums,
unknown words are let through). Everything that a model takes its schema takes; two things a schema cannot
say and leaves to the model: ``rules``, told in the description, and the bounds that all messages share
(64 bit integers, a mebibyte of text). Bytes, which JSON lacks, are ``format: binary`` and count in bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from bus.spec.field import TEXT_FORMS
from bus.spec.syntax import Field, MessageDeclaration, Spec, Struct, TypeExpression

Schema: TypeAlias = dict[str, object]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ARTIFACT = "artifact"  # key among the definitions; declared types begin with a capital


@dataclass(frozen=True, slots=True)
class View:
    """Whose schema it is.

    Attributes:
        reading: What a reader takes rather than what a sender may say.
        definitions: Where types are found, as the beginning of a reference.
    """

    reading: bool = False
    definitions: str = "#/$defs/"


SAID = View()
READ = View(reading=True)


_ARTIFACT: Schema = {
    "type": "object",
    "description": "A named, immutable, hashed result: big data never travels in a message.",
    "properties": {
        "uri": {"type": "string", "minLength": 1, "maxLength": 4096},
        "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "size": {"type": "integer", "minimum": 0},
        "media_type": {"type": "string", "maxLength": 255, "default": "application/octet-stream"},
    },
    "required": ["uri", "sha256", "size"],
}
_SCALARS: dict[str, Schema] = {
    "string": {"type": "string"},
    "int": {"type": "integer"},
    "number": {"type": "number"},
    "bool": {"type": "boolean"},
    "bytes": {"type": "string", "format": "binary"},
    "uuid": {"type": "string", "format": "uuid", "pattern": f"^{TEXT_FORMS['uuid']}$"},
    "datetime": {"type": "string", "format": "date-time", "pattern": f"^{TEXT_FORMS['datetime']}$"},
    "duration": {"type": "string", "pattern": f"^{TEXT_FORMS['duration']}$"},
    "any": {},
}


def protocol_schema(spec: Spec, view: View = SAID) -> Schema:
    """Return one document for all messages of *spec*: each under ``$defs``, and the form ``{"Type": {fields}}``."""
    messages: Schema = {one.name: _object(spec, one, view) for one in spec.messages}
    return {
        "$schema": DIALECT,
        "$id": f"urn:palaver:{spec.protocol}:{spec.version}",
        "title": f"{spec.protocol} {spec.version}",
        **_described(spec.doc),
        "type": "object",
        "properties": {name: _ref(name, view) for name in messages},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
        "$defs": {**messages, **definitions(spec, spec.messages, view)},
    }


def message_schema(spec: Spec, message: MessageDeclaration, view: View = SAID) -> Schema:
    """Return the schema of *message*'s fields alone, with the types that it uses under ``$defs``."""
    schema = _object(spec, message, view)
    used = definitions(spec, [message], view)
    return {**schema, "$defs": used} if used else schema


def definitions(spec: Spec, messages: Iterable[MessageDeclaration], view: View = SAID) -> Schema:
    """Return the schemas of the declared types that *messages* use, by name, those inside others too."""
    structs = {struct.name: struct for struct in spec.types}
    found: Schema = {}
    for name in _used(messages, structs):
        found[name] = _closed(_ARTIFACT, view) if name == ARTIFACT else _object(spec, structs[name], view)
    return found


def field_schema(field: Field, view: View = SAID) -> Schema:
    """Return the schema of one field's values."""
    return {
        **_value(field, view),
        **_described(field.doc, field.deprecated),
        **({"default": field.default} if field.has_default else {}),
        **({"examples": [field.example]} if field.has_example else {}),
        **({"deprecated": True} if field.deprecated else {}),
        **({"writeOnly": True} if field.secret else {}),
    }


def is_required(field: Field) -> bool:
    """Return whether a message without the field is wrong."""
    return not field.has_default and not (field.type is not None and field.type.optional)


def _object(spec: Spec, declared: MessageDeclaration | Struct, view: View) -> Schema:
    required = [field.name for field in declared.fields if is_required(field)]
    facts: Schema = {}
    rules: tuple[str, ...] = ()
    if isinstance(declared, MessageDeclaration):
        rules = declared.rules
        if declared.deprecated:
            facts["deprecated"] = True
        if declared.examples:
            facts["examples"] = list(declared.examples)
    deprecated = declared.deprecated if isinstance(declared, MessageDeclaration) else False
    schema: Schema = {
        "title": declared.name,
        **_described(declared.doc, deprecated, rules),
        "type": "object",
        "properties": {field.name: field_schema(field, view) for field in declared.fields},
        **({"required": required} if required else {}),
        **facts,
    }
    return _closed(schema, view)


def _closed(schema: Schema, view: View) -> Schema:
    return schema if view.reading else {**schema, "additionalProperties": False}


def _described(doc: str, deprecated: bool | str = False, rules: tuple[str, ...] = ()) -> Schema:
    parts = [doc.strip()] if doc.strip() else []
    if isinstance(deprecated, str):
        parts.append(f"Deprecated: {deprecated.strip()}")
    parts += [f"Must hold: {rule}" for rule in rules]
    return {"description": "\n".join(parts)} if parts else {}


def _value(field: Field, view: View) -> Schema:
    if field.type is None:
        words: Schema = {"type": "string", "enum": list(field.enum)}
        return {"anyOf": [words, {"type": "string"}]} if field.open and view.reading else words
    one = _scalar(field.type, field, view)
    if field.type.container is None:
        return _optional(one) if field.type.optional else one
    if field.type.container == "list":
        many: Schema = {"type": "array", "items": one, **_bounds("Items", field.min_items, field.max_items)}
    else:
        many = {
            "type": "object",
            "additionalProperties": one,
            **_bounds("Properties", field.min_items, field.max_items),
        }
    return _optional(many) if field.type.optional else many


def _scalar(type: TypeExpression, field: Field, view: View) -> Schema:
    if type.name == ARTIFACT or type.name[0].isupper():
        return _ref(type.name, view)
    schema = {**_SCALARS[type.name], **_bounds("Length", field.min_len, field.max_len)}
    whole = type.name == "int"  # 0.5 as least whole number is 1
    if field.min is not None:
        schema["minimum"] = math.ceil(field.min) if whole else field.min
    if field.max is not None:
        schema["maximum"] = math.floor(field.max) if whole else field.max
    if field.pattern is not None:
        schema["pattern"] = field.pattern
    return schema


def _bounds(what: str, least: int | None, most: int | None) -> Schema:
    return {
        **({f"min{what}": least} if least is not None else {}),
        **({f"max{what}": most} if most is not None else {}),
    }


def _optional(schema: Schema) -> Schema:
    """Return *schema* that takes null as well."""
    if not schema:
        return schema  # `any` does already
    if "type" in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _ref(name: str, view: View) -> Schema:
    return {"$ref": f"{view.definitions}{name}"}


def _used(messages: Iterable[MessageDeclaration], structs: dict[str, Struct]) -> Iterator[str]:
    """Yield the names of the types that *messages* use, each once, in the order in which they are met."""
    met: dict[str, None] = {}
    waiting = [field for message in messages for field in message.fields]
    while waiting:
        field = waiting.pop(0)
        name = field.type.name if field.type is not None else ""
        if name in met or not (name == ARTIFACT or name in structs):
            continue
        met[name] = None
        if name in structs:
            waiting += structs[name].fields
    yield from met
