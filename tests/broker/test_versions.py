"""RULES.md 15: versions side by side; which is pinned, who is offered what, who is refused with the diff."""

from __future__ import annotations

from typing import Any

import pytest
from desk import Desk, Peer
from job_protocol import JOB

from bus.ids import conversation_id
from bus.spec.compile import compile_protocol
from bus.wire.record import WIRE_VERSION, Kind

PAUSE = "      - client -> worker: Pause\n        then: [{end: stopped}]\n"
# Full both ways; the roles change places, so that every number on the wire is another one.
ALIKE = (
    JOB.replace("1.0.0", "1.1.0")
    .replace("{client: {}, worker: {pool: true}}", "{worker: {pool: true}, client: {}}")
    .replace("  Ask: {}\n  Part", "  Extra: {}\n  Ask: {fields: {tone: optional string}}\n  Part")
)
# The client may interrupt with Pause: old clients and new workers fit both, new clients and old workers do not.
PAUSING = JOB.replace("1.0.0", "1.2.0").replace("  Stop: {}\n", "  Stop: {}\n  Pause: {}\n")
PAUSING = PAUSING.replace("      - failed: worker", PAUSE + "      - failed: worker")
BREAKING = JOB.replace("1.0.0", "1.3.0").replace("  Ask: {}", "  Ask: {fields: {size: int}}")


@pytest.fixture
def desk() -> Desk:
    return Desk(JOB)


def at(desk: Desk, source: str) -> Desk:
    """Return the desk, speaking *source* from now on: its peers name it, and numbers are its."""
    desk.source = source
    desk.protocol = compile_protocol(source)
    return desk


def pin(desk: Desk, peer: Peer, request_id: str = "r1", **more: Any) -> str:
    """Return the version that the broker pins for what *peer* would open as the client."""
    identifier = conversation_id(peer.name, "job", request_id)
    answer = desk.query(peer, "pin", digest=desk.protocol.digest, role="client", conversation=identifier, bindings=more)
    return version(answer["digest"])


def version(digest: str) -> str:
    [found] = [text for text in (JOB, ALIKE, PAUSING, BREAKING) if compile_protocol(text).digest == digest]
    return compile_protocol(found).version


def taught(peer: Peer) -> dict[str, int]:
    """Take the texts that *peer* was handed: version → its number of it."""
    return {compile_protocol(facts["source"]).version: facts["number"] for facts in peer.notices("protocol")}


def open_at(desk: Desk, peer: Peer, number: int, request_id: str = "r1") -> bytes:
    identifier = conversation_id(peer.name, "job", request_id)
    role = desk.protocol.role_index("client")
    peer.put([Kind.OPEN, peer.number(), identifier, number, role, request_id, {}, None])
    return identifier


def ask(desk: Desk, client: Peer, request_id: str = "r1", number: int = 0) -> bytes:
    conversation = open_at(desk, client, number, request_id)
    desk.send(client, conversation, "client", "Ask", "worker")
    return conversation


def greet(desk: Desk, name: str, source: str, role: str) -> Peer:
    """Return a peer whose HELLO may have been refused."""
    desk.n_peers += 1
    peer = Peer(desk, name, 0)
    desk.peers[peer.routing_id] = peer
    peer.put([Kind.HELLO, WIRE_VERSION, name, 0, [source], [[0, role]], 100, []])
    return peer


# -- the gate at HELLO ----------------------------------------------------------------------------------


