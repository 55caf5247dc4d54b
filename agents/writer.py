"""Write the story from the digest, file it under a section, and learn from the editor where it belongs.

A small language model of the training service says which section a digest belongs to. When the editor
says that it was wrong, the writer keeps the correction, delegates a LoRA run over everything that the desk
has filed so far to the trainer, and files the next draft with the adapter that comes back. Where nothing can
be learned (few digests, no trainer, a failed run) it takes the editor's word.

Settings: ``digests``, JSONL of labelled digests to begin with; ``held_out``, others to be judged by;
``archive``, the folder for corrections and for what the writer remembers; ``base``, the model;
``at_least``, how many labelled digests are worth a run (64); ``training``, fields of TrainRequest;
``rank`` of the adapter.

What is done outside the bus is named after the message handled, so that a redelivered one changes nothing.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from uuid import UUID, uuid5

import structlog

from bus import Agent, DeadlinePassed, LoopEnded, load_protocol

PROMPT = "File this digest: "
"""What precedes a digest where a section is asked for; the archive's rows have the same words."""

MAX_FILED_WORDS = 40
"""Words of a digest that are filed: about as many as the archive's digests have."""

UNFILED = "unfiled"
ADAPTER = "sections"
"""The name under which the trainer registers what the writer has learned."""

RECIPE = {"max_steps": 200, "batch_rows": 16, "learning_rate": 1e-3, "checkpoint_every": 25}
"""What a LoRA run asks for unless the settings say otherwise."""

log = structlog.get_logger()
newsroom = load_protocol("newsroom")
training = load_protocol("training")
generation = load_protocol("generation")
agent = Agent(plays=newsroom.role("writer"))


@agent.on(newsroom.Brief)
async def begin(brief, conversation):
    """Note the topic, and the adapter that this story begins with."""
    conversation.state.update(topic=brief.topic, adapter=remembered_adapter(archive()), revision=1)


@agent.on(newsroom.Digest)
async def write(digest, conversation):
    """File the first draft under what the model says."""
    conversation.state["body"] = digest.summary
    conversation.state["section"] = await ask_section(conversation)
    return draft(conversation.state)


@agent.on(newsroom.Revise)
async def revise(order, conversation):
    """Learn where the order corrects the section, rework the text where it does not."""
    state = conversation.state
    state["revision"] += 1
    if order.section is None:
        state["body"] = rework(state["body"], order.comments)
    elif state.get("taught"):  # taught once already and still wrong: no second run for one story
        state["section"] = order.section
    else:
        state["taught"] = True
        keep_correction(archive(), conversation.message_id, filed(state["body"]), order.section)
        adapter = await learn(conversation)
        state["adapter"] = adapter or state["adapter"]
        state["section"] = await ask_section(conversation) if adapter else order.section
    return draft(state)


@agent.on(newsroom.Approve)
async def publish(_, conversation):
    """Hand the story to the desk as it stands."""
    state = conversation.state
    return newsroom.Published(headline=headline(state["topic"]), section=state["section"], body=state["body"])


@agent.on(newsroom.Kill)
async def drop(kill, _):
    """Tell the desk that there is no story."""
    return newsroom.Spiked(reason=kill.reason)


@agent.on(LoopEnded, DeadlinePassed)
async def give_up(notice, conversation):
    """Tell the desk that the editor had no more drafts to read, or no time."""
    if newsroom.Spiked not in conversation.allowed():
        return None
    late = isinstance(notice, DeadlinePassed)
    return newsroom.Spiked(reason="the editor did not answer in time" if late else "too many revisions")


async def ask_section(conversation):
    """Return the section that the model names for the digest, or ``UNFILED`` where no model answers."""
    request = generation.Generate(
        request_id=uuid5(UUID(bytes=conversation.message_id), "section"),
        base=agent.settings.get("base", "tiny-gemma3"),
        adapter=conversation.state["adapter"],
        messages=[generation.ChatTurn(role="user", content=PROMPT + filed(conversation.state["body"]))],
        max_tokens=16,
        temperature=0.0,
        seed=0,
    )
    result = await conversation.call(generation, request)
    if result.outcome != "generated":
        log.warning("run.failed", task="section", outcome=result.outcome)
        return UNFILED
    return clean(result.message.text)


