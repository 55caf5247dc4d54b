"""The classes of one role: what it may send, from a handler, a thread or a script, and its agent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from bus.spec.codegen_messages import TYPED, FieldTypes
from bus.spec.models import attribute_name
from bus.spec.python_names import Names, pascal, snake
from bus.spec.python_text import INDENT, WIDTH, bracketed, docstring, literal, union
from bus.spec.state_names import root_of
from bus.spec.syntax import MessageDeclaration, Role, Spec
from bus.spec.walk import sends

_AGENT_METHODS = frozenset({"on_notice", "on_start", "on_stop"})


@dataclass(frozen=True, slots=True)
class RoleNames:
    """What the classes of a role are called."""

    sends: str
    hears: str
    says: str
    conversation: str
    in_thread: str
    opened: str
    agent: str
    handler: str


class RoleCode:
    """Writes the classes of one role, with its sub-roles, that agents play."""

    def __init__(self, spec: Spec, role: Role, names: Names, types: FieldTypes) -> None:
        self._spec = spec
        self._role = role
        self._names = names
        self._types = types
        self._declared = {message.name: message for message in spec.messages}
        self._addresses: dict[str, list[tuple[str, ...]]] = {}  # message → who it goes to
        self._senders: dict[str, dict[str, None]] = {}  # message → who it comes from
        for send in sends(spec.conversation):
            if root_of(spec, send.sender) == role.name:
                addresses = self._addresses.setdefault(send.message, [])
                if send.receivers not in addresses:
                    addresses.append(send.receivers)
            if role.name in {root_of(spec, receiver) for receiver in send.receivers}:
                self._senders.setdefault(send.message, {})[send.sender] = None
        prefix = pascal(role.name)
        self.named = RoleNames(
            sends=names.new(f"{prefix}Sends"),
            hears=names.new(f"{prefix}Hears"),
            says=names.new(f"_{prefix}Says"),
            conversation=names.new(f"{prefix}Conversation"),
            in_thread=names.new(f"{prefix}SyncConversation"),
            opened=names.new(f"{prefix}OpenConversation"),
            agent=names.new(f"{prefix}Agent"),
            handler=names.new(f"_{prefix}Handler"),
        )
        self._methods = _method_names([message.name for message in spec.messages])

    def lines(self) -> Iterator[str]:
        """Yield the role's part of the module."""
        named = self.named
        yield from union(named.sends, [*self._addresses] or [self._use("typing", "Never")])
        yield from union(named.hears, [*self._senders] or [self._use("typing", "Never")])
        self._use("typing", "TypeAlias")
        yield from ["", ""]
        yield from self._says()
        yield from ["", ""]
        yield from self._view(
            named.conversation, f"{self._typed('RoleConversation')}, {named.says}", "runs on the loop"
        )
        yield from ["", "", *self._in_thread(), "", "", *self._opened(), "", ""]
        yield from self._handlers()
        yield from ["", "", *self._agent()]

    # -- what it sends ------------------------------------------------------------------------------

    def _says(self) -> Iterator[str]:
        yield f"class {self.named.says}({self._typed('Speaker')}):"
        yield from docstring([f"What {self._role.name} may send."], INDENT)
        yield from ["", f"{INDENT}__slots__ = ()"]
        yield from self._sends("async def", "await ")

    def _view(self, name: str, bases: str, kind: str) -> Iterator[str]:
        yield f"class {name}({bases}):"
        yield from docstring([f"What a handler of {self._role.name} holds that {kind}."], INDENT)
        yield from ["", f"{INDENT}__slots__ = ()"]

    def _in_thread(self) -> Iterator[str]:
        yield from self._view(self.named.in_thread, self._typed("RoleSyncConversation"), "runs in a thread")
        yield from self._sends("def", "")

    def _opened(self) -> Iterator[str]:
        named = self.named
        base = f"{self._typed('RoleOpenConversation')}[{named.hears}]"
        yield from bracketed(f"class {named.opened}(", [base, named.says], "):", "")
        yield from docstring([f"A conversation that was opened as {self._role.name}."], INDENT)
        yield from ["", f"{INDENT}__slots__ = ()"]
        yield f"{INDENT}_role = {literal(self._role.name)}"
        yield f"{INDENT}_digest = PROTOCOL.digest"

    def _sends(self, keyword: str, wait: str) -> Iterator[str]:
        if not self._addresses:
            return
        yield ""
        yield from self._send(keyword, wait)
        for name in self._addresses:
            yield ""
            yield from self._send_one(self._declared[name], keyword, wait)

    def _send(self, keyword: str, wait: str) -> Iterator[str]:
        ways: dict[tuple[str, str], list[str]] = {}  # (type of `to`, its default) → messages
        for name, addresses in self._addresses.items():
            for address in addresses:
                kind, default = self._to(address)
                ways.setdefault((kind, default if len(addresses) == 1 else ""), []).append(name)
        signatures = [
            [f"message: {self._union(messages)}", f"to: {kind}{f' = {default}' if default else ''}"]
            for (kind, default), messages in ways.items()
        ]
        indent = INDENT
        doc = docstring(["Send *message*; *to* says to whom where the protocol leaves a choice."], indent * 2)
        if len(signatures) == 1:
            yield from bracketed(f"{keyword} send(", ["self", *signatures[0]], ") -> None:", indent)
        else:
            overload = self._use("typing", "overload")
            for signature in signatures:
                yield f"{indent}@{overload}"
                yield from bracketed(f"{keyword} send(", ["self", *signature], ") -> None: ...", indent)
            general = [f"message: {self._typed('BaseModel')}", f"to: {self._typed('Receivers')} = None"]
            yield from bracketed(f"{keyword} send(", ["self", *general], ") -> None:", indent)
        yield from doc
        yield f"{indent * 2}{wait}self._send(message, to)"

    def _send_one(self, message: MessageDeclaration, keyword: str, wait: str) -> Iterator[str]:
        addresses = self._addresses[message.name]
        fields = {attribute_name(field.name): field for field in message.fields}
        me = "_self" if "self" in fields else "self"
        to = "to_" if "to" in fields else "to"
        parameters = []
        for name, field in fields.items():
            default = self._types.default(field)
            parameters.append(f"{name}: {self._types.annotation(field)}{f' = {default}' if default else ''}")
        kinds = [self._to(address) for address in addresses]
        default = f" = {kinds[0][1]}" if len(kinds) == 1 else ""
        kind = " | ".join(dict.fromkeys(kind for kind, _ in kinds))
        if all(len(address) == 1 and not self._has_members(address) for address in addresses):
            kind = f"{self._use('typing', 'Literal')}[{', '.join(literal(role) for (role,) in addresses)}]"
        parameters.append(f"{to}: {kind}{default}")
        method = f"{keyword} send_{self._methods[message.name]}("
        yield from bracketed(method, [me, "*", *parameters], ") -> None:", INDENT)
        whom = " or ".join(" and ".join(address) for address in addresses)
        yield from docstring([f"Send {message.name} to {whom}."], INDENT * 2)
        arguments = [f"{name}={name}" for name in fields]
        made = f"{message.name}({', '.join(arguments)})"
        if any(self._types.default(field).endswith("LEFT_OUT") for field in message.fields):
            yield from bracketed(f"_fields = {self._typed('given')}(", arguments, ")", INDENT * 2)
            arguments = ["**_fields"]
            made = f"{message.name}(**_fields)"
        call = f"{wait}{me}._send("
        line = f"{INDENT * 2}{call}{made}, {to})"
        if len(line) <= WIDTH:
            yield line
            return
        yield f"{INDENT * 2}{call}"
        yield from bracketed(f"{message.name}(", arguments, "),", INDENT * 3)
        yield from [f"{INDENT * 3}{to},", f"{INDENT * 2})"]

    def _to(self, address: tuple[str, ...]) -> tuple[str, str]:
        """Return the type and the default of ``to`` for a message that goes to *address*.

        Members are known by the names of their agents, which no type can tell.
        """
        if self._has_members(address):
            return self._typed("Receivers"), "None"
        words = [literal(role) for role in address]
        kind = self._use("typing", "Literal")
        if len(words) == 1:
            return f"{kind}[{words[0]}]", words[0]
        return f"tuple[{', '.join(f'{kind}[{word}]' for word in words)}]", f"({', '.join(words)})"

    def _has_members(self, address: tuple[str, ...]) -> bool:
        return any(self._spec.root_of(role).many is not None for role in address)

    def _union(self, messages: list[str]) -> str:
        return self.named.sends if set(messages) == set(self._addresses) else " | ".join(messages)

    # -- what it hears ------------------------------------------------------------------------------

    def _handlers(self) -> Iterator[str]:
        named = self.named
        yield f"if {self._use('typing', 'TYPE_CHECKING')}:"
        views = [self._typed("Heard"), named.conversation, named.sends, named.in_thread]
        head = f"{named.handler}: {self._use('typing', 'TypeAlias')} = {self._typed('Handler')}["
        yield from bracketed(head, views, "]", INDENT)
        for message in self._senders:
            variable = self._variable(message)
            parts = [literal(variable), f'bound="{named.handler}[{message}]"']
            yield from bracketed(f"{variable} = {self._use('typing', 'TypeVar')}(", parts, ")", INDENT)

    def _variable(self, message: str) -> str:
        return f"{self.named.handler}_{message}"

    def _agent(self) -> Iterator[str]:
        named = self.named
        base = f"{self._typed('RoleAgent')}[{named.conversation}, {named.in_thread}, {named.sends}]"
        yield from bracketed(f"class {named.agent}(", [base], "):", "")
        yield from docstring([f"An agent that plays {self._role.name}.", self._role.doc], INDENT)
        yield from ["", f"{INDENT}_view = {named.conversation}", f"{INDENT}_thread_view = {named.in_thread}", ""]
        options = ["self", "*", "name: str | None = None", "credit: int | None = None", "threads: int = 8"]
        yield from bracketed("def __init__(", options, ") -> None:", INDENT)
        role = f"PROTOCOL.role({literal(self._role.name)})"
        yield from bracketed(
            "super().__init__(", [role, "name=name", "credit=credit", "threads=threads"], ")", INDENT * 2
        )
        for message, senders in self._senders.items():
            variable = self._variable(message)
            method = f"on_{self._methods[message]}"
            method = f"{method}_message" if method in _AGENT_METHODS else method
            parameters = ["self", f"handler: {variable}", "/", "*", "limit: float | None = None"]
            yield ""
            yield from bracketed(f"def {method}(", parameters, f") -> {variable}:", INDENT)
            yield from docstring([f"Register the handler of {message}, from {' or '.join(senders)}."], INDENT * 2)
            yield f"{INDENT * 2}return self.on({message}, limit=limit)(handler)"

    def _use(self, module: str, name: str) -> str:
        return self._names.use(module, name)

    def _typed(self, name: str) -> str:
        return self._names.use(TYPED, name)


def _method_names(messages: list[str]) -> dict[str, str]:
    """Return what stands behind ``send_`` and ``on_`` for each message; names that would be equal stay as they are."""
    counts = Counter(map(snake, messages))
    return {name: snake(name) if counts[snake(name)] == 1 else name for name in messages}
