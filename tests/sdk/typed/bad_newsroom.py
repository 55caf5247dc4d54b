"""Mistakes that type checkers find: the lines that end in an error's code are refused with it, and no others."""

from newsroom_bus import (
    Approve,
    Brief,
    DeskOpenConversation,
    Digest,
    Draft,
    EditorConversation,
    Kill,
    Published,
    ResearcherAgent,
    ResearcherSyncConversation,
    Revise,
    WriterAgent,
    WriterConversation,
    WriterSyncConversation,
)

from bus import LoopEnded

agent = WriterAgent(nmae="writer")  # E: call-arg
researcher = ResearcherAgent()


async def wrong_fields(conversation: WriterConversation, digest: Digest) -> None:
    Draft(headline="h", section="s", text="b", revision=1)  # E: call-arg
    Draft(headline="h", section="s", body="b")  # E: call-arg
    Draft(headline="h", section="s", body="b", revision="1")  # E: arg-type
    Brief(topic="abc", language="fr")  # E: arg-type
    await conversation.send_draft(headline="h", section="s", text="b", revision=1)  # E: call-arg
    await conversation.send_draft(headline="h", section="s", body=b"b", revision=1)  # E: arg-type
    print(digest.text)  # E: attr-defined
    print(digest.sources[0].address)  # E: attr-defined
    digest.summary = "x"  # E: misc


async def wrong_receivers(conversation: WriterConversation) -> None:
    await conversation.send(Draft(headline="h", section="s", body="b", revision=1), to="desk")  # E: call-overload
    await conversation.send(Draft(headline="h", section="s", body="b", revision=1), to="edtor")  # E: call-overload
    await conversation.send_draft(headline="h", section="s", body="b", revision=1, to="writer")  # E: arg-type


async def wrong_receivers_of_two(desk: DeskOpenConversation) -> None:
    await desk.send_brief(topic="abc", to="writer")  # E: arg-type
    await desk.send(Brief(topic="abc"), to=("researcher", "editor"))  # E: arg-type


async def never_sent(conversation: WriterConversation, editor: EditorConversation, desk: DeskOpenConversation) -> None:
    await conversation.send(Kill(reason="r"))  # E: call-overload
    await conversation.send_kill(reason="r")  # E: attr-defined
    await editor.send(Draft(headline="h", section="s", body="b", revision=1))  # E: arg-type
    await desk.send(Published(headline="h", section="s", body="b"))  # E: arg-type


def never_sent_from_a_thread(conversation: ResearcherSyncConversation) -> None:
    conversation.send(Digest(summary="s", sources=[]))  # E: arg-type
    conversation.send_digest(summary="s", sources=[])  # E: attr-defined


@agent.on_digest  # E: type-var
async def returns_what_it_never_sends(digest: Digest, conversation: WriterConversation) -> Kill:
    return Kill(reason="r")


@agent.on_approve  # E: type-var
async def takes_another_message(order: Revise, conversation: WriterConversation) -> None:
    print(order)


@agent.on_revise  # E: type-var
async def is_given_no_thread(order: Revise, conversation: WriterSyncConversation) -> None:
    print(order)


@agent.on_kill  # E: type-var
def blocks_the_loop(order: Kill, conversation: WriterConversation) -> None:
    print(order)


@researcher.on_brief  # E: type-var
async def is_another_role(brief: Brief, conversation: WriterConversation) -> None:
    print(brief)


@agent.on_notice(LoopEnded)  # E: arg-type
async def returns_it_after_a_notice(notice: LoopEnded, conversation: WriterConversation) -> Approve:
    return Approve()


async def hears_only_what_it_may(desk: DeskOpenConversation) -> None:
    async for message in desk:
        if isinstance(message, Published):
            print(message.reason)  # E: attr-defined


agent.on_finding(print)  # E: attr-defined
