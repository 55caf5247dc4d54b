"""A protocol as a typed Python module: its message classes, and for each role what it may send and hear.

The module loads the protocol and refuses another digest than that of the spec it was made from. Its classes
of messages are for type checkers; at run time they are the protocol's own.
"""

from __future__ import annotations

from collections.abc import Iterator

from bus.spec.codegen_messages import TYPED, FieldTypes, class_of
from bus.spec.codegen_roles import RoleCode
from bus.spec.digest import digest
from bus.spec.python_names import Names
from bus.spec.python_text import INDENT, bracketed, docstring, literal
from bus.spec.state_names import root_of
from bus.spec.syntax import MessageDeclaration, Spec, Struct


def generate_module(spec: Spec) -> str:
    """Return the source of the module for *spec*, whose names resolve; the same spec always gives the same text."""
    declared = [*(one.name for one in spec.types), *(one.name for one in spec.messages)]
    names = Names(declared)
    names.new("PROTOCOL")
    types = FieldTypes(names)
    names.use("typing", "TYPE_CHECKING")
    body = [*_protocol(spec, names), "", *_classes(spec, names, types)]
    roles = [RoleCode(spec, role, names, types) for role in spec.roles if root_of(spec, role.name) == role.name]
    for role in roles:
        body += ["", "", f"# -- {role.named.agent} {'-' * (76 - len(role.named.agent))}", "", *role.lines()]
    head = docstring(
        [
            f"The protocol {spec.protocol} {spec.version}, typed.",
            f"Made by `palaver codegen {spec.protocol}`: make it again rather than edit it. For each role there are "
            f"the class of its agents and those of the conversations that it holds: as a handler, as a handler in a "
            f"thread, and where it opened the conversation. PROTOCOL is what `load_protocol` gives.",
        ],
        "",
    )
    lines = [*head, "", "from __future__ import annotations", "", *names.imports("bus"), "", *body]
    return "\n".join(lines) + "\n"


def _protocol(spec: Spec, names: Names) -> Iterator[str]:
    parts = [
        literal(spec.protocol),
        f"version={literal(spec.version)}",
        f"digest={literal(digest(spec))}",
        "module=__file__",
    ]
    yield from bracketed(f"PROTOCOL = {names.use(TYPED, 'load_exactly')}(", parts, ")", "")


def _classes(spec: Spec, names: Names, types: FieldTypes) -> Iterator[str]:
    yield f"if {names.use('typing', 'TYPE_CHECKING')}:"
    ordered: list[Struct | MessageDeclaration] = [*spec.types, *spec.messages]
    for declared in ordered:
        base = names.use(TYPED, "Message" if isinstance(declared, MessageDeclaration) else "BaseModel")
        yield ""
        yield from class_of(spec, declared, types, base)
    yield from ["", "else:"]
    for declared in ordered:
        yield f"{INDENT}{declared.name} = PROTOCOL.{declared.name}"
