"""Boolean expressions over the fields of a message: ``method == 'lora' or lora is None``.

The text is parsed by Python's ``ast`` and compiled to closures, node by node, from a whitelist:
comparison, ``and``/``or``/``not``, ``in``, ``is None``, ``len``, arithmetic, field names, constants.
Nothing is ever evaluated as Python, and no operation can cost more than its operands' size.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from bus.spec.diagnostic import did_you_mean

MAX_RULE_CHARACTERS = 500
MAX_RULE_DEPTH = 40

Values: TypeAlias = Mapping[str, object]
Closure: TypeAlias = Callable[[Values], object]

_COMPARE: dict[type[ast.cmpop], Callable[[object, object], object]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,  # type: ignore[dict-item]  # operands are checked when the rule runs
    ast.LtE: operator.le,  # type: ignore[dict-item]  # as above
    ast.Gt: operator.gt,  # type: ignore[dict-item]  # as above
    ast.GtE: operator.ge,  # type: ignore[dict-item]  # as above
    ast.In: lambda left, right: left in right,  # type: ignore[operator]  # as above
    ast.NotIn: lambda left, right: left not in right,  # type: ignore[operator]  # as above
}
_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class RuleError(Exception):
    """Raised when a rule is not in the language; *offset* counts characters from 0."""

    def __init__(self, message: str, offset: int = 0, suggestion: str | None = None) -> None:
        super().__init__(message, offset, suggestion)
        self.message = message
        self.offset = offset
        self.suggestion = suggestion


class UnknownField(RuleError):
    """Raised when a rule names a field that the message lacks."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A compiled rule."""

    text: str
    _closure: Closure

    def holds(self, values: Values) -> bool:
        """Return whether the rule is true of a message's fields.

        A rule that cannot be worked out (``None < 3``, division by zero) does not hold.
        """
        try:
            return bool(self._closure(values))
        except (TypeError, ZeroDivisionError, OverflowError):
            return False


def compile_rule(text: str, fields: Collection[str]) -> Rule:
    """Return the rule that *text* says over *fields*.

    Raises:
        RuleError: Not Python's grammar, or beyond the whitelist; ``UnknownField`` for a wrong name.
    """
    if len(text) > MAX_RULE_CHARACTERS:
        raise RuleError(f"expected at most {MAX_RULE_CHARACTERS} characters, got {len(text)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `1 is 1` and the like: refused below, with a place
            tree = ast.parse(text.replace("\n", " ").strip(), mode="eval")
    except SyntaxError as error:
        raise RuleError(f"not an expression: {error.msg}", max((error.offset or 1) - 1, 0)) from error
    except (ValueError, RecursionError, MemoryError) as error:  # what else ast.parse raises, by Python version
        raise RuleError(f"not an expression: {error}") from error
    indent = len(text) - len(text.lstrip())
    try:
        closure, boolean = _Compiler(frozenset(fields)).compile(tree.body, 1)
    except RuleError as error:
        raise type(error)(error.message, error.offset + indent, error.suggestion) from None
    if not boolean:
        raise RuleError("expected something true or false, such as a comparison", indent)
    return Rule(text, closure)


class _Compiler:
    """Turns whitelisted nodes into (closure, whether it is surely a truth value)."""

    def __init__(self, fields: frozenset[str]) -> None:
        self._fields = fields

    def compile(self, node: ast.expr, depth: int) -> tuple[Closure, bool]:
        """Return the closure of *node*."""
        if depth > MAX_RULE_DEPTH:
            raise RuleError(f"expected at most {MAX_RULE_DEPTH} levels, got more", node.col_offset)
        deeper = depth + 1
        match node:
            case ast.BoolOp():
                return self._bool_op(node, deeper), True
            case ast.UnaryOp(op=ast.Not()):
                inner, _ = self.compile(node.operand, deeper)
                return (lambda values: not inner(values)), True
            case ast.UnaryOp(op=ast.USub()):
                inner, _ = self.compile(node.operand, deeper)
                return (lambda values: -_number(inner(values))), False
            case ast.Compare():
                return self._compare(node, deeper), True
            case ast.BinOp() if type(node.op) in _ARITHMETIC:
                return self._arithmetic(node, deeper), False
            case ast.Call(func=ast.Name(id="len"), args=[argument], keywords=[]):
                inner, _ = self.compile(argument, deeper)
                return (lambda values: len(inner(values))), False  # type: ignore[arg-type]  # holds() catches it
            case ast.Name():
                name = self._field(node)
                return (lambda values: values[name]), True  # a bool field is a rule by itself
            case ast.Constant(value=str() | int() | float() | None):
                constant = node.value
                return (lambda values: constant), isinstance(constant, bool)
            case ast.List() | ast.Tuple() | ast.Set():
                items = [self.compile(item, deeper)[0] for item in node.elts]
                return (lambda values: tuple(item(values) for item in items)), False
        raise RuleError(
            f"{_name(node)} is not allowed in a rule", node.col_offset,
            "use comparisons, and, or, not, in, is None, len(field), + - * / // %",
        )  # fmt: skip

    def _bool_op(self, node: ast.BoolOp, depth: int) -> Closure:
        parts = [self.compile(part, depth)[0] for part in node.values]
        if isinstance(node.op, ast.And):
            return lambda values: all(part(values) for part in parts)
        return lambda values: any(part(values) for part in parts)

    def _compare(self, node: ast.Compare, depth: int) -> Closure:
        operands = [node.left, *node.comparators]
        closures = [self.compile(operand, depth)[0] for operand in operands]
        links: list[tuple[Closure, Callable[[object, object], object], Closure]] = []
        for index, kind in enumerate(node.ops):
            test: Callable[[object, object], object]
            if isinstance(kind, ast.Is | ast.IsNot):
                right = operands[index + 1]
                if not (isinstance(right, ast.Constant) and right.value is None):
                    raise RuleError("'is' compares with None only", right.col_offset, "use == for other values")
                test = operator.is_ if isinstance(kind, ast.Is) else operator.is_not
            else:
                test = _COMPARE[type(kind)]
            links.append((closures[index], test, closures[index + 1]))
        return lambda values: all(test(left(values), right(values)) for left, test, right in links)

    def _arithmetic(self, node: ast.BinOp, depth: int) -> Closure:
        left, _ = self.compile(node.left, depth)
        right, _ = self.compile(node.right, depth)
        combine = _ARITHMETIC[type(node.op)]
        return lambda values: combine(_number(left(values)), _number(right(values)))

    def _field(self, node: ast.Name) -> str:
        if node.id not in self._fields:
            known = ", ".join(sorted(self._fields)) or "none"
            raise UnknownField(
                f"expected a field of the message ({known}), got {node.id!r}",
                node.col_offset,
                did_you_mean(node.id, self._fields),
            )
        return node.id


def _number(value: object) -> float:
    """Return *value* where it is a number; text times a number would cost without bound."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("arithmetic is for numbers")
    return value


def _name(node: ast.expr) -> str:
    return {"Call": "a call other than len(field)", "Attribute": "a dot", "Subscript": "[ ]"}.get(
        type(node).__name__, type(node).__name__
    )
