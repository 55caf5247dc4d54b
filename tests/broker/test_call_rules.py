"""RULES.md 2, 17: conversations that a turn opens, and what becomes of them."""

import pytest
from desk import Desk, Peer
from job_protocol import JOB

from bus.wire.record import Kind, Record


@pytest.fixture
def desk() -> Desk:
    return Desk(JOB)


def begin(desk: Desk) -> tuple[Peer, Peer, Peer, bytes, Record]:
    """Return (caller, helper, client, conversation, delivery) with the caller's turn open."""
    caller, client = desk.peer("caller", plays=["worker"]), desk.peer("client")
    conversation = desk.open(client, "client", bindings={"worker": ["caller"]})
    desk.send(client, conversation, "client", "Ask", "worker")
    delivery = caller.take_one(Kind.DELIVER)
    return caller, desk.peer("helper", plays=["worker"]), client, conversation, delivery


def call(desk: Desk, caller: Peer, delivery: Record) -> bytes:
    parent = [delivery[1], delivery[3], delivery[4], delivery[5]]
    child = desk.open(caller, "client", "child", parent=parent, bindings={"worker": ["helper"]})
    desk.send(caller, child, "client", "Ask", "worker", message_id=b"the-child's-task")
    return child


def test_call_runs_a_conversation_inside_the_turn(desk: Desk) -> None:
    caller, helper, client, conversation, delivery = begin(desk)
    child = call(desk, caller, delivery)

    desk.commit(helper, helper.take_one(Kind.DELIVER), ("Answer", "client"))
    assert caller.reads() == ["Answer", "[end]"]
    desk.commit(caller, delivery, ("Answer", "client"))

    assert (desk.outcome(client, child), desk.outcome(client, conversation)) == ("answered", "answered")


def test_redelivered_handler_reads_its_child_again_from_the_start(desk: Desk) -> None:
    caller, helper, client, _conversation, delivery = begin(desk)
    child = call(desk, caller, delivery)
    task = helper.take_one(Kind.DELIVER)
    for commit in range(2):
        desk.commit(helper, task, ("Part", "client"), settles=False, commit=commit)
    desk.handled(caller, caller.take(Kind.DELIVER)[-1])
    caller.die()

    again = desk.peer("caller", plays=["worker"])
    redelivery = again.take_one(Kind.DELIVER)
    call(desk, again, redelivery)

    parts = again.take(Kind.DELIVER)
    assert [desk.name_of(part) for part in parts] == ["Part", "Part"]
    assert [part[5] for part in parts] == [1, 2]
    assert desk.transcript(client, child) == ["Ask", "Part", "Part"]


def test_what_was_read_again_is_settled_again_one_by_one(desk: Desk) -> None:
    caller, helper, client, _conversation, delivery = begin(desk)
    call(desk, caller, delivery)
    task = helper.take_one(Kind.DELIVER)
    for commit in range(3):
        desk.commit(helper, task, ("Part", "client"), settles=False, commit=commit)
    desk.handled(caller, caller.take(Kind.DELIVER)[-1])
    caller.bye()
    again = desk.peer("caller", plays=["worker"])
    call(desk, again, again.take_one(Kind.DELIVER))

    for part in again.take(Kind.DELIVER):
        desk.handled(again, part)

    (agent,) = [one for one in desk.query(client, "status")["agents"] if one["name"] == "caller"]
    assert agent["open_deliveries"] == 1  # the calling turn itself


def test_child_that_still_runs_is_canceled_when_its_turn_settles(desk: Desk) -> None:
    caller, helper, client, _conversation, delivery = begin(desk)
    child = call(desk, caller, delivery)
    helper.take(Kind.DELIVER)

    desk.commit(caller, delivery, ("Answer", "client"))

    assert desk.outcome(client, child) == "canceled"
    assert len(helper.notices("revoked")) == 1
    assert helper.reads() == ["[end]"]


def test_commit_that_does_not_settle_leaves_the_child_running(desk: Desk) -> None:
    caller, _helper, client, _conversation, delivery = begin(desk)
    child = call(desk, caller, delivery)

    desk.commit(caller, delivery, ("Part", "client"), settles=False)

    assert desk.outcome(client, child) is None


def test_canceling_the_parent_cancels_children_and_grandchildren(desk: Desk) -> None:
    caller, helper, client, conversation, delivery = begin(desk)
    child = call(desk, caller, delivery)
    task = helper.take_one(Kind.DELIVER)
    parent = [task[1], task[3], task[4], task[5]]
    grandchild = desk.open(helper, "client", "grandchild", parent=parent, bindings={"worker": ["nobody"]})

    desk.query(client, "cancel", conversation=conversation)

    assert [desk.outcome(client, one) for one in (child, grandchild)] == ["canceled", "canceled"]


def test_canceling_the_parent_by_command_survives_a_restart(desk: Desk) -> None:
    caller, _helper, client, conversation, delivery = begin(desk)
    child = call(desk, caller, delivery)
    desk.query(client, "cancel", conversation=conversation)

    desk.restart()

    assert desk.outcome(desk.peer("client"), child) == "canceled"


def test_child_whose_end_the_caller_has_read_stays_until_the_turn_settles(desk: Desk) -> None:
    caller, helper, client, _conversation, delivery = begin(desk)
    child = call(desk, caller, delivery)
    desk.commit(helper, helper.take_one(Kind.DELIVER), ("Answer", "client"))
    desk.handled(helper, helper.take_one(Kind.DELIVER))
    desk.handled(caller, caller.take(Kind.DELIVER)[-1])
    desk.pass_time(3 * desk.settings.lost_after)
    caller.bye()

    again = desk.peer("caller", plays=["worker"])
    redelivery = again.take_one(Kind.DELIVER)
    call(desk, again, redelivery)
    read = again.reads()
    desk.commit(again, redelivery, ("Answer", "client"))

    assert read == ["Answer", "[end]"]
    assert desk.outcome(client, child) == "answered"


def test_call_of_a_turn_that_lost_its_lease_is_refused(desk: Desk) -> None:
    caller, _helper, _client, _conversation, delivery = begin(desk)
    desk.nack(caller, delivery)

    desk.open(caller, "client", "child", parent=[delivery[1], delivery[3], delivery[4], delivery[5]])

    assert caller.refusals() == ["lease-lost"]


def test_call_of_a_conversation_that_is_over_is_refused(desk: Desk) -> None:
    caller, _helper, client, conversation, delivery = begin(desk)
    desk.query(client, "cancel", conversation=conversation)

    desk.open(caller, "client", "child", parent=[delivery[1], delivery[3], delivery[4], delivery[5]])

    assert caller.refusals() == ["ended"]


def test_what_another_role_settles_leaves_the_child_running(desk: Desk) -> None:
    caller, _helper, client, _conversation, delivery = begin(desk)
    child = call(desk, caller, delivery)
    desk.commit(caller, delivery, ("Part", "client"), settles=False)

    desk.handled(client, client.take_one(Kind.DELIVER))

    assert desk.outcome(client, child) is None
