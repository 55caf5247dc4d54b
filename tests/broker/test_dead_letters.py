"""RULES.md 7, 11: what is not tried again, and what people can do about it."""

import pytest
from desk import Desk, Peer
from job_protocol import JOB

from bus.wire.record import Kind

PLAIN = """
language: 1
protocol: plain
version: 1.0.0
roles: {client: {}, worker: {}, boss: {}}
messages: {Ask: {}, Copy: {}, Answer: {}}
outcomes: {done: Answered., late: Too late.}
conversation:
  - client -> worker, boss: Ask
  - client -> boss: Copy
  - worker -> client: Answer
    within: 10m
    retry: 1
    else: [{end: late}]
  - end: done
"""


@pytest.fixture
def desk() -> Desk:
    return Desk(PLAIN)


def begin(desk: Desk) -> tuple[Peer, Peer, bytes]:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "worker", "boss")
    desk.send(client, conversation, "client", "Copy", "boss")
    return worker, client, conversation


def test_final_failure_is_a_dead_letter_with_its_reason(desk: Desk) -> None:
    worker, client, conversation = begin(desk)

    desk.nack(worker, worker.take_one(Kind.DELIVER), final=True)

    (letter,) = desk.query(client, "dead")
    remaining = letter.pop("remaining")
    assert letter == {
        "conversation": conversation, "protocol": "plain", "role": "worker", "type": "Ask", "code": "error",
        "detail": "no", "attempt": 1, "trace": None, "message_id": b"client-2........",
    }  # fmt: skip
    assert remaining == pytest.approx(600.0)
    assert desk.logged("delivery.dead") == 1


def test_too_many_failures_make_a_dead_letter(desk: Desk) -> None:
    worker, client, _ = begin(desk)
    for _ in range(desk.settings.max_attempts):
        desk.nack(worker, worker.take_one(Kind.DELIVER))
        desk.pass_time(1)

    assert len(desk.query(client, "dead")) == 1
    assert worker.reads() == []


def test_dead_letter_outlives_a_restart(desk: Desk) -> None:
    worker, _client, _ = begin(desk)
    desk.nack(worker, worker.take_one(Kind.DELIVER), final=True)
    desk.restart()

    worker = desk.peer("worker", plays=["worker"])

    assert [letter["code"] for letter in desk.query(worker, "dead")] == ["error"]
    assert worker.reads() == []


def test_requeued_letter_is_delivered_again_under_its_id(desk: Desk) -> None:
    worker, client, conversation = begin(desk)
    first = worker.take_one(Kind.DELIVER)
    desk.nack(worker, first, final=True)

    done = desk.query(client, "requeue", conversation=conversation, role="worker")
    assert done == {"done": "requeue", "message_id": first[15]}

    again = worker.take_one(Kind.DELIVER)
    assert (again[15], again[6]) == (first[15], 1)
    desk.commit(worker, again, ("Answer", "client"))
    assert desk.outcome(client, conversation) == "done"


def test_dropped_letter_is_settled_and_the_deadline_runs_on(desk: Desk) -> None:
    worker, client, conversation = begin(desk)
    desk.nack(worker, worker.take_one(Kind.DELIVER), final=True)

    desk.query(client, "drop", conversation=conversation, role="worker")

    assert desk.query(client, "dead") == []
    assert desk.outcome(client, conversation) is None
    desk.pass_time(1201)
    assert desk.outcome(client, conversation) == "late"


@pytest.mark.parametrize(("role", "code"), [("worker", "not-dead"), ("nobody", "unknown-role")])
def test_only_a_dead_letter_can_be_requeued(desk: Desk, role: str, code: str) -> None:
    _, client, conversation = begin(desk)

    for command in ("requeue", "drop"):
        assert desk.refused_query(client, command, conversation=conversation, role=role)["code"] == code


def test_dead_letter_survives_a_retry_and_gives_way_to_the_missed_deadline(desk: Desk) -> None:
    worker, client, _conversation = begin(desk)
    desk.nack(worker, worker.take_one(Kind.DELIVER), final=True)

    desk.pass_time(601)
    after_retry = desk.query(client, "dead")
    desk.pass_time(600)

    assert len(after_retry) == 1
    assert desk.query(client, "dead") == []
    assert worker.reads() == ["[else]", "[end]"]


