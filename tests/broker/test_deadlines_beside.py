"""Deadlines side by side: each step of a parallel, and of each member, has its own (RULES.md 19)."""

from desk import Desk
from meeting import Meeting

from bus.wire.record import Kind

TWO = """
language: 1
protocol: two
version: 1.0.0
roles: {boss: {}, hand: {}, eye: {}}
messages: {Go: {}, Cut: {}, Sew: {}, Look: {}}
outcomes: {done: All is made., uncut: Nothing was cut., unsewn: Nothing was sewn.}
conversation:
  - boss -> hand, eye: Go
  - parallel:
      cut:
        - hand -> boss: Cut
          within: 30s
          else: [{end: uncut}]
      sew:
        - eye -> hand: Look
          within: 60s
        - hand -> eye: Sew
          within: 10s
          else: [{end: unsewn}]
  - end: done
"""
PANEL = """
language: 1
protocol: panel
version: 1.0.0
roles: {chair: {}, judge: {many: 1..5}}
messages: {Ask: {}, Vote: {}, Thanks: {}}
outcomes: {thanked: Everybody was., rude: Somebody was not.}
conversation:
  - each: judge
    do:
      - chair -> judge: Ask
        within: 5m
      - judge -> chair: Vote
        within: 5m
      - chair -> judge: Thanks
        within: 10s
        else: [{end: rude}]
  - end: thanked
"""


def begun() -> tuple[Desk, bytes]:
    desk = Desk(TWO)
    boss = desk.peer("boss", plays=["boss"])
    hand, eye = desk.peer("hand", plays=["hand"]), desk.peer("eye", plays=["eye"])
    conversation = desk.open(boss, "boss")
    desk.send(boss, conversation, "boss", "Go", "hand", "eye")
    desk.handled(eye, eye.take_one(Kind.DELIVER))
    desk.boss, desk.hand, desk.eye = boss, hand, eye  # type: ignore[attr-defined]  # for the tests below
    return desk, conversation


def look(desk: Desk, conversation: bytes) -> None:
    desk.send(desk.eye, conversation, "eye", "Look", "hand")  # type: ignore[attr-defined]


def test_each_branch_of_a_parallel_has_a_deadline_of_its_own() -> None:
    desk, conversation = begun()
    desk.pass_time(5.0)
    look(desk, conversation)

    desk.pass_time(11.0)

    assert desk.outcome(desk.boss, conversation) == "unsewn"  # type: ignore[attr-defined]


def test_what_happens_in_one_branch_does_not_begin_the_deadline_of_another_again() -> None:
    desk, conversation = begun()
    desk.pass_time(25.0)
    look(desk, conversation)
    desk.pass_time(1.0)
    desk.send(desk.hand, conversation, "hand", "Sew", "eye")  # type: ignore[attr-defined]

    desk.pass_time(5.0)

    assert desk.outcome(desk.boss, conversation) == "uncut"  # type: ignore[attr-defined]


def test_a_deadline_that_was_met_does_not_strike_when_it_would_have_passed() -> None:
    desk, conversation = begun()
    desk.send(desk.hand, conversation, "hand", "Cut", "boss")  # type: ignore[attr-defined]

    desk.pass_time(45.0)

    assert desk.outcome(desk.boss, conversation) is None  # type: ignore[attr-defined]


def test_deadlines_side_by_side_go_on_after_a_restart() -> None:
    desk, conversation = begun()
    desk.pass_time(5.0)
    look(desk, conversation)

    desk.restart()
    boss = desk.peer("boss", plays=["boss"])
    desk.pass_time(12.0)

    assert desk.outcome(boss, conversation) == "unsewn"


def test_each_member_has_a_deadline_of_its_own() -> None:
    meeting = Meeting(Desk(PANEL), "judge", ["ann", "ben"], "chair")
    for name in ("ann", "ben"):
        meeting.say("chair", "Ask", name)
    meeting.say("ann", "Vote")
    meeting.desk.pass_time(6.0)
    meeting.say("ben", "Vote")
    meeting.say("chair", "Thanks", "ben")

    meeting.desk.pass_time(5.0)

    assert meeting.outcome() == "rude"
    assert meeting.transcript()[-2:] == ["[Thanks.else[ann]]", "[rude.end[ann]]"]


def test_thanks_in_time_for_every_member_meet_every_deadline() -> None:
    meeting = Meeting(Desk(PANEL), "judge", ["ann", "ben"], "chair")
    for name in ("ann", "ben"):
        meeting.say("chair", "Ask", name)
        meeting.say(name, "Vote")
        meeting.desk.pass_time(4.0)

    for name in ("ann", "ben"):
        meeting.say("chair", "Thanks", name)
    meeting.desk.pass_time(20.0)

    assert meeting.outcome() == "thanked"
