"""The conversation diff: LANGUAGE.md, "Evolution", by six edits of the task delegation and by small protocols."""

import pytest
from protocol_text import DATA, small
from spec_source import shipped

from bus.spec.change import Bump, Level, RoleVerdict, Verdict
from bus.spec.diff import Diff, diff
from bus.spec.version import Version, read_version

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


def edited(*edits: tuple[str, str], version: str = "1.0.0") -> Version:
    """Return the task delegation with each text replaced by another, once."""
    text = TASK.replace("version: 1.0.0", f"version: {version}")
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return read_version(text, file="new.yaml")


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


OLD = read_version(TASK, file="old.yaml")


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
    return diff(*(read_version(text) for text in texts))


def test_message_less_that_must_come_breaks_both_roles() -> None:
    found = compare("- a -> b: M\n- b -> a: N", "- a -> b: M")

    assert verdicts(found) == {"a": Verdict.BREAKING, "b": Verdict.BREAKING}
    # A conversation that ends is told by the bus; an old a that waits for N is not ready for that.
    assert witness(found, "a") == ("a -> b: M", "the bus: done.end")


def test_stream_where_one_message_stood_takes_old_senders_and_no_old_receivers() -> None:
    found = compare("- a -> b: M\n- a -> b: N", "- a -> b: M+\n- a -> b: N")

    assert verdicts(found) == {"a": Verdict.BACKWARD, "b": Verdict.FORWARD}
    assert witness(found, "b") == ("a -> b: M", "a -> b: M")


def test_at_most_once_message_is_not_waited_for() -> None:
    lossy = "M: {}, N: {}, P: {delivery: at-most-once}"
    once = "- loop: l\n  do:\n  - choice: a\n    branches:\n      more: [{a -> b: N}]\n      stop: [{a -> b: M}, break]"
    with_news = once.replace("      more", "      news: [{a -> b: P}]\n      more")
    found = diff(read_version(small(lossy, once)), read_version(small(lossy, with_news)))

    assert verdicts(found) == {"a": Verdict.BACKWARD, "b": Verdict.FORWARD}
    assert witness(found, "b") == ("a -> b: P",)


def test_interrupt_is_a_receive_for_roles_that_it_is_not_addressed_to() -> None:
    scope = (
        "- scope: s\n  do: [{a -> b: M}, {b -> c: N}, {c -> a: M}]\n  interrupts: [{timeout: 1h, then: []}INTERRUPT]"
    )
    text = small("M: {}, N: {}, P: {}", scope).replace("b: {}}", "b: {}, c: {}}", 1)
    texts = [text.replace("INTERRUPT", more) for more in ("", ", {a -> b: P, then: []}")]
    found = diff(*map(read_version, texts))

    assert verdicts(found) == {"a": Verdict.BACKWARD, "b": Verdict.FORWARD, "c": Verdict.FORWARD}
    assert witness(found, "c") == ("a -> b: P",)


def test_timeout_that_ends_as_failed_is_nothing_new_to_anybody() -> None:
    scope = "- scope: s\n  do: [{a -> b: M}, {b -> a: N}]\n  interrupts:\n  - timeout: 2h\n    then: [{end: failed}]"
    found = compare("- a -> b: M\n- b -> a: N", scope)

    assert verdicts(found) == {"a": Verdict.FULL, "b": Verdict.FULL}
    assert found.required is Bump.MINOR


def test_deadline_after_which_a_role_must_speak_breaks_that_role_and_who_is_spoken_to() -> None:
    old = "- a -> b: M\n- b -> a: N\n  within: 5s"
    found = compare(old, old + "\n  else:\n  - a -> b: P")

    # An old a is told of the deadline, which it does not know, and nothing makes it speak.
    assert witness(found, "a") == ("a -> b: M", "the bus: N.else")
    assert "after which it must send a -> b: P" in of(found, "a").old_in_new.reason
    # An old b goes on to answer where it is too late.
    assert witness(found, "b") == ("a -> b: M", "the bus: N.else", "b -> a: N")
    assert verdicts(found) == {"a": Verdict.FORWARD, "b": Verdict.FORWARD}


def test_renamed_loop_is_the_same_loop() -> None:
    loop = """\
- loop: NAME
  max: 3
  do:
  - choice: a
    branches: {more: [{a -> b: M}], stop: [{a -> b: N}, {end: good}]}
  else:
  - a -> b: P
"""
    found = compare(*(loop.replace("NAME", name) for name in ("first", "second")), outcomes="{good: x}")

    assert set(verdicts(found).values()) == {Verdict.FULL}


def test_outcome_that_old_agents_do_not_know_is_one_more_receive() -> None:
    old = "- choice: a\n  branches: {x: [{a -> b: M}, {end: good}]}"
    new = "- choice: a\n  branches: {x: [{a -> b: M}, {end: better}]}"
    found = compare(old, new, outcomes="{good: x, better: y}")

    assert witness(found, "b") == ("a -> b: M", "the bus: better.end")
    assert set(verdicts(found).values()) == {Verdict.BREAKING}


def test_regions_of_a_parallel_are_followed_in_every_order() -> None:
    old = "- parallel: {x: [{a -> b: M}], y: [{b -> a: N}]}"
    new = "- parallel: {x: [{a -> b: M}, {a -> b: P}], y: [{b -> a: N}]}"
    found = compare(old, new)

    assert witness(found, "a") == ("a -> b: M",)
    assert of(found, "a").old_in_new.reason == "does not send a -> b: P, which is waited for"
    assert witness(found, "b") == ("a -> b: M", "a -> b: P")


def test_role_that_is_gone_fits_nowhere_and_a_new_one_has_nobody_who_could_not_fit() -> None:
    two = small("M: {}, N: {}", "- a -> b: M")
    three = small("M: {}, N: {}", "- a -> b: M\n- b -> c: N").replace("b: {}}", "b: {}, c: {}}", 1)
    found = diff(read_version(two), read_version(three))
    back = diff(read_version(three), read_version(two))

    assert verdicts(found)["c"] is Verdict.BACKWARD
    assert verdicts(back)["c"] is Verdict.FORWARD
    assert of(back, "c").old_in_new.reason == "plays c, which is no role of small 1.0.0"


def test_every_message_that_an_old_agent_cannot_take_is_told_once() -> None:
    old = "- choice: a\n  branches: {m: [{a -> b: M}]}"
    new = "- choice: a\n  branches: {m: [{a -> b: M}], n: [{a -> b: N}], p: [{a -> b: P}]}"

    found = compare(old, new)

    told = [(change.rule, change.role, change.trace) for change in found.changes if change.trace]
    assert told == [("order-receives", "b", ("a -> b: N",)), ("order-receives", "b", ("a -> b: P",))]


def test_removing_a_message_that_was_deprecated_is_a_warning_of_a_breaking_change() -> None:
    text = small("M: {}, N: {deprecated: use M}", "- choice: a\n  branches: {m: [{a -> b: M}], n: [{a -> b: N}]}")
    new = small("M: {}", "- choice: a\n  branches: {m: [{a -> b: M}]}")
    found = diff(read_version(text), read_version(new))

    assert {change.level for change in found.changes} == {Level.WARN}
    assert verdicts(found) == {"a": Verdict.FORWARD, "b": Verdict.BACKWARD}
    assert found.required is Bump.MAJOR


@pytest.mark.parametrize("name", ["newsroom", "training", "task", "generation", "echo"])
def test_shipped_protocol_fits_itself(name: str) -> None:
    protocol = read_version(shipped(name).source)

    assert diff(protocol, protocol).changes == ()
