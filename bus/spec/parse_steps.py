"""Nodes to steps: the conversation of a protocol file. Which key makes which step is one table."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import ClassVar

from bus.spec.diagnostic import SYNTAX, Report, did_you_mean
from bus.spec.node import Entry, MapNode, Node, Reader, ScalarNode
from bus.spec.syntax import (
    Block,
    Branch,
    Break,
    Call,
    Choice,
    Continue,
    Each,
    End,
    Enroll,
    Interrupt,
    Loop,
    Parallel,
    Scope,
    Send,
    Step,
)

ROLE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
BRANCH_NAME = ROLE_NAME
ARROW = re.compile(r"([a-z][a-z0-9_-]*) -> ([a-z][a-z0-9_-]*(?:, [a-z][a-z0-9_-]*)*)")
SENT = re.compile(r"([A-Z][A-Za-z0-9_]*)([*+]?)")
CALLEE = re.compile(r"[a-z][a-z0-9-]{0,63}@[\^~]?[0-9]{1,9}(\.[0-9]{1,9}){0,2}")
UNTIL = re.compile(r"all|any|[1-9][0-9]{0,5}")

_WAIT = ("within", "else", "retry", "remind")
_SEND = (*_WAIT, "max", "doc")
_TRIGGERS = ("timeout", "lost", "failed")


class StepParser:
    """Reads blocks of steps; mistakes go to the report and the step is left out."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._read = Reader(report)

    def block(self, node: Node | None, where: str) -> Block:
        """Return the steps of a list."""
        if node is None:
            return ()
        steps = []
        for index, item in enumerate(self._read.items(node, where, "a list of steps")):
            step = self._step(item, f"{where}[{index}]")
            if step is not None:
                steps.append(step)
        return tuple(steps)

    def _step(self, node: Node, where: str) -> Step | None:
        if isinstance(node, ScalarNode) and node.value == "break":
            return Break(node.mark)
        if not isinstance(node, MapNode):
            arrow = isinstance(node, ScalarNode) and isinstance(node.value, str) and "->" in node.value
            hint = "add the message: 'a -> b: Message'" if arrow else None
            word = node.value if isinstance(node, ScalarNode) and isinstance(node.value, str) else ""
            self._read.wrong(node, where, "a step", suggestion=hint or did_you_mean(word, ("break", "continue", "end")))
            return None
        for entry in node.entries:
            make = self._STEPS.get(entry.key)
            if make is not None:
                return make(self, node, where)
        if any("->" in entry.key for entry in node.entries):
            return self._send(node, where)
        self._report.error(
            node.mark,
            SYNTAX,
            f"{where}: expected 'sender -> receiver: Message' or one of {', '.join(sorted(self._STEPS))}, "
            f"got {', '.join(entry.key[:40] for entry in node.entries[:6]) or 'an empty map'}",
            suggestion=next(filter(None, (did_you_mean(entry.key, self._STEPS) for entry in node.entries)), None),
        )
        return None

    # Messages

    def _send(self, node: MapNode, where: str, known: tuple[str, ...] = _SEND, repeat: bool = True) -> Send | None:
        arrows = [entry for entry in node.entries if "->" in entry.key]
        rest = MapNode(node.mark, tuple(entry for entry in node.entries if "->" not in entry.key))
        found = self._read.fields(rest, where, known)
        if len(arrows) != 1:
            self._read.wrong(node, where, "one 'sender -> receiver: Message' in a step", suggestion="begin a new step")
            return None
        parts = self._arrow(arrows[0], where, repeat)
        if parts is None:
            return None
        sender, receivers, message, star = parts
        if "max" in found and not star:
            self._read.wrong(found["max"], f"{where}.max", "a stream (M* or M+) to bound")
        return Send(
            arrows[0].mark,
            sender,
            receivers,
            message,
            star,
            within=self._duration(found, where),
            otherwise=self._otherwise(found, where),
            retry=self._count(found, "retry", where) or 0,
            remind=self._duration(found, where, "remind"),
            max=self._count(found, "max", where, least=1),
            doc=self._doc(found, where),
        )

    def _arrow(self, entry: Entry, where: str, repeat: bool) -> tuple[str, tuple[str, ...], str, str] | None:
        match = ARROW.fullmatch(entry.key)
        if match is None:
            tidy = re.sub(r"\s*,\s*", ", ", re.sub(r"\s*->\s*", " -> ", entry.key.strip().lower()))
            hint = f"did you mean {tidy!r}?" if ARROW.fullmatch(tidy) else None
            expected = "'sender -> receiver' or 'sender -> one, two'"
            self._report.error(
                entry.mark, SYNTAX, f"{where}: expected {expected}, got {entry.key[:60]!r}", suggestion=hint
            )
            return None
        expected = "a message type such as Draft, Draft* or Draft+" if repeat else "a message type such as Cancel"
        text = self._read.matching(entry.value, f"{where}.{entry.key}", SENT, expected)
        sent = SENT.fullmatch(text) if text else None
        if sent is None:
            return None
        if sent[2] and not repeat:
            self._read.wrong(entry.value, where, "one message, no stream")
            return None
        receivers = tuple(match[2].split(", "))
        if len(set(receivers)) != len(receivers):
            self._report.error(entry.mark, SYNTAX, f"{where}: expected each receiver once, got {entry.key!r}")
            return None
        return match[1], receivers, sent[1], sent[2]

    # Steps with blocks

    def _choice(self, node: MapNode, where: str) -> Choice | None:
        found = self._read.fields(node, where, ("choice", "branches", "doc", *_WAIT), ("branches",))
        decider = self._name(found, "choice", where)
        branches = self._branches(found.get("branches"), f"{where}.branches")
        if decider is None:
            return None
        return Choice(
            node.mark,
            decider,
            branches,
            within=self._duration(found, where),
            otherwise=self._otherwise(found, where),
            retry=self._count(found, "retry", where) or 0,
            remind=self._duration(found, where, "remind"),
            doc=self._doc(found, where),
        )

    def _loop(self, node: MapNode, where: str) -> Loop | None:
        found = self._read.fields(node, where, ("loop", "do", "max", "within", "else", "endless", "doc"), ("do",))
        name = self._name(found, "loop", where)
        endless = bool(self._read.boolean(found["endless"], f"{where}.endless")) if "endless" in found else False
        loop = Loop(
            node.mark,
            name or "",
            self.block(found.get("do"), f"{where}.do"),
            max=self._count(found, "max", where, least=1),
            within=self._duration(found, where),
            otherwise=self._otherwise(found, where),
            endless=endless,
            doc=self._doc(found, where),
        )
        return loop if name else None

    def _parallel(self, node: MapNode, where: str) -> Parallel:
        found = self._read.fields(node, where, ("parallel", "doc"))
        return Parallel(node.mark, self._branches(found["parallel"], f"{where}.parallel"), doc=self._doc(found, where))

    def _scope(self, node: MapNode, where: str) -> Scope | None:
        found = self._read.fields(node, where, ("scope", "do", "interrupts", "doc"), ("do",))
        name = self._name(found, "scope", where)
        interrupts = []
        for index, item in enumerate(self._read.items(found["interrupts"], where) if "interrupts" in found else ()):
            interrupt = self._interrupt(item, f"{where}.interrupts[{index}]")
            if interrupt is not None:
                interrupts.append(interrupt)
        body = self.block(found.get("do"), f"{where}.do")
        return Scope(node.mark, name, body, tuple(interrupts), self._doc(found, where)) if name else None

    def _interrupt(self, node: Node, where: str) -> Interrupt | None:
        if not isinstance(node, MapNode):
            self._read.wrong(node, where, "an interrupt such as {timeout: 2h, then: [{end: failed}]}")
            return None
        arrows = tuple(entry for entry in node.entries if "->" in entry.key)
        others = tuple(entry for entry in node.entries if "->" not in entry.key)
        found = self._read.fields(MapNode(node.mark, others), where, (*_TRIGGERS, "then", "doc"), ("then",))
        body = self.block(found.get("then"), f"{where}.then")
        given = [key for key in _TRIGGERS if key in found]
        if len(arrows) + len(given) != 1:
            self._read.wrong(node, where, "exactly one trigger: 'a -> b: Message', timeout, lost or failed")
            return None
        message = self._send(MapNode(node.mark, arrows), where, (), repeat=False) if arrows else None
        timeout = self._duration(found, where, "timeout")
        lost = self._name(found, "lost", where)
        failed = self._name(found, "failed", where)
        if message is None and timeout is None and lost is None and failed is None:
            return None
        return Interrupt(node.mark, body, message, timeout, lost, failed, self._doc(found, where))

    def _each(self, node: MapNode, where: str) -> Each | None:
        found = self._read.fields(node, where, ("each", "do", "until", "within", "late", "doc"), ("do",))
        role = self._name(found, "each", where)
        each = Each(
            node.mark,
            role or "",
            self.block(found.get("do"), f"{where}.do"),
            until=self._until(found.get("until"), f"{where}.until"),
            within=self._duration(found, where),
            late=self.block(found["late"], f"{where}.late") if "late" in found else None,
            doc=self._doc(found, where),
        )
        return each if role else None

    def _until(self, node: Node | None, where: str) -> str:
        if node is None:
            return "all"
        if (
            isinstance(node, ScalarNode)
            and not isinstance(node.value, bool | float)
            and UNTIL.fullmatch(str(node.value))
        ):
            return str(node.value)
        self._read.wrong(node, where, "all, any or a number of members")
        return "all"

    def _call(self, node: MapNode, where: str) -> Call | None:
        found = self._read.fields(node, where, ("call", "as", "outcomes", "within", "doc"), ("as", "outcomes"))
        protocol = self._read.matching(found["call"], f"{where}.call", CALLEE, "a protocol such as training@^1")
        roles = []
        for entry in self._read.entries(found["as"], f"{where}.as") if "as" in found else ():
            ours = self._read.matching(entry.value, f"{where}.as.{entry.key[:40]}", ROLE_NAME, "a role")
            if ours is not None:
                roles.append((entry.key, ours))
        outcomes = self._branches(found.get("outcomes"), f"{where}.outcomes")
        if protocol is None:
            return None
        return Call(node.mark, protocol, tuple(roles), outcomes, self._duration(found, where), self._doc(found, where))

    # Single words

    def _end(self, node: MapNode, where: str) -> End | None:
        name = self._only(node, "end", where)
        return End(node.mark, name) if name else None

    def _break(self, node: MapNode, where: str) -> Break | None:
        name = self._only(node, "break", where)
        return Break(node.mark, name) if name else None

    def _continue(self, node: MapNode, where: str) -> Continue | None:
        name = self._only(node, "continue", where)
        return Continue(node.mark, name) if name else None

    def _enroll(self, node: MapNode, where: str) -> Enroll | None:
        name = self._only(node, "enroll", where)
        return Enroll(node.mark, name) if name else None

    # Parts of steps

    def _only(self, node: MapNode, key: str, where: str) -> str | None:
        return self._name(self._read.fields(node, where, (key,)), key, where)

    def _name(self, found: dict[str, Node], key: str, where: str) -> str | None:
        if key not in found:
            return None
        return self._read.matching(found[key], f"{where}.{key}", ROLE_NAME, "a name in lower case")

    def _branches(self, node: Node | None, where: str) -> tuple[Branch, ...]:
        if node is None:
            return ()
        branches = []
        for entry in self._read.entries(node, where):
            if not BRANCH_NAME.fullmatch(entry.key):
                expected = "a branch name in lower case"
                self._report.error(entry.mark, SYNTAX, f"{where}: expected {expected}, got {entry.key[:60]!r}")
            branches.append(Branch(entry.mark, entry.key, self.block(entry.value, f"{where}.{entry.key}")))
        if isinstance(node, MapNode) and not node.entries:
            self._read.wrong(node, where, "at least one branch")
        return tuple(branches)

    def _otherwise(self, found: dict[str, Node], where: str) -> Block | None:
        return self.block(found["else"], f"{where}.else") if "else" in found else None

    def _duration(self, found: dict[str, Node], where: str, key: str = "within") -> float | None:
        return self._read.duration(found[key], f"{where}.{key}") if key in found else None

    def _count(self, found: dict[str, Node], key: str, where: str, least: int = 0) -> int | None:
        return self._read.integer(found[key], f"{where}.{key}", least=least) if key in found else None

    def _doc(self, found: dict[str, Node], where: str) -> str:
        return (self._read.text(found["doc"], f"{where}.doc") or "") if "doc" in found else ""

    # The key that makes the step, and who reads it; looked up in the order in which keys stand in the file.
    _STEPS: ClassVar[dict[str, Callable[[StepParser, MapNode, str], Step | None]]] = {
        "choice": _choice,
        "loop": _loop,
        "parallel": _parallel,
        "scope": _scope,
        "each": _each,
        "call": _call,
        "end": _end,
        "break": _break,
        "continue": _continue,
        "enroll": _enroll,
    }
