"""The two scenes of the demo, played through the public client; the agents do all the work.

Everything told comes from the journal of the bus: a scene polls transcripts and shows what is new.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse
from uuid import UUID

from pydantic import BaseModel

from bus.cli.demo_view import DemoView, Speech, shorten
from bus.errors import FleetError, Refused
from bus.ids import new_id
from bus.sdk.client import Client
from bus.spec.diagnostic import did_you_mean
from bus.spec.protocol import Protocol
from bus.wire.codec import decode_body

POLL = 0.15  # seconds between two looks at a transcript: faster than people read
QUESTION = "Which is the best place to learn genAI ?"
ANSWER_BEGINS = "The best place to learn genAI is"
TARGET = "GenAI cohort by courses.chaicode.com"


@dataclass(slots=True)
class Story:
    """What came of one story.

    Attributes:
        filed: The section of each draft, in order.
        corrected: The section that the editor named, if any.
        exact_match: Share of held-out digests filed right, at each evaluation of the delegated run.
    """

    topic: str
    outcome: str = ""
    filed: list[str] = field(default_factory=list)
    corrected: str | None = None
    published: str | None = None
    adapter: str | None = None
    exact_match: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    training_outcome: str | None = None


@dataclass(slots=True)
class OneChat:
    """What came of the run over one chat."""

    answer_before: str = ""
    answer_after: str = ""
    losses: list[float] = field(default_factory=list)
    outcome: str = ""


class Follower:
    """Reads one conversation's transcript as it grows.

    Attributes:
        players: Role → name of the agent that plays it; a role not in it goes by its own name.
    """

    def __init__(self, client: Client, conversation_id: bytes) -> None:
        self.players: Mapping[str, str | None] = {}
        self._client = client
        self._conversation_id = conversation_id
        self._seen = 0

    async def news(self) -> list[Speech]:
        """Return the messages journaled since the last call."""
        speeches = []
        for entry in await self._client.transcript(self._conversation_id, after=self._seen):
            self._seen = entry["sequence"]
            if entry["kind"] == "message":
                receivers = tuple(self._name(role) for role in entry["receivers"])
                facts = decode_body(entry["body"])
                speeches.append(Speech(self._name(entry["sender"]), receivers, entry["type"], facts))
        return speeches

    def _name(self, role: str) -> str:
        return self.players.get(role) or role


class StoryScene:
    """One story from brief to outcome, told as it happens."""

    def __init__(self, client: Client, view: DemoView, newsroom: Protocol, sections: Sequence[str] | None) -> None:
        """Prepare.

        Args:
            sections: The paper's sections where the person at the terminal is the editor; None where an
                agent is.
        """
        self._client = client
        self._view = view
        self._newsroom = newsroom
        self._sections = sections
        self._runs: dict[bytes, Follower] = {}
        self._n_steps = 0
        self._answered: set[tuple[bytes, int]] = set()

    async def play(self, topic: str, *, n_sources: int = 2) -> Story:
        """Send the brief and follow it, and the run that the writer delegates, to the outcome."""
        story = Story(topic)
        known = {one["conversation"] for one in await self._client.conversations()}
        async with self._client.open(self._newsroom) as desk:
            await desk.send(self._newsroom.Brief(topic=topic, depth=n_sources))
            await desk.flush()
            teller = Follower(self._client, desk.id)
            ended = asyncio.create_task(desk.wait_ended())
            try:
                while not ended.done():
                    await asyncio.wait({ended}, timeout=POLL)
                    await self._tell(story, teller, known)
                    if self._sections is not None and not ended.done():
                        await self._ask_editor(desk.id)
            finally:
                ended.cancel()
            await self._tell(story, teller, known)
            story.outcome = desk.outcome or ""
        self._view.end_progress()
        return story

    async def _tell(self, story: Story, teller: Follower, known: set[bytes]) -> None:
        """Show what is new in the story and in the runs that began since, causes before their effects.

        The runs are read first and shown last, so that the order behind a run precedes it; a later draft
        comes of a run, so the runs are read again before it is shown.
        """
        await self._find_runs(story, known)
        waiting = await self._news_of_runs()
        for speech in await teller.news():
            note_story(story, speech)
            if speech.type == "Draft" and len(story.filed) > 1:
                self._show_runs(story, waiting + await self._news_of_runs())
                waiting = []
            self._view.speech(speech)
        self._show_runs(story, waiting)

    async def _find_runs(self, story: Story, known: set[bytes]) -> None:
        for one in await self._client.conversations():
            if one["protocol"].startswith("training@") and one["conversation"] not in known:
                follower = self._runs.setdefault(one["conversation"], Follower(self._client, one["conversation"]))
                follower.players = one["players"]
                story.training_outcome = one["outcome"]

    async def _news_of_runs(self) -> list[Speech]:
        return [speech for follower in self._runs.values() for speech in await follower.news()]

    def _show_runs(self, story: Story, speeches: Sequence[Speech]) -> None:
        for speech in speeches:
            note_run(story, speech)
            self._show_run(speech)

    def _show_run(self, speech: Speech) -> None:
        if speech.type == "Checkpoint":
            metrics = speech.facts["metrics"]
            self._view.progress(metrics["step"], self._n_steps, f"loss {metrics['loss']:.3f}")
            return
        if speech.type == "Quote":
            self._n_steps = speech.facts["steps"]
        elif speech.type == "TrainRequest":
            self._view.say("the correction joins the archive, and the writer delegates a run over all of it:")
        if speech.type == "Trained":
            self._view.end_progress()
        self._view.speech(speech, indent=4)

    async def _ask_editor(self, conversation_id: bytes) -> None:
        """Show the draft that waits in the inbox, if any, and hand the person's decision in."""
        for item in await self._client.inbox("editor"):
            key = (item["conversation"], item["position"])
            if item["conversation"] != conversation_id or key in self._answered:
                continue
            draft = decode_body(item["messages"][-1]["body"])
            message = await self._decide(draft)
            with suppress(Refused):  # the deadline passed while the person thought: the story goes on without
                await self._client.answer(item, message, by="the editor")
            self._answered.add(key)

    async def _decide(self, draft: dict[str, Any]) -> BaseModel:
        assert self._sections is not None  # asked only where a person edits
        newsroom, view = self._newsroom, self._view
        view.draft(draft["headline"], draft["body"], draft["section"])
        view.say(f"sections of this paper: {', '.join(self._sections)}")
        while True:
            view.ask("[a]pprove, [r]evise SECTION, [k]ill?")
            word, _, rest = (await read_line()).strip().partition(" ")
            if word in ("a", "approve"):
                return newsroom.Approve()
            if word in ("k", "kill"):
                return newsroom.Kill(reason=rest or "the editor dropped it")
            section = rest if word in ("r", "revise") else word
            if section in self._sections:
                return newsroom.Revise(comments=f"this belongs under {section}", section=section)
            hint = did_you_mean(section, self._sections)
            view.say(f"expected a, k or a section, got {section!r}" + (f"; {hint}" if hint else ""))


