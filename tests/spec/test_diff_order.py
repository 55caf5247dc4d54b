"""The conversation diff: LANGUAGE.md, "Evolution", by six edits of the task delegation and by small protocols."""

from random import Random

import pytest
from protocol_text import DATA, small
from spec_source import shipped

from bus.spec.change import Bump, Level, RoleVerdict, Verdict
from bus.spec.compile import compile_protocol
from bus.spec.diff import Diff, diff
from bus.spec.protocol import Protocol

TASK = (DATA / "task-delegation.protocol.yaml").read_text()
BEGIN = ("client -> agent: Submit", "agent -> client: Accepted")
CHUNK = "              artifact: [agent -> client: ArtifactChunk]\n"
CANCEL = """\
      - client -> agent: Cancel
        then:
          - agent -> client: Canceled
            within: 10s
            else: [{end: canceled}]
          - end: canceled
"""


def edited(*edits: tuple[str, str], version: str = "1.0.0") -> Protocol:
    """Return the task delegation with each text replaced by another, once."""
    text = TASK.replace("version: 1.0.0", f"version: {version}")
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return compile_protocol(text, file="new.yaml")


def verdicts(found: Diff) -> dict[str, Verdict]:
    return {one.role: one.verdict for one in found.verdicts}


def of(found: Diff, role: str) -> RoleVerdict:
    [verdict] = [one for one in found.verdicts if one.role == role]
    return verdict


def witness(found: Diff, role: str, *, old_in_new: bool = True) -> tuple[str, ...]:
    """Return the trace that shows why the role's agents do not fit."""
    misfit = of(found, role).old_in_new if old_in_new else of(found, role).new_in_old
    assert misfit is not None
    return misfit.trace


OLD = compile_protocol(TASK, file="old.yaml")


# -- the six edits of the task delegation, each with the reason for its verdict -------------------------


def test_agent_may_also_send_paused() -> None:
    # An old client cannot take Paused, a new one is never sent it by an old agent: forward.
    # An old agent just never sends it, a new one may where it is not allowed: backward.
    paused = "              paused: [agent -> client: Paused]\n"
    new = edited((CHUNK, CHUNK + paused), ("  Canceled: {", "  Paused: {}\n  Canceled: {"))

    found = diff(OLD, new)

    assert verdicts(found) == {"client": Verdict.FORWARD, "agent": Verdict.BACKWARD}
    assert witness(found, "client") == (*BEGIN, "agent -> client: Paused")
    assert witness(found, "agent", old_in_new=False) == (*BEGIN, "agent -> client: Paused")
    assert found.required is Bump.MAJOR


def test_agent_never_sends_artifact_chunk() -> None:
    # An old agent may send what is not allowed any more, a new one does less than allowed: forward.
    # An old client takes all that still comes, a new one cannot take the chunks of an old agent: backward.
    declared = "  ArtifactChunk: {window: 64, fields: {task_id: uuid, name: string, index: {type: int, min: 0}, "
    new = edited((CHUNK, ""), (declared + "data: bytes, last: bool}}\n", ""))

    found = diff(OLD, new)

    assert verdicts(found) == {"client": Verdict.BACKWARD, "agent": Verdict.FORWARD}
    assert witness(found, "agent") == (*BEGIN, "agent -> client: ArtifactChunk")
    assert witness(found, "client", old_in_new=False) == (*BEGIN, "agent -> client: ArtifactChunk")
    assert found.required is Bump.MAJOR


def test_client_may_interrupt_with_pause() -> None:
    # An interrupt is a send of its raiser: an old client never raises it, a new one may where it means nothing:
    # backward. It is a receive of the agent: an old one cannot take it, a new one is never sent it: forward.
    pause = "      - client -> agent: Pause\n        then: [{end: canceled}]\n"
    new = edited((CANCEL, CANCEL + pause), ("  Canceled: {", "  Pause: {}\n  Canceled: {"))

    found = diff(OLD, new)

    assert verdicts(found) == {"client": Verdict.BACKWARD, "agent": Verdict.FORWARD}
    assert witness(found, "agent") == (*BEGIN, "client -> agent: Pause")
    assert witness(found, "client", old_in_new=False) == (*BEGIN, "client -> agent: Pause")
    assert found.required is Bump.MAJOR


def test_client_must_acknowledge_each_artifact_chunk() -> None:
    # Where the new conversation waits for the client's Ack an old client stays silent (that it may cancel does
    # not count: nobody has to), and an old agent goes on sending: neither fits. In an old conversation a new
    # client sends an Ack that is not allowed, and a new agent waits for one where it should speak: breaking.
    acknowledged = """\
              artifact:
                - agent -> client: ArtifactChunk
                - client -> agent: Ack
"""
    new = edited((CHUNK, acknowledged), ("  Canceled: {", "  Ack: {}\n  Canceled: {"))
    chunk = (*BEGIN, "agent -> client: ArtifactChunk")

    found = diff(OLD, new)

    assert verdicts(found) == {"client": Verdict.BREAKING, "agent": Verdict.BREAKING}
    assert witness(found, "client") == chunk
    assert of(found, "client").old_in_new.reason == "does not send client -> agent: Ack, which is waited for"
    assert witness(found, "client", old_in_new=False) == (*chunk, "client -> agent: Ack")
    assert witness(found, "agent") == (*chunk, "agent -> client: ArtifactChunk")
    assert witness(found, "agent", old_in_new=False) == chunk
    assert found.required is Bump.MAJOR


def test_cancel_removed() -> None:
    # The mirror image of a new interrupt: an old client may still raise it, a new one never does: forward.
    # An old agent waits for nothing that must come, a new one cannot take the Cancel of an old client: backward.
    gone = [("  Cancel: {fields: {task_id: uuid, reason: optional string}}\n", "")]
    gone += [("  Canceled: {fields: {task_id: uuid}}\n", ""), (CANCEL, "")]
    new = edited(*gone, ("  canceled: The client stopped it.\n", ""))

    found = diff(OLD, new)

    assert verdicts(found) == {"client": Verdict.FORWARD, "agent": Verdict.BACKWARD}
    assert witness(found, "client") == (*BEGIN, "client -> agent: Cancel")
    assert witness(found, "agent", old_in_new=False) == (*BEGIN, "client -> agent: Cancel")
    assert found.required is Bump.MAJOR


def test_required_field_added_to_submit() -> None:
    # An old client leaves it out, which a new agent refuses; what a new client sends beside is ignored: forward.
    # An old agent ignores it; a new one cannot read the Submit of an old client: backward.
    new = edited(("      deadline: optional datetime\n", "      deadline: optional datetime\n      urgency: int\n"))

    found = diff(OLD, new)

    assert verdicts(found) == {"client": Verdict.FORWARD, "agent": Verdict.BACKWARD}
    assert witness(found, "client") == BEGIN[:1]
    assert witness(found, "agent", old_in_new=False) == BEGIN[:1]
    assert [change.rule for change in found.changes if change.level is Level.ERR] == [
        "field-added-required",
        "version-bump",
    ]
    assert found.required is Bump.MAJOR


# -- small protocols ------------------------------------------------------------------------------------


def compare(old: str, new: str, **sections: str) -> Diff:
    """Return the diff of two conversations between a and b over the messages M, N and P."""
    texts = [small("M: {}, N: {}, P: {}", steps, **sections) for steps in (old, new)]
    return diff(*(compile_protocol(text) for text in texts))
