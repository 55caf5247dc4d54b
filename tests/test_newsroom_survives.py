"""The newsroom as real processes: to `published`, and through kill -9 of an agent and of the broker.

RULES.md 21: with handlers that are functions of (message, state), the journaled messages and the
outcome equal those of a run without failures. The summarizer here stops at a gate in its handler,
two pipes in the file system, so that each kill strikes exactly there.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bus import Client
from bus.wire.codec import decode_body

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

LIMIT = 60.0
PALAVER = [sys.executable, "-m", "bus.cli"]
SUMMARIZER = '''
"""Condenses; where there is a gate it stops before its answer, once."""

import os

from bus import Agent, load_protocol

newsroom = load_protocol("newsroom")
agent = Agent(plays=newsroom.role("summarizer"))


@agent.on(newsroom.Finding)
def keep(finding, conversation):
    conversation.state.setdefault("findings", []).append(finding.text)


@agent.on(newsroom.FindingsDone)
def condense(done, conversation):
    gate = agent.settings.get("gate")
    if gate and os.path.exists(gate + ".reached"):
        with open(gate + ".reached", "w") as reached:
            os.unlink(gate + ".reached")
            reached.write("here")
        with open(gate + ".open") as opened:
            opened.read()
    return newsroom.Digest(summary=" / ".join(conversation.state["findings"]), sources=[])
'''
WRITER = '''
"""Drafts what the digest says and publishes what is approved."""

from bus import Agent, DeadlinePassed, LoopEnded, load_protocol

newsroom = load_protocol("newsroom")
agent = Agent(plays=newsroom.role("writer"))


@agent.on(newsroom.Digest)
async def draft(digest, conversation):
    conversation.state["body"] = digest.summary
    return newsroom.Draft(headline="Leases", section="delivery", body=digest.summary, revision=1)


@agent.on(newsroom.Revise)
async def again(revise, conversation):
    body = conversation.state["body"]
    return newsroom.Draft(headline="Leases", section=revise.section or "delivery", body=body, revision=2)


@agent.on(newsroom.Approve)
async def publish(approve, conversation):
    return newsroom.Published(headline="Leases", section="delivery", body=conversation.state["body"])


@agent.on(newsroom.Kill, DeadlinePassed, LoopEnded)
async def drop(what, conversation):
    return newsroom.Spiked(reason="dropped")
'''
EDITOR = '''
"""Approves what it is given; stands in for the person."""

from bus import Agent, load_protocol

newsroom = load_protocol("newsroom")
agent = Agent(plays=newsroom.role("editor"))


@agent.on(newsroom.Draft)
async def read(draft, conversation):
    return newsroom.Approve(note="good")
'''
FLEET = """
fleet: survivors
agents:
  researcher: {{program: agents/researcher.py, settings: {{corpus: docs}}}}
  summarizer: {{program: summarizer.py, settings: {{gate: {gate}}}}}
  writer: {{program: writer.py}}
  editor: {{program: editor.py}}
"""


class Newsroom:
    """A fleet of processes in a project of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gate = str(folder / "gate")
        for name, text in (("summarizer", SUMMARIZER), ("writer", WRITER), ("editor", EDITOR)):
            (folder / f"{name}.py").write_text(text)
        (folder / "docs").mkdir()
        text = "A lease proves that a process lives. Without renewal the delivery goes back to its mailbox.\n"
        (folder / "docs" / "leases.md").write_text(f"# Leases\n\n{text}\n## Renewal\n\n{text}")
        os.mkfifo(self.gate + ".reached")
        os.mkfifo(self.gate + ".open")

    def palaver(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PALAVER, *arguments], cwd=self.folder, env=_environment(), capture_output=True, text=True, timeout=LIMIT
        )

    def up(self, *, gated: bool) -> None:
        gate = f'"{self.gate}"' if gated else '""'
        (self.folder / "survivors.fleet.yaml").write_text(FLEET.format(gate=gate))
        started = self.palaver("up", "survivors.fleet.yaml", "--detach")
        assert started.returncode == 0, started.stderr

    def tell(self, request_id: str) -> "subprocess.Popen[str]":
        """Ask for one story; the command ends with the conversation."""
        command = [
            *PALAVER,
            "send",
            "newsroom",
            '{"topic": "leases", "depth": 1}',
            "--request-id",
            request_id,
            "--json",
        ]
        return subprocess.Popen(
            command, cwd=self.folder, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def kill(self, name: str) -> None:
        """Kill one process of the fleet with SIGKILL."""
        record = json.loads((self.folder / ".palaver" / "fleet.json").read_text())
        pid = next(process["pid"] for process in record["processes"] if process["name"] == name)
        os.kill(pid, signal.SIGKILL)

    def transcript(self) -> list[tuple[object, ...]]:
        """Return what the journal holds of the newest conversation, times and attempts left out."""

        async def read() -> list[dict[str, object]]:
            address = f"ipc://{self.folder}/.palaver/bus.sock"
            presence = json.loads((self.folder / ".palaver" / "broker.json").read_text())
            async with Client(bus=presence.get("address", address)) as client:
                newest = (await client.conversations())[-1]
                return await client.transcript(newest["conversation"])

        keys = ("sequence", "epoch", "kind", "sender", "receivers", "type", "event")
        return [
            (*[str(entry[key]) for key in keys], decode_body(entry["body"]) if entry["body"] else None)  # type: ignore[arg-type]  # bytes
            for entry in asyncio.run(read())
        ]


@pytest.fixture
def newsroom(tmp_path_factory: pytest.TempPathFactory):
    room = Newsroom(tmp_path_factory.mktemp("room"))
    yield room
    room.palaver("down")


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PALAVER_")}


def finish(process: "subprocess.Popen[str]") -> int:
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors
    return process.returncode


def wait_at_gate(room: Newsroom) -> None:
    """Block until the summarizer stands in its handler."""
    with open(room.gate + ".reached") as reached:
        assert reached.read() == "here"


def undisturbed(room: Newsroom) -> list[tuple[object, ...]]:
    """Return the transcript of a run without failures; the fleet is down again afterwards."""
    room.up(gated=False)
    finish(room.tell("undisturbed"))
    transcript = room.transcript()
    assert room.palaver("down").returncode == 0
    return transcript


def test_story_is_published_by_separate_processes(newsroom: Newsroom) -> None:
    transcript = undisturbed(newsroom)

    types = [entry[5] for entry in transcript]
    assert [type for type in types if type != "Finding"] == [
        "Brief", "FindingsDone", "Digest", "Draft", "Approve", "Published", "None",
    ]  # fmt: skip


def test_kill_of_an_agent_in_its_handler_leaves_the_transcript_of_a_run_without_failures(newsroom: Newsroom) -> None:
    expected = undisturbed(newsroom)
    newsroom.up(gated=True)
    story = newsroom.tell("agent-killed")
    wait_at_gate(newsroom)

    newsroom.kill("summarizer")
    finish(story)

    assert newsroom.transcript() == expected


def test_kill_of_the_broker_in_mid_conversation_leaves_the_transcript_of_a_run_without_failures(
    newsroom: Newsroom,
) -> None:
    expected = undisturbed(newsroom)
    newsroom.up(gated=True)
    story = newsroom.tell("broker-killed")
    wait_at_gate(newsroom)

    newsroom.kill("broker")
    with open(newsroom.gate + ".open", "w") as opened:
        opened.write("go")
    finish(story)

    assert newsroom.transcript() == expected