async def learn(conversation):
    """Delegate one LoRA run over all labelled digests and return the adapter's name, or None without one."""
    dataset, n_rows = collect(archive(), conversation.message_id)
    if n_rows < int(agent.settings.get("at_least", 64)):
        log.info("task.refused", reason="too few labelled digests", rows=n_rows)
        return None
    task_id = UUID(bytes=conversation.message_id)
    request = training.TrainRequest(
        task_id=task_id,
        base=agent.settings.get("base", "tiny-gemma3"),
        method="lora",
        lora=training.Lora(rank=int(agent.settings.get("rank", 32))),
        dataset=artifact(dataset),
        adapter=ADAPTER,
        evaluation=artifact(Path(agent.settings["held_out"])) if "held_out" in agent.settings else None,
        **{**RECIPE, **agent.settings.get("training", {})},
    )
    adapter = None
    async with conversation.open(training, request_id=str(task_id)) as run:
        await run.send(request)
        async for message in run:
            match message:
                case training.Quote():
                    log.info("task.accepted", steps=message.steps, seconds=message.seconds, rows=n_rows)
                    await run.send(training.Accept(task_id=task_id))
                case training.Progress() if message.metrics.step % 50 == 0:
                    log.info(
                        "run.progressed",
                        step=message.metrics.step,
                        of=message.of_steps,
                        loss=message.metrics.loss,
                    )
                case training.Refused() | training.TrainFailed():
                    log.warning("run.failed", code=message.code, detail=message.detail)
                case training.Trained():
                    adapter = message.adapter
    if adapter:
        remember_adapter(archive(), adapter)
    return adapter


def draft(state):
    """Return the draft that the state describes."""
    return newsroom.Draft(
        headline=headline(state["topic"]),
        section=state["section"],
        body=state["body"],
        revision=state["revision"],
    )


def headline(topic: str) -> str:
    """Return *topic* as a headline."""
    return topic[:1].upper() + topic[1:].rstrip(".")


def filed(body: str) -> str:
    """Return the part of a digest that is filed."""
    return " ".join(body.split()[:MAX_FILED_WORDS])


def clean(answer: str) -> str:
    """Return a model's answer as one short printable line; never empty."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in answer).split())
    return line[:40].rstrip() or UNFILED


def rework(body: str, comments: str) -> str:
    """Return *body* with the sentences that the comments speak of first; shorter where they ask for that."""
    sentences = re.split(r"(?<=[.!?])\s+", body)
    wanted = set(re.findall(r"\w{4,}", comments.lower()))
    if any(word.startswith("short") for word in wanted) and len(sentences) > 1:
        sentences.pop()
    shared = [len(wanted.intersection(re.findall(r"\w{4,}", sentence.lower()))) for sentence in sentences]
    order = sorted(range(len(sentences)), key=lambda number: (-shared[number], number))
    return " ".join(sentences[number] for number in order)


def archive() -> Path:
    """Return the folder of corrections."""
    return Path(agent.settings.get("archive", ".palaver/archive"))


def keep_correction(folder: Path, message_id: bytes, text: str, section: str) -> None:
    """Add one labelled digest to the archive, once for each *message_id*."""
    turns = [{"role": "user", "content": PROMPT + text}, {"role": "assistant", "content": section}]
    row = json.dumps({"messages": turns}, ensure_ascii=False)
    _write(folder / f"correction-{message_id.hex()}.jsonl", row + "\n")


def collect(folder: Path, message_id: bytes) -> tuple[Path, int]:
    """Return the file of all that is labelled, as it was when *message_id* first came, and its rows."""
    snapshot = folder / "datasets" / f"{message_id.hex()}.jsonl"
    if not snapshot.exists():
        parts = [Path(agent.settings["digests"])] if "digests" in agent.settings else []
        parts += sorted(folder.glob("correction-*.jsonl"))
        _write(snapshot, "".join(part.read_text(encoding="utf-8") for part in parts))
    return snapshot, len(snapshot.read_text(encoding="utf-8").splitlines())


def remembered_adapter(folder: Path) -> str | None:
    """Return the newest adapter that the trainer made for this archive."""
    path = folder / "adapter.json"
    return json.loads(path.read_text(encoding="utf-8"))["adapter"] if path.exists() else None


def remember_adapter(folder: Path, adapter: str) -> None:
    """Keep *adapter* for the stories to come."""
    _write(folder / "adapter.json", json.dumps({"adapter": adapter}) + "\n")


def artifact(path: Path):
    """Return the reference under which a file goes into a message."""
    data = path.read_bytes()
    return training.Artifact(
        uri=path.resolve().as_uri(),
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        media_type="application/jsonl",
    )


def _write(path: Path, text: str) -> None:
    """Replace *path* whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
