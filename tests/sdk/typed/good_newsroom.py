"""Agents of the newsroom as people write them: nothing here is to be refused."""

from collections.abc import AsyncIterator, Iterator

from newsroom_bus import (
    PROTOCOL,
    Approve,
    Brief,
    DeskHears,
    DeskOpenConversation,
    Digest,
    Draft,
    EditorAgent,
    EditorConversation,
    Finding,
    FindingsDone,
    Kill,
    Published,
    ResearcherAgent,
    ResearcherSyncConversation,
    Revise,
    Source,
    Spiked,
    SummarizerAgent,
    SummarizerConversation,
    WriterAgent,
    WriterConversation,
    WriterSends,
)

from bus import Client, DeadlinePassed, Interrupted, LoopEnded
from bus.sdk.typed import RoleConversation

researcher = ResearcherAgent()
summarizer = SummarizerAgent(name="summarizer-1", credit=4)
writer = WriterAgent(threads=2)
editor = EditorAgent()


@researcher.on_brief
def research(brief: Brief, conversation: ResearcherSyncConversation) -> Iterator[Finding | FindingsDone]:
    if brief.language == "en":
        conversation.send_finding(text=brief.topic, sources=[Source(url="file:x", title="t")])
    conversation.send(Finding(text=brief.topic, sources=[]), to="summarizer")
    conversation.commit()
    yield FindingsDone(count=brief.depth)


@summarizer.on_finding
async def keep(finding: Finding, conversation: SummarizerConversation) -> None:
    conversation.state["texts"] = [*conversation.state.get("texts", []), finding.text]


@summarizer.on_findings_done
async def condense(done: FindingsDone, conversation: SummarizerConversation) -> AsyncIterator[Digest]:
    yield Digest(summary=" ".join(conversation.state["texts"]), sources=[])


@writer.on_digest
async def write(digest: Digest, conversation: WriterConversation) -> Draft:
    return Draft(headline=headline(conversation), section="s", body=digest.summary, revision=1)


@writer.on_approve
async def publish(_: Approve, conversation: WriterConversation) -> Published | None:
    await conversation.send_published(headline="h", section="s", body="b", to="desk")
    return None


def rework(order: Revise, conversation: WriterConversation) -> WriterSends:
    return Draft(headline="h", section=order.section or "s", body=order.comments, revision=2)


@writer.on_kill
@writer.on_revise
async def answer(order: Revise | Kill, conversation: WriterConversation) -> Draft | Spiked:
    if isinstance(order, Kill):
        return Spiked(reason=order.reason)
    await conversation.commit()
    return Draft(headline="h", section="s", body=order.comments, revision=2)


@writer.on_notice(LoopEnded, DeadlinePassed)
async def give_up(notice: LoopEnded | DeadlinePassed, conversation: WriterConversation) -> Spiked | None:
    return Spiked(reason=notice.step) if Spiked in conversation.allowed() else None


@writer.on_notice(Interrupted)
async def interrupted(notice: Interrupted, conversation: WriterConversation) -> None:
    await conversation.call(PROTOCOL, Brief(topic=notice.cause))


async def judge(draft: Draft, conversation: EditorConversation) -> None:
    await conversation.send_tool_call("Approve", {"note": str(conversation.tools())})


editor.on_draft(judge, limit=30.0)


def headline(conversation: RoleConversation) -> str:
    return conversation.id.hex()


async def story(client: Client) -> str:
    async with DeskOpenConversation(client.open(PROTOCOL, role="desk")) as desk:
        await desk.send_brief(topic="Batteries", depth=3)
        heard: DeskHears = await desk.receive(timeout=5.0)
        match heard:
            case Published():
                return heard.body
            case Spiked():
                return heard.reason


async def composed(digest: Digest, conversation: WriterConversation) -> str:
    draft = await write(digest, conversation)  # what is registered keeps its own type
    return draft.headline