def test_hello_that_breaks_against_who_is_there_is_refused_with_the_witness(desk: Desk) -> None:
    desk.peer("worker", plays=["worker"])

    newcomer = greet(desk, "pauser", PAUSING, "client")

    _, _, code, detail = newcomer.take_one(Kind.REFUSED)
    assert code == "no-common-version"
    assert detail["message"].startswith(
        "client of job 1.2.0 has no version in common with worker of 1.0.0, which 'worker' plays: "
    )
    assert (
        "worker of 1.0.0 in conversations of 1.2.0 cannot take client -> worker: Pause here "
        "(client -> worker: Ask, client -> worker: Pause)"
    ) in detail["message"]
    assert [(fact["role"], fact["rule"], fact["trace"]) for fact in detail["diff"]] == [
        ("worker", "order-receives", ["client -> worker: Ask", "client -> worker: Pause"]),
        ("client", "order-sends", ["client -> worker: Ask", "client -> worker: Pause"]),
    ]


def test_refused_hello_changes_nothing(desk: Desk) -> None:
    worker = desk.peer("worker", plays=["worker"])
    n_rows = sum(len(rows) for _, rows in desk.disk)

    greet(desk, "pauser", PAUSING, "client")

    assert [agent["name"] for agent in desk.query(worker, "status")["agents"]] == ["worker"]
    assert sum(len(rows) for _, rows in desk.disk) == n_rows
    assert worker.inbox == []


def test_hello_with_a_required_field_more_names_the_field(desk: Desk) -> None:
    desk.peer("boss", plays=["client"])

    newcomer = greet(desk, "worker", BREAKING, "worker")

    message = newcomer.take_one(Kind.REFUSED)[3]["message"]
    assert "client of 1.0.0 in conversations of 1.3.0 its Ask may be refused: it leaves out Ask.size" in message


def test_agent_is_let_in_once_those_it_does_not_fit_have_left(desk: Desk) -> None:
    worker = desk.peer("worker", plays=["worker"])
    greet(desk, "pauser", PAUSING, "client")

    worker.bye()

    assert greet(desk, "pauser", PAUSING, "client").take(Kind.WELCOME)


def test_agent_is_let_in_where_one_player_of_the_other_role_fits(desk: Desk) -> None:
    desk.peer("worker", plays=["worker"])
    assert greet(desk, "new worker", PAUSING, "worker").take(Kind.WELCOME)

    assert greet(desk, "pauser", PAUSING, "client").take(Kind.WELCOME)


def test_new_major_version_is_another_protocol(desk: Desk) -> None:
    desk.peer("worker", plays=["worker"])

    assert greet(desk, "other", BREAKING.replace("1.3.0", "2.0.0"), "client").take(Kind.WELCOME)


def test_own_earlier_life_does_not_stand_in_the_way(desk: Desk) -> None:
    greet(desk, "both", JOB, "worker").die()

    newcomer = greet(desk, "both", PAUSING, "client")

    assert newcomer.take(Kind.WELCOME)


def test_agent_that_plays_every_role_itself_needs_nobody_else(desk: Desk) -> None:
    desk.peer("worker", plays=["worker"])
    at(desk, PAUSING)

    desk.peer("alone", plays=["client", "worker"])

    assert {agent["name"] for agent in desk.query(desk.peer("asker"), "status")["agents"]} >= {"worker", "alone"}


def test_after_a_restart_whoever_was_let_in_before_is_let_in_in_any_order(desk: Desk) -> None:
    desk.peer("worker", plays=["worker"])
    greet(desk, "new worker", PAUSING, "worker")
    greet(desk, "pauser", PAUSING, "client")
    desk.restart()

    desk.peer("worker", plays=["worker"])

    assert greet(desk, "pauser", PAUSING, "client").take(Kind.WELCOME)


# -- which version is pinned ----------------------------------------------------------------------------


def test_highest_version_that_all_fit_is_pinned(desk: Desk) -> None:
    desk.peer("worker", plays=["worker"])
    client = at(desk, ALIKE).peer("client")

    assert pin(desk, client) == "1.1.0"


def test_opener_of_a_lower_version_opens_at_the_higher_one_that_it_fits(desk: Desk) -> None:
    at(desk, PAUSING).peer("worker", plays=["worker"])
    client = at(desk, JOB).peer("client")

    assert pin(desk, client) == "1.2.0"


