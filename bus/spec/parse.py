"""Nodes to ``Spec``: the sections of a protocol file. ``parse_steps`` reads the conversation.

Everything that is wrong goes to the report; what could be read is returned all the same, so that
one run shows all mistakes. Names are resolved by ``check``; only what has no mark in ``Spec``
(keys, rules, reserved names, examples) is checked here, where the place is known.
"""

from __future__ import annotations

import re

from bus.spec.diagnostic import Report, did_you_mean
from bus.spec.node import MapNode, Node, Reader, ScalarNode, plain
from bus.spec.parse_steps import CALLEE, ROLE_NAME, StepParser
from bus.spec.rules import RuleError, UnknownField, compile_rule
from bus.spec.syntax import (
    Delivery,
    Field,
    Import,
    Mark,
    MessageDeclaration,
    Role,
    Spec,
    Struct,
    TypeExpression,
)

PROTOCOL_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
OUTCOME_NAME = PROTOCOL_NAME
TYPE_NAME = re.compile(r"[A-Z][A-Za-z0-9]{0,63}")
MESSAGE_NAME = re.compile(r"[A-Z][A-Za-z0-9_]{0,63}")
FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
VERSION = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}")
IMPORT = CALLEE
MANY = re.compile(r"([0-9]{1,6})\.\.([0-9]{1,6}|\*)")
TYPE_EXPRESSION = re.compile(r"(optional )?(?:(list|map) of )?([A-Za-z][A-Za-z0-9]*)")

BUILT_IN_TYPES = (
    "string",
    "int",
    "number",
    "bool",
    "bytes",
    "uuid",
    "datetime",
    "duration",
    "artifact",
    "any",
)
MAX_ROLES = 16
STATUSES = ("draft", "beta", "stable", "deprecated")
_TOP = (
    "language", "protocol", "version", "status", "doc", "imports", "defaults",
    "keys", "roles", "types", "messages", "outcomes", "conversation",
)  # fmt: skip
_REQUIRED = ("language", "protocol", "version", "roles", "messages", "conversation")
_LIBRARY = ("language", "library", "version", "status", "doc", "imports", "defaults", "types", "messages")
_LIBRARY_REQUIRED = ("language", "library", "version")
_ROLE_KEYS = ("doc", "pool", "many", "from", "human")
_MESSAGE_KEYS = ("doc", "delivery", "window", "fields", "rules", "examples", "deprecated", "reserved")
_NUMBERS = ("min", "max")
_LENGTHS = ("min_len", "max_len")
_COUNTS = ("min_items", "max_items")
_FIELD_KEYS = (
    "type", "enum", "open", "default", "doc", "deprecated", "secret", "pattern", "example",
    *_NUMBERS, *_LENGTHS, *_COUNTS,
)  # fmt: skip


def parse_spec(document: Node, source: str, report: Report) -> Spec:
    """Return what *document* says; where *report* then has errors the spec is only partly there."""
    return _SpecParser(report).spec(document, source)


