"""Agents that play roles of a protocol and of what it calls: they just get the deliveries of both."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from work_protocol import on_loop

from bus.errors import MissingHandler
from bus.sdk.agent import Agent
from bus.sdk.notice import Ended, Interrupted, Opened, Returned
from bus.spec.compile import compile_protocol
from bus.testing import MemoryBus, play

QUIZ = """
language: 1
protocol: quiz
version: 1.0.0
roles: {asker: {}, knower: {}}
imports: [words@1]
messages: {Answer: {fields: {text: string}}}
outcomes: {answered: It was.}
conversation:
  - asker -> knower: Question
  - knower -> asker: Answer
    within: 1h
  - end: answered
"""
WORDS = """
language: 1
library: words
version: 1.0.0
messages: {Question: {fields: {text: string}}, Report: {fields: {text: string}}}
"""
SHOW = """
language: 1
protocol: show
version: 1.0.0
roles: {viewer: {}, host: {}}
imports: [words@1]
messages: {Start: {fields: {topic: string}}, Stop: {}, Cut: {fields: {topic: string}}}
outcomes: {shown: It was., dull: It was not.}
conversation:
  - viewer -> host: Start
  - scope: quiz
    do:
      - call: quiz@^1
        as: {asker: host}
        outcomes:
          answered:
            - host -> viewer: Report
            - end: shown
          failed: [end: dull]
          canceled: [end: dull]
    interrupts:
      - viewer -> host: Stop
        then:
          - host -> viewer: Cut
          - end: dull
"""
show = compile_protocol("--- # import\n".join(text.lstrip() for text in (SHOW, WORDS, QUIZ)))
quiz = show.callees["quiz@^1"]


def host() -> tuple[Agent, list[tuple[str, Any]]]:
    """Return an agent that hosts shows and asks in quizzes, and what it hears."""
    agent = Agent(plays=[show.role("host"), quiz.role("asker")], name="host")
    topics: dict[bytes, str] = {}
    answers: dict[bytes, str] = {}
    heard: list[tuple[str, Any]] = []

    @agent.on(show.Start)
    async def start(message: Any, conversation: Any) -> None:
        topics[conversation.id] = message.topic

    @agent.on(Opened)
    async def ask(opened: Opened, conversation: Any) -> Any:
        assert opened.parent is not None
        heard.append((conversation.protocol.name, opened))
        return quiz.Question(text=topics[opened.parent])

    @agent.on(quiz.Answer)
    async def keep(message: Any, conversation: Any) -> None:
        answers[conversation.id] = message.text

    @agent.on(Returned)
    async def report(returned: Returned, conversation: Any) -> Any:
        heard.append((conversation.protocol.name, returned))
        return show.Report(text=answers[returned.conversation]) if returned.outcome == "answered" else None

    @agent.on(show.Stop)
    async def stop(message: Any, conversation: Any) -> Any:
        return show.Cut(topic=topics[conversation.id])

    @agent.on(Ended)
    async def end(ended: Ended, conversation: Any) -> None:
        heard.append((conversation.protocol.name, ended))

    return agent, heard


@on_loop
async def test_a_script_sees_the_answer_that_a_called_protocol_gave() -> None:
    agent, heard = host()
    async with MemoryBus() as bus:
        await bus.start(agent)
        await bus.start(play(quiz.role("knower"), {quiz.Question: lambda asked: quiz.Answer(text=asked.text[::-1])}))
        async with bus.client() as client, client.open(show) as conversation:
            answer = await conversation.request(show.Start(topic="abc"))
            outcome = await conversation.wait_ended()
        await bus.settle()

    assert (answer, outcome) == (show.Report(text="cba"), "shown")
    [(_, opened), (_, quiz_ended), (_, returned), (_, ended)] = heard
    assert opened == Opened(conversation.id)
    assert (quiz_ended, ended) == (Ended("answered"), Ended("shown"))
    assert (returned.protocol, returned.outcome) == ("quiz", "answered")


@on_loop
async def test_an_interrupt_cancels_what_was_called_and_its_players_hear_so() -> None:
    agent, heard = host()
    knower = Agent(plays=quiz.role("knower"))
    ends = []

    @knower.on(quiz.Question)
    async def think(message: Any, conversation: Any) -> Any:
        await asyncio.Event().wait()
        return quiz.Answer(text="too late")

    @knower.on(Ended)
    async def end(ended: Ended, conversation: Any) -> None:
        ends.append(ended.outcome)

    async with MemoryBus() as bus:
        await bus.start(agent)
        await bus.start(knower)
        async with bus.client() as client, client.open(show) as conversation:
            await conversation.send(show.Start(topic="abc"))
            await bus.settle()
            answer = await conversation.request(show.Stop())
            outcome = await conversation.wait_ended()
        await bus.settle()

    assert (answer, outcome) == (show.Cut(topic="abc"), "dull")
    assert ends == ["canceled"]
    assert ("quiz", Ended("canceled", "the step that called it was cut short")) in heard


def test_a_role_that_must_speak_after_a_call_needs_a_handler_for_its_return() -> None:
    agent = Agent(plays=show.role("host"))
    agent.on(show.Stop)(lambda message, conversation: None)

    with pytest.raises(MissingHandler, match=r"Returned \(call quiz.answered\).*Report.*@agent\.on\(Returned\)"):
        agent.check()


def test_the_one_who_speaks_first_in_what_is_called_needs_a_handler_for_its_opening() -> None:
    agent = Agent(plays=[show.role("host"), quiz.role("asker")])
    agent.on(show.Stop, Returned, Interrupted)(lambda message, conversation: None)

    with pytest.raises(MissingHandler, match=r"quiz\.asker has no handler for Opened"):
        agent.check()


def test_a_protocol_of_messages_that_are_imported_has_them_as_its_own() -> None:
    assert show.Report is not quiz.models["Question"]
    assert [one.name for one in quiz.messages] == ["Answer", "Question"]
    assert [one.name for one in show.messages] == ["Start", "Stop", "Cut", "Report"]
