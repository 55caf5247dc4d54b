"""`each`, `until`, `late` and `enroll` through the broker: members side by side, joined by the bus."""

from pathlib import Path

import pytest
from desk import Desk
from meeting import Meeting

from bus.wire.record import Kind, Record

CONTRACT_NET = (Path(__file__).parents[1] / "spec/data/contract-net.protocol.yaml").read_text(encoding="utf-8")
POLL = """
language: 1
protocol: poll
version: 1.0.0
roles: {{chair: {{}}, voter: {{many: 1..5}}, scribe: {{}}}}
messages: {{Ask: {{}}, Vote: {{}}, Sorry: {{}}, Result: {{}}, Noted: {{}}}}
outcomes: {{counted: The chair said what came of it.}}
conversation:
  - each: voter
{options}
    do:
      - chair -> voter: Ask
      - voter -> chair: Vote
      - chair -> scribe: Noted
  - chair -> scribe: Result
  - end: counted
"""


def poll(options: str = "") -> Meeting:
    lines = "\n".join("    " + line for line in options.splitlines())
    meeting = Meeting(Desk(POLL.format(options=lines)), "voter", ["ann", "ben", "cid"], "chair")
    meeting.peers["scribe"] = meeting.desk.peer("scribe", plays=["scribe"])
    return meeting


@pytest.fixture
def net() -> Meeting:
    return Meeting(Desk(CONTRACT_NET), "bidder", ["ann", "ben", "cid"], "manager")


def call_for_proposals(net: Meeting, *refuse: str) -> None:
    for name in net.names:
        net.say("chair", "CallForProposals", name)
    for name in net.names:
        [call] = net.peer(name).take(Kind.DELIVER)
        net.commit(name, call, ("Refuse" if name in refuse else "Propose", name))


def test_every_member_goes_through_the_block_and_the_bus_joins_them(net: Meeting) -> None:
    call_for_proposals(net, "ben")

    assert net.transcript() == ["CallForProposals"] * 3 + ["Propose", "Refuse", "Propose", "[bidder.joined]"]
    assert net.reads("chair") == ["Propose", "Refuse", "Propose", "[joined]"]


def test_the_notice_of_joining_names_who_was_enrolled(net: Meeting) -> None:
    call_for_proposals(net, "ben")

    joined = net.chair.take(Kind.DELIVER)[-1]

    assert net.facts(joined)["enrolled"] == {"proposer": [0, 2], "winner": []}
    assert net.facts(joined)["step"] == "each bidder"


def test_contract_net_ends_with_the_winners_result(net: Meeting) -> None:
    call_for_proposals(net, "ben")
    joined = net.chair.take(Kind.DELIVER)[-1]
    net.commit("chair", joined, ("Reject", "ann"), ("Award", "cid"), each=1)

    assert net.reads("ann") == ["[joined]", "Reject", "[joined]"]
    assert net.reads("ben") == ["[joined]", "[joined]"]
    won = net.peer("cid").take(Kind.DELIVER)
    assert [net.desk.name_of(one) for one in won] == ["[joined]", "Award", "[joined]"]

    net.commit("cid", won[-1], ("Done", "cid"), each=2)

    assert net.outcome() == "done"
    assert net.transcript()[-4:] == ["Award", "[proposer.joined]", "Done", "[done.end[cid]]"]


def test_a_message_of_one_who_was_not_enrolled_is_refused(net: Meeting) -> None:
    call_for_proposals(net, "ben")

    net.say("chair", "Award", "ben", each=1)

    [refused] = net.chair.take(Kind.REFUSED)
    assert refused[2] == "not-allowed"
    allowed = [(one["type"], one["to"]) for one in refused[3]["allowed"]]
    assert allowed == [
        ("Award", ["bidder:ann"]), ("Award", ["bidder:cid"]), ("Reject", ["bidder:ann"]), ("Reject", ["bidder:cid"]),
    ]  # fmt: skip


def test_the_message_that_would_overfill_a_sub_role_is_refused(net: Meeting) -> None:
    call_for_proposals(net)
    net.say("chair", "Award", "ann", each=1)

    net.say("chair", "Award", "ben", each=1)

    assert net.chair.refusals() == ["not-allowed"]
    net.say("chair", "Reject", "ben", each=1)
    net.say("chair", "Reject", "cid", each=1)
    assert net.transcript()[-1] == "[proposer.joined]"


def test_a_turn_that_would_overfill_a_sub_role_is_refused_whole(net: Meeting) -> None:
    call_for_proposals(net)
    before = net.transcript()
    deliveries = net.chair.take(Kind.DELIVER)

    net.commit("chair", deliveries[-1], ("Award", "ann"), ("Award", "ben"), each=1)

    assert net.chair.refusals() == ["not-allowed"]
    assert net.transcript() == before


