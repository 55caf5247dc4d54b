"""Python source that formatters leave as it is: what does not fit into 88 characters stands one item a line.

The comma behind the last item makes ruff and black keep it so at any line length.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

WIDTH = 88  # what formatters take where nobody says otherwise
INDENT = "    "


def literal(value: object) -> str:
    """Return text, a number, a truth value or None as source."""
    if not isinstance(value, str):
        return repr(value)
    text = repr(value)
    return f'"{text[1:-1]}"' if text[0] == "'" and '"' not in value else text


def docstring(paragraphs: Iterable[str], indent: str) -> list[str]:
    """Return the lines of a docstring; the first paragraph begins on the opening line."""
    room = WIDTH - len(indent)
    texts = [" ".join(text.replace("\\", "\\\\").replace('"', "'").split()) for text in paragraphs]
    first, *others = [text for text in texts if text]
    if not others and len(first) + 6 <= room:
        return [f'{indent}"""{first}"""']
    if not others and len(first) + 3 <= room:
        room -= 3  # formatters would put the closing quotes behind a single line, long or not
    lines: list[str] = []
    for text in (f'"""{first}', *others):
        # Words are never broken, so that an address stays whole.
        wrapped = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
        lines += [*([""] if lines else []), *(f"{indent}{line}" for line in wrapped)]
    return [*lines, f'{indent}"""']


def bracketed(head: str, items: Sequence[str], tail: str, indent: str) -> list[str]:
    """Return *head*, which ends in a bracket, *items* and *tail*: one line if it fits, else one line an item."""
    line = f"{indent}{head}{', '.join(items)}{tail}"
    if len(line) <= WIDTH or not items:
        return [line]
    inner = (text for item in items for text in _item(item, indent + INDENT))
    return [f"{indent}{head}", *inner, f"{indent}{tail}"]


def statement(target: str, kind: str, tail: str, indent: str) -> list[str]:
    """Return ``target: kind tail``, where *kind* may hold a list of words that is split where it is long."""
    line = f"{indent}{target}: {kind}{tail}"
    return [line] if len(line) <= WIDTH else _split_brackets(line[len(indent) :], indent)


def _item(item: str, indent: str) -> list[str]:
    line = f"{indent}{item},"
    return [line] if len(line) <= WIDTH else _split_brackets(f"{item},", indent)


def _split_brackets(text: str, indent: str) -> list[str]:
    """Return *text* with what stands in its outermost square brackets on lines of its own."""
    head, bracket, rest = text.partition("[")
    inner, closing, tail = rest.rpartition("]")
    if not bracket:
        return [f"{indent}{text}"]
    return bracketed(f"{head}{bracket}", _split_commas(inner), f"{closing}{tail}", indent)


def _split_commas(text: str) -> list[str]:
    """Return the parts of *text* between its commas, but for those in quotes or brackets."""
    parts, depth, quote, begin = [], 0, "", 0
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote and text[place - 1] != "\\" else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "[(":
            depth += 1
        elif letter in "])":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(text[begin:place])
            begin = place + 2
    return [*parts, text[begin:]]


def union(target: str, members: Sequence[str]) -> list[str]:
    """Return ``target: TypeAlias = A | B``; formatters are told to keep it where it is long."""
    line = f"{target}: TypeAlias = {' | '.join(members)}"
    if len(line) <= WIDTH:
        return [line]
    wrapped = textwrap.wrap(" | ".join(members), WIDTH - len(INDENT), break_long_words=False)
    return [f"{target}: TypeAlias = (", *(INDENT + one for one in wrapped), ")  # fmt: skip"]
