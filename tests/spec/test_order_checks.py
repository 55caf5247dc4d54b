"""The checks over the automaton: each rule on small conversations, with the trace that shows the fault."""

import re

import pytest
from protocol_text import diagnostics

from bus.spec.diagnostic import Severity

_ARROW = re.compile(r"([a-z]) -> ([a-z](?:, [a-z])*): ([A-Z]\w*)")


def text_of(conversation: str, *, messages: dict[str, str] | None = None, more: str = "") -> str:
    """Return a whole protocol around *conversation*; roles and messages are declared as they appear."""
    arrows = _ARROW.findall(conversation)
    roles = sorted({role for sender, receivers, _ in arrows for role in (sender, *receivers.split(", "))})
    names = sorted({name for _, _, name in arrows})
    declared = {name: (messages or {}).get(name, "{}") for name in names}
    head = [
        "language: 1",
        "protocol: test",
        "version: 1.0.0",
        f"roles: {{{', '.join(f'{role}: {{}}' for role in roles)}}}",
        f"messages: {{{', '.join(f'{name}: {body}' for name, body in declared.items())}}}",
    ]
    return "\n".join([*head, *([more] if more else []), "conversation:", conversation])


def told(conversation: str, **options: object) -> list[tuple[str, str | None, tuple[str, ...]]]:
    found = diagnostics(text_of(conversation, **options))  # type: ignore[arg-type]  # passed through
    return [(one.rule, one.role, one.trace) for one in found]


def test_a_branch_that_is_left_out_must_not_let_somebody_else_speak():
    [(rule, role, _)] = told("- choice: a\n  branches: {x: [a -> b: M], skip: []}\n- b -> a: N")

    assert (rule, role) == ("E-CHOICE-DECIDER", "b")


def test_a_branch_may_be_left_out_where_the_decider_goes_on():
    assert told("- choice: a\n  branches: {x: [a -> b: M], skip: []}\n- a -> b: N") == []


def test_two_roles_may_not_speak_at_the_same_point():
    [(rule, role, trace)] = told("- a -> b: L\n- a -> b: M*\n  max: 3\n- b -> a: N")

    assert (rule, role, trace) == ("E-RACE", "b", ("a -> b: L", "b -> a: N"))


def test_a_stream_and_what_ends_it_must_differ():
    [(rule, role, _)] = told("- a -> b: M*\n  max: 3\n- a -> b: M")

    assert (rule, role) == ("E-AMBIGUOUS", "b")


def test_who_must_speak_in_one_branch_only_must_be_told():
    conversation = "- choice: a\n  branches: {x: [a -> b: M, c -> b: O], y: [a -> b: N]}\n- b -> a: P"

    [(rule, role, trace)] = told(conversation)

    assert (rule, role, trace) == ("E-UNAWARE-SENDER", "c", ("a -> b: N",))


def test_it_is_enough_to_be_told_by_different_roles():
    conversation = (
        "- choice: a\n  branches:\n    x: [a -> b: M, b -> c: O, c -> a: P]\n    y: [a -> c: N, c -> b: Q, b -> a: R]"
    )

    assert told(conversation) == []


def test_nobody_may_run_ahead_of_an_else_that_needs_it():
    conversation = "- {a -> b: M, within: 5s, else: [{c -> b: O}]}\n- c -> a: N"

    [(rule, role, _)] = told(conversation)

    assert (rule, role) == ("E-UNAWARE-SENDER", "c")


def test_a_role_must_know_whether_to_speak_or_to_listen():
    [(rule, role, trace)] = told("- choice: b\n  branches: {p: [b -> c: P, c -> a: R], q: [b -> a: Q, c -> a: N]}")

    assert (rule, role, trace) == ("E-MIXED", "c", ("b -> c: P",))


def test_branches_of_a_parallel_may_speak_and_listen_at_once():
    assert told("- parallel: {x: [a -> b: M, b -> a: N], y: [b -> a: O, a -> b: P]}") == []


def test_a_message_of_another_branch_may_not_overtake():
    conversation = (
        "- choice: a\n  branches:\n    x: [a -> b: M, b -> c: N, a -> c: O, c -> a: P]\n"
        "    y: [a -> b: Q, a -> c: O, c -> a: R]"
    )

    [(rule, role, trace)] = told(conversation)

    assert (rule, role) == ("E-RECEIVE-RACE", "c")
    assert trace == ("a -> b: M", "b -> c: N", "a -> c: O")


def test_a_role_must_know_in_which_pass_a_deadline_was_missed():
    """Found by random execution: behind M6.else, b's next M3 looked like the one that a had not yet heard."""
    conversation = (
        "- loop: l\n  do:\n    - b -> c: M2\n    - parallel:\n        x: [b -> a: M3, a -> b: M4]\n        y:\n"
        "          - c -> b: M5\n          - b -> c: M6\n            within: 30s\n            else: [a -> c: M7]\n"
        "    - b -> c: M8"
    )

    [(rule, role, trace)] = told(conversation)

    assert (rule, role) == ("E-RECEIVE-RACE", "a")
    assert trace[-1] == "b -> a: M3"


def test_an_end_that_nobody_announces_must_be_seen():
    conversation = "- choice: a\n  branches: {x: [a -> b: M, b -> c: N], y: [a -> b: O]}"

    [(rule, role, trace)] = told(conversation)

    assert (rule, role, trace) == ("E-UNAWARE-END", "c", ("a -> b: O",))


def test_an_end_that_is_written_is_announced():
    conversation = "- choice: a\n  branches: {x: [a -> b: M, b -> c: N, end: kept], y: [a -> b: O, end: dropped]}"

    assert told(conversation, more="outcomes: {kept: '', dropped: ''}") == []


