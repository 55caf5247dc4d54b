"""Inputs for ``palaver check`` that nobody meant: any text, shuffled real specs, grammars with wrong values."""

import json
import re
from pathlib import Path

from hypothesis import strategies as st
from protocol_text import DATA, negative_cases, text_of

SPECS = Path(__file__).parents[2] / "specs"
REAL = [path.read_text(encoding="utf-8") for folder in (SPECS, DATA) for path in sorted(folder.glob("*.protocol.yaml"))]
SMALL = [text_of(case) for case in negative_cases()]
_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")
_PIECES = [
    "\t", "\ufeff", "\0", "\r", "\r\n", "\u0085", "\u2028", "\ud800", "\x1b[31m", "\u202e", "&x ", "*x", "!!str ", "!", "%TAG ! !",
    "---\n", "...\n", "? ", "- ", ": ", "{", "}", "[", "]", ",", "|\n", ">-\n", "'", '"', '"\\ud800"', "#", "<<: ", "~", "null",
    "1e999", "9" * 60, "-0", ".nan", "0x", "M*", "a -> b", "->", "forever", "0s", "1..0", "0..*", "optional list of map of T",
    "é" * 70, "\U0001f600", "a" * 1100,
]  # fmt: skip

any_text = st.text(max_size=300) | st.lists(st.sampled_from([*_PIECES, " ", "\n", "  ", "a", "b"]), max_size=60).map(
    "".join
)
any_bytes = st.binary(max_size=300) | any_text.map(lambda text: text.encode("utf-8", "surrogatepass"))


@st.composite
def shuffled(draw: st.DrawFn) -> str:
    """Return a real spec of which lines or words were dropped, doubled, swapped or replaced."""
    text = draw(st.sampled_from([*REAL, *SMALL, *SMALL]))
    for _ in range(draw(st.integers(1, 4))):
        parts = text.splitlines(keepends=True) if draw(st.booleans()) else _TOKEN.findall(text)
        if not parts:
            return text
        at, other = draw(st.integers(0, len(parts) - 1)), draw(st.integers(0, len(parts) - 1))
        match draw(st.sampled_from(["drop", "double", "swap", "replace", "insert", "cut", "move"])):
            case "drop":
                del parts[at]
            case "double":
                parts.insert(at, parts[at])
            case "swap":
                parts[at], parts[other] = parts[other], parts[at]
            case "replace":
                parts[at] = parts[other]
            case "insert":
                parts.insert(at, draw(st.sampled_from(_PIECES)))
            case "cut":
                del parts[at:]
            case "move":
                parts.insert(at, parts.pop(other))
        text = "".join(parts)
    return text


WRONG = st.sampled_from([
    None, True, False, 0, 1, -1, 10**30, 0.5, 1e308, "", " ", "a", "b", "M", "T", "x", "30s", "forever", "0s", "all", "1..3", "a -> b",
    "a -> b, c", "a -> a", "int", "list of T", "optional T", "durable", "at-most-once", "x > 1", "x >", "__import__('os')", "(a+)+$",
    "[", "1.0.0", "training@^1", "é", "\u202e", "a" * 300, [], {}, [[]], [{}], {"a": None}, {"fields": 1}, ["break"], [{"end": "done"}],
])  # fmt: skip
_KEYS = st.sampled_from([
    "language", "protocol", "version", "status", "doc", "imports", "defaults", "keys", "roles", "types", "messages", "outcomes",
    "conversation", "fields", "rules", "examples", "reserved", "delivery", "window", "type", "enum", "open", "default", "pattern",
    "min", "max_len", "min_items", "secret", "example", "pool", "many", "from", "human", "within", "else", "retry", "remind", "max",
    "do", "interrupts", "then", "timeout", "lost", "failed", "until", "late", "branches", "as", "endless", "a", "b", "M", "T", "x",
])  # fmt: skip
_ROLE = st.sampled_from("abc")
_SEND = st.builds(
    lambda sender, receivers, message, more: {f"{sender} -> {', '.join(receivers)}": message, **more},
    _ROLE,
    st.lists(_ROLE, min_size=1, max_size=2, unique=True),
    st.sampled_from(["M", "N", "O", "M*", "N+", "Q"]),
    st.dictionaries(st.sampled_from(["within", "else", "retry", "remind", "max", "doc"]), WRONG, max_size=1),
)


def _blocks(inner: st.SearchStrategy) -> st.SearchStrategy:
    block = st.lists(inner, max_size=3)
    named = st.dictionaries(st.sampled_from(["x", "y", "z"]), block | WRONG, max_size=3)
    more = st.dictionaries(_KEYS, WRONG | block, max_size=1)
    return st.one_of(
        st.builds(lambda role, branches, more: {"choice": role, "branches": branches, **more}, _ROLE, named, more),
        st.builds(lambda do, more: {"loop": "l", "do": do, **more}, block, more),
        st.builds(lambda branches, more: {"parallel": branches, **more}, named, more),
        st.builds(lambda role, do, more: {"each": role, "do": do, **more}, _ROLE, block, more),
        st.builds(lambda outcomes, more: {"call": "p@^1", "as": {"a": "b"}, "outcomes": outcomes, **more}, named, more),
        st.builds(
            lambda do, message, then, more: {"scope": "s", "do": do, "interrupts": [{**message, "then": then}], **more},
            block, _SEND | st.just({"timeout": "1m"}) | st.just({"lost": "a"}), block, more,
        ),
    )  # fmt: skip


_STEPS = st.recursive(
    _SEND | st.sampled_from(["break", {"end": "done"}, {"end": "failed"}, {"continue": "l"}, {"break": "l"}, {"enroll": "c"}]) | WRONG,
    _blocks,
    max_leaves=8,
)  # fmt: skip
_FIELD = st.sampled_from(["int", "string", "T", "list of T", "optional bool", "artifact", "any"]) | st.dictionaries(
    st.sampled_from(["type", "enum", "open", "default", "pattern", "min", "max", "max_len", "min_items", "example", "secret"]), WRONG,
    max_size=4,
)  # fmt: skip
_FIELDS = st.fixed_dictionaries(
    {"fields": st.dictionaries(st.sampled_from(["x", "y", "copy", "copy_", "json"]), _FIELD, max_size=3)}
)


@st.composite
def grammatical(draw: st.DrawFn) -> str:
    """Return a document of the right form in which some values are wrong."""
    document = {
        "language": 1, "protocol": "p", "version": "1.0.0", "roles": {"a": {}, "b": {}, "c": {}},
        "types": draw(st.dictionaries(st.sampled_from("TU"), _FIELDS, max_size=2)),
        "messages": {name: draw(_FIELDS | st.just({})) for name in "MNO"},
        "outcomes": {"done": None}, "conversation": draw(st.lists(_STEPS, min_size=1, max_size=4)),
    }  # fmt: skip
    if draw(st.booleans()):
        document |= draw(st.dictionaries(_KEYS, WRONG, max_size=2))
    return json.dumps(document)


def broken_mark(text: str, mark) -> str | None:
    """Return what is wrong with *mark* as a place in *text*, or None."""
    lines = re.split("\r\n|\n|\r", text)
    if not 1 <= mark.line <= len(lines):
        return f"line {mark.line} of {len(lines)}"
    if not 1 <= mark.column <= len(lines[mark.line - 1]) + 1:
        return f"column {mark.column} of {len(lines[mark.line - 1])} in line {mark.line}"
    return None
