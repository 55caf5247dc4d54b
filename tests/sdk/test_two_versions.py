"""Agents and clients written against different versions of a protocol, on one bus (RULES.md 15)."""

import pytest
from work_protocol import WORK, bodies, on_loop, work

from bus.errors import BodyInvalid, NotAllowed, Refused
from bus.sdk.agent import Agent
from bus.sdk.client import Client
from bus.sdk.notice import Ended
from bus.sdk.part import part_of
from bus.spec.compile import compile_protocol
from bus.spec.protocol import Protocol
from bus.testing import MemoryBus, play

# The same conversation; every number on the wire is another one, and messages have more that may be left out.
LATER = (
    WORK.replace("1.0.0", "1.1.0")
    .replace("{client: {}, worker: {}}", "{worker: {}, client: {}}")
    .replace("  Ask: {fields: {job: string, n: int}}\n", "")
    .replace("  Stopped:", "  Ask: {fields: {tone: optional string, n: int, job: string}}\n  Stopped:")
    .replace("Done: {fields: {job: string, n: int}}", "Done: {fields: {grade: optional int, job: string, n: int}}")
    .replace("Part: {delivery", "Part: {doc: A piece., delivery")
    .replace("fields: {n: int}}\n  Note", "fields: {n: int, weight: {type: number, default: 1.0}}}\n  Note")
)
later = compile_protocol(LATER)
# The worker must be able to take a Hurry at any time: old workers do not fit, new ones fit both.
hurrying = compile_protocol(
    WORK.replace("1.0.0", "1.2.0")
    .replace("  Stop: {fields", "  Hurry: {fields: {}}\n  Stop: {fields")
    .replace("    interrupts:\n", "    interrupts:\n      - client -> worker: Hurry\n        then: [{end: stopped}]\n")
)


def worker_of(protocol: Protocol, name: str = "worker") -> Agent:
    """Return a worker that streams, notes, answers and stops, in the classes of *protocol* alone."""
    agent = Agent(plays=protocol.role("worker"), name=name)
    agent.ended = []

    @agent.on(protocol.Ask)
    async def ask(message, conversation):
        assert type(message) is protocol.Ask
        conversation.state["n"] = message.n
        for n in range(message.n):
            await conversation.send(protocol.Part(n=n))
        await conversation.commit()
        await conversation.send(protocol.Note(n=message.n))
        return protocol.Done(job=message.job, n=message.n)

    @agent.on(protocol.Stop)
    async def stop(message, conversation):
        assert type(message) is protocol.Stop
        return protocol.Stopped(n=conversation.state["n"])

    @agent.on(Ended)
    async def end(notice, conversation):
        agent.ended.append(notice.outcome)

    return agent


async def work_through(client: Client, protocol: Protocol) -> tuple[str, list[str]]:
    """Have one job done in the classes of *protocol*; return the version that was pinned and what came."""
    async with client.open(protocol, request_id="r") as conversation:
        await conversation.send(protocol.Ask(job="j", n=2))
        came = []
        while not came or type(came[-1]) is not protocol.Done:
            came.append(await conversation.receive())
            assert type(came[-1]) in (protocol.Part, protocol.Note, protocol.Done)
        assert came[-1] == protocol.Done(job="j", n=2)
        await conversation.send(protocol.Bye())
        assert await conversation.wait_ended() == "done"
        said = [type for _, type in bodies(await client.transcript(conversation.id))]
        return conversation.protocol.version, said


JOB_DONE = ["Ask", "Part", "Part", "Done", "Bye"]


@pytest.mark.parametrize(("of_worker", "of_client"), [(work, later), (later, work), (later, later), (work, work)])
@on_loop
async def test_agents_and_clients_of_two_versions_work_together(of_worker: Protocol, of_client: Protocol) -> None:
    worker = worker_of(of_worker)
    async with MemoryBus() as bus:
        await bus.start(worker)
        async with bus.client("ann") as client:
            version, said = await work_through(client, of_client)
            await bus.settle()

    assert version == ("1.0.0" if of_worker is of_client is work else "1.1.0")
    assert said == JOB_DONE
    assert worker.ended == ["done"]


@on_loop
async def test_opener_of_the_lower_version_opens_at_the_higher_one_when_that_comes_later() -> None:
    async with MemoryBus() as bus, bus.client("ann") as client:
        await bus.start(worker_of(work))
        first, _ = await work_through(client, work)
        await bus.start(worker_of(later, name="later"))
        await bus.settle()
        async with client.open(work) as conversation:
            second = conversation.protocol.version

    assert (first, second) == ("1.0.0", "1.1.0")


@on_loop
async def test_interrupt_and_state_work_across_versions() -> None:
    async with MemoryBus() as bus:
        await bus.start(worker_of(work))
        async with bus.client("ann") as client, client.open(later) as conversation:
            await conversation.send(later.Ask(job="j", n=1, tone="kind"))
            while type(await conversation.receive()) is not later.Done:
                pass
            await conversation.send(later.Stop())
            stopped = await conversation.receive()

            assert stopped == later.Stopped(n=1)
            assert await conversation.wait_ended() == "stopped"


