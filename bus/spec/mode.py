"""How strictly the broker holds a protocol to its order: enforced, observed for adoption, or off (docs/settings.md)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Mode(StrEnum):
    """What happens to a message that the order or a key forbids."""

    ENFORCE = "enforce"  # refused
    OBSERVE = "observe"  # logged, counted and passed on
    OFF = "off"  # passed on


def read_mode(text: str) -> Mode:
    """Return the mode called *text*.

    Raises:
        ValueError: There is none such; the message lists them.
    """
    try:
        return Mode(text)
    except ValueError:
        raise ValueError(f"expected a mode ({', '.join(Mode)}), got {text!r}") from None


def not_enforced(modes: Mapping[str, Mode]) -> dict[str, str]:
    """Return protocol name → mode of all that are not enforced, as WELCOME tells peers."""
    return {name: mode.value for name, mode in modes.items() if mode is not Mode.ENFORCE}