def test_version_that_no_player_of_a_role_fits_is_not_pinned(desk: Desk) -> None:
    client = at(desk, JOB).peer("client")
    desk.peer("worker", plays=["worker"])
    at(desk, PAUSING).peer("onlooker")  # names 1.2.0, and plays nothing

    at(desk, JOB)

    assert pin(desk, client) == "1.0.0"


def test_absent_roles_constrain_nothing(desk: Desk) -> None:
    client = at(desk, PAUSING).peer("client")

    assert pin(desk, client) == "1.2.0"


def test_only_the_agents_named_at_opening_count(desk: Desk) -> None:
    desk.peer("old", plays=["worker"])
    at(desk, PAUSING).peer("new", plays=["worker"])
    client = at(desk, JOB).peer("client")

    assert pin(desk, client, worker=["old"]) == "1.0.0"
    assert pin(desk, client, worker=["new"]) == "1.2.0"


def test_opening_where_nobody_fits_is_refused_with_the_diff(desk: Desk) -> None:
    desk.peer("worker", plays=["worker"])
    client = at(desk, PAUSING).peer("client")

    refused = desk.refused_query(client, "pin", digest=desk.protocol.digest, role="client", conversation=b"c" * 16)
    open_at(desk, client, 0)

    [record] = client.take(Kind.REFUSED)
    assert refused["code"] == record[2] == "no-common-version"
    assert refused["message"] == record[3]["message"]
    assert "cannot take client -> worker: Pause here" in refused["message"]
    assert desk.query(client, "conversations") == []


def test_pin_of_a_protocol_that_the_session_never_named_is_refused(desk: Desk) -> None:
    client = desk.peer("client")

    refused = desk.refused_query(client, "pin", digest="nothing", role="client", conversation=b"c" * 16)

    assert refused["code"] == "unknown-protocol"


# -- two versions at work -------------------------------------------------------------------------------


def test_agents_of_two_versions_work_in_one_conversation(desk: Desk) -> None:
    worker = desk.peer("worker", plays=["worker"])
    client = at(desk, ALIKE).peer("client")
    numbers = taught(worker)  # nobody plays 1.1.0, so only what is opened with it brings it
    conversation = ask(desk, client)

    assert numbers == {}
    kinds = [record[0] for record in worker.inbox]
    assert kinds == [Kind.NOTICE, Kind.DELIVER]  # the text comes before what is said in its numbers
    assert taught(worker) == {"1.1.0": 1}
    delivery = worker.take_one(Kind.DELIVER)
    assert (delivery[2], desk.name_of(delivery)) == (1, "Ask")
    desk.commit(worker, delivery, ("Answer", "client"))
    assert client.reads() == ["Answer", "[end]"]
    assert desk.transcript(client, conversation) == ["Ask", "Answer", "[answered.end]"]


def test_versions_run_side_by_side_each_conversation_at_its_own(desk: Desk) -> None:
    worker = desk.peer("worker", plays=["worker"])
    first = desk.peer("first")
    one = ask(desk, first)
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Part", "client"), settles=False)
    at(desk, PAUSING)
    pausing = desk.peer("pausing", plays=["worker"])
    second = desk.peer("second")
    other = ask(desk, second)
    desk.send(second, other, "client", "Pause", "worker")

    at(desk, JOB).send(first, one, "client", "Stop", "worker")

    assert {one["conversation"]: one["protocol"] for one in desk.query(first, "conversations")} == {
        one: "job@1.0.0",
        other: "job@1.2.0",
    }
    assert worker.reads() == ["Stop"]
    assert at(desk, PAUSING).outcome(second, other) == "stopped"
    assert pausing.reads() == ["Ask", "Pause", "[end]"]