@on_loop
async def test_agent_whose_version_fits_nobody_is_not_started_and_told_the_diff() -> None:
    async with MemoryBus() as bus:
        await bus.start(worker_of(work))
        pusher = play(hurrying.role("client"), name="pusher")

        with pytest.raises(Refused) as refused:
            await bus.start(pusher)

    assert refused.value.code == "no-common-version"
    assert "worker of 1.0.0 in conversations of 1.2.0 cannot take client -> worker: Hurry here" in str(refused.value)
    assert "(client -> worker: Hurry)" in str(refused.value)


@on_loop
async def test_client_whose_version_no_worker_fits_is_told_when_it_opens() -> None:
    async with MemoryBus() as bus:
        await bus.start(worker_of(work))
        async with bus.client("ann") as client:
            with pytest.raises(Refused, match="cannot take client -> worker: Hurry here"):
                async with client.open(hurrying) as conversation:
                    await conversation.flush()


@on_loop
async def test_conversation_keeps_its_version_over_a_restart_and_a_later_worker() -> None:
    async with MemoryBus() as bus:
        old = await bus.start(worker_of(work))
        async with bus.client("ann") as client, client.open(work) as conversation:
            await conversation.send(work.Ask(job="j", n=1))
            while type(await conversation.receive()) is not work.Done:
                pass
            await bus.settle()
            await old.stop()
            await bus.start(worker_of(hurrying))
            bus.crash_broker()
            await bus.restart_broker()
            await conversation.send(work.Again())
            await conversation.send(work.Ask(job="j", n=2))
            while type(message := await conversation.receive()) is not work.Done:
                pass
            [summary] = await client.conversations()

    assert message == work.Done(job="j", n=2)
    assert summary["protocol"] == "work@1.0.0"


@on_loop
async def test_program_that_is_run_again_finds_its_conversation_at_the_pinned_version() -> None:
    async with MemoryBus() as bus:
        async with bus.client("ann") as client, client.open(later, request_id="r") as conversation:
            await conversation.send(later.Ask(job="j", n=1))
        async with bus.client("ann") as client, client.open(work, request_id="r") as again:
            pinned = again.protocol.version
            await bus.start(worker_of(work))
            await again.send(work.Ask(job="j", n=1))  # the same message again: it has no second effect
            while type(await again.receive()) is not work.Done:
                pass
            said = [type for _, type in bodies(await client.transcript(again.id))]

    assert pinned == "1.1.0"
    assert said == ["Ask", "Part", "Done"]


# -- messages of one version in the classes of another --------------------------------------------------


def test_message_of_the_own_class_becomes_a_body_of_the_pinned_version_and_back() -> None:
    part = part_of(later, later.role_index("client"), work)
    kind = part.messages[later.message_index("Ask")]

    plain = kind.to_plain(work.Ask(job="j", n=1))

    assert plain == {"tone": None, "n": 1, "job": "j"}
    assert kind.from_plain({**plain, "tone": "kind", "unheard": 1}) == work.Ask(job="j", n=1)
    assert kind.build({"job": "j", "n": 1}) == work.Ask(job="j", n=1)


def test_message_of_the_pinned_class_may_be_sent_as_well() -> None:
    part = part_of(later, later.role_index("client"), work)
    [(index, address, _)] = part.find(part.machine.start, later.Ask(job="j", n=1, tone="kind"), None, b"c" * 16)

    assert part.messages[index].to_plain(later.Ask(job="j", n=1, tone="kind"))["tone"] == "kind"
    assert later.tables.addresses[address] == (later.role_index("worker"),)


def test_what_may_be_sent_is_told_in_the_own_classes() -> None:
    part = part_of(later, later.role_index("client"), work)

    assert part.allowed(part.machine.start) == [work.Ask, work.Stop]


def test_body_that_the_pinned_version_refuses_is_refused_before_it_leaves() -> None:
    strict = compile_protocol(WORK.replace("{job: string, n: int}", "{job: string, n: {type: int, max: 5}}"))
    part = part_of(strict, strict.role_index("client"), work)

    with pytest.raises(BodyInvalid, match="n: expected"):
        part.messages[strict.message_index("Ask")].to_plain(work.Ask(job="j", n=9))


def test_message_that_the_pinned_version_lacks_is_refused_with_what_is_allowed() -> None:
    part = part_of(work, work.role_index("client"), hurrying)

    with pytest.raises(
        NotAllowed, match=r"expected a message of work@1\.0\.0, got 'Hurry'.*allowed here: Ask to worker"
    ):
        part.find(part.machine.start, hurrying.Hurry(), None, b"c" * 16)
