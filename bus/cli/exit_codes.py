"""What the exit codes of ``palaver`` mean: one table, shown by ``--help``."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from bus.errors import (
    AddressRefused,
    BrokerRunning,
    BrokerUnavailable,
    JournalFailed,
    LocalProtocolError,
    ProgramError,
    Refused,
    SpecError,
)


class ExitCode(IntEnum):
    """Why a command ended."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    NO_BROKER = 3
    TIMEOUT = 4
    FLEET_FAILED = 5
    FAILED = 10
    CANCELED = 11
    OTHER_OUTCOME = 12  # and on: the spec's second, third, … outcome
    JOURNAL = 74  # EX_IOERR of sysexits(3)
    CANNOT_LAUNCH = 78  # EX_CONFIG: starting it again would end the same way
    INTERRUPTED = 130  # as shells say of SIGINT


MEANINGS = {
    ExitCode.OK: "done; for conversations: the first outcome that the spec names, or done",
    ExitCode.REFUSED: "refused, or a check failed",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.NO_BROKER: "no broker answers",
    ExitCode.TIMEOUT: "the time limit passed; what was begun goes on",
    ExitCode.FLEET_FAILED: "an agent of the fleet died too often or could not be launched",
    ExitCode.FAILED: "the conversation ended as failed",
    ExitCode.CANCELED: "the conversation ended as canceled",
    ExitCode.OTHER_OUTCOME: "and on: the second, third, … outcome that the spec names",
    ExitCode.JOURNAL: "the broker could not write its journal",
    ExitCode.CANNOT_LAUNCH: "launch, broker: cannot start like this; another try would end the same way",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C)",
}


def show_exit_codes() -> str:
    """Return the table as text for ``--help``."""
    lines = "\n\n".join(f"{int(code)} {meaning}" for code, meaning in MEANINGS.items())
    return f"Exit codes:\n\n{lines}"


def exit_code_of_error(error: BaseException) -> ExitCode:
    """Return the code with which a command ends because of *error*."""
    if isinstance(error, BrokerUnavailable):
        return ExitCode.NO_BROKER
    if isinstance(error, TimeoutError):
        return ExitCode.TIMEOUT
    if isinstance(error, JournalFailed):
        return ExitCode.JOURNAL
    return ExitCode.REFUSED


_FOR_GOOD = (SpecError, ProgramError, LocalProtocolError, Refused, BrokerRunning, AddressRefused)


def exit_code_of_launch(error: BaseException) -> ExitCode:
    """Return the code with which ``launch`` and ``broker`` end: the supervisor reads whether to try again."""
    if isinstance(error, _FOR_GOOD):
        return ExitCode.CANNOT_LAUNCH
    return exit_code_of_error(error)


def exit_code_of_outcome(outcome: str, declared: Sequence[str]) -> int:
    """Return the code for a conversation that ended as *outcome*.

    Args:
        declared: The outcomes that the spec itself names, in its order.
    """
    if outcome == "failed":
        return ExitCode.FAILED
    if outcome == "canceled":
        return ExitCode.CANCELED
    if outcome not in declared:
        return ExitCode.OK  # `done`: it fell off its end
    others = [name for name in declared if name not in ("failed", "canceled")]
    place = others.index(outcome)
    return ExitCode.OTHER_OUTCOME + place - 1 if place else ExitCode.OK
