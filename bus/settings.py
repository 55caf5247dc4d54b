"""Every number of the bus that somebody may want to change, with its reason; docs/settings.md shows the table.

``Settings`` is a value; the command line and ``PALAVER_*`` variables are read by whoever launches a process.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields


def _setting(default: float, reason: str) -> float:
    return field(default=default, metadata={"reason": reason})


@dataclass(frozen=True, slots=True)
class Settings:
    """Numbers of the bus; durations in seconds."""

    within: float = _setting(300.0, "a wait that no deadline covers ends after this (RULES.md 19)")
    lease: float = _setting(10.0, "a process that was not heard of for this long has lost its deliveries")
    heartbeat_interval: float = _setting(
        1.0, "a third of the lease would do; a second makes a dead broker visible soon"
    )
    lost_after: float = _setting(60.0, "a role is lost when no instance was registered for this long (RULES.md 12)")
    max_attempts: int = _setting(3, "below the supervisor's restart intensity, so poison ends as a dead letter")  # type: ignore[assignment]  # whole number
    back_off: float = _setting(0.2, "first pause before a failed delivery is tried again; doubles each time")
    back_off_limit: float = _setting(30.0, "longest pause between two attempts")
    credit: int = _setting(1024, "deliveries that one agent takes before it has settled some")  # type: ignore[assignment]  # whole number
    window: int = _setting(2048, "records that a peer may have sent and not yet seen accepted")  # type: ignore[assignment]  # whole number
    mailbox: int = _setting(100_000, "undelivered messages that one role of one conversation may pile up")  # type: ignore[assignment]  # whole number
    state_bytes: int = _setting(65_536, "what a role may keep with a commit (RULES.md 8)")  # type: ignore[assignment]  # whole number
    clock_interval: float = _setting(10.0, "bus time is journaled at least this often (RULES.md 18)")
    retention: float = _setting(7 * 86_400.0, "finished conversations stay readable for this long")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Return the settings with ``PALAVER_<NAME>`` variables applied.

        Raises:
            ValueError: A variable is no number; the message names it.
        """
        changed: dict[str, float] = {}
        for one in fields(cls):
            text = environment.get(f"PALAVER_{one.name.upper()}")
            if text is None:
                continue
            try:
                changed[one.name] = int(text) if isinstance(one.default, int) else float(text)
            except ValueError as error:
                raise ValueError(f"PALAVER_{one.name.upper()}: expected a number, got {text!r}") from error
        return cls(**changed)  # type: ignore[arg-type]  # whole numbers were read as such
