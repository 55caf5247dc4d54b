"""Every error that palaver raises on purpose, as one tree.

::

    PalaverError
    ├── SpecError                a spec, fleet or training file is wrong; carries diagnostics
    ├── LocalProtocolError       you asked for something the protocol forbids; nothing was sent
    │   ├── NotAllowed           order: the message may not be sent now
    │   ├── BodyInvalid          the body breaks its type, a rule or a key
    │   ├── CommitFirst          at-most-once while earlier sends of the turn are uncommitted
    │   ├── TooLarge             a body, state or commit is above its limit
    │   ├── MissingHandler       an agent lacks a handler after which its role must speak
    │   └── TurnUnfinished       a handler returned while its role still owes a message
    ├── RemoteProtocolError      your peer did
    │   ├── MalformedFrame       bytes that are no frame of ours
    │   └── Refused              the broker refused a record; carries its code and detail
    ├── TurnEnded                the turn is no longer yours
    │   ├── LeaseLost            the delivery belongs to another lease
    │   └── Revoked              a bus event moved the conversation on
    ├── Failure                  raised by a handler: the agent cannot go on, and says so on the bus
    ├── ConversationEnded        the conversation is over; carries the outcome
    ├── BrokerUnavailable        no broker answers
    ├── BrokerRunning            another broker owns the state folder, or listens at the address
    ├── AddressRefused           the bus may not be at that address
    ├── JournalFailed            the journal could not be written; the broker stops
    ├── ProgramError             a program cannot be loaded or launched
    └── FleetError               a fleet cannot be started

Messages say what was expected, what was got, where, and what to do. Each class has a stable ``code``.
Arguments go to ``super().__init__``, so that every error survives copying between processes.
"""

from typing import Any


class PalaverError(Exception):
    """Raised when palaver itself refuses or fails; the root of the tree."""

    code = "palaver"


class SpecError(PalaverError):
    """Raised when a file that people write does not say what it must; ``diagnostics`` tells where."""

    code = "spec"

    def __init__(self, message: str, diagnostics: tuple[Any, ...] = ()) -> None:
        super().__init__(message, diagnostics)
        self.diagnostics = diagnostics

    def __str__(self) -> str:
        return str(self.args[0])


class LocalProtocolError(PalaverError):
    """Raised when you ask for something that the protocol forbids; nothing was sent.

    Attributes:
        allowed: What may be sent instead, as ``{"type", "to", "fields"}`` each; empty where order is not concerned.
    """

    code = "local-protocol"

    def __init__(self, message: str = "", allowed: list[dict[str, Any]] | None = None) -> None:
        super().__init__(message, allowed or [])
        self.allowed: list[dict[str, Any]] = allowed or []

    def __str__(self) -> str:
        return str(self.args[0])


class NotAllowed(LocalProtocolError):
    """Raised when a message may not be sent in the present state; the text lists what may."""

    code = "not-allowed"


class BodyInvalid(LocalProtocolError):
    """Raised when a body breaks its message type, one of its rules or a key of the conversation."""

    code = "body-invalid"


class CommitFirst(LocalProtocolError):
    """Raised when an at-most-once message would overtake uncommitted sends of its turn (RULES.md 4)."""

    code = "commit-first"


class TooLarge(LocalProtocolError):
    """Raised when a body, a kept state or a commit is above its limit."""

    code = "too-large"


class MissingHandler(LocalProtocolError):
    """Raised when an agent lacks a handler after which its role would have to speak (RULES.md 6)."""

    code = "missing-handler"


class TurnUnfinished(LocalProtocolError):
    """Raised when a handler returns while its role still owes a message (RULES.md 6)."""

    code = "turn-unfinished"


class RemoteProtocolError(PalaverError):
    """Raised when a peer breaks the wire or the protocol."""

    code = "remote-protocol"


class MalformedFrame(RemoteProtocolError):
    """Raised when bytes from a peer are not a frame of ours."""

    code = "malformed"


class Refused(RemoteProtocolError):
    """Raised when the broker refuses a record; nothing changed.

    Attributes:
        code: The broker's code, e.g. ``"not-allowed"``.
        detail: What the broker said, with ``message`` and where order is concerned ``allowed``.
        allowed: What may be sent instead, as ``{"type", "to", "fields"}`` each; empty where order is not concerned.
    """

    def __init__(self, code: str, detail: dict[str, Any]) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    @property
    def allowed(self) -> list[dict[str, Any]]:
        """Return what may be sent instead."""
        return list(self.detail.get("allowed") or [])

    def __str__(self) -> str:
        return f"{self.code}: {self.detail.get('message', 'the broker refused')}"


class TurnEnded(PalaverError):
    """Raised inside a handler whose turn is no longer its own."""

    code = "turn-ended"


class LeaseLost(TurnEnded):
    """Raised when another lease took the delivery over."""

    code = "lease-lost"


class Revoked(TurnEnded):
    """Raised when a bus event moved the conversation on while the handler worked (RULES.md 5)."""

    code = "revoked"


class Failure(PalaverError):
    """Raised by a handler that cannot go on; the scope's ``failed: role`` follows, or the conversation fails.

    Attributes:
        code: A short word for programs, e.g. ``"no-such-section"``.
        detail: What happened and what to do, for people.
        retryable: Whether trying the same delivery again may help.
    """

    code = "failure"

    def __init__(self, code: str, detail: str = "", *, retryable: bool = False) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.retryable = retryable

    def __reduce__(self) -> tuple[Any, ...]:
        return (_new_failure, (self.code, self.detail, self.retryable))

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}" if self.detail else self.code


def _new_failure(code: str, detail: str, retryable: bool) -> Failure:
    return Failure(code, detail, retryable=retryable)


class ConversationEnded(PalaverError):
    """Raised when something is asked of a conversation that is over; ``outcome`` tells how it ended."""

    code = "conversation-ended"

    def __init__(self, message: str, outcome: str) -> None:
        super().__init__(message, outcome)
        self.outcome = outcome

    def __str__(self) -> str:
        return str(self.args[0])


class BrokerUnavailable(PalaverError):
    """Raised when no broker answers at the address within the time limit."""

    code = "broker-unavailable"


class BrokerRunning(PalaverError):
    """Raised when another broker owns the state folder, or listens at the address."""

    code = "broker-running"


class AddressRefused(PalaverError):
    """Raised when an address is not one that the bus may use; the text says which are."""

    code = "address"


class JournalFailed(PalaverError):
    """Raised when the journal could not be written; a failed fsync is never tried again."""

    code = "journal-failed"


class ProgramError(PalaverError):
    """Raised when an agent's program cannot be found, loaded or launched."""

    code = "program"


class FleetError(PalaverError):
    """Raised when a fleet cannot be started."""

    code = "fleet"
