"""``palaver dead``: letters are found, shown, delivered again, mended and dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import typer

from bus.cli.dead import Action, dead, deal, edit_body, find_letter
from bus.errors import BodyInvalid, Failure, Refused
from bus.sdk.agent import Agent
from bus.sdk.client import Client
from bus.spec.compile import compile_protocol
from bus.testing import MemoryBus
from bus.wire.codec import decode_body, encode_body

SUMS = compile_protocol("""
language: 1
protocol: sums
version: 1.0.0
roles: {client: {}, worker: {}}
messages:
  Ask: {fields: {n: {type: int, min: 0}, note: {type: string, default: ""}}}
  Answer: {fields: {n: int}}
outcomes: {done: Well.}
conversation:
  - client -> worker: Ask
  - worker -> client: Answer
    within: 10m
  - end: done
""")


def new_worker(seen: list[int]) -> Agent:
    agent = Agent(plays=SUMS.role("worker"))

    @agent.on(SUMS.Ask)
    async def ask(message: Any, conversation: object) -> Any:
        seen.append(message.n)
        if message.n == 1:
            raise Failure("cannot", "one is too few")
        return SUMS.Answer(n=message.n + 1)

    return agent


def with_letter(body: Callable[[MemoryBus, Client, Any, list[int]], Awaitable[None]]) -> None:
    """Run *body* with a client, a conversation whose Ask is dead, and what the worker has seen."""

    async def main() -> None:
        seen: list[int] = []
        async with MemoryBus() as bus:
            await bus.start(new_worker(seen))
            async with bus.client() as client, client.open(SUMS) as conversation:
                await conversation.send(SUMS.Ask(n=1, note="a"))
                await bus.settle()
                await body(bus, client, conversation, seen)

    asyncio.run(main())


async def act(client: Client, action: Action, prefix: str = "", **more: Any) -> Any:
    return await deal(client, action, prefix, **{"role": None, "body": None, "pairs": [], **more})


def test_list_names_what_died_and_why() -> None:
    async def body(bus: MemoryBus, client: Client, conversation: Any, seen: list[int]) -> None:
        [letter] = await act(client, Action.LIST)
        assert (letter["conversation"], letter["role"], letter["type"]) == (conversation.id, "worker", "Ask")
        assert (letter["code"], letter["detail"]) == ("cannot", "one is too few")

    with_letter(body)


def test_show_has_the_fields_and_not_the_protocols_text() -> None:
    async def body(bus: MemoryBus, client: Client, conversation: Any, seen: list[int]) -> None:
        letter = await act(client, Action.SHOW, conversation.id.hex()[:4])
        assert letter["body"] == {"n": 1, "note": "a"}
        assert "source" not in letter

    with_letter(body)


def test_edit_changes_the_given_fields_alone_and_the_conversation_goes_on() -> None:
    async def body(bus: MemoryBus, client: Client, conversation: Any, seen: list[int]) -> None:
        answer = await act(client, Action.EDIT, conversation.id.hex(), pairs=["n=4"])
        assert await conversation.receive() == SUMS.Answer(n=5)
        assert answer["done"] == "requeue"
        assert seen == [1, 4]
        assert await act(client, Action.LIST) == []

    with_letter(body)


def test_requeue_delivers_it_as_it_was() -> None:
    async def body(bus: MemoryBus, client: Client, conversation: Any, seen: list[int]) -> None:
        before = await act(client, Action.SHOW, conversation.id.hex())
        answer = await act(client, Action.REQUEUE, conversation.id.hex())
        await bus.settle()
        assert answer["message_id"] == before["message_id"]
        assert seen == [1, 1]

    with_letter(body)


def test_drop_leaves_no_letter() -> None:
    async def body(bus: MemoryBus, client: Client, conversation: Any, seen: list[int]) -> None:
        await act(client, Action.DROP, conversation.id.hex())
        assert await act(client, Action.LIST) == []
        assert seen == [1]

    with_letter(body)


def letter(conversation: str, role: str) -> dict[str, Any]:
    return {"conversation": bytes.fromhex(conversation * 16), "role": role}


def test_letter_is_found_by_the_beginning_of_its_id_and_its_role() -> None:
    letters = [letter("ab", "one"), letter("ab", "two"), letter("cd", "one")]

    assert find_letter(letters, "C", None) is letters[2]
    assert find_letter(letters, "ab", "two") is letters[1]
    with pytest.raises(Refused, match=r"'ab' could be abababababab \(one\), abababababab \(two\)"):
        find_letter(letters, "ab", None)
    with pytest.raises(Refused, match="expected a conversation with a dead letter, got 'ff'"):
        find_letter(letters, "ff", None)


def whole(type: str, body: bytes) -> dict[str, Any]:
    return {"source": SUMS.spec.source, "protocol": "sums", "type": type, "body": body}


def test_body_that_cannot_be_read_is_made_anew() -> None:
    edited = edit_body(whole("Ask", b"\xc1"), '{"n": 3}', [])

    assert decode_body(edited) == {"n": 3, "note": ""}


@pytest.mark.parametrize(
    ("type", "pairs", "message"),
    [
        ("notice", ["n=1"], "a notice of the bus cannot be edited"),
        ("Ask", [], "expected fields to change"),
        ("Ask", ["n=-1"], "n: expected"),
        ("Ask", ["m=1"], "expected a field"),
    ],
)
def test_edit_that_does_not_fit_is_refused(type: str, pairs: list[str], message: str) -> None:
    with pytest.raises(BodyInvalid, match=message):
        edit_body(whole(type, encode_body({"n": 1, "note": ""})), None, pairs)


@pytest.mark.parametrize(
    ("action", "conversation", "field", "message"),
    [
        (Action.LIST, "ab", None, "list takes no ID; to see one: palaver dead show ab"),
        (Action.DROP, None, None, "drop needs one: palaver dead lists them"),
        (Action.REQUEUE, "ab", ["n=1"], "only edit takes fields, not requeue"),
    ],
)
def test_wrong_use_says_what_to_write(
    action: Action, conversation: str | None, field: list[str] | None, message: str
) -> None:
    with pytest.raises(typer.BadParameter, match=message):
        dead(action, conversation, field=field)
