"""RULES.md 21: with failures of every kind a conversation says and ends what it does without them."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from desk import Desk
from player import Commit, Player

from bus.settings import Settings
from bus.wire.codec import encode_body
from bus.wire.record import Kind

NEWSROOM = (Path(__file__).parents[2] / "specs" / "newsroom.protocol.yaml").read_text(encoding="utf-8")
# Many attempts and short pauses: here no delivery is poison, and no deadline may pass.
SETTINGS = Settings(max_attempts=1000, back_off=0.01, back_off_limit=0.05, lease=0.5)


def research(came: str, state: int) -> tuple[list[Commit], int]:
    finding: Commit = [("Finding", "summarizer")]
    return ([finding] * 3 + [[*finding, ("FindingsDone", "summarizer")]] if came == "Brief" else [[]]), state


def summarize(came: str, state: int) -> tuple[list[Commit], int]:
    return ([[("Digest", "writer")]] if came == "FindingsDone" else [[]]), state + 1


def write(came: str, state: int) -> tuple[list[Commit], int]:
    said: dict[str, list[Commit]] = {
        "Digest": [[("Draft", "editor")]],
        "Revise": [[], [("Draft", "editor")]],
        "Approve": [[("Published", "desk")]],
        "[max]": [[("Spiked", "desk")]],
    }
    return said.get(came, [[]]), state + 1


def edit(came: str, state: int, *, patience: int = 2) -> tuple[list[Commit], int]:
    if came != "Draft":
        return [[]], state
    return [[("Approve" if state == patience else "Revise", "writer")]], state + 1


class Newsroom:
    """The desk's script, which opens the conversation and reads it, and four agents."""

    def __init__(self) -> None:
        self.desk = Desk(NEWSROOM, settings=SETTINGS)
        self.desk.auto_sync = False
        self.players = [
            Player(self.desk, "researcher", "researcher", research),
            Player(self.desk, "summarizer", "summarizer", summarize),
            Player(self.desk, "writer", "writer", write),
            Player(self.desk, "editor", "editor", edit),
        ]
        for player in self.players:
            player.start()
        self.read: list[str] = []
        self.last_read = 0
        self.begin()

    def begin(self) -> None:
        """Register the script, open or attach, and send the brief, which has one id for ever."""
        self.script = self.desk.peer("script")
        self.conversation = self.desk.open(self.script, "desk")
        self.desk.send(
            self.script, self.conversation, "desk", "Brief", "researcher", "writer", message_id=b"the-brief-of-all",
            body=encode_body({"topic": "batteries"}),
        )  # fmt: skip

    def step(self) -> None:
        self.desk.now += 0.01
        for player in self.players:
            player.step()
        for delivery in self.script.take(Kind.DELIVER):
            if delivery[5] > self.last_read:
                self.last_read = delivery[5]
                self.read.append(self.desk.name_of(delivery))
            self.desk.handled(self.script, delivery)
        self.desk.turn()

    def restart(self) -> None:
        self.desk.restart()
        self.begin()
        for player in self.players:
            player.reconnect()

    def mishap(self, random: Random) -> None:
        player = random.choice(self.players)
        what = random.choice(["crash", "crash and stay away", "fail", "restart", "disk"])
        if what.startswith("crash"):
            assert player.peer is not None
            player.peer.die()
            if what == "crash and stay away":
                self.desk.pass_time(2 * SETTINGS.lease)
            player.start()
        elif what == "fail":
            player.fail()
        elif what == "restart":
            self.restart()
        else:
            self.desk.sync()

    def told(self) -> list[object]:
        """Return the journaled messages and bus events, without times."""
        self.desk.sync()
        self.desk.turn()
        return [
            sorted(entry.items(), key=str)
            for entry in self.desk.query(self.script, "transcript", conversation=self.conversation)
        ]


def run(seed: int | None) -> Newsroom:
    newsroom, random = Newsroom(), Random(seed)
    for _ in range(3000):
        if "[end]" in newsroom.read:
            return newsroom
        newsroom.step()
        if seed is None:
            newsroom.desk.sync()
        elif random.random() < 0.25:
            newsroom.mishap(random)
        elif random.random() < 0.3:
            newsroom.desk.sync()
    raise AssertionError(f"no end; the desk has read {newsroom.read}")


def test_run_without_failures_is_the_story_of_three_drafts() -> None:
    newsroom = run(None)

    types = [dict(entry)["type"] or dict(entry)["event"] for entry in newsroom.told()]  # type: ignore[call-overload]  # pairs
    assert types == [
        "Brief", *["Finding"] * 4, "FindingsDone", "Digest", "Draft", "Revise", "Draft", "Revise", "Draft", "Approve",
        "Published", "published.end",
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_run_with_failures_says_the_same(seed: int) -> None:
    undisturbed = run(None)

    newsroom = run(seed)

    assert newsroom.told() == undisturbed.told()
    assert newsroom.read == undisturbed.read


@pytest.mark.parametrize("seed", range(5))
def test_replay_of_the_journal_gives_the_same_conversation(seed: int) -> None:
    newsroom = run(seed)
    told = newsroom.told()

    newsroom.restart()

    assert newsroom.told() == told