class _SpecParser:
    def __init__(self, report: Report) -> None:
        self._report = report
        self._read = Reader(report)

    def spec(self, document: Node, source: str) -> Spec:
        read = self._read
        given = {entry.key for entry in document.entries} if isinstance(document, MapNode) else set()
        is_library = "library" in given
        if is_library:
            found = read.fields(document, "library file", _LIBRARY, _LIBRARY_REQUIRED)
        else:
            required = [key for key in _REQUIRED if key != "messages" or "imports" not in given]
            found = read.fields(document, "protocol file", _TOP, required)
        if "language" in found and not _is(found["language"], 1):
            read.wrong(found["language"], "language", "1")
        known = ("delivery",) if is_library else ("delivery", "within")
        defaults = read.fields(found["defaults"], "defaults", known) if "defaults" in found else {}
        messages = self._messages(found.get("messages"))
        steps = StepParser(self._report)
        name = "library" if is_library else "protocol"
        return Spec(
            mark=document.mark,
            protocol=self._matching(found, name, PROTOCOL_NAME, "a name such as my-protocol"),
            version=self._matching(found, "version", VERSION, "a version such as 1.0.0"),
            roles=self._roles(found.get("roles")),
            messages=messages,
            conversation=steps.block(found["conversation"], "conversation") if "conversation" in found else (),
            source=source,
            status=self._word(found, "status", STATUSES, "stable"),
            doc=self._doc(found, "doc"),
            imports=self._imports(found.get("imports")),
            delivery=self._word(defaults, "delivery", tuple(Delivery), Delivery.DURABLE, "defaults.delivery"),
            within=read.duration(defaults["within"], "defaults.within") if "within" in defaults else None,
            keys=self._keys(found.get("keys"), None if "imports" in found else messages),
            types=self._types(found.get("types")),
            outcomes=self._outcomes(found.get("outcomes")),
            library=is_library,
        )

    def _matching(self, found: dict[str, Node], key: str, pattern: re.Pattern[str], expected: str) -> str:
        return (self._read.matching(found[key], key, pattern, expected) or "") if key in found else ""

    def _word(
        self, found: dict[str, Node], key: str, words: tuple[str, ...], default: str, where: str | None = None
    ) -> str:
        return (self._read.word(found[key], where or key, words) or default) if key in found else default

    def _doc(self, found: dict[str, Node], where: str) -> str:
        return (self._read.text(found["doc"], where) or "") if "doc" in found else ""

    def _named(self, node: Node, where: str, pattern: re.Pattern[str], expected: str) -> list[tuple[Mark, str, Node]]:
        """Return the entries whose names match; tell of the others."""
        kept = []
        for entry in self._read.entries(node, where):
            if pattern.fullmatch(entry.key):
                kept.append((entry.mark, entry.key, entry.value))
            else:
                self._report.error(entry.mark, self._read.rule, f"{where}: expected {expected}, got {entry.key[:60]!r}")
        return kept

    def _imports(self, node: Node | None) -> tuple[Import, ...]:
        items = self._read.items(node, "imports") if node else ()
        read = [(item, self._read.matching(item, "imports", IMPORT, "an import such as common@^1")) for item in items]
        return tuple(Import(item.mark, text) for item, text in read if text)

    def _roles(self, node: Node | None) -> tuple[Role, ...]:
        if node is None:
            return ()
        expected = "a role name in lower case such as writer"
        roles = tuple(self._role(*entry) for entry in self._named(node, "roles", ROLE_NAME, expected))
        if isinstance(node, MapNode) and not 2 <= len(node.entries) <= MAX_ROLES:
            self._report.error(
                node.mark, self._read.rule, f"roles: expected 2 to {MAX_ROLES} roles, got {len(node.entries)}"
            )
        return roles

    def _role(self, mark: Mark, name: str, node: Node) -> Role:
        where = f"roles.{name}"
        read = self._read
        if _is_null(node):
            return Role(mark, name)
        found = read.fields(node, where, _ROLE_KEYS)
        many: tuple[int, int | None] | None = None
        if "many" in found:
            text = read.matching(found["many"], f"{where}.many", MANY, "a range such as 1..50 or 0..*")
            match = MANY.fullmatch(text) if text else None
            if match:
                many = (int(match[1]), None if match[2] == "*" else int(match[2]))
                if many[1] is not None and (many[1] == 0 or many[0] > many[1]):
                    read.wrong(found["many"], f"{where}.many", "a range that rises")
        return Role(
            mark,
            name,
            doc=self._doc(found, f"{where}.doc"),
            pool=self._flag(found, "pool", where),
            many=many,
            source=read.text(found["from"], f"{where}.from", "a role") if "from" in found else None,
            human=self._flag(found, "human", where),
        )

    def _flag(self, found: dict[str, Node], key: str, where: str) -> bool:
        return bool(self._read.boolean(found[key], f"{where}.{key}")) if key in found else False

    def _deprecated(self, found: dict[str, Node], where: str) -> bool | str:
        node = found.get("deprecated")
        if node is None:
            return False
        if isinstance(node, ScalarNode) and isinstance(node.value, bool | str):
            return node.value
        self._read.wrong(node, f"{where}.deprecated", "true, false or a reason")
        return False

    def _types(self, node: Node | None) -> tuple[Struct, ...]:
        if node is None:
            return ()
        structs = []
        for mark, name, value in self._named(node, "types", TYPE_NAME, "a type name such as Source"):
            where = f"types.{name}"
            found = {} if _is_null(value) else self._read.fields(value, where, ("doc", "fields"))
            fields = self._fields(found.get("fields"), f"{where}.fields")
            structs.append(Struct(mark, name, fields, self._doc(found, f"{where}.doc")))
        return tuple(structs)

    def _messages(self, node: Node | None) -> tuple[MessageDeclaration, ...]:
        if node is None:
            return ()
        named = self._named(node, "messages", MESSAGE_NAME, "a message name such as Draft")
        if isinstance(node, MapNode) and not node.entries:
            self._read.wrong(node, "messages", "at least one message")
        return tuple(self._message(*entry) for entry in named)

    def _message(self, mark: Mark, name: str, node: Node) -> MessageDeclaration:
        where = f"messages.{name}"
        read = self._read
        if _is_null(node):
            return MessageDeclaration(mark, name)
        found = read.fields(node, where, _MESSAGE_KEYS)
        fields = self._fields(found.get("fields"), f"{where}.fields")
        return MessageDeclaration(
            mark,
            name,
            fields,
            doc=self._doc(found, f"{where}.doc"),
            delivery=read.word(found["delivery"], f"{where}.delivery", tuple(Delivery))
            if "delivery" in found
            else None,
            window=read.integer(found["window"], f"{where}.window", least=1) if "window" in found else None,
            rules=self._rules(found.get("rules"), f"{where}.rules", fields),
            examples=self._examples(found.get("examples"), f"{where}.examples"),
            deprecated=self._deprecated(found, where),
            reserved=self._reserved(found.get("reserved"), f"{where}.reserved"),
        )

    def _examples(self, node: Node | None, where: str) -> tuple[object, ...]:
        examples = []
        for item in self._read.items(node, where) if node else ():
            if isinstance(item, MapNode):
                examples.append(plain(item))
            else:
                self._read.wrong(item, where, "a map of fields")
        return tuple(examples)

    def _reserved(self, node: Node | None, where: str) -> tuple[str, ...]:
        items = self._read.items(node, where) if node else ()
        read = [self._read.matching(item, where, FIELD_NAME, "a field name") for item in items]
        return tuple(name for name in read if name)

    def _rules(self, node: Node | None, where: str, fields: tuple[Field, ...]) -> tuple[str, ...]:
        rules = []
        for item in self._read.items(node, where) if node else ():
            text = self._read.text(item, where, 'a rule such as "count > 0"')
            if text is None:
                continue
            try:
                compile_rule(text, [field.name for field in fields])
            except RuleError as error:
                shift = error.offset + (isinstance(item, ScalarNode) and item.quoted)
                mark = Mark(item.mark.file, item.mark.line, item.mark.column + shift)
                rule = "E-UNKNOWN-FIELD" if isinstance(error, UnknownField) else self._read.rule
                self._report.error(mark, rule, f"{where}: {error.message}", suggestion=error.suggestion)
                continue
            rules.append(text)
        return tuple(rules)

    def _keys(self, node: Node | None, messages: tuple[MessageDeclaration, ...] | None) -> tuple[str, ...]:
        """Return the fields named; where they may be of imported messages (None), ``linker`` looks them up."""
        keys = []
        for item in self._read.items(node, "keys") if node else ():
            name = self._read.matching(item, "keys", FIELD_NAME, "a field name")
            if name and (messages is None or is_field(item.mark, name, messages, self._report)):
                keys.append(name)
        return tuple(keys)

    def _outcomes(self, node: Node | None) -> tuple[tuple[str, str], ...]:
        outcomes = []
        expected = "an outcome in lower case such as published"
        for _, name, value in self._named(node, "outcomes", OUTCOME_NAME, expected) if node else ():
            doc = "" if _is_null(value) else self._read.text(value, f"outcomes.{name}") or ""
            outcomes.append((name, doc))
        return tuple(outcomes)

    def _fields(self, node: Node | None, where: str) -> tuple[Field, ...]:
        if node is None or _is_null(node):
            return ()
        named = self._named(node, where, FIELD_NAME, "a field name such as max_steps")
        return tuple(self._field(mark, name, value, f"{where}.{name}") for mark, name, value in named)

    def _field(self, mark: Mark, name: str, node: Node, where: str) -> Field:
        read = self._read
        if not isinstance(node, MapNode):
            return Field(mark, name, self._type(node, where))
        found = read.fields(node, where, _FIELD_KEYS)
        if ("type" in found) == ("enum" in found):
            read.wrong(node, where, "exactly one of 'type' and 'enum'")
        if "open" in found and "enum" not in found:
            read.wrong(found["open"], f"{where}.open", "an enum beside it")
        return Field(
            mark,
            name,
            self._type(found["type"], f"{where}.type") if "type" in found else None,
            enum=self._enum(found.get("enum"), f"{where}.enum"),
            open=self._flag(found, "open", where),
            has_default="default" in found,
            default=plain(found["default"]) if "default" in found else None,
            min=read.number(found["min"], f"{where}.min") if "min" in found else None,
            max=read.number(found["max"], f"{where}.max") if "max" in found else None,
            **{
                key: read.integer(found[key], f"{where}.{key}") if key in found else None
                for key in (*_LENGTHS, *_COUNTS)
            },
            pattern=read.text(found["pattern"], f"{where}.pattern", "a regular expression")
            if "pattern" in found
            else None,
            doc=self._doc(found, f"{where}.doc"),
            deprecated=self._deprecated(found, where),
            secret=self._flag(found, "secret", where),
            has_example="example" in found,
            example=plain(found["example"]) if "example" in found else None,
        )

    def _enum(self, node: Node | None, where: str) -> tuple[str, ...]:
        if node is None:
            return ()
        words: dict[str, None] = {}
        for item in self._read.items(node, where, "a list of words"):
            word = self._read.text(item, where, "a word")
            if word is not None and word in words:
                self._report.error(item.mark, self._read.rule, f"{where}: expected different words, got {word!r} twice")
            elif word is not None:
                words[word] = None
        if not words:
            self._read.wrong(node, where, "at least one word")
        return tuple(words)

    def _type(self, node: Node, where: str) -> TypeExpression | None:
        expected = "a type such as string, optional int or list of Source"
        text = self._read.text(node, where, expected)
        if text is None:
            return None
        match = TYPE_EXPRESSION.fullmatch(text)
        if match is None:
            self._read.wrong(node, where, expected, suggestion=_type_hint(text))
            return None
        return TypeExpression(match[3], match[2], bool(match[1]))


def is_field(mark: Mark, key: str, messages: tuple[MessageDeclaration, ...], report: Report) -> bool:
    """Return whether *key*, which stands at *mark* under ``keys``, is a field of some message; tell where not."""
    known = {field.name for message in messages for field in message.fields}
    if key in known:
        return True
    text = f"keys: expected a field of some message, got {key!r}"
    report.error(mark, "E-UNKNOWN-FIELD", text, suggestion=did_you_mean(key, known))
    return False


def _type_hint(text: str) -> str | None:
    """Return what people mean who write other languages' types."""
    name = re.sub(r"[^A-Za-z0-9]", "", text)
    if text.endswith("?"):
        return f"did you mean 'optional {name}'?"
    if text.endswith("[]"):
        return f"did you mean 'list of {name}'?"
    return did_you_mean(text, (*BUILT_IN_TYPES, *(f"optional {name}" for name in BUILT_IN_TYPES)))


def _is(node: Node, value: int) -> bool:
    return isinstance(node, ScalarNode) and node.value == value and not isinstance(node.value, bool)


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.value is None
