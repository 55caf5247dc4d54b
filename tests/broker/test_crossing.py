"""What crosses on its way: nobody who keeps to what he has seen is blamed, left unheard or cut off.

Each of these was found by random execution (``bus.testing``), which plays far larger conversations.
"""

from __future__ import annotations

import re

from desk import Desk

from bus.wire.record import Kind

_ARROW = re.compile(r"([a-z]) -> ([a-z](?:, [a-z])*): ([A-Z]\w*)")


def protocol(conversation: str) -> str:
    """Return a whole spec around *conversation*; roles and messages are declared as they appear."""
    arrows = _ARROW.findall(conversation)
    roles = sorted({role for sender, receivers, _ in arrows for role in (sender, *receivers.split(", "))})
    messages = sorted({name for _, _, name in arrows})
    return "\n".join(
        [
            "language: 1",
            "protocol: crossing",
            "version: 1.0.0",
            f"roles: {{{', '.join(f'{role}: {{}}' for role in roles)}}}",
            f"messages: {{{', '.join(f'{message}: {{}}' for message in messages)}}}",
            "outcomes: {over: It is over.}",
            "conversation:",
            conversation.strip("\n"),
        ]
    )


# -- who must speak is told so ------------------------------------------------------------------------


def test_a_role_that_a_missed_deadline_makes_speak_first_is_told_so() -> None:
    desk = Desk(protocol("- {a -> b: M, within: 9s, else: [{b -> a: N}]}\n- a -> b: O"))
    a, b = desk.peer("a"), desk.peer("b", plays=["b"])
    desk.open(a, "a")

    desk.pass_time(10)

    assert b.reads() == ["[else]"]


def test_a_role_that_need_not_speak_first_is_told_nothing() -> None:
    desk = Desk(protocol("- {a -> b: M, within: 9s, else: [{a -> b: N}]}\n- b -> a: O"))
    a, b = desk.peer("a"), desk.peer("b", plays=["b"])
    desk.open(a, "a")

    desk.pass_time(10)

    assert b.reads() == []


def test_roles_that_may_speak_or_be_spoken_to_first_are_told_that_the_conversation_is_open() -> None:
    desk = Desk(protocol("- parallel: {x: [b -> c: M], y: [c -> b: N], z: [a -> b: O]}"))
    a = desk.peer("a")
    b, c = desk.peer("b", plays=["b"]), desk.peer("c", plays=["c"])

    desk.open(a, "a")

    assert (b.reads(), c.reads()) == (["[opened]"], ["[opened]"])


def test_who_interrupts_outside_a_turn_and_must_speak_on_is_given_one() -> None:
    desk = Desk(
        protocol(
            "- a -> b: M\n"
            "- scope: s\n  do: [{a -> b: N, within: forever}]\n"
            "  interrupts: [{b -> a: Stop, then: [b -> a: Why, end: over]}]"
        )
    )
    a, b = desk.peer("a"), desk.peer("b", plays=["b"])
    conversation = desk.open(a, "a")
    desk.send(a, conversation, "a", "M", "b")
    desk.handled(b, b.take_one(Kind.DELIVER))

    desk.send(b, conversation, "b", "Stop", "a")

    assert b.reads() == ["[interrupt]"]


# -- superseded, not blamed ---------------------------------------------------------------------------

TWICE = protocol("- {a -> b: M, within: 5s, else: []}\n- {a -> b: N, within: 5s, else: []}\n- a -> b: O")


def test_who_has_missed_two_bus_events_is_superseded() -> None:
    desk = Desk(TWICE)
    a, _ = desk.peer("a"), desk.peer("b", plays=["b"])
    conversation = desk.open(a, "a")
    desk.pass_time(6)
    desk.pass_time(6)

    n = desk.send(a, conversation, "a", "M", "b", epoch=0)

    assert [one["n"] for one in a.notices("superseded")] == [n]


def test_who_has_seen_the_first_of_two_bus_events_is_blamed_for_what_that_one_ended() -> None:
    desk = Desk(TWICE)
    a, _ = desk.peer("a"), desk.peer("b", plays=["b"])
    conversation = desk.open(a, "a")
    desk.pass_time(6)
    desk.pass_time(6)

    desk.send(a, conversation, "a", "M", "b", epoch=1)

    assert a.refusals() == ["not-allowed"]


def test_what_was_meant_for_a_step_that_is_over_is_not_taken_for_another_of_the_same_form() -> None:
    desk = Desk(protocol("- {a -> b: M, within: 5s, else: [{b -> a: N}, {a -> b: M}]}\n- b -> a: O"))
    a, b = desk.peer("a"), desk.peer("b", plays=["b"])
    conversation = desk.open(a, "a")
    desk.pass_time(6)
    desk.commit(b, b.take_one(Kind.DELIVER), ("N", "a"))

    n = desk.send(a, conversation, "a", "M", "b", epoch=0)

    assert [one["n"] for one in a.notices("superseded")] == [n]
    assert desk.transcript(a, conversation) == ["[M.else]", "N"]


LEFT = protocol(
    "- {scope: s, do: [{a -> b: M}, {b -> a: N}], interrupts: [{a -> b: Stop, then: [end: over]}]}\n- a -> b: O"
)


