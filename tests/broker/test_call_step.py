"""The step `call`: the bus runs another protocol and goes on by its outcome."""

from __future__ import annotations

import pytest
from call_desk import REVIEW, STORY, CallDesk
from desk import Peer

from bus.wire.codec import decode_body
from bus.wire.record import Kind, Record


@pytest.fixture
def desk() -> CallDesk:
    return CallDesk()


def begin(desk: CallDesk) -> tuple[Peer, Peer, Peer, bytes]:
    """Return (client, writer, checker, conversation) with the call under way."""
    writer = desk.peer("writer", plays=["writer", "review.author"])
    checker = desk.peer("checker", plays=["checker", "review.reader"])
    client = desk.peer("client")
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "writer")
    return client, writer, checker, conversation


def only(deliveries: list[Record]) -> Record:
    [delivery] = deliveries
    return delivery


def write(desk: CallDesk, writer: Peer) -> None:
    """Let the writer settle what it was asked and send the text in the conversation that was called."""
    for delivery in writer.take(Kind.DELIVER):
        if desk.name_of(delivery) == "[opened]":
            desk.commit(writer, delivery, ("Text", "reader"))
        else:
            desk.handled(writer, delivery)


def judge(desk: CallDesk, checker: Peer, word: str) -> None:
    desk.commit(checker, checker.take_one(Kind.DELIVER), (word, "author"))


# -- what is called ------------------------------------------------------------------------------------


def test_the_bus_opens_what_is_called_as_soon_as_everybody_stands_there(desk: CallDesk) -> None:
    client, writer, checker, conversation = begin(desk)

    [child] = desk.called(client, conversation)
    assert [desk.name_of(one) for one in writer.inbox if one[0] == Kind.DELIVER] == ["Ask", "[opened]"]
    assert checker.reads() == []
    assert desk.outcome(client, child) is None


def test_whoever_opens_the_call_is_told_which_conversation_it_is_for(desk: CallDesk) -> None:
    _client, writer, _checker, conversation = begin(desk)

    opened = writer.take(Kind.DELIVER)[1]

    assert decode_body(opened[17])["parent"] == conversation


def test_a_call_is_no_work_of_an_opener_and_nobody_can_attach_to_it(desk: CallDesk) -> None:
    client, writer, _checker, conversation = begin(desk)
    [child] = desk.called(client, conversation)

    writer.put([Kind.OPEN, writer.number(), child, 1, 0, "", {}, None])

    assert writer.refusals() == ["not-yours"]


@pytest.mark.parametrize(
    ("word", "answer", "outcome"), [("Good", "Done", "told"), ("Poor", "Sorry", "untold")], ids=["good", "poor"]
)
def test_each_outcome_of_what_was_called_leads_its_own_way(
    desk: CallDesk, word: str, answer: str, outcome: str
) -> None:
    client, writer, checker, conversation = begin(desk)
    write(desk, writer)

    judge(desk, checker, word)
    told = writer.take(Kind.DELIVER)
    desk.commit(writer, told[-1], (answer, "client"))

    assert [desk.name_of(one) for one in told] == [word, "[end]", "[call]"]
    assert client.reads()[-2:] == [answer, "[end]"]
    assert desk.outcome(client, conversation) == outcome
    assert desk.transcript(client, conversation) == ["Ask", f"[call review.{word.lower()}]", answer, f"[{outcome}.end]"]


def test_the_notice_names_what_was_called_and_how_it_ended(desk: CallDesk) -> None:
    client, writer, checker, conversation = begin(desk)
    [child] = desk.called(client, conversation)
    write(desk, writer)
    judge(desk, checker, "Good")

    facts = decode_body(writer.take(Kind.DELIVER)[-1][17])

    assert (facts["kind"], facts["protocol"], facts["outcome"]) == ("call", "review", "good")
    assert facts["conversation"] == child


def test_a_deadline_missed_in_what_was_called_is_its_outcome_failed(desk: CallDesk) -> None:
    client, writer, _checker, conversation = begin(desk)
    write(desk, writer)

    desk.pass_time(5 * 60 + 1)

    assert desk.outcome(client, conversation) == "late"
    assert desk.transcript(client, conversation) == ["Ask", "[call review.failed]", "[late.end]"]


