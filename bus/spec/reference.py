"""Versions of protocols, and the ranges of them that other files ask for: ``common@^1``."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

Version: TypeAlias = tuple[int, int, int]


class Reference(NamedTuple):
    """``name@range``: versions of *name* from *least* on and *below* the other.

    As in npm: ``@1`` and ``@1.2`` are every version that begins so, ``@1.2.3`` is that one, ``@~1.2`` any patch
    of it and ``@^1.2`` whatever is compatible: the first number that is not zero stays.
    """

    text: str
    name: str
    least: Version
    below: Version

    def fits(self, version: Version) -> bool:
        """Return whether *version* is in the range."""
        return self.least <= version < self.below


def parse_version(text: str) -> Version:
    """Return the numbers of ``1.2.3``, which the caller has checked."""
    major, minor, patch = (int(part) for part in text.split("."))
    return major, minor, patch


def parse_reference(text: str) -> Reference:
    """Return what ``name@range`` says; the caller has checked its form (``parse.IMPORT``)."""
    name, _, written = text.partition("@")
    numbers = [int(part) for part in written.lstrip("^~").split(".")]
    last = len(numbers) - 1
    kept = last  # the last number that must stay as it is
    if written[0] == "~":
        kept = min(last, 1)
    elif written[0] == "^":
        kept = next((index for index, number in enumerate(numbers) if number), last)
    least = _padded(numbers)
    return Reference(text, name, least, _padded([*numbers[:kept], numbers[kept] + 1]))


def _padded(numbers: list[int]) -> Version:
    major, minor, patch = [*numbers, 0, 0][:3]
    return major, minor, patch
