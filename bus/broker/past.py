"""Where a role stood before bus events moved it: what tells a superseded message from a violation (RULES.md 5).

A message carries the epoch that its sender had seen. It is superseded, without blame, where the role
might have sent it then: in the state in which the first bus event that the sender had not seen found
the role, or in one that it reached from there by messages that came too late as well.
"""

from __future__ import annotations

from bisect import bisect_left

from bus.spec.tables import Machine

_EVENTS = 256  # bus events of one role that are remembered; a sender further behind gets the benefit of the doubt
_STATES = 16  # states reached by messages that came too late after one event


class Past:
    """The states that bus events took one role out of, oldest first.

    Attributes:
        told_epoch: Epoch of the newest event that the role is told of; the raiser of an interrupt is not.
    """

    __slots__ = ("_epochs", "_forgotten", "_states", "told_epoch")

    def __init__(self) -> None:
        self.told_epoch = 0
        self._epochs: list[int] = []  # the last epoch in which the role stood there
        self._states: list[list[int]] = []
        self._forgotten = -1

    def leave(self, epoch: int, state: int, *, is_told: bool) -> None:
        """Note that the bus event after *epoch* moves the role out of *state*."""
        if is_told:
            self.told_epoch = epoch + 1
        self._epochs.append(epoch)
        self._states.append([state])
        if len(self._epochs) > _EVENTS:
            self._forgotten = self._epochs.pop(0)
            del self._states[0]

    def was_allowed(self, machine: Machine, send: tuple[int, int], epoch: int) -> bool:
        """Return whether a sender that had seen *epoch* was right to send (type, address); it may go on from there."""
        if epoch <= self._forgotten:
            return True
        index = bisect_left(self._epochs, epoch)
        if index == len(self._epochs):
            return False  # nothing has happened that the sender had not seen
        states = self._states[index]
        for state in states:
            move = machine.send[state].get(send)
            if move is not None:
                if move.next not in states and len(states) < _STATES:
                    states.append(move.next)
                return True
        return False