def test_nobody_who_plays_what_is_called_is_its_outcome_failed_too(desk: CallDesk) -> None:
    writer, client = desk.peer("writer", plays=["writer", "review.author"]), desk.peer("client")
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "writer")
    write(desk, writer)

    assert writer.notices("nobody-plays") == [{"conversation": desk.called(client, conversation)[0], "role": "reader"}]
    desk.pass_time(5 * 60 + 1)
    assert desk.outcome(client, conversation) == "late"


def test_nobody_of_ours_speaks_while_the_call_runs(desk: CallDesk) -> None:
    client, _writer, _checker, conversation = begin(desk)

    desk.send(client, conversation, "client", "Ask", "writer")

    assert client.refusals() == ["not-allowed"]
    assert desk.transcript(client, conversation) == ["Ask"]
    assert len(desk.called(client, conversation)) == 1


# -- who plays in it -----------------------------------------------------------------------------------


def test_roles_that_are_mapped_are_played_by_the_same_agents(desk: CallDesk) -> None:
    desk.peer("other", plays=["review.author", "review.reader"])
    client, writer, checker, conversation = begin(desk)
    write(desk, writer)

    judge(desk, checker, "Good")

    [child] = [one for one in desk.query(client, "conversations") if one["parent"] == conversation]
    assert child["players"] == {"author": "writer", "reader": "checker"}
    assert child["opener"] is None


def test_a_pool_member_that_was_offered_the_work_is_offered_the_call(desk: CallDesk) -> None:
    second = desk.peer("second", plays=["writer", "review.author"])
    _client, writer, _checker, _conversation = begin(desk)

    read = {"writer": writer.reads(), "second": second.reads()}

    assert sorted(read.values()) == [[], ["Ask", "[opened]"]]


def test_an_agent_that_plays_both_roles_goes_before_one_that_plays_the_called_one_alone(desk: CallDesk) -> None:
    alone = desk.peer("alone", plays=["review.reader"])
    _client, writer, checker, _conversation = begin(desk)

    write(desk, writer)

    assert (alone.reads(), checker.reads()) == ([], ["Text"])


def test_where_nobody_plays_both_roles_anybody_plays_the_called_one(desk: CallDesk) -> None:
    alone = desk.peer("alone", plays=["review.reader"])
    desk.peer("checker", plays=["checker"])
    writer, client = desk.peer("writer", plays=["writer", "review.author"]), desk.peer("client")
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "writer")

    write(desk, writer)

    assert alone.reads() == ["Text"]


def test_whoever_played_in_the_call_plays_the_role_afterwards(desk: CallDesk) -> None:
    client, writer, checker, conversation = begin(desk)
    write(desk, writer)

    judge(desk, checker, "Good")

    [story] = [one for one in desk.query(client, "conversations") if one["conversation"] == conversation]
    assert story["players"] == {"client": "client", "writer": "writer", "checker": "checker"}


def test_a_role_that_is_not_mapped_finds_its_player_as_ever() -> None:
    desk = CallDesk(STORY.replace(", reader: checker", "").replace(", checker: {}", ""))
    writer = desk.peer("writer", plays=["writer", "review.author"])
    free = desk.peer("free", plays=["review.reader"])
    client = desk.peer("client")
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "writer")
    write(desk, writer)

    judge(desk, free, "Good")

    [child] = [one for one in desk.query(client, "conversations") if one["parent"] == conversation]
    assert child["players"]["reader"] == "free"


# -- cut short -----------------------------------------------------------------------------------------


def test_an_interrupt_around_the_call_cancels_what_was_called(desk: CallDesk) -> None:
    client, writer, checker, conversation = begin(desk)
    [child] = desk.called(client, conversation)
    write(desk, writer)

    desk.send(client, conversation, "client", "Stop", "writer")

    assert desk.outcome(client, conversation) == "stopped"
    assert desk.outcome(client, child) == "canceled"
    assert checker.reads() == ["Text", "[end]"]
    assert desk.transcript(client, conversation) == ["Ask", "Stop", "[stopped.end]"]


def test_what_is_said_in_a_call_that_was_cut_short_is_superseded_without_blame(desk: CallDesk) -> None:
    client, writer, checker, conversation = begin(desk)
    write(desk, writer)
    text = checker.take_one(Kind.DELIVER)
    desk.send(client, conversation, "client", "Stop", "writer")

    desk.commit(checker, text, ("Good", "author"))

    assert checker.refusals() == ["superseded"]