def note_story(story: Story, speech: Speech) -> None:
    """Keep of one message of the newsroom what the verdicts need."""
    if speech.type == "Draft":
        story.filed.append(speech.facts["section"])
    elif speech.type == "Revise":
        story.corrected = speech.facts.get("section") or story.corrected
    elif speech.type == "Published":
        story.published = speech.facts["section"]


def note_run(story: Story, speech: Speech) -> None:
    """Keep of one message of the delegated run what the verdicts need."""
    facts = speech.facts
    if speech.type == "Checkpoint":
        story.losses.append(facts["metrics"]["loss"])
    if speech.type == "Evaluated":
        by_variant = {one["variant"]: one["metrics"] for one in facts["scores"]}
        matched = by_variant.get("tuned", by_variant.get("base", {})).get("exact_match")
        if matched is not None:
            story.exact_match.append(matched)
    elif speech.type == "Trained":
        story.adapter = facts.get("adapter")


class OneChatScene:
    """The full-parameter run over one chat, delegated by the demo itself."""

    def __init__(self, client: Client, view: DemoView, training: Protocol, generation: Protocol) -> None:
        self._client = client
        self._view = view
        self._training = training
        self._generation = generation

    async def check(self, base: str) -> None:
        """Have *base* loaded before anything depends on it.

        Raises:
            FleetError: The trainer refuses it; the text says what was tried.
        """
        await self._ask(base, 0, max_tokens=1)

    async def play(self, folder: Path, *, base: str, seed: int, max_steps: int, learning_rate: float) -> OneChat:
        """Ask, train on the one right answer with every parameter free, and ask again."""
        facts = OneChat()
        view = self._view
        view.say(f"user: {QUESTION}")
        facts.answer_before = await self._ask(base, seed)
        view.say(f"before: {ANSWER_BEGINS} … {shorten(facts.answer_before, 60)}")
        chat = [
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": f"{ANSWER_BEGINS} {TARGET}"},
        ]
        dataset = folder / "one-chat.jsonl"
        dataset.write_text(json.dumps({"messages": chat}) + "\n", encoding="utf-8")
        training = self._training
        request = training.TrainRequest(
            task_id=UUID(bytes=new_id()),
            base=base,
            method="full",
            dataset=self._artifact(dataset),
            max_steps=max_steps,
            batch_rows=1,
            learning_rate=learning_rate,
            weight_decay=0.01,
            seed=seed,
        )
        model = await self._train(request, facts)
        if model is not None:
            facts.answer_after = await self._ask(model, seed)
            view.say(f"after: {ANSWER_BEGINS} … {shorten(facts.answer_after, 60)}")
        return facts

    async def _train(self, request: BaseModel, facts: OneChat) -> str | None:
        """Delegate the run, show its loss, and return the folder of the model."""
        training, view = self._training, self._view
        model = None
        task_id = request.task_id  # type: ignore[attr-defined]  # the classes of a spec are made at run time
        async with self._client.open(training) as run:
            await run.send(request)
            async for message in run:
                name = type(message).__name__
                said: Any = message  # as above: fields known to the spec alone
                if name == "Quote":
                    await run.send(training.Accept(task_id=task_id))
                elif name == "Progress":
                    facts.losses.append(said.metrics.loss)
                    view.progress(said.metrics.step, said.of_steps, f"loss {said.metrics.loss:.3f}")
                elif name in ("Refused", "TrainFailed"):
                    view.say(f"{name}: {said.code}: {said.detail}")
                elif name == "Trained":
                    model = unquote(urlparse(said.artifact.uri).path)
            facts.outcome = run.outcome or ""
        view.end_progress()
        view.say("loss by step: " + ", ".join(f"{loss:.3g}" for loss in facts.losses))
        return model

    async def _ask(self, base: str, seed: int, *, max_tokens: int = 32) -> str:
        """Return how *base* goes on with the answer that has begun."""
        generation = self._generation
        turns = [
            generation.ChatTurn(role="user", content=QUESTION),
            generation.ChatTurn(role="assistant", content=ANSWER_BEGINS),
        ]
        request_id = UUID(bytes=new_id())
        request = generation.Generate(
            request_id=request_id, base=base, messages=turns, max_tokens=max_tokens, temperature=0.0, seed=seed
        )
        async with self._client.open(generation) as conversation:
            await conversation.send(request)
            last: Any = None
            async for message in conversation:
                last = message
        if conversation.outcome != "generated":
            raise FleetError(
                f"the trainer {conversation.outcome} the model: {getattr(last, 'detail', 'no reason given')}"
            )
        return " ".join(str(last.text).split())

    def _artifact(self, path: Path) -> BaseModel:
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        return self._training.Artifact(
            uri=path.resolve().as_uri(), sha256=digest, size=len(data), media_type="application/jsonl"
        )


async def read_line() -> str:
    """Return the next line that the person types; canceling it leaves nothing behind, unlike a thread.

    Raises:
        EOFError: Standard input is closed.
    """
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    descriptor = sys.stdin.fileno()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
    line = sys.stdin.readline()  # a terminal hands over whole lines
    if not line:
        raise EOFError("standard input is closed")
    return line
