"""Handlers that open conversations of other protocols: found again after a crash, canceled with their parent."""

import asyncio

from work_protocol import bodies, on_loop, work

from bus.errors import NotAllowed, Refused
from bus.sdk.agent import Agent
from bus.spec.compile import compile_protocol, load_protocol
from bus.testing import MemoryBus, play

newsroom = load_protocol("newsroom")
quiz = compile_protocol("""
language: 1
protocol: quiz
version: 1.0.0
roles: {asker: {}, knower: {}}
messages:
  Question: {fields: {text: string}}
  Hint: {fields: {text: string}}
  Answer: {fields: {text: string}}
outcomes: {answered: It was.}
conversation:
  - asker -> knower: Question
  - knower -> asker: Hint*
    max: 10
  - knower -> asker: Answer
    within: 1h
  - end: answered
""")
ASK = work.Ask(job="j", n=1)


def knower() -> Agent:
    agent = Agent(plays=quiz.role("knower"))

    @agent.on(quiz.Question)
    async def answer(question, conversation):
        yield quiz.Hint(text="think")
        yield quiz.Answer(text=question.text[::-1])

    return agent


def caller(*, name: str = "caller") -> Agent:
    agent = Agent(plays=work.role("worker"), name=name)
    agent.on(work.Stop)(lambda stop, conversation: work.Stopped(n=0))
    return agent


@on_loop
async def test_call_returns_how_the_other_conversation_went() -> None:
    agent = caller()
    results = []

    @agent.on(work.Ask)
    async def ask(message, conversation):
        results.append(await conversation.call(quiz, quiz.Question(text="abc")))
        return work.Done(job=message.job, n=len(results[0].messages))

    async with MemoryBus() as bus:
        await bus.start(agent)
        await bus.start(knower())
        async with bus.client() as client, client.open(work) as conversation:
            assert await conversation.request(ASK) == work.Done(job="j", n=2)

    [result] = results
    assert (result.outcome, result.message) == ("answered", quiz.Answer(text="cba"))
    assert result.messages == (quiz.Hint(text="think"), quiz.Answer(text="cba"))


@on_loop
async def test_def_handler_calls_too() -> None:
    agent = caller()

    @agent.on(work.Ask)
    def ask(message, conversation):
        result = conversation.call(quiz, quiz.Question(text="abc"))
        return work.Done(job=message.job, n=len(result.messages))

    async with MemoryBus() as bus:
        await bus.start(agent)
        await bus.start(knower())
        async with bus.client() as client, client.open(work) as conversation:
            assert await conversation.request(ASK) == work.Done(job="j", n=2)


@on_loop
async def test_handler_begun_again_finds_its_child_and_reads_it_from_the_start() -> None:
    heard: list[list[str]] = []
    reached = asyncio.Event()
    asked: list[str] = []

    def asking(*, hangs: bool) -> Agent:
        agent = caller()

        @agent.on(work.Ask)
        async def ask(message, conversation):
            heard.append([])
            async with conversation.open(quiz) as child:
                await child.send(quiz.Question(text="abc"))
                async for one in child:
                    heard[-1].append(type(one).__name__)
            if hangs:
                reached.set()
                await asyncio.Event().wait()
            return work.Done(job=message.job, n=0)

        return agent

    counting = Agent(plays=quiz.role("knower"))

    @counting.on(quiz.Question)
    async def answer(question, conversation):
        asked.append(question.text)
        await conversation.send(quiz.Hint(text="think"))
        return quiz.Answer(text="cba")

    async with MemoryBus() as bus:
        first = await bus.start(asking(hangs=True))
        await bus.start(counting)
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(ASK)
            await reached.wait()
            await first.kill()
            await bus.start(asking(hangs=False))
            assert await conversation.receive() == work.Done(job="j", n=0)
            n_conversations = len(await client.conversations())

    assert heard == [["Hint", "Answer"], ["Hint", "Answer"]]
    assert asked == ["abc"]
    assert n_conversations == 2