def test_a_timeout_around_the_call_cancels_what_was_called() -> None:
    desk = CallDesk(STORY.replace("timeout: 2h", "timeout: 2m"))
    client, writer, _checker, conversation = begin(desk)
    [child] = desk.called(client, conversation)
    write(desk, writer)

    desk.pass_time(121)

    assert (desk.outcome(client, conversation), desk.outcome(client, child)) == ("late", "canceled")


@pytest.mark.parametrize("minutes", [19, 21])
def test_within_cancels_what_was_called_when_its_time_is_up(minutes: int) -> None:
    desk = CallDesk(review=REVIEW.replace("within: 5m", "within: 1h"))
    client, writer, _checker, conversation = begin(desk)
    [child] = desk.called(client, conversation)
    write(desk, writer)

    desk.pass_time(minutes * 60)

    assert desk.outcome(client, child) == (None if minutes < 20 else "canceled")
    assert desk.transcript(client, conversation)[1:] == ([] if minutes < 20 else ["[call review.canceled]"])


def test_players_are_told_no_more_time_than_the_call_has_left() -> None:
    desk = CallDesk(review=REVIEW.replace("within: 5m", "within: 1h"))
    _client, writer, checker, _conversation = begin(desk)
    desk.pass_time(60)

    write(desk, writer)

    assert checker.take_one(Kind.DELIVER)[13] == pytest.approx(19 * 60, abs=1)


def test_canceling_the_conversation_cancels_what_it_called(desk: CallDesk) -> None:
    client, _writer, _checker, conversation = begin(desk)
    [child] = desk.called(client, conversation)

    desk.query(client, "cancel", conversation=conversation)

    assert (desk.outcome(client, conversation), desk.outcome(client, child)) == ("canceled", "canceled")


def test_canceling_what_was_called_is_its_outcome_canceled(desk: CallDesk) -> None:
    client, writer, _checker, conversation = begin(desk)
    [child] = desk.called(client, conversation)
    write(desk, writer)

    desk.query(client, "cancel", conversation=child)
    desk.commit(writer, writer.take(Kind.DELIVER)[-1], ("Sorry", "client"))

    assert desk.outcome(client, conversation) == "done"
    assert desk.transcript(client, conversation) == ["Ask", "[call review.canceled]", "Sorry", "[done.end]"]


def test_an_interrupt_in_the_very_commit_that_begins_the_call_opens_nothing() -> None:
    desk = CallDesk(
        STORY.replace("- client -> writer: Stop\n", "- writer -> client: Stop\n").replace(
            "  - client -> writer: Ask\n", "  - client -> writer: Ask\n  - writer -> client: Sorry\n"
        )
    )
    writer, client = desk.peer("writer", plays=["writer", "review.author"]), desk.peer("client")
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "writer")

    desk.commit(writer, writer.take_one(Kind.DELIVER), ("Sorry", "client"), ("Stop", "client"))

    assert desk.called(client, conversation) == []
    assert desk.outcome(client, conversation) == "stopped"


# -- again and again -----------------------------------------------------------------------------------


LOOP = """
language: 1
protocol: story
version: 1.0.0
roles: {client: {}, writer: {pool: true}, checker: {}}
messages: {Ask: {}, Done: {}, Sorry: {}}
outcomes: {told: There is a story., untold: There is none.}
conversation:
  - client -> writer: Ask
  - loop: tries
    max: 2
    do:
      - call: review@1.2
        as: {author: writer, reader: checker}
        outcomes:
          good: [writer -> client: Done, end: told]
          poor: []
          failed: [end: untold]
          canceled: [end: untold]
    else: [end: untold]
"""


def test_a_call_in_a_loop_runs_once_a_pass_and_is_counted() -> None:
    desk = CallDesk(LOOP)
    client, writer, checker, conversation = begin(desk)
    for _ in range(2):
        write(desk, writer)
        judge(desk, checker, "Poor")
        desk.handled(checker, checker.take_one(Kind.DELIVER))

    assert len(set(desk.called(client, conversation))) == 2
    assert desk.transcript(client, conversation) == [
        "Ask",
        "[call review.poor]",
        "[call review.poor]",
        "[tries.max]",
        "[untold.end.3]",
    ]


def allowed_to(desk: CallDesk, delivery: Record) -> list[str]:
    """Return what a role may send in the state that *delivery* brings it into."""
    protocol = desk.protocols[delivery[2]]
    return [protocol.messages[type].name for type, _ in protocol.tables.machines[delivery[3]].send[delivery[12]]]


