"""A spec and the files that it needs, as one text: how a protocol travels to those who have no files.

The file itself comes first, what it imports or calls behind it, each after a line ``--- # import``. One file
never holds a second document (``loader`` refuses it), so such a line can be nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

SEPARATOR = "--- # import"
_SEPARATOR_LINE = re.compile(rf"^{re.escape(SEPARATOR)}\n", re.MULTILINE)


class SpecText(NamedTuple):
    """The text of one file; *file* names it in diagnostics."""

    file: str
    text: str


def join_bundle(texts: Iterable[SpecText]) -> str:
    """Return *texts* as one; a single one as it is."""
    first, *others = texts
    if not others:
        return first.text
    return f"{SEPARATOR}\n".join(_whole_lines(one.text) for one in (first, *others))


def split_bundle(text: str, file: str) -> tuple[SpecText, ...]:
    """Return the texts that *text* was joined from; those behind the first are ``file#1``, ``file#2`` …"""
    if SEPARATOR not in text:
        return (SpecText(file, text),)
    parts = _SEPARATOR_LINE.split(text)
    return tuple(SpecText(f"{file}#{index}" if index else file, part) for index, part in enumerate(parts))


def _whole_lines(text: str) -> str:
    return text if text.endswith("\n") else f"{text}\n"