def test_an_each_over_nobody_is_passed_at_once(net: Meeting) -> None:
    call_for_proposals(net, "ann", "ben", "cid")

    assert net.transcript()[-4:] == ["[bidder.joined]", "[proposer.none]", "[winner.none]", "[no-award.end]"]
    assert net.outcome() == "no-award"


def test_members_that_miss_the_deadline_take_late_and_their_messages_are_discarded(net: Meeting) -> None:
    for name in net.names:
        net.say("chair", "CallForProposals", name)
    [call] = net.peer("ann").take(Kind.DELIVER)
    net.commit("ann", call, ("Propose", "ann"))

    net.desk.pass_time(31.0)

    assert net.transcript()[-2:] == ["[bidder.late]", "[bidder.joined]"]
    assert net.reads("chair") == ["Propose", "[late]", "[joined]"]
    [late] = net.peer("ben").take(Kind.DELIVER)[1:2]
    assert net.facts(late)["cut"] == ["ben", "cid"]


def test_what_a_member_says_after_it_was_cut_off_is_superseded(net: Meeting) -> None:
    for name in net.names:
        net.say("chair", "CallForProposals", name)
    [call] = net.peer("ben").take(Kind.DELIVER)
    net.desk.pass_time(31.0)

    net.commit("ben", call, ("Propose", "ben"))

    assert "Propose" not in net.transcript()
    assert net.peer("ben").refusals() == ["superseded"]


def test_a_missed_deadline_without_late_ends_the_conversation_as_failed() -> None:
    meeting = poll("within: 10s")
    meeting.say("chair", "Ask", "ann")

    meeting.desk.pass_time(11.0)

    assert meeting.outcome() == "failed"
    assert meeting.transcript()[:2] == ["Ask", "[voter.late]"]


def test_until_any_leaves_the_others_behind() -> None:
    meeting = poll("until: any")
    for name in ("ann", "ben", "cid"):
        meeting.say("chair", "Ask", name)
    meeting.say("ben", "Vote")

    meeting.say("chair", "Noted", "ben")

    assert meeting.transcript() == ["Ask", "Ask", "Ask", "Vote", "Noted", "[voter.joined]"]
    assert meeting.reads("ann") == ["Ask", "[joined]"]
    meeting.say("ann", "Vote")
    assert "Vote" not in meeting.transcript()[5:]


def test_until_a_number_cuts_the_others_off_into_late() -> None:
    meeting = poll("until: 2\nlate: [{chair -> voter: Sorry}]")
    for name in ("ann", "ben", "cid"):
        meeting.say("chair", "Ask", name)
    for name in ("ann", "cid"):
        meeting.say(name, "Vote")
        meeting.say("chair", "Noted", name)

    assert meeting.transcript()[-1] == "[voter.late]"
    meeting.say("chair", "Sorry", "ben")

    assert meeting.transcript()[-2:] == ["Sorry", "[voter.joined]"]
    assert meeting.reads("ben") == ["Ask", "[late]", "Sorry", "[joined]"]


def test_a_role_that_hears_about_several_members_is_given_all_of_it() -> None:
    meeting = poll()
    for name in ("ann", "ben", "cid"):
        meeting.say("chair", "Ask", name)
        meeting.say(name, "Vote")
        meeting.say("chair", "Noted", name)
    meeting.say("chair", "Result", each=-1)

    assert meeting.reads("scribe") == ["Noted", "Noted", "Noted", "[joined]", "Result", "[end]"]
    assert meeting.outcome() == "counted"


def test_members_are_bound_to_all_that_are_live_where_none_are_named() -> None:
    meeting = Meeting(Desk(CONTRACT_NET), "bidder", ["ann", "ben"], "manager", bind=False)

    [told] = meeting.chair.notices("members")

    assert told["members"] == {"bidder": ["ann", "ben"]}


def test_opening_with_too_few_members_is_refused() -> None:
    desk = Desk(CONTRACT_NET)
    chair = desk.peer("chair", plays=["manager"])

    desk.open(chair, "manager")

    assert chair.refusals() == ["members"]


def test_a_restart_in_the_middle_goes_on_with_the_same_members(net: Meeting) -> None:
    call_for_proposals(net, "ben")
    before = net.transcript()

    net.desk.restart()
    net.chair = net.desk.peer("chair", plays=["manager"])
    net.peers = {name: net.desk.peer(name, plays=["bidder"]) for name in net.names}
    net.desk.open(net.chair, "manager")
    for delivery in net.chair.take(Kind.DELIVER)[:-1]:
        net.desk.handled(net.chair, delivery)
    net.say("chair", "Reject", "ann", each=1)
    net.say("chair", "Award", "cid", each=1)

    assert net.transcript() == [*before, "Reject", "Award", "[proposer.joined]"]
    assert net.reads("cid")[-2:] == ["Award", "[joined]"]


# -- scopes inside an each ------------------------------------------------------------------------------