@pytest.mark.parametrize(
    ("conversation", "lossy"),
    [
        ("- a -> b: M\n- b -> a: N", True),
        ("- a -> b: M+\n- a -> b: N", True),
        ("- a -> b: M*\n- a -> b: N", False),
    ],
)
def test_what_may_be_lost_may_not_open_the_way(conversation, lossy):
    rules = [rule for rule, _, _ in told(conversation, messages={"M": "{delivery: at-most-once}"})]

    assert rules == (["E-LOSSY-CONTROL"] if lossy else [])


STARVED = """\
- choice: a
  branches:
    x:
      - loop: l
        do: [a -> b: M, b -> a: N]
    y: [a -> b: O, a -> c: P]"""


def test_a_role_that_is_promised_something_may_not_be_forgotten():
    [(rule, role, trace)] = told(STARVED)

    assert (rule, role, trace) == ("E-STARVED", "c", ("a -> b: M",))


BOUNDS = {
    "": ["E-STARVED-UNBOUNDED"],
    "  max: 3\n  else: [{end: enough}]\n": [],
    "  within: 3m\n  else: [{end: enough}]\n": [],
}


@pytest.mark.parametrize(("bound", "rules"), BOUNDS.items())
def test_a_loop_in_which_somebody_waits_must_be_bounded(bound, rules):
    conversation = (
        f"- loop: l\n{bound}  do:\n    - choice: a\n      branches:\n        more: [a -> b: M, b -> a: N]\n"
        f"        stop: [a -> b: O, b -> c: P, {{end: enough}}]"
    )

    assert [rule for rule, _, _ in told(conversation, more="outcomes: {enough: ''}")] == rules


@pytest.mark.parametrize(("endless", "rules"), [("", ["W-NO-END"]), ("  endless: true\n", [])])
def test_a_loop_without_an_end_must_say_so(endless, rules):
    assert [rule for rule, _, _ in told(f"- loop: l\n{endless}  do: [a -> b: M, b -> a: N]")] == rules


@pytest.mark.parametrize(
    ("conversation", "message", "unbounded"),
    [
        ("- a -> b: M*\n- a -> b: N", "{}", True),
        ("- a -> b: M*\n  max: 9\n- a -> b: N", "{}", False),
        ("- a -> b: M*\n- a -> b: N", "{window: 4}", False),
        ("- loop: l\n  endless: true\n  do: [a -> b: M, b -> a: N]", "{}", False),
        ("- loop: l\n  endless: true\n  do: [a -> b: M, b -> c: N]", "{}", True),
    ],
)
def test_what_can_be_sent_without_end_is_told(conversation, message, unbounded):
    found = [one for one in told(conversation, messages={"M": message}) if one[0] == "W-UNBOUNDED"]

    assert bool(found) is unbounded


def test_warnings_refuse_nothing():
    found = diagnostics(text_of("- a -> b: M*\n- a -> b: N"))

    assert [one.severity for one in found] == [Severity.WARNING]


# -- found by random execution ------------------------------------------------------------------------


def test_a_pass_that_is_counted_must_be_ended_by_who_knows_that_it_is_over():
    conversation = (
        "- loop: l\n  max: 3\n  do:\n    - b -> a, c: K\n    - parallel: {x: [c -> a: M, a -> b: N], y: [c -> b: O]}\n"
        "  else: [{end: enough}]"
    )

    [(rule, role, _)] = told(conversation, more="outcomes: {enough: ''}")

    assert (rule, role) == ("E-UNCOUNTABLE", "a")


def test_a_pass_that_is_counted_may_have_a_parallel_in_it():
    conversation = (
        "- loop: l\n  max: 3\n  do:\n    - b -> a, c: K\n    - parallel: {x: [c -> a: M, a -> b: N], y: [c -> b: O]}\n"
        "    - b -> a: E\n  else: [{end: enough}]"
    )

    assert told(conversation, more="outcomes: {enough: ''}") == []


def test_nobody_may_be_a_pass_ahead_of_an_else_that_would_lead_him_back():
    conversation = (
        "- loop: l\n  within: 5m\n  do:\n    - c -> a: M\n"
        "    - {a -> b: N, within: 1s, else: [{end: late}]}\n  else: []"
    )

    [(rule, role, _)] = told(conversation, more="outcomes: {late: ''}")

    assert (rule, role) == ("E-UNAWARE-SENDER", "c")


def test_what_stands_outside_a_scope_may_not_run_ahead_of_what_cuts_it_short():
    conversation = (
        "- loop: l\n  endless: true\n  do:\n    - scope: s\n      do: [b -> c: M]\n"
        "      interrupts: [{timeout: 9m, then: [{end: kept}]}]\n    - a -> b: N"
    )

    rules = {rule for rule, _, _ in told(conversation, more="outcomes: {kept: ''}")}

    assert rules == {"E-UNAWARE-SENDER"}


def test_who_has_a_deadline_of_his_own_may_answer_ahead_of_others():
    conversation = "- a -> b: M\n- a -> c: N\n- b -> a: O\n- {c -> a: P, within: 5s, else: [{end: late}]}"

    assert told(conversation, more="outcomes: {late: ''}") == []


def test_an_interrupt_may_not_be_lost_on_its_way():
    conversation = "- scope: s\n  do: [a -> b: M, b -> a: N]\n  interrupts: [{a -> b: O, then: [{end: over}]}]"

    rules = [
        rule
        for rule, _, _ in told(conversation, messages={"O": "{delivery: at-most-once}"}, more="outcomes: {over: ''}")
    ]

    assert rules == ["E-LOSSY-CONTROL"]