def test_an_interrupt_that_crosses_with_the_message_by_which_its_scope_is_left_is_superseded() -> None:
    desk = Desk(LEFT)
    a, b = desk.peer("a"), desk.peer("b", plays=["b"])
    conversation = desk.open(a, "a")
    desk.send(a, conversation, "a", "M", "b")
    desk.commit(b, b.take_one(Kind.DELIVER), ("N", "a"))

    n = desk.send(a, conversation, "a", "Stop", "b")

    assert [one["n"] for one in a.notices("superseded")] == [n]


def test_an_interrupt_is_refused_once_its_sender_has_read_that_the_scope_is_left() -> None:
    desk = Desk(LEFT)
    a, b = desk.peer("a"), desk.peer("b", plays=["b"])
    conversation = desk.open(a, "a")
    desk.send(a, conversation, "a", "M", "b")
    desk.commit(b, b.take_one(Kind.DELIVER), ("N", "a"))
    desk.handled(a, a.take_one(Kind.DELIVER))

    desk.send(a, conversation, "a", "Stop", "b")

    assert a.refusals() == ["not-allowed"]


def test_an_interrupt_in_a_turn_that_crosses_with_the_end_of_its_scope_makes_no_dead_letter() -> None:
    desk = Desk(
        protocol(
            "- a -> b: L\n- {scope: s, do: [a -> b: M], interrupts: [{b -> a: Stop, then: [end: over]}]}\n- b -> a: O"
        )
    )
    a, b = desk.peer("a"), desk.peer("b", plays=["b"])
    conversation = desk.open(a, "a")
    desk.send(a, conversation, "a", "L", "b")
    desk.send(a, conversation, "a", "M", "b")
    first, second = b.take(Kind.DELIVER)

    n = desk.commit(b, first, ("Stop", "a"))

    assert [one["n"] for one in b.notices("superseded")] == [n]
    desk.commit(b, second, ("O", "a"))
    assert (b.refusals(), desk.transcript(a, conversation)) == ([], ["L", "M", "O", "[done.end]"])


# -- a deadline counts once everybody is where it does ------------------------------------------------


def test_a_deadline_of_a_role_that_may_answer_ahead_waits_for_those_before_it() -> None:
    desk = Desk(
        protocol(
            "- a -> b: M\n- a -> c: N\n- {b -> a: O, within: forever}\n- {c -> a: P, within: 5s, else: [end: over]}"
        )
    )
    a, b, _ = desk.peer("a"), desk.peer("b", plays=["b"]), desk.peer("c", plays=["c"])
    conversation = desk.open(a, "a")
    desk.send(a, conversation, "a", "M", "b")
    desk.send(a, conversation, "a", "N", "c")

    desk.pass_time(20)
    before = desk.transcript(a, conversation)
    desk.commit(b, b.take_one(Kind.DELIVER), ("O", "a"))
    desk.pass_time(6)

    assert before == ["M", "N"]
    assert desk.transcript(a, conversation) == ["M", "N", "O", "[P.else]", "[over.end]"]


# -- what is counted ----------------------------------------------------------------------------------


def test_a_message_that_the_sender_of_a_stream_does_not_see_does_not_begin_its_count_again() -> None:
    desk = Desk(protocol("- a -> c: M\n- {b -> a: S*, max: 2}\n- b -> a: E"))
    a, b, _ = desk.peer("a"), desk.peer("b", plays=["b"]), desk.peer("c", plays=["c"])
    conversation = desk.open(a, "a")
    desk.send(b, conversation, "b", "S", "a")
    desk.send(a, conversation, "a", "M", "c")
    desk.send(b, conversation, "b", "S", "a")

    desk.send(b, conversation, "b", "S", "a")

    assert b.refusals() == ["not-allowed"]


def test_a_stream_is_counted_anew_when_its_sender_comes_to_it_again() -> None:
    desk = Desk(
        protocol(
            "- loop: l\n  do:\n  - a -> b: M\n  - {b -> a: S*, max: 1}\n  - {b -> a: E, within: 5s, else: [end: over]}"
        )
    )
    a, b = desk.peer("a"), desk.peer("b", plays=["b"])
    conversation = desk.open(a, "a")

    for _ in range(3):
        desk.send(a, conversation, "a", "M", "b")
        desk.commit(b, b.take(Kind.DELIVER)[0], ("S", "a"), ("E", "a"))

    assert b.refusals() == []
    assert desk.transcript(a, conversation) == ["M", "S", "E"] * 3


# -- a turn that begins again -------------------------------------------------------------------------


def test_a_delivery_that_comes_again_does_not_lead_back_to_before_what_was_said_meanwhile() -> None:
    desk = Desk(protocol("- parallel: {x: [{a -> b: M}, {b -> a: N}], y: [a -> b: O, b -> a: P]}"))
    a, b = desk.peer("a"), desk.peer("b", plays=["b"])
    conversation = desk.open(a, "a")
    desk.send(a, conversation, "a", "M", "b")
    desk.send(a, conversation, "a", "O", "b")
    first, second = b.take(Kind.DELIVER)
    desk.commit(b, first, ("N", "a"))
    desk.nack(b, second)
    desk.pass_time(1)

    again = b.take_one(Kind.DELIVER)

    machine = desk.protocol.tables.machines[desk.protocol.role_index("b")]
    allowed = {desk.protocol.messages[type].name for type, _ in machine.send[again[12]]}
    assert allowed == {"P"}
