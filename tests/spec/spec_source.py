"""Specs for tests: only the conversation is written, roles and messages are declared as they appear."""

import re
from pathlib import Path

from bus.spec.diagnostic import Report
from bus.spec.loader import parse_document
from bus.spec.parse import parse_spec
from bus.spec.projection import project
from bus.spec.syntax import Spec
from bus.spec.tables import Machine

SPECS = Path(__file__).parents[2] / "specs"
_ARROW = re.compile(r"([a-z]\w*) -> ([a-z][\w, ]*): ([A-Z]\w*)")

# Three of the minimal protocols that every version of the language has to run.
PING = "[{a -> b: M1}, {b -> a: M2}]"
PARALLEL_OK = "[{parallel: {x: [{a -> b: M1}, {b -> a: M2}], y: [{'a -> c': M3}, {c -> a: M4}]}}, {a -> b: M5}]"
CANCEL_ANYWHERE = """
- a -> b: M1
- scope: s
  do: [{b -> a: M2}, {b -> a: M3}, {end: done}]
  interrupts: [{a -> b: M9, then: [{b -> a: M8}, {end: stopped}]}]
"""
STARVATION_BOUNDED_BY_MAX = """
- loop: l
  max: 5
  do:
    - choice: a
      branches:
        more: [{a -> b: M1}]
        stop: [{a -> b: M2}, {b -> c: M3}, {end: done}]
  else: [{end: gave-up}]
"""


def spec_of(conversation: str, *, within: str | None = None) -> Spec:
    """Return the spec with this *conversation* (YAML), parsed but not checked; roles and messages sorted by name."""
    arrows = _ARROW.findall(conversation.replace("'", ""))
    roles = sorted({role for sender, receivers, _ in arrows for role in (sender, *re.split(", *", receivers))})
    head = [
        "language: 1",
        "protocol: test",
        "version: 1.0.0",
        *([f"defaults: {{within: {within}}}"] if within else []),
        f"roles: {{{', '.join(f'{role}: {{}}' for role in roles)}}}",
        f"messages: {{{', '.join(f'{message}: {{}}' for message in sorted({one[2] for one in arrows}))}}}",
    ]
    text = "\n".join([*head, "conversation:", *(f"  {line}" for line in conversation.strip("\n").splitlines())])
    return parsed(text)


def parsed(text: str) -> Spec:
    """Return the spec that *text* says; semantic checks are left out."""
    report = Report()
    spec = parse_spec(parse_document(text, "test"), text, report)
    report.raise_errors()
    return spec


def shipped(name: str) -> Spec:
    """Return the spec of a protocol that palaver ships."""
    return parsed((SPECS / f"{name}.protocol.yaml").read_text(encoding="utf-8"))


class Walk:
    """Reads tables by name: where a role is led by what it sends, receives and is told."""

    def __init__(self, spec: Spec) -> None:
        self.tables = project(spec).tables()
        self.roles = [role.name for role in spec.roles]
        self.messages = [message.name for message in spec.messages]

    def machine(self, role: str) -> Machine:
        return self.tables.machines[self.roles.index(role)]

    def event(self, name: str) -> int:
        return [event.name for event in self.tables.events].index(name)

    def sends(self, role: str, state: int) -> dict[str, object]:
        """Message name → move, for what *role* may send."""
        return {self.messages[type]: move for (type, _), move in self.machine(role).send[state].items()}

    def receives(self, role: str, state: int) -> set[str]:
        """Names of what *role* can receive."""
        return {self.messages[type] for _, type in self.machine(role).receive[state]}

    def told(self, role: str, state: int) -> set[str]:
        """Names of the bus events that move *role*."""
        return {self.tables.events[event].name for event in self.machine(role).bus[state]}

    def after(self, role: str, *path: str) -> int:
        """Return the state of *role* after a way of message and event names."""
        machine, state = self.machine(role), self.machine(role).start
        for name in path:
            moves = {self.messages[type]: move.next for (type, _), move in machine.send[state].items()}
            moves |= {self.messages[type]: move.next for (_, type), move in machine.receive[state].items()}
            moves |= {self.tables.events[event].name: following for event, following in machine.bus[state].items()}
            state = moves[name]
        return state

    def timer(self, role: str, *path: str) -> object:
        """Return the deadline that runs for *role* after *path*, or None."""
        number = self.machine(role).timer[self.after(role, *path)]
        return None if number < 0 else self.tables.timers[number]

    def scopes(self, role: str, *path: str) -> list[str]:
        """Return the names of the scopes in which *role* certainly stands after *path*."""
        state = self.after(role, *path)
        return [self.tables.scopes[scope].name for scope in self.machine(role).scopes[state]]