@on_loop
async def test_child_that_is_under_way_is_joined_after_a_crash() -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    def asking(*, hangs: bool) -> Agent:
        agent = caller()

        @agent.on(work.Ask)
        async def ask(message, conversation):
            async with conversation.open(quiz) as child:
                await child.send(quiz.Question(text="abc"))
                heard = [await child.receive()]
                if hangs:
                    reached.set()
                    await asyncio.Event().wait()
                go_on.set()
                heard += [one async for one in child]
            return work.Done(job=message.job, n=len(heard))

        return agent

    slow = Agent(plays=quiz.role("knower"))

    @slow.on(quiz.Question)
    async def answer(question, conversation):
        await conversation.send(quiz.Hint(text="think"))
        await conversation.commit()
        await go_on.wait()
        return quiz.Answer(text="cba")

    async with MemoryBus() as bus:
        first = await bus.start(asking(hangs=True))
        await bus.start(slow)
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(ASK)
            await reached.wait()
            await first.kill()
            await bus.start(asking(hangs=False))
            assert await conversation.receive() == work.Done(job="j", n=2)


@on_loop
async def test_ending_the_parent_cancels_its_child() -> None:
    agent = caller()
    opened = asyncio.Event()
    child_ids: list[bytes] = []

    @agent.on(work.Ask)
    async def ask(message, conversation):
        async with conversation.open(quiz) as child:
            await child.send(quiz.Question(text="abc"))
            await child.flush()
            child_ids.append(child.id)
            opened.set()
            await child.receive()

    async with MemoryBus() as bus:
        await bus.start(agent)
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.send(ASK)
            await opened.wait()
            await client.cancel(conversation.id)
            await bus.settle()
            outcomes = {one["conversation"]: one["outcome"] for one in await client.conversations()}

    assert outcomes[child_ids[0]] == "canceled"


@on_loop
async def test_child_is_sent_only_what_its_protocol_allows() -> None:
    agent = caller()
    caught: list[Exception] = []

    @agent.on(work.Ask)
    async def ask(message, conversation):
        async with conversation.open(quiz, bind={"knower": ["somebody"]}) as child:
            try:
                await child.send(quiz.Answer(text="no"))
            except NotAllowed as error:
                caught.append(error)
        return work.Done(job=message.job, n=0)

    async with MemoryBus() as bus:
        await bus.start(agent)
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.request(ASK)

    assert "Question to knower" in str(caught[0])


@on_loop
async def test_refused_opening_is_raised_in_the_handler_that_calls() -> None:
    agent = caller()
    caught: list[Exception] = []

    @agent.on(work.Ask)
    async def ask(message, conversation):
        try:
            await conversation.call(quiz, quiz.Question(text="x"), bind={"nobody": "x"})
        except Refused as error:
            caught.append(error)
        return work.Done(job=message.job, n=0)

    async with MemoryBus() as bus:
        await bus.start(agent)
        async with bus.client() as client, client.open(work) as conversation:
            await conversation.request(ASK)

    assert caught[0].code == "malformed"


@on_loop
async def test_agent_goes_on_with_other_turns_while_one_opens_a_protocol_that_is_new_to_its_connection() -> None:
    agent = caller()
    begun, go_on = asyncio.Event(), asyncio.Event()

    @agent.on(work.Ask)
    async def ask(message, conversation):
        if message.job == "waits":
            begun.set()
            await go_on.wait()
        else:
            await begun.wait()
            await conversation.call(quiz, quiz.Question(text="abc"))
            go_on.set()
        return work.Done(job=message.job, n=conversation.attempt)

    async with MemoryBus() as bus:
        await bus.start(agent)
        await bus.start(knower())
        async with bus.client() as client, client.open(work) as one, client.open(work) as other:
            await one.send(work.Ask(job="waits", n=1))
            await other.send(work.Ask(job="calls", n=1))
            assert await one.receive() == work.Done(job="waits", n=1)
            assert await other.receive() == work.Done(job="calls", n=1)
            assert len(bodies(await client.transcript(one.id))) == 2


@on_loop
async def test_made_up_peer_says_what_it_is_told_to_say() -> None:
    knows = play(quiz.role("knower"), {quiz.Question: [quiz.Hint(text="h"), quiz.Answer(text="a")]})
    async with MemoryBus() as bus:
        await bus.start(knows)
        async with bus.client() as client, client.open(quiz) as conversation:
            await conversation.send(quiz.Question(text="q"))
            assert [one async for one in conversation] == [quiz.Hint(text="h"), quiz.Answer(text="a")]
