"""A desk for conversations that call others: peers that play roles of two protocols, and the tale they tell."""

from __future__ import annotations

from typing import Any

from desk import Desk, Peer

from bus.settings import Settings
from bus.spec.compile import compile_protocol
from bus.wire.record import WIRE_VERSION, Kind, Record

REVIEW = """
language: 1
protocol: review
version: 1.2.0
roles: {author: {}, reader: {}}
messages:
  Text: {}
  Good: {}
  Poor: {}
outcomes: {good: It is., poor: It is not.}
conversation:
  - author -> reader: Text
  - choice: reader
    within: 5m
    branches:
      good: [reader -> author: Good, end: good]
      poor: [reader -> author: Poor, end: poor]
"""
STORY = """
language: 1
protocol: story
version: 1.0.0
roles: {client: {}, writer: {pool: true}, checker: {}}
messages:
  Ask: {}
  Done: {}
  Sorry: {}
  Stop: {}
outcomes: {told: There is a story., untold: There is none., stopped: Nobody wants it., late: Nobody knows.}
conversation:
  - client -> writer: Ask
  - scope: work
    do:
      - call: review@^1
        as: {author: writer, reader: checker}
        within: 20m
        outcomes:
          good: [writer -> client: Done, end: told]
          poor: [writer -> client: Sorry, end: untold]
          failed: [end: late]
          canceled: [writer -> client: Sorry]
    interrupts:
      - client -> writer: Stop
        then: [end: stopped]
      - timeout: 2h
        then: [end: late]
"""


def bundled(*texts: str) -> str:
    """Return the texts as they travel."""
    return "--- # import\n".join(text.lstrip("\n") for text in texts)


class CallDesk(Desk):
    """The broker with peers of all protocols; roles of others than the first are named ``review.author``.

    Args:
        more: What the second protocol calls.
    """

    def __init__(self, story: str = STORY, review: str = REVIEW, *more: str, settings: Settings | None = None) -> None:
        super().__init__(bundled(story, review, *more), settings=settings)
        self.sources = [self.source, bundled(review, *more), *more]
        self.protocols = [self.protocol, *map(compile_protocol, self.sources[1:])]

    def peer(
        self, name: str, *, plays: list[str] | None = None, instance: int = 0, credit: int = 100, held: Any = ()
    ) -> Peer:
        self.n_peers += 1
        peer = Peer(self, name, instance)
        self.peers[peer.routing_id] = peer
        numbers = {protocol.name: number for number, protocol in enumerate(self.protocols)}
        parts = [role.rpartition(".") for role in plays or []]
        roles = [[numbers[protocol or self.protocol.name], role] for protocol, _, role in parts]
        peer.put([Kind.HELLO, WIRE_VERSION, name, instance, self.sources, roles, credit, list(held)])
        peer.kept = peer.take_one(Kind.WELCOME)[4]
        return peer

    def commit(self, peer: Peer, delivery: Record, *sends: tuple[str, ...], settles: bool = True, **more: Any) -> int:
        with_parent, self.protocol = self.protocol, self.protocols[delivery[2]]
        try:
            return super().commit(peer, delivery, *sends, settles=settles, **more)
        finally:
            self.protocol = with_parent

    def name_of(self, delivery: Record) -> str:
        with_parent, self.protocol = self.protocol, self.protocols[delivery[2]]
        try:
            return super().name_of(delivery)
        finally:
            self.protocol = with_parent

    def called(self, peer: Peer, conversation: bytes) -> list[bytes]:
        """Return the conversations that *conversation* has called, oldest first."""
        return [one["conversation"] for one in self.query(peer, "conversations") if one["parent"] == conversation]
