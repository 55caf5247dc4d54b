"""RULES.md 18, 19: deadlines run on bus time, through restarts."""

import pytest
from desk import Desk, Peer
from job_protocol import JOB

from bus.wire.record import Kind

DEFAULT = """
language: 1
protocol: default
version: 1.0.0
roles: {client: {}, worker: {}}
messages: {Ask: {}, Answer: {}, Thanks: {}}
outcomes: {done: Answered., late: Too late.}
conversation:
  - client -> worker: Ask
  - worker -> client: Answer
  - client -> worker: Thanks
    within: 10m
    else: [{end: late}]
  - end: done
"""
RETRY = DEFAULT.replace("worker -> client: Answer\n", "worker -> client: Answer\n    within: 1m\n    retry: 2\n", 1)


def begin(desk: Desk) -> tuple[Peer, Peer, bytes]:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "worker")
    return worker, client, conversation


def test_uncovered_wait_ends_after_the_default() -> None:
    desk = Desk(DEFAULT)
    _, client, conversation = begin(desk)

    desk.pass_time(desk.settings.within - 1)
    before = desk.outcome(client, conversation)
    desk.pass_time(2)

    (summary,) = desk.query(client, "conversations")
    assert (before, summary["outcome"]) == (None, "failed")
    assert summary["reason"] == "worker missed 'Answer': it did not answer in time"


def test_step_with_a_deadline_of_its_own_does_not_take_the_default() -> None:
    desk = Desk(DEFAULT)
    worker, client, conversation = begin(desk)
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Answer", "client"))

    desk.pass_time(desk.settings.within + 1)
    before = desk.outcome(client, conversation)
    desk.pass_time(600)

    assert (before, desk.outcome(client, conversation)) == (None, "late")


def test_delivery_says_how_long_there_is() -> None:
    desk = Desk(DEFAULT)
    client = desk.peer("client")
    desk.send(client, desk.open(client, "client"), "client", "Ask", "worker")
    desk.pass_time(100)

    worker = desk.peer("worker", plays=["worker"])

    assert worker.take_one(Kind.DELIVER)[13] == pytest.approx(desk.settings.within - 100)


def test_each_retry_restarts_the_deadline_delivers_again_and_counts_no_attempt() -> None:
    desk = Desk(RETRY)
    worker, client, conversation = begin(desk)

    seen = []
    for _ in range(3):
        seen += [(delivery[15], delivery[6]) for delivery in worker.take(Kind.DELIVER)]
        desk.pass_time(61)

    assert len(seen) == 3
    assert len(set(seen)) == 1
    assert seen[0][1] == 1
    assert len(worker.notices("revoked")) == 3  # by two retries and the end
    assert desk.outcome(client, conversation) == "failed"


def test_stream_takes_the_deadline_of_the_message_that_ends_it() -> None:
    desk = Desk(JOB)
    worker, client, conversation = begin(desk)
    ask = worker.take_one(Kind.DELIVER)
    for commit in range(3):
        desk.pass_time(400)
        desk.commit(worker, ask, ("Part", "client"), settles=False, commit=commit)

    assert desk.outcome(client, conversation) is None  # a loop's choice begins again with each pass


def test_time_of_a_scope_ends_it_whatever_is_said_inside() -> None:
    desk = Desk(JOB)
    worker, client, conversation = begin(desk)
    ask = worker.take_one(Kind.DELIVER)
    for commit in range(15):
        desk.pass_time(500)
        desk.commit(worker, ask, ("Part", "client"), settles=False, commit=commit)

    assert desk.outcome(client, conversation) == "expired"
    assert desk.transcript(client, conversation)[-2:] == ["[work.timeout]", "[expired.end]"]


def test_bus_time_goes_on_after_a_restart_without_the_downtime() -> None:
    desk = Desk(DEFAULT)
    begin(desk)
    desk.pass_time(100)

    desk.restart()

    assert desk.query(desk.peer("client"), "status")["bus_time"] == pytest.approx(100, abs=desk.settings.clock_interval)


def test_deadline_goes_on_after_a_restart() -> None:
    desk = Desk(DEFAULT)
    _, client, conversation = begin(desk)
    desk.pass_time(200)
    desk.restart()
    client = desk.peer("client")

    desk.pass_time(90)
    before = desk.outcome(client, conversation)
    desk.pass_time(30)

    assert (before, desk.outcome(client, conversation)) == (None, "failed")


def test_time_of_a_scope_goes_on_after_a_restart() -> None:
    desk = Desk(JOB.replace("within: 10m", "within: 3h"))
    _, client, conversation = begin(desk)
    desk.pass_time(7000)
    desk.restart()
    client = desk.peer("client")

    desk.pass_time(300)

    assert desk.outcome(client, conversation) == "expired"


def test_reconnecting_agent_keeps_the_leases_that_it_names() -> None:
    desk = Desk(JOB)
    worker, _client, conversation = begin(desk)
    ask = worker.take_one(Kind.DELIVER)
    desk.commit(worker, ask, ("Part", "client"), settles=False)
    desk.restart()

    worker = desk.peer("worker", plays=["worker"], held=[desk.lease_of(ask)])
    desk.commit(worker, ask, ("Answer", "client"), commit=1)

    assert worker.kept == [[conversation, ask[3]]]
    assert worker.reads() == ["[end]"]
    assert worker.refusals() == []
    assert desk.transcript(worker, conversation) == ["Ask", "Part", "Answer", "[answered.end]"]


