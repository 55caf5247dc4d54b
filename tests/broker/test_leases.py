"""RULES.md 9, 10, 12: who is gone, what counts as an attempt, and when a role is lost."""

import pytest
from desk import Desk, Peer
from job_protocol import JOB

from bus.settings import Settings
from bus.wire.record import WIRE_VERSION, Kind


@pytest.fixture
def desk() -> Desk:
    return Desk(JOB)


def ask(desk: Desk, client: Peer, request_id: str = "r1") -> bytes:
    conversation = desk.open(client, "client", request_id)
    desk.send(client, conversation, "client", "Ask", "worker")
    return conversation


def test_session_that_is_silent_for_a_lease_ends_and_its_deliveries_go_to_another(desk: Desk) -> None:
    first, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    ask(desk, client)
    first.die()
    second = desk.peer("worker", plays=["worker"], instance=1)

    desk.pass_time(1.5 * desk.settings.lease)

    (delivery,) = second.take(Kind.DELIVER)
    assert (desk.name_of(delivery), delivery[6]) == ("Ask", 2)
    assert desk.logged("lease.lost") == desk.logged("agent.lost") == 1


def test_heartbeat_of_another_connection_keeps_the_session(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    ask(desk, client)
    token = next(iter(desk.broker._state.registry.by_token))  # what WELCOME said
    worker.die()

    for _ in range(10):
        desk.broker.receive(b"heartbeat", [[int(Kind.HEARTBEAT), token]], desk.now)
        assert desk.broker.take_output()[b"heartbeat"] == [[int(Kind.HEARTBEAT), b""]]
        desk.pass_time(desk.settings.lease / 2)

    assert desk.logged("lease.lost") == 0


def test_unknown_heartbeat_is_told_to_register(desk: Desk) -> None:
    desk.broker.receive(b"stranger", [[int(Kind.HEARTBEAT), b"who"]], desk.now)

    assert desk.broker.take_output() == {b"stranger": [[int(Kind.NOTICE), "hello", {}]]}


def test_record_of_a_stranger_is_told_to_register(desk: Desk) -> None:
    desk.broker.receive(b"stranger", [[int(Kind.CREDIT), 1], [int(Kind.BYE)]], desk.now)

    assert desk.broker.take_output() == {b"stranger": [[int(Kind.NOTICE), "hello", {}]] * 2}


def test_leaving_on_purpose_counts_no_attempt(desk: Desk) -> None:
    first, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    ask(desk, client)
    first.bye()

    second = desk.peer("worker", plays=["worker"])

    assert second.take_one(Kind.DELIVER)[6] == 1
    assert desk.logged("agent.left") == 1


def test_registering_again_as_another_counts_no_attempt(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    ask(desk, client)
    worker.take(Kind.DELIVER)

    worker.hello(plays=["worker"], source=JOB)

    assert worker.take_one(Kind.DELIVER)[6] == 1


def test_failed_delivery_is_tried_again_after_a_back_off_that_doubles(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    ask(desk, client)

    waits = []
    for _ in range(2):
        desk.nack(worker, worker.take_one(Kind.DELIVER))
        began = desk.now
        while not any(record[0] == Kind.DELIVER for record in worker.inbox):
            desk.now += desk.settings.back_off / 4
            desk.turn()
        waits.append(round((desk.now - began) / desk.settings.back_off))

    assert waits == [1, 2]
    assert worker.take_one(Kind.DELIVER)[6] == 3
    assert desk.logged("delivery.failed") == 2


def test_while_a_delivery_backs_off_nothing_later_goes_to_its_role(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversation = ask(desk, client)
    desk.nack(worker, worker.take_one(Kind.DELIVER))

    desk.send(client, conversation, "client", "Stop", "worker")

    assert worker.reads() == []
    desk.pass_time(1)
    (again,) = worker.take(Kind.DELIVER)
    desk.commit(worker, again)
    assert (desk.name_of(again), worker.reads()) == ("Ask", ["Stop"])


def test_each_commit_begins_the_count_of_attempts_again(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    ask(desk, client)
    desk.nack(worker, worker.take_one(Kind.DELIVER))
    desk.pass_time(1)
    delivery = worker.take_one(Kind.DELIVER)
    desk.commit(worker, delivery, ("Part", "client"), settles=False)
    desk.nack(worker, delivery)

    desk.pass_time(1)

    assert (delivery[6], worker.take_one(Kind.DELIVER)[6]) == (2, 2)


def test_failure_behind_unreported_deliveries_is_its_own(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client", plays=["client"])
    conversation = ask(desk, client)
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Part", "client"), ("Part", "client"), settles=False)
    _, second = client.take(Kind.DELIVER)

    desk.nack(client, second)
    desk.pass_time(1)

    (again,) = client.take(Kind.DELIVER)
    assert (again[5], again[6]) == (second[5], 2)
    assert desk.query(worker, "dead") == []
    assert desk.transcript(client, conversation) == ["Ask", "Part", "Part"]


def test_failure_of_what_the_session_no_longer_has_changes_nothing(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    ask(desk, client)
    delivery = worker.take_one(Kind.DELIVER)
    desk.nack(worker, delivery)

    desk.nack(worker, delivery, final=True)

    assert desk.query(client, "dead") == []
    assert desk.logged("delivery.failed") == 1


def test_open_turns_of_a_crashed_process_come_back_one_at_a_time(desk: Desk) -> None:
    first, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    for request_id in ("a", "b", "c"):
        ask(desk, client, request_id)
    assert len(first.reads()) == 3
    first.die()

    second = desk.peer("worker", plays=["worker"])
    (one,) = second.take(Kind.DELIVER)
    desk.commit(second, one, ("Answer", "client"))
    after_commit = second.reads()

    assert sorted(after_commit) == ["Ask", "[end]"]


def test_suspect_that_outlives_a_lease_lets_the_next_one_through(desk: Desk) -> None:
    first, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    for request_id in ("a", "b"):
        ask(desk, client, request_id)
    first.die()
    second = desk.peer("worker", plays=["worker"])
    assert second.reads() == ["Ask"]

    desk.pass_time(1.1 * desk.settings.lease)

    assert second.reads() == ["Ask"]


def test_new_work_passes_a_suspect(desk: Desk) -> None:
    first, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    for request_id in ("a", "b"):
        ask(desk, client, request_id)
    first.die()
    second = desk.peer("worker", plays=["worker"])
    second.take(Kind.DELIVER)

    ask(desk, client, "new")

    assert second.reads() == ["Ask"]


def test_suspect_whose_conversation_was_put_away_holds_nobody_up() -> None:
    desk = Desk(JOB, settings=Settings(lost_after=1.0))
    first, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversations = [ask(desk, client, request_id) for request_id in ("a", "b", "c")]
    for conversation in conversations[:2]:
        desk.query(client, "cancel", conversation=conversation)
    first.die()
    second = desk.peer("worker", plays=["worker"])
    assert second.reads() == ["[end]"]

    desk.pass_time(1.5 * desk.settings.lease)

    assert second.reads() == ["Ask"]


def test_suspect_that_another_agent_took_over_holds_nobody_up(desk: Desk) -> None:
    first, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    bound = ask(desk, client, "bound")
    free = [ask(desk, client, request_id) for request_id in ("a", "b")]
    deliveries = first.take(Kind.DELIVER)
    desk.commit(first, deliveries[0], ("Part", "client"), settles=False)
    other = desk.peer("rival", plays=["worker"])
    first.die()
    desk.pass_time(1.5 * desk.settings.lease)
    assert [delivery[1] for delivery in other.take(Kind.DELIVER)] == free

    second = desk.peer("worker", plays=["worker"])
    desk.pass_time(desk.settings.lease / 2)

    assert [delivery[1] for delivery in second.take(Kind.DELIVER)] == [bound]


def test_delivery_that_kills_every_process_becomes_a_dead_letter(desk: Desk) -> None:
    client = desk.peer("client")
    conversation = ask(desk, client)

    attempts = []
    for _ in range(desk.settings.max_attempts):
        worker = desk.peer("worker", plays=["worker"])
        attempts += [delivery[6] for delivery in worker.take(Kind.DELIVER)]
        worker.die()
    survivor = desk.peer("worker", plays=["worker"])

    assert attempts == [1, 2, 3]
    assert survivor.reads() == ["[failed]", "[end]"]
    assert desk.outcome(client, conversation) == "broken"


def test_innocent_deliveries_before_a_poisonous_one_are_not_blamed() -> None:
    desk = Desk(JOB)
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client", plays=["client"])
    conversation = ask(desk, client)
    asked = worker.take_one(Kind.DELIVER)
    desk.commit(worker, asked, *[("Part", "client")] * 3, settles=False)

    lives = 0
    while client.inbox and lives < 20:
        deliveries = client.take(Kind.DELIVER)
        for delivery in deliveries:
            if delivery[5] == 3:  # the last part kills whoever reads it, before anything was reported
                break
        else:
            desk.handled(client, deliveries[-1])
            if any(record[0] == Kind.DELIVER for record in client.inbox):
                continue
        client.die()
        client = desk.peer("client", plays=["client"])
        lives += 1

    assert [letter["code"] for letter in desk.query(worker, "dead")] == []
    assert desk.outcome(worker, conversation) == "failed"
    assert "crashed" in desk.query(worker, "conversations")[0]["reason"]
    assert desk.query(worker, "transcript", conversation=conversation)[-1]["event"] == "failed.end"


def test_role_is_lost_only_when_no_instance_was_there_for_lost_after(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversation = ask(desk, client)
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Part", "client"), settles=False)
    worker.bye()

    desk.pass_time(desk.settings.lost_after - 1)
    before = desk.outcome(client, conversation)
    desk.pass_time(2)

    assert before is None
    assert desk.transcript(client, conversation) == ["Ask", "Part", "[work.lost.worker]", "[orphaned.end]"]


def test_role_whose_agent_came_back_is_not_lost(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversation = ask(desk, client)
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Part", "client"), settles=False)
    worker.bye()
    desk.pass_time(desk.settings.lost_after / 2)
    desk.peer("worker", plays=["worker"]).bye()

    desk.pass_time(desk.settings.lost_after - 1)
    before = desk.outcome(client, conversation)
    desk.pass_time(2)

    assert (before, desk.outcome(client, conversation)) == (None, "orphaned")


def test_role_of_a_living_agent_is_not_lost(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversation = ask(desk, client)
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Part", "client"), settles=False)
    worker.bye()
    desk.peer("worker", plays=["worker"], instance=1)

    desk.query(client, "gave-up", name="worker")
    desk.pass_time(desk.settings.lost_after + 1)

    assert desk.outcome(client, conversation) is None


def test_role_is_lost_at_once_when_its_supervisor_gives_up(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversation = ask(desk, client)
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Part", "client"), settles=False)
    worker.bye()

    assert desk.query(client, "gave-up", name="worker") == {"live": False}

    assert desk.outcome(client, conversation) == "orphaned"


def test_protocol_without_lost_goes_on_to_its_deadline() -> None:
    desk = Desk(JOB.replace("lost: worker", "timeout: 3h"))
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversation = ask(desk, client)
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Part", "client"), settles=False)
    worker.bye()

    desk.query(client, "gave-up", name="worker")

    assert desk.outcome(client, conversation) is None


def test_gone_peer_is_told_to_register_with_its_next_heartbeat(desk: Desk) -> None:
    worker = desk.peer("worker", plays=["worker"])
    token = next(iter(desk.broker._state.registry.by_token))

    desk.broker.gone(worker.routing_id, desk.now)
    desk.broker.gone(b"stranger", desk.now)
    desk.broker.receive(b"heartbeat", [[int(Kind.HEARTBEAT), token]], desk.now)

    assert desk.broker.take_output()[b"heartbeat"] == [[int(Kind.NOTICE), "hello", {}]]


def test_drain_asks_every_peer_to_finish_and_leave(desk: Desk) -> None:
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")

    desk.broker.stop(desk.now)
    desk.turn()

    assert (worker.notices("drain"), client.notices("drain")) == ([{}], [{}])


HELLOS = {
    "wire-version": [WIRE_VERSION + 1, "worker", 1, [JOB], [], 1, []],
    "bad-protocol": [WIRE_VERSION, "worker", 1, ["no protocol"], [], 1, []],
    "unknown-role": [WIRE_VERSION, "worker", 1, [JOB], [[0, "boss"]], 1, []],
    "malformed: name": [WIRE_VERSION, "", 1, [JOB], [], 1, []],
    "malformed: source": [WIRE_VERSION, "worker", 1, [5], [], 1, []],
    "malformed: plays": [WIRE_VERSION, "worker", 1, [JOB], [[1, "worker"]], 1, []],
    "malformed: held": [WIRE_VERSION, "worker", 1, [JOB], [], 1, [[[], 1, 2, 3, b""]]],
}


@pytest.mark.parametrize("case", HELLOS)
def test_refused_hello_registers_nobody(desk: Desk, case: str) -> None:
    client = desk.peer("client")
    desk.broker.receive(b"stranger", [[int(Kind.HELLO), *HELLOS[case]]], desk.now)

    ((_, _, code, _),) = desk.broker.take_output()[b"stranger"]
    assert code == case.partition(":")[0]
    assert [agent["name"] for agent in desk.query(client, "status")["agents"]] == ["client"]
    assert desk.logged("agent.refused") == 1


def test_only_the_lost_role_has_its_event_fired() -> None:
    desk = Desk(JOB.replace("lost: worker", "lost: client"))
    worker, client = desk.peer("worker", plays=["worker"]), desk.peer("client")
    conversation = ask(desk, client)
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Part", "client"), settles=False)
    worker.bye()
    desk.query(client, "gave-up", name="worker")
    before = desk.outcome(client, conversation)
    client.bye()
    worker = desk.peer("worker", plays=["worker"])

    desk.query(worker, "gave-up", name="client")

    assert (before, desk.outcome(worker, conversation)) == (None, "orphaned")
