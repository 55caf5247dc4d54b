"""What one conversation is watched for beside its order: keys, the mode, and how often either was broken."""

from __future__ import annotations

from bus.broker.keys import Keys
from bus.spec.mode import Mode
from bus.spec.protocol import Protocol


class Watch:
    """Belongs to one conversation.

    Attributes:
        keys: What its key fields are, or None where the protocol has none.
        mode: How strictly its order and keys are held to.
        n_violations: What they forbade and the mode let pass.
    """

    __slots__ = ("_messages", "keys", "mode", "n_violations")

    def __init__(self, protocol: Protocol, mode: Mode = Mode.ENFORCE) -> None:
        self._messages = protocol.messages
        self.keys = Keys() if protocol.spec.keys else None
        self.mode = mode
        self.n_violations = 0

    def note(self, type: int, body: bytes) -> None:
        """Remember the keys that a message which was taken sets."""
        if self.keys is not None:
            self.keys.keep(self._messages[type], body)