def test_kept_lease_covers_what_was_handled_before_and_is_reported_again() -> None:
    desk = Desk(JOB)
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client", plays=["client"])
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "worker")
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Part", "client"), ("Part", "client"), settles=False)
    first, second = client.take(Kind.DELIVER)
    desk.auto_sync = False
    desk.handled(client, first)  # lost with the tail
    desk.restart()
    desk.auto_sync = True

    client = desk.peer("client", plays=["client"], held=[desk.lease_of(second)])
    desk.handled(client, first)
    desk.commit(client, second, ("Stop", "worker"))

    assert client.kept == [[conversation, first[3]]]
    assert client.refusals() == []
    assert desk.transcript(client, conversation)[-1] == "Stop"


def test_lease_named_wrongly_is_not_kept() -> None:
    desk = Desk(JOB)
    worker, _client, _conversation = begin(desk)
    ask = worker.take_one(Kind.DELIVER)
    desk.restart()
    lease = desk.lease_of(ask)
    wrong = [
        [b"?" * 16, *lease[1:]], [lease[0], 9, *lease[2:]], [*lease[:3], 7, lease[4]], [*lease[:4], b"another"],
    ]  # fmt: skip

    worker = desk.peer("worker", plays=["worker"], held=wrong)

    assert worker.kept == []
    assert worker.reads() == ["Ask"]


def test_lease_of_a_role_that_the_agent_does_not_play_is_not_kept() -> None:
    desk = Desk(JOB)
    worker, _client, _conversation = begin(desk)
    ask = worker.take_one(Kind.DELIVER)
    desk.restart()

    assert desk.peer("thief", held=[desk.lease_of(ask)]).kept == []


def test_opener_keeps_what_it_reads() -> None:
    desk = Desk(JOB)
    worker, client, conversation = begin(desk)
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Part", "client"), settles=False)
    part = client.take_one(Kind.DELIVER)
    desk.restart()

    client = desk.peer("client", held=[desk.lease_of(part)])

    assert client.kept == [[conversation, part[3]]]


def test_after_a_restart_work_waits_one_lease_for_who_had_it() -> None:
    desk = Desk(JOB)
    worker, _client, conversation = begin(desk)
    ask = worker.take_one(Kind.DELIVER)
    desk.restart()

    other = desk.peer("worker", plays=["worker"], instance=1)
    early = other.reads()
    worker = desk.peer("worker", plays=["worker"], held=[desk.lease_of(ask)])

    assert (early, worker.kept) == ([], [[conversation, ask[3]]])


def test_work_of_an_agent_that_does_not_come_back_goes_to_another_after_one_lease() -> None:
    desk = Desk(JOB)
    begin(desk)
    desk.restart()
    other = desk.peer("worker", plays=["worker"], instance=1)

    desk.pass_time(desk.settings.lease - 1)
    early = other.reads()
    desk.pass_time(1.5)

    assert (early, other.reads()) == ([], ["Ask"])


def test_agent_that_comes_back_as_another_program_is_not_handed_its_old_work() -> None:
    desk = Desk(JOB)
    begin(desk)
    desk.restart()

    worker = desk.peer("worker")

    assert worker.reads() == []


def test_agent_that_never_comes_back_after_a_restart_is_lost() -> None:
    desk = Desk(JOB)
    worker, client, conversation = begin(desk)
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Part", "client"), settles=False)
    desk.restart()
    client = desk.peer("client")

    desk.pass_time(desk.settings.lost_after + 1)

    assert desk.outcome(client, conversation) == "orphaned"


def test_reconnecting_without_a_restart_counts_no_attempt_for_what_is_held() -> None:
    desk = Desk(JOB)
    worker, _client, conversation = begin(desk)
    ask = worker.take_one(Kind.DELIVER)

    again = desk.peer("worker", plays=["worker"], held=[desk.lease_of(ask)])

    assert again.kept == [[conversation, ask[3]]]
    again.bye()
    assert desk.peer("worker", plays=["worker"]).take_one(Kind.DELIVER)[6] == 1


def test_repeated_commit_is_recognized_after_a_restart() -> None:
    desk = Desk(JOB)
    worker, _client, conversation = begin(desk)
    ask = worker.take_one(Kind.DELIVER)
    desk.commit(worker, ask, ("Part", "client"), settles=False)
    desk.restart()
    worker = desk.peer("worker", plays=["worker"], held=[desk.lease_of(ask)])

    desk.commit(worker, ask, ("Part", "client"), settles=False, commit=0)

    assert worker.refusals() == []
    assert desk.transcript(worker, conversation) == ["Ask", "Part"]


def test_commit_that_follows_a_lost_one_is_refused_and_the_delivery_comes_again() -> None:
    desk = Desk(JOB)
    worker, _client, conversation = begin(desk)
    ask = worker.take_one(Kind.DELIVER)
    desk.auto_sync = False
    desk.commit(worker, ask, ("Part", "client"), settles=False)
    desk.restart()
    desk.auto_sync = True
    worker = desk.peer("worker", plays=["worker"], held=[desk.lease_of(ask)])

    desk.commit(worker, ask, ("Answer", "client"), commit=1)

    assert worker.refusals() == ["lease-lost"]
    assert worker.take_one(Kind.DELIVER)[7] == 0
    assert desk.transcript(worker, conversation) == ["Ask"]


def test_time_of_a_scope_that_is_over_is_up_for_nobody() -> None:
    desk = Desk(JOB)
    worker, client, conversation = begin(desk)
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Answer", "client"))

    desk.pass_time(8000)

    assert desk.transcript(client, conversation) == ["Ask", "Answer", "[answered.end]"]