BOTH = """
language: 1
protocol: story
version: 1.0.0
roles: {client: {}, writer: {}, checker: {}}
messages: {Ask: {}, Done: {}, Note: {}, Noted: {}}
conversation:
  - client -> writer: Ask
  - parallel:
      one:
        - call: review@1
          as: {author: writer, reader: checker}
          outcomes: {good: [], poor: [], failed: [], canceled: []}
      two:
        - call: review@1
          as: {author: checker, reader: writer}
          outcomes: {good: [], poor: [], failed: [], canceled: []}
      talk:
        - client -> writer: Note
        - writer -> client: Noted
  - writer -> client: Done
"""


def test_calls_in_parallel_branches_run_side_by_side_with_what_is_said_beside_them() -> None:
    desk = CallDesk(BOTH)
    both = ["review.author", "review.reader"]
    writer, checker = desk.peer("writer", plays=["writer", *both]), desk.peer("checker", plays=["checker", *both])
    client = desk.peer("client")
    conversation = desk.open(client, "client")
    desk.send(client, conversation, "client", "Ask", "writer")
    assert len(desk.called(client, conversation)) == 2

    desk.send(client, conversation, "client", "Note", "writer")
    said = {"[opened]": ("Text", "reader"), "Text": ("Good", "author"), "Note": ("Noted", "client")}
    for _ in range(4):
        for peer in (writer, checker):
            for delivery in peer.take(Kind.DELIVER):
                answer = said.get(desk.name_of(delivery))
                if peer is writer and "Done" in allowed_to(desk, delivery):
                    answer = ("Done", "client")
                desk.commit(peer, delivery, *([answer] if answer else []))

    told = desk.transcript(client, conversation)
    assert told[0] == "Ask"
    assert sorted(told[1:5]) == ["Note", "Noted", "[call review.good.2]", "[call review.good]"]
    assert told[5:] == ["Done", "[done.end]"]


PROOF = """
language: 1
protocol: proof
version: 1.0.0
roles: {sender: {}, proofer: {}}
messages: {Page: {}, Marked: {}}
conversation:
  - sender -> proofer: Page
  - proofer -> sender: Marked
"""
PROOFED = REVIEW.replace(
    "  - author -> reader: Text\n",
    "  - author -> reader: Text\n  - call: proof@1\n    as: {sender: reader}\n"
    "    outcomes: {done: [], failed: [end: failed], canceled: [end: canceled]}\n",
)


def three_deep() -> tuple[CallDesk, Peer, Peer, list[bytes]]:
    """Return (desk, client, proofer, conversations from the outermost) with the innermost under way."""
    desk = CallDesk(STORY, PROOFED, PROOF)
    client, writer, checker, conversation = begin(desk)
    checker.bye()
    checker = desk.peer("checker", plays=["checker", "review.reader", "proof.sender"])
    proofer = desk.peer("proofer", plays=["proof.proofer"])
    write(desk, writer)
    for delivery in checker.take(Kind.DELIVER):
        if desk.name_of(delivery) == "[opened]":
            desk.commit(checker, delivery, ("Page", "proofer"))
    [child] = desk.called(client, conversation)
    return desk, client, proofer, [conversation, child, *desk.called(client, child)]


def test_what_is_called_calls_in_turn_and_each_goes_on_by_the_other_s_outcome() -> None:
    desk, client, proofer, conversations = three_deep()

    desk.commit(proofer, proofer.take_one(Kind.DELIVER), ("Marked", "sender"))

    assert [desk.outcome(client, one) for one in conversations] == [None, None, "done"]
    review = [one["event"] or one["type"] for one in desk.query(client, "transcript", conversation=conversations[1])]
    assert review == ["Text", "call proof.done"]


def test_canceling_the_innermost_ends_all_that_say_so_with_one_row() -> None:
    desk, client, _proofer, conversations = three_deep()

    desk.query(client, "cancel", conversation=conversations[2])

    assert [desk.outcome(client, one) for one in conversations] == [None, "canceled", "canceled"]
    assert desk.transcript(client, conversations[0])[-1] == "[call review.canceled]"
    assert sum(row[0] == "close" for _, batch in desk.disk for row in batch) == 1


def test_canceling_the_outermost_cancels_all_below() -> None:
    desk, client, proofer, conversations = three_deep()

    desk.query(client, "cancel", conversation=conversations[0])

    assert [desk.outcome(client, one) for one in conversations] == ["canceled"] * 3
    assert proofer.reads() == ["Page", "[end]"]