def test_agent_is_offered_only_what_it_fits(desk: Desk) -> None:
    client = at(desk, PAUSING).peer("client")
    ask(desk, client)

    old = at(desk, JOB).peer("old", plays=["worker"])
    assert old.reads() == []
    new = at(desk, PAUSING).peer("new", plays=["worker"])

    assert new.reads() == ["Ask"]


def test_openers_are_handed_the_versions_that_others_play_as_they_come(desk: Desk) -> None:
    client = desk.peer("client")
    at(desk, PAUSING).peer("worker", plays=["worker"])
    early = taught(client)
    late = at(desk, JOB).peer("late")

    assert early == taught(late) == {"1.2.0": 1}


def test_version_that_a_session_does_not_fit_is_not_handed_to_it(desk: Desk) -> None:
    worker = desk.peer("worker", plays=["worker"])

    at(desk, PAUSING).peer("new", plays=["worker"])

    assert taught(worker) == {}


# -- a conversation keeps the version that it began with ------------------------------------------------


def test_later_higher_version_does_not_change_a_running_conversation(desk: Desk) -> None:
    client = desk.peer("client")
    worker = desk.peer("worker", plays=["worker"])
    conversation = ask(desk, client)
    at(desk, PAUSING).peer("worker", plays=["worker"], instance=1)
    at(desk, JOB)

    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Part", "client"), settles=False)

    assert pin(desk, client) == "1.0.0"  # this conversation
    assert pin(desk, client, "another") == "1.2.0"
    assert desk.transcript(client, conversation) == ["Ask", "Part"]


def test_agent_of_a_later_version_takes_over_under_the_pinned_one(desk: Desk) -> None:
    client = desk.peer("client")
    worker = desk.peer("worker", plays=["worker"])
    conversation = ask(desk, client)
    desk.commit(worker, worker.take_one(Kind.DELIVER), ("Part", "client"), settles=False)
    worker.bye()

    heir = at(desk, PAUSING).peer("worker", plays=["worker"])
    at(desk, JOB)

    assert taught(heir) == {"1.0.0": 1}
    desk.commit(heir, heir.take_one(Kind.DELIVER), ("Answer", "client"), commit=1)
    assert desk.transcript(client, conversation) == ["Ask", "Part", "Answer", "[answered.end]"]


def test_pinned_version_survives_a_restart(desk: Desk) -> None:
    client = desk.peer("client")
    conversation = ask(desk, client)
    desk.restart()

    heir = at(desk, PAUSING).peer("worker", plays=["worker"])
    client = at(desk, JOB).peer("client")

    assert taught(heir) == {"1.0.0": 1}
    assert pin(desk, client) == "1.0.0"
    delivery = heir.take_one(Kind.DELIVER)
    desk.commit(heir, delivery, ("Answer", "client"))
    assert desk.outcome(client, conversation) == "answered"


def test_opener_that_comes_back_with_a_later_version_is_handed_the_pinned_one(desk: Desk) -> None:
    client = at(desk, ALIKE).peer("client")
    conversation = ask(desk, client)
    client.bye()

    again = at(desk, JOB).peer("client")
    numbers = taught(again)
    assert numbers == {"1.1.0": 1}
    assert pin(desk, again) == "1.1.0"
    at(desk, ALIKE)
    open_at(desk, again, numbers["1.1.0"])
    desk.send(again, conversation, "client", "Stop", "worker", message_id=b"another message.")

    assert again.refusals() == []
    assert desk.transcript(again, conversation) == ["Ask", "Stop"]


def test_opener_that_does_not_fit_the_pinned_version_is_told_why(desk: Desk) -> None:
    client = desk.peer("client")
    ask(desk, client)
    client.bye()
    again = at(desk, PAUSING).peer("client")

    identifier = conversation_id("client", "job", "r1")
    refused = desk.refused_query(again, "pin", digest=desk.protocol.digest, role="client", conversation=identifier)

    assert refused["code"] == "no-common-version"
    assert "in which client of 1.2.0 may send client -> worker: Pause" in refused["message"]
