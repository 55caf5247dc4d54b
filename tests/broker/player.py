"""An agent that speaks records: its handler is a function of (message, state), and it may fail at any point."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from desk import Desk, Peer

from bus.ids import message_id
from bus.wire.codec import encode_body
from bus.wire.record import Kind, Record

Commit: TypeAlias = list[tuple[str, ...]]  # sends as (message, receiver, …)
Handler: TypeAlias = Callable[[str, int], tuple[list[Commit], int]]  # (what came, state) → (commits, new state)


class Player:
    """One agent: takes its deliveries one by one, one commit at a time; ``step`` does the next bit."""

    def __init__(self, desk: Desk, name: str, role: str, handler: Handler) -> None:
        self.desk = desk
        self.name = name
        self.role = role
        self.handler = handler
        self.peer: Peer | None = None
        self._forget()
        self.outbox: list[Record] = []  # said, not yet on disk as far as we know

    def _forget(self) -> None:
        self.pending: deque[Record] = deque()
        self.state = 0
        self.fence = 0
        self.done = 0

    def start(self) -> None:
        """Register as a new process: nothing is remembered."""
        self._forget()
        self.outbox = []
        self.peer = self.desk.peer(self.name, plays=[self.role])

    def reconnect(self) -> None:
        """Register again after the broker died, naming the turn under way."""
        held = [self.desk.lease_of(self.pending[0])] if self.pending else []
        self.peer = self.desk.peer(self.name, plays=[self.role], held=held)
        again, self.outbox = self.outbox, []
        if not self.peer.kept:
            self._forget()
            return
        del [*self.pending][1:]
        self.pending = deque([self.pending[0]])
        for record in again:
            if record[4] == self.fence:
                self._put(record)

    def fail(self) -> None:
        """Let the handler of the turn under way raise."""
        if self.pending and self.peer is not None:
            self.desk.nack(self.peer, self.pending[0])
            self._forget()

    def step(self) -> bool:
        """Read what came and do the next commit; return whether there was anything to do."""
        assert self.peer is not None
        for record in self.peer.inbox:
            self._read(record)
        self.peer.inbox = []
        if not self.pending:
            return False
        delivery = self.pending[0]
        commits, state = self.handler(self.desk.name_of(delivery), self.state)
        number = delivery[7] + self.done
        settles = number >= len(commits) - 1
        self._put(self._commit(delivery, number, commits[number] if commits else [], state if settles else None))
        self.done += 1
        if settles:
            self.pending.popleft()
            self.state, self.done = state, 0
        return True

    def _commit(self, delivery: Record, number: int, sends: Commit, state: int | None) -> Record:
        _, conversation, _, role, fence, position, *_ = delivery
        protocol = self.desk.protocol
        listed = [
            [
                message_id(conversation, role, position, number, index), protocol.message_index(message),
                self.desk.address(*to), None, None, encode_body({"by": self.role, "state": self.state, "n": number}),
            ]
            for index, (message, *to) in enumerate(sends)
        ]  # fmt: skip
        saved = None if state is None else bytes([state])
        return [
            Kind.COMMIT, 0, conversation, role, fence, position, number, saved is not None, delivery[10], listed, saved,
        ]  # fmt: skip

    def _put(self, record: Record) -> None:
        assert self.peer is not None
        record[1] = self.peer.number()
        self.outbox.append(record)
        self.peer.put(record)

    def _read(self, record: Record) -> None:
        if record[0] == Kind.DELIVER:
            if record[4] != self.fence:
                self._forget()
                self.fence = record[4]
                self.state = record[16][0] if record[16] else 0
            self.pending.append(record)
        elif record[0] == Kind.ACCEPTED:
            self.outbox = [one for one in self.outbox if one[1] > record[2]]
        elif record[0] == Kind.NOTICE and record[1] == "revoked" and record[2]["fence"] == self.fence:
            self._forget()
        elif record[0] == Kind.REFUSED:
            assert record[2] == "lease-lost", record  # commits of an earlier life went with the journal's tail
            self._forget()
        else:
            assert record[0] == Kind.NOTICE, record