ASIDE = """
language: 1
protocol: aside
version: 1.0.0
roles: {chair: {}, voter: {many: 0..5}}
messages: {Ask: {}, Vote: {}, Stop: {}, Result: {}}
outcomes: {counted: The chair said what came of it.}
conversation:
  - each: voter
    do:
      - scope: asking
        do:
          - chair -> voter: Ask
          - voter -> chair: Vote
        interrupts:
          - chair -> voter: Stop
            then: []
  - chair -> voter: Result
  - end: counted
"""


def test_an_interrupt_of_a_scope_inside_an_each_befalls_one_member() -> None:
    meeting = Meeting(Desk(ASIDE), "voter", ["ann", "ben"], "chair")
    meeting.say("chair", "Ask", "ann")
    meeting.say("chair", "Ask", "ben")
    meeting.say("chair", "Stop", "ann")

    [ask] = [one for one in meeting.peer("ben").take(Kind.DELIVER) if meeting.desk.name_of(one) == "Ask"]
    meeting.commit("ben", ask, ("Vote", "ben"))

    assert meeting.reads("ann")[1] == "Stop"
    assert meeting.transcript() == ["Ask", "Ask", "Stop", "Vote", "[voter.joined]"]


def test_a_role_that_may_have_nobody_is_passed_by_where_it_has_nobody() -> None:
    meeting = Meeting(Desk(ASIDE), "voter", [], "chair")

    assert meeting.transcript() == ["[voter.none]"]


def test_a_member_need_not_say_a_stream_that_ends_its_block() -> None:
    text = ASIDE.replace("  - each: voter\n", "  - each: voter\n    until: 2\n").replace(
        "          - voter -> chair: Vote\n", "          - voter -> chair: Vote*\n            max: 2\n"
    )
    meeting = Meeting(Desk(text), "voter", ["ann", "ben"], "chair")
    meeting.say("chair", "Ask", "ann")
    [ask] = meeting.peer("ann").take(Kind.DELIVER)

    meeting.commit("ann", ask)

    assert meeting.peer("ann").refusals() == []


# -- a bus event about one member ---------------------------------------------------------------------

HEARING = """
language: 1
protocol: hearing
version: 1.0.0
roles: {chair: {}, witness: {many: 1..5}}
messages: {Ready: {}, Ask: {}, Said: {}, Left: {}}
outcomes: {heard: All witnesses were.}
conversation:
  - each: witness
    do:
      - witness -> chair: Ready
      - loop: round
        max: 2
        do:
          - loop: asking
            max: 2
            do:
              - chair -> witness: Ask
            else:
              - witness -> chair: Said
        else:
          - witness -> chair: Left
  - end: heard
"""


def hearing() -> tuple[Meeting, Record]:
    """Ben was asked as often as may be, and has answered; the chair, in its turn on Ann's word, has not read that."""
    meeting = Meeting(Desk(HEARING), "witness", ["ann", "ben"], "chair")
    meeting.say("ann", "Ready")
    meeting.say("ben", "Ready")
    [ready, _] = meeting.chair.take(Kind.DELIVER)
    meeting.say("chair", "Ask", "ben")
    meeting.say("chair", "Ask", "ben")
    meeting.say("ben", "Said")
    return meeting, ready


def test_what_is_said_to_a_member_behind_whom_the_bus_has_moved_on_is_superseded() -> None:
    meeting, ready = hearing()
    before = meeting.transcript()

    meeting.commit("chair", ready, ("Ask", "ben"), settles=False)

    assert meeting.chair.refusals() == []
    assert meeting.transcript() == before
    assert len(meeting.chair.notices("superseded")) == 1


def test_what_befell_one_member_leaves_alone_what_is_said_to_another() -> None:
    meeting, ready = hearing()
    before = meeting.transcript()

    meeting.commit("chair", ready, ("Ask", "ann"), settles=False)

    assert meeting.transcript() == [*before, "Ask"]


def test_who_interrupts_one_member_has_not_heard_by_that_what_befell_another() -> None:
    ask = "          - chair -> voter: Ask\n"
    text = ASIDE.replace(
        ask, f"          - voter -> chair: Ready\n{ask}            within: 10s\n            else: []\n"
    )
    meeting = Meeting(Desk(text.replace("Stop: {}", "Stop: {}, Ready: {}")), "voter", ["ann", "ben"], "chair")
    meeting.say("ann", "Ready")
    meeting.say("ben", "Ready")
    meeting.say("chair", "Ask", "ann")
    meeting.desk.pass_time(11.0)
    ready = meeting.chair.take(Kind.DELIVER)[-2]
    meeting.commit("chair", ready, ("Stop", "ann"), settles=False)
    ready[7] += 1  # the second commit of this turn

    meeting.commit("chair", ready, ("Ask", "ben"), settles=False)

    assert meeting.transcript()[-2:] == ["[Ask.else[ben]]", "Stop"]
    assert meeting.chair.refusals() == []
    assert len(meeting.chair.notices("superseded")) == 1
