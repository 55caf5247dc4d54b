"""RULES.md 20: roles that people play."""

import pytest
from desk import EMPTY, Desk, Peer

from bus.wire.record import Kind

REVIEW = """
language: 1
protocol: review
version: 1.0.0
roles: {writer: {}, editor: {human: true}, boss: {human: true}}
messages: {Draft: {}, Approve: {}, Reject: {}, Memo: {}, Hint: {delivery: at-most-once}, Fyi: {}}
outcomes: {approved: Good., rejected: Bad., silent: No answer.}
conversation:
  - writer -> boss: Fyi
  - writer -> editor: Draft
  - choice: editor
    within: 24h
    remind: 4h
    branches:
      approve:
        - editor -> writer: Approve
        - editor -> boss: Memo
          within: 1h
        - end: approved
      reject:
        - editor -> writer: Reject
        - end: rejected
    else: [{end: silent}]
"""


@pytest.fixture
def desk() -> Desk:
    return Desk(REVIEW)


def begin(desk: Desk) -> tuple[Peer, bytes]:
    writer = desk.peer("writer")
    conversation = desk.open(writer, "writer")
    desk.send(writer, conversation, "writer", "Fyi", "boss")
    desk.send(writer, conversation, "writer", "Draft", "editor")
    return writer, conversation


def item(desk: Desk, reader: Peer, role: str = "editor") -> dict[str, object]:
    (found,) = desk.query(reader, "inbox", role=role)
    return found  # type: ignore[no-any-return]  # replies are plain values


def answer(desk: Desk, item: dict[str, object], message: str, to: str, *, by: str = "ann") -> dict[str, object]:
    return {
        "conversation": item["conversation"], "role": item["role"], "position": item["position"],
        "epoch": item["epoch"], "type": desk.protocol.message_index(message), "address": desk.address(to),
        "body": EMPTY, "by": by,
    }  # fmt: skip


def test_inbox_lists_what_came_what_may_be_answered_and_how_long_there_is(desk: Desk) -> None:
    writer, conversation = begin(desk)
    desk.pass_time(3600)

    found = item(desk, writer)

    assert (found["conversation"], found["protocol"], found["reminders"]) == (conversation, "review@1.0.0", 0)
    assert [message["type"] for message in found["messages"]] == ["Draft"]  # type: ignore[attr-defined]  # a list
    assert [one["name"] for one in found["allowed"]] == ["Approve", "Reject"]  # type: ignore[attr-defined]  # a list
    assert found["remaining"] == pytest.approx(23 * 3600, abs=1)
    assert found["source"] == REVIEW


def test_inbox_of_everybody_has_every_role(desk: Desk) -> None:
    writer, _ = begin(desk)

    assert [one["role"] for one in desk.query(writer, "inbox")] == ["editor", "boss"]


def test_nobody_is_told_that_a_person_is_away(desk: Desk) -> None:
    writer, _ = begin(desk)

    assert writer.notices("nobody-plays") == []


def test_answer_is_one_commit(desk: Desk) -> None:
    writer, conversation = begin(desk)

    reply = desk.query(writer, "answer", **answer(desk, item(desk, writer), "Reject", "writer"))

    assert reply == {"sequence": 4}
    assert desk.transcript(writer, conversation) == ["Fyi", "Draft", "Reject", "[rejected.end]"]
    assert writer.reads() == ["Reject", "[end]"]


def test_person_who_owes_a_second_message_finds_it_in_the_inbox(desk: Desk) -> None:
    writer, conversation = begin(desk)
    desk.query(writer, "answer", **answer(desk, item(desk, writer), "Approve", "writer"))

    owed = item(desk, writer)
    desk.query(writer, "answer", **answer(desk, owed, "Memo", "boss"))

    assert [one["name"] for one in owed["allowed"]] == ["Memo"]  # type: ignore[attr-defined]  # a list
    assert desk.transcript(writer, conversation)[-3:] == ["Approve", "Memo", "[approved.end]"]


def test_second_answer_is_told_by_whom_it_was_answered(desk: Desk) -> None:
    writer, _ = begin(desk)
    found = item(desk, writer)
    desk.query(writer, "answer", **answer(desk, found, "Reject", "writer", by="ann"))

    refused = desk.refused_query(writer, "answer", **answer(desk, found, "Approve", "writer", by="bob"))

    assert (refused["code"], refused["by"]) == ("answered", "ann")


def test_second_answer_is_told_by_whom_after_a_restart_too(desk: Desk) -> None:
    writer, _ = begin(desk)
    found = item(desk, writer)
    desk.query(writer, "answer", **answer(desk, found, "Reject", "writer", by="ann"))
    desk.restart()

    refused = desk.refused_query(desk.peer("writer"), "answer", **answer(desk, found, "Approve", "writer", by="bob"))

    assert (refused["code"], refused["by"]) == ("answered", "ann")