def test_dead_letter_of_a_role_without_deadline_fails_the_conversation(desk: Desk) -> None:
    worker, client, _conversation = begin(desk)
    boss = desk.peer("boss", plays=["boss"])

    desk.nack(boss, boss.take(Kind.DELIVER)[0], final=True)

    (summary,) = desk.query(client, "conversations")
    assert summary["outcome"] == "failed"
    assert summary["reason"] == "boss could not handle its message: error: no"
    assert worker.reads() == ["Ask", "[end]"]


def test_dead_letter_triggers_failed_where_the_scope_has_it() -> None:
    desk = Desk(JOB)
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "worker")

    desk.nack(worker, worker.take_one(Kind.DELIVER), final=True)

    assert desk.transcript(client, conversation) == ["Ask", "[work.failed.worker]", "[broken.end]"]
    assert worker.reads() == ["[failed]", "[end]"]
    assert desk.query(client, "dead") == []


def test_interrupt_drops_a_dead_letter_that_it_leaves_behind() -> None:
    desk = Desk(
        JOB.replace("      - failed: worker\n        then: [{end: broken}]\n", "").replace("  broken:", "  odd:")
    )
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "worker")
    desk.nack(worker, worker.take_one(Kind.DELIVER), final=True)
    assert len(desk.query(client, "dead")) == 1

    desk.send(client, conversation, "client", "Stop", "worker")

    assert desk.query(client, "dead") == []
    assert worker.reads() == ["Stop"]


def test_refused_turn_behind_unreported_deliveries_buries_only_its_own() -> None:
    desk = Desk(PLAIN)
    _, client, _conversation = begin(desk)
    boss = desk.peer("boss", plays=["boss"])
    ask, copy = boss.take(Kind.DELIVER)

    desk.commit(boss, copy, ("Answer", "client"))

    assert boss.refusals() == ["not-allowed"]
    assert desk.query(client, "conversations")[0]["reason"].startswith("boss could not handle its message: not-allowed")
    assert ask[5] == 1


def test_failing_notice_of_the_end_is_given_up(desk: Desk) -> None:
    worker, client, conversation = begin(desk)
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Answer", "client"))

    desk.nack(worker, worker.take_one(Kind.DELIVER), final=True)

    assert desk.query(client, "dead") == []
    assert desk.outcome(client, conversation) == "done"


def test_handler_that_returns_owing_a_message_is_unfinished(desk: Desk) -> None:
    worker, client, _ = begin(desk)

    desk.handled(worker, worker.take_one(Kind.DELIVER))

    assert worker.refusals() == ["turn-unfinished"]
    assert [letter["code"] for letter in desk.query(client, "dead")] == ["turn-unfinished"]


def test_reason_of_a_failure_is_kept_short(desk: Desk) -> None:
    worker, client, _ = begin(desk)
    _, conversation, _, role, fence, position, *_ = worker.take_one(Kind.DELIVER)

    worker.put([Kind.NACK, worker.number(), conversation, role, fence, position, "c" * 9999, "d" * 99_999, True])

    (letter,) = desk.query(client, "dead")
    assert (len(letter["code"]), len(letter["detail"])) == (100, 4000)


MALFORMED_SENDS = {
    "no list": [7],
    "wrong types": [[b"0" * 16, "Answer", 0, None, None, b""]],
    "no such message": [[b"0" * 16, 99, 0, None, None, b""]],
    "short id": [[b"0", 2, 0, None, None, b""]],
}


@pytest.mark.parametrize("case", MALFORMED_SENDS)
def test_malformed_sends_are_refused_whole(desk: Desk, case: str) -> None:
    worker, client, conversation = begin(desk)
    _, _, _, role, fence, position, *_ = worker.take_one(Kind.DELIVER)

    n = worker.number()
    worker.put([Kind.COMMIT, n, conversation, role, fence, position, 0, True, 0, MALFORMED_SENDS[case], None])

    assert worker.refusals() == ["malformed"]
    assert desk.transcript(client, conversation) == ["Ask", "Copy"]


def test_at_most_once_message_inside_a_commit_is_refused() -> None:
    desk = Desk(JOB)
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    desk.send(client, desk.open(client, "client"), "client", "Ask", "worker")

    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Note", "client"))

    assert worker.refusals() == ["malformed"]