# -- whoever has not taken part yet --------------------------------------------------------------------


def test_a_role_that_must_speak_first_after_the_call_is_told_although_it_took_no_part_before() -> None:
    desk = CallDesk(STORY.replace("good: [writer -> client: Done, ", "good: [checker -> client: Done, "))
    client, writer, checker, conversation = begin(desk)
    write(desk, writer)
    judge(desk, checker, "Good")

    told = checker.take(Kind.DELIVER)
    desk.commit(checker, told[-1], ("Done", "client"))

    assert [desk.name_of(one) for one in told] == ["[end]", "[call]"]
    assert desk.outcome(client, conversation) == "told"


# -- restarts ------------------------------------------------------------------------------------------


def play(desk: CallDesk, conversation: bytes | None, ending: str) -> tuple[bytes, list[object]]:
    """Register everybody, open or go on, and play to the end; return the conversation and all that was said."""
    writer = desk.peer("writer", plays=["writer", "review.author"])
    checker = desk.peer("checker", plays=["checker", "review.reader"])
    client = desk.peer("client")
    known = conversation
    conversation = desk.open(client, "client")
    assert known in (None, conversation)
    desk.send(client, conversation, "client", "Ask", "writer", message_id=b"what-is-asked...")
    said = {
        ("writer", "[opened]"): [("Text", "reader")],
        ("checker", "Text"): [(ending, "author")],
    }
    for _ in range(8):
        for peer in (writer, checker):
            for delivery in peer.take(Kind.DELIVER):
                sends = said.get((peer.name, desk.name_of(delivery)), [])
                if desk.name_of(delivery) == "[call]" and peer is writer:
                    outcome = decode_body(delivery[17])["outcome"]
                    sends = [("Done" if outcome == "good" else "Sorry", "client")]
                desk.commit(peer, delivery, *sends)
        for delivery in client.take(Kind.DELIVER):
            desk.handled(client, delivery)
    return conversation, everything(desk, client)


def everything(desk: CallDesk, peer: Peer) -> list[object]:
    """Return every conversation with its transcript, without times."""
    found = []
    for one in desk.query(peer, "conversations"):
        told = desk.query(peer, "transcript", conversation=one["conversation"])
        found.append((one["conversation"], one["parent"], one["outcome"], one["players"], told))
    return sorted(found, key=lambda entry: entry[0])


@pytest.mark.parametrize("ending", ["Good", "Poor"])
def test_a_restart_after_any_row_tells_the_same_tale(ending: str) -> None:
    undisturbed = CallDesk()
    conversation, told = play(undisturbed, None, ending)
    rows = [(at, row) for at, batch in undisturbed.disk for row in batch]
    kinds = [row[0] for _, row in rows]
    assert kinds.count("open") == 1
    assert kinds.count("commit") + kinds.count("message") >= 4

    for n in range(len(rows) + 1):
        desk = CallDesk()
        desk.disk = [(at, [row]) for at, row in rows[:n]]
        desk.restart()

        assert play(desk, conversation, ending) == (conversation, told), rows[n - 1 : n + 1]


@pytest.mark.parametrize("cut", ["Stop", "within", "cancel child", "cancel parent"])
def test_replay_rebuilds_a_call_that_was_cut_short(cut: str) -> None:
    desk = CallDesk(review=REVIEW.replace("within: 5m", "within: 1h"))
    client, writer, _checker, conversation = begin(desk)
    [child] = desk.called(client, conversation)
    write(desk, writer)
    if cut == "Stop":
        desk.send(client, conversation, "client", "Stop", "writer")
    elif cut == "within":
        desk.pass_time(20 * 60 + 1)
    else:
        desk.query(client, "cancel", conversation=child if cut.endswith("child") else conversation)
    told = everything(desk, client)

    desk.restart()

    assert everything(desk, desk.peer("client")) == told
    assert desk.outcome(desk.peer("client"), child) == "canceled"


def test_the_time_of_a_call_goes_on_after_a_restart() -> None:
    desk = CallDesk(review=REVIEW.replace("within: 5m", "within: 1h"))
    client, writer, _checker, conversation = begin(desk)
    [child] = desk.called(client, conversation)
    write(desk, writer)
    desk.pass_time(15 * 60)

    desk.restart()
    client = desk.peer("client")
    desk.pass_time(4 * 60)
    before = desk.outcome(client, child)
    desk.pass_time(2 * 60)

    assert (before, desk.outcome(client, child)) == (None, "canceled")