def test_answer_to_what_the_conversation_moved_past_is_superseded(desk: Desk) -> None:
    writer, _ = begin(desk)
    found = item(desk, writer)

    for stale in ({"position": 7}, {"epoch": 7}):
        refused = desk.refused_query(writer, "answer", **{**answer(desk, found, "Reject", "writer"), **stale})
        assert refused["code"] == "superseded"


def test_answer_that_the_order_forbids_is_refused_and_changes_nothing(desk: Desk) -> None:
    writer, conversation = begin(desk)
    found = item(desk, writer)

    for forbidden in ({"type": desk.protocol.message_index("Memo")}, {"type": 99}):
        refused = desk.refused_query(writer, "answer", **{**answer(desk, found, "Reject", "writer"), **forbidden})
        assert refused["code"] == "not-allowed"

    assert desk.transcript(writer, conversation) == ["Fyi", "Draft"]
    assert len(desk.query(writer, "inbox", role="editor")) == 1


@pytest.mark.parametrize(("role", "code"), [("writer", "not-a-person"), ("nobody", "unknown-role")])
def test_only_a_human_role_can_be_answered(desk: Desk, role: str, code: str) -> None:
    writer, _ = begin(desk)
    wrong = {**answer(desk, item(desk, writer), "Reject", "writer"), "role": role}

    assert desk.refused_query(writer, "answer", **wrong)["code"] == code


@pytest.mark.slow
def test_person_is_reminded_until_the_deadline_passes(desk: Desk) -> None:
    writer, conversation = begin(desk)

    desk.pass_time(9 * 3600)
    reminders = item(desk, writer)["reminders"]
    desk.pass_time(16 * 3600)

    assert reminders == 2
    assert desk.logged("delivery.reminded") == 5
    assert desk.outcome(writer, conversation) == "silent"


def test_human_role_is_never_lost(desk: Desk) -> None:
    writer, conversation = begin(desk)
    editor = desk.peer("editor", plays=["editor"])
    editor.die()

    desk.query(writer, "gave-up", name="editor")
    desk.pass_time(5 * desk.settings.lost_after)

    assert desk.outcome(writer, conversation) is None


def test_registered_agent_is_offered_a_human_role(desk: Desk) -> None:
    writer, conversation = begin(desk)
    editor = desk.peer("scripted", plays=["editor"])

    desk.commit(editor, editor.take_one(Kind.DELIVER), ("Reject", "writer"))

    assert desk.outcome(writer, conversation) == "rejected"


def test_answer_of_a_person_revokes_the_agents_turn(desk: Desk) -> None:
    writer, conversation = begin(desk)
    editor = desk.peer("scripted", plays=["editor"])
    draft = editor.take_one(Kind.DELIVER)

    desk.query(writer, "answer", **answer(desk, item(desk, writer), "Reject", "writer"))
    desk.commit(editor, draft, ("Reject", "writer"))

    assert len(editor.notices("revoked")) == 1
    assert editor.refusals() == ["superseded"]
    assert desk.transcript(writer, conversation) == ["Fyi", "Draft", "Reject", "[rejected.end]"]


def test_person_after_an_agents_commit_is_told_who_answered(desk: Desk) -> None:
    writer, _ = begin(desk)
    editor = desk.peer("scripted", plays=["editor"])
    found = item(desk, writer)
    desk.commit(editor, editor.take_one(Kind.DELIVER), ("Reject", "writer"))

    refused = desk.refused_query(writer, "answer", **answer(desk, found, "Approve", "writer"))

    assert (refused["code"], refused["by"]) == ("answered", "scripted")


def test_answer_of_a_person_does_not_bind_the_role_to_them(desk: Desk) -> None:
    writer, _ = begin(desk)
    desk.query(writer, "answer", **answer(desk, item(desk, writer), "Approve", "writer"))

    editor = desk.peer("scripted", plays=["editor"])

    assert editor.reads() == ["Draft"]  # the memo is still owed


def test_at_most_once_message_is_no_answer() -> None:
    desk = Desk(
        """
language: 1
protocol: hints
version: 1.0.0
roles: {writer: {}, editor: {human: true}}
messages: {Draft: {}, Hint: {delivery: at-most-once}, Approve: {}}
outcomes: {approved: Good., silent: No answer.}
conversation:
  - writer -> editor: Draft
  - loop: thoughts
    do:
      - choice: editor
        within: 1h
        branches:
          hint: [editor -> writer: Hint]
          approve:
            - editor -> writer: Approve
            - end: approved
        else: [{end: silent}]
"""
    )
    writer = desk.peer("writer")
    desk.send(writer, desk.open(writer, "writer"), "writer", "Draft", "editor")

    refused = desk.refused_query(writer, "answer", **answer(desk, item(desk, writer), "Hint", "writer"))

    assert refused == {"code": "not-allowed", "message": "an at-most-once message is no answer"}


def test_inbox_leaves_out_who_has_nothing_to_read(desk: Desk) -> None:
    writer = desk.peer("writer")
    desk.open(writer, "writer")

    assert desk.query(writer, "inbox") == []
