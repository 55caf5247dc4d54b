"""Which rule refuses what: the cases of the language page, the corpus, and one small protocol for each rule."""

import json
from itertools import pairwise

import pytest
from protocol_text import DATA, diagnostics, negative_cases, rules_of, small, text_of

from bus.spec.compile import check_text
from bus.spec.diagnostic import Severity

CASES = negative_cases()
CORPUS = [json.loads(line) for line in (DATA / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]


def named(cases):
    return [pytest.param(case, id=case["name"]) for case in cases]


@pytest.mark.parametrize("case", named(case for case in CASES if case["expect"] != "ok"))
def test_a_negative_case_is_told_its_rule_and_no_other(case):
    assert rules_of(text_of(case)) == {case["expect"]}


@pytest.mark.parametrize("case", named(case for case in CASES if case["expect"] == "ok"))
def test_every_other_case_is_in_order(case):
    assert not [one for one in diagnostics(text_of(case)) if one.severity is Severity.ERROR]


@pytest.mark.parametrize("case", [pytest.param(case, id=case["source"][-40:]) for case in CORPUS])
def test_the_corpus_gets_the_verdict_of_the_tool_that_it_comes_from(case):
    found = {one.rule for one in check_text(case["yaml"])[1] if one.severity is Severity.ERROR}

    assert "E-SYNTAX" not in found
    assert bool(found) is (case["verdict"] == "rejected")


@pytest.mark.parametrize("path", sorted(DATA.glob("*.protocol.yaml")), ids=lambda path: path.name)
def test_complete_protocols_are_accepted_without_a_word(path):
    spec, found = check_text(path.read_text(encoding="utf-8"), path.name)

    assert spec is not None
    assert found == []


ASK = "Ask: {}, Answer: {}"
TWO = "M: {}, N: {}"
MINUTE = "{timeout: 1m, then: []}"
SMALL = [
    ("E-UNKNOWN-ROLE", small(conversation="- a -> c: M")),
    ("E-UNKNOWN-ROLE", small(conversation="- choice: c\n  branches: {x: [a -> b: M]}")),
    ("E-UNKNOWN-ROLE", small(conversation="- scope: s\n  do: [a -> b: M]\n  interrupts: [{lost: c, then: []}]")),
    ("E-UNKNOWN-ROLE", small(conversation="- each: c\n  do: [a -> b: M]")),
    ("E-UNKNOWN-ROLE", small(conversation="- call: x@^1\n  as: {p: c}\n  outcomes: {done: []}\n- a -> b: M")),
    ("E-UNKNOWN-MESSAGE", small(conversation="- a -> b: N")),
    ("E-UNKNOWN-OUTCOME", small(conversation="- a -> b: M\n- end: over")),
    ("E-UNKNOWN-TYPE", small("M: {fields: {x: list of Thing}}")),
    ("E-UNKNOWN-LOOP", small(conversation="- loop: l\n  do: [a -> b: M, break: m]")),
    ("E-UNBOUND-LOOP", small(conversation="- loop: l\n  do: [a -> b: M, break: l]\n- continue: l")),
    ("E-UNBOUND-LOOP", small(TWO, "- loop: l\n  do: [parallel: {x: [a -> b: M, break: l], y: [b -> a: N]}]")),
    ("E-UNKNOWN-FIELD", small("M: {fields: {x: int}, rules: [y > 1]}")),
    ("E-UNKNOWN-FIELD", small("M: {fields: {x: int}}", keys="[y]")),
    ("E-RESERVED-FIELD", small("M: {fields: {x: int}, reserved: [x]}")),
    ("E-RESERVED-FIELD", small("M: {fields: {copy: int, copy_: int}}")),
    ("E-DUP-KEY", small("M: {fields: {x: M}}", types="{M: {fields: {y: int}}}")),
    ("E-RECURSIVE-TYPE", small("M: {fields: {x: T}}", types="{T: {fields: {t: list of T}}}")),
    ("E-BAD-DEFAULT", small("M: {fields: {x: {type: int, min: 1, default: 0}}}")),
    ("E-BAD-DEFAULT", small("M: {fields: {x: {type: string, default: 1}}}")),
    ("E-BAD-DEFAULT", small("M: {fields: {x: {enum: [p, q], default: r}}}")),
    ("E-BAD-DEFAULT", small("M: {fields: {x: {type: T, default: {z: 1}}}}", types="{T: {fields: {y: int}}}")),
    ("E-BAD-EXAMPLE", small("M: {fields: {x: int}, examples: [{x: one}]}")),
    ("E-BAD-EXAMPLE", small("M: {fields: {x: int}, rules: [x > 1], examples: [{x: 1}]}")),
    ("E-BAD-EXAMPLE", small("M: {fields: {x: {type: int, example: one}}}")),
    ("E-UNREACHABLE", small(conversation="- a -> b: M\n- end: failed\n- a -> b: M")),
    ("E-UNREACHABLE", small(conversation="- a -> b: M\n- loop: l\n  do: [a -> b: M]\n- a -> b: M")),
    ("E-UNREACHABLE", small(TWO, "- loop: l\n  do: [a -> b: M, {choice: a, branches: {x: [continue: l]}}, a -> b: N]")),
    ("E-UNREACHABLE", small(conversation="- loop: l\n  max: 3\n  do: [a -> b: M]\n- a -> b: M")),
    ("E-UNGUARDED-LOOP", small(conversation="- loop: l\n  do: [a -> b: M*]")),
    ("E-UNGUARDED-LOOP", small(conversation="- loop: l\n  do: [{choice: a, branches: {x: [a -> b: M], y: []}}]")),
    ("E-CHOICE-DECIDER", small(conversation="- choice: a\n  branches: {x: [a -> b: M], y: [end: failed]}")),
    ("E-AMBIGUOUS", small(ASK, "- choice: a\n  branches: {x: [a -> b: Ask*, a -> b: Answer], y: [a -> b: Answer]}")),
    ("E-PAR-OVERLAP", small(conversation="- parallel: {x: [a -> b: M], y: [{a -> b: M*, max: 3}]}")),
    ("W-UNUSED-MESSAGE", small("M: {}, N: {}")),
    ("W-UNUSED-TYPE", small(types="{T: {fields: {x: int}}}")),
    ("W-UNUSED-OUTCOME", small(outcomes="{never: }")),
    (
        "W-DEADLINE",
        small(TWO, "- loop: l\n  within: 1m\n  do: [{a -> b: M, within: 2m}, b -> a: N]\n  else: []"),
    ),
    (
        "W-DEADLINE",
        small(TWO, "- scope: s\n  do: [a -> b: M, {b -> a: N, within: 40s, retry: 1}]\n  interrupts: [" + MINUTE + "]"),
    ),
]


@pytest.mark.parametrize(("rule", "text"), SMALL)
def test_a_small_protocol_is_told_its_rule_and_no_other(rule, text):
    assert rules_of(text) == {rule}


def test_an_unused_outcome_is_told_where_it_is_declared():
    [found] = diagnostics(small(outcomes="{used: , never: }", conversation="- a -> b: M\n- end: used"))

    assert (found.rule, found.mark.line, found.mark.column) == ("W-UNUSED-OUTCOME", 5, 20)


@pytest.mark.parametrize(("default", "got"), [("0", "got 0"), ("'0'", "got '0'")])
def test_a_number_and_its_text_look_different_in_a_finding(default, got):
    [found] = diagnostics(small(f"M: {{fields: {{x: {{type: int, min: 1, default: {default}}}}}}}"))

    assert found.message.endswith(got)


HUMAN = (
    "language: 1\nprotocol: p\nversion: 1.0.0\nroles: {a: {}, b: {human: true}}\nmessages: {Ask: {}, Yes: {}, No: {}}\n"
)


@pytest.mark.parametrize(
    ("more", "refused"),
    [
        ("conversation: [a -> b: Ask, b -> a: Yes]", True),
        ("conversation: [a -> b: Ask, {b -> a: Yes, within: forever}]", True),
        ("defaults: {within: forever}\nconversation: [a -> b: Ask, b -> a: Yes]", True),
        ("conversation: [a -> b: Ask, {choice: b, branches: {x: [b -> a: Yes], y: [b -> a: No]}}]", True),
        ("conversation: [a -> b: Ask, {b -> a: Yes, within: 1h}]", False),
        ("defaults: {within: 1h}\nconversation: [a -> b: Ask, b -> a: Yes]", False),
        ("conversation: [a -> b: Ask, {choice: b, within: 1h, branches: {x: [b -> a: Yes], y: [b -> a: No]}}]", False),
        ("conversation: [a -> b: Ask, {b -> a: No*, max: 9}, {b -> a: Yes, within: 1h}]", False),
    ],
)
def test_every_wait_on_a_person_needs_an_end(more, refused):
    assert ("E-HUMAN-NO-DEADLINE" in rules_of(HUMAN + more)) is refused


def test_a_branch_may_begin_with_what_sends_nothing_and_go_on_with_the_decider():
    text = small(conversation="- each: b\n  do: [{choice: b, branches: {x: [enroll: c, b -> a: M]}}]")

    assert rules_of(text.replace("b: {}", "b: {many: 1..3}, c: {from: b}")) == set()


def test_a_person_may_interrupt_without_a_deadline():
    text = (
        "conversation:\n- scope: s\n  do: [a -> b: Ask, {b -> a: Yes, within: 1h}]\n"
        "  interrupts: [{b -> a: No, then: [end: failed]}]"
    )

    assert rules_of(HUMAN + text) == set()


def test_failed_and_canceled_need_no_declaration():
    assert rules_of(small(conversation="- a -> b: M\n- end: canceled")) == set()


def test_all_mistakes_of_a_file_are_told_in_its_order_with_the_nearest_words():
    text = small("Draft: {}", "- a -> b: Drafft\n- a -> bb: Draft\n- choise: a\n- end: faild")

    found = [str(one) for one in diagnostics(text)]

    assert found == [
        "small.yaml:7:5: E-UNKNOWN-MESSAGE: a -> b: Drafft: "
        "expected a message type, got 'Drafft'; did you mean 'Draft'?",
        "small.yaml:8:5: E-UNKNOWN-ROLE: a -> bb: Draft: expected a role, got 'bb'; did you mean 'b'?",
        "small.yaml:9:5: E-SYNTAX: conversation[2]: expected 'sender -> receiver: Message' or one of "
        "break, call, choice, continue, each, end, enroll, loop, parallel, scope, got choise; did you mean 'choice'?",
        "small.yaml:10:5: E-UNKNOWN-OUTCOME: end: expected an outcome, got 'faild'; did you mean 'failed'?",
    ]


def test_a_mistyped_name_is_not_also_told_as_unused():
    assert rules_of(small(conversation="- a -> bb: M")) == {"E-UNKNOWN-ROLE"}


def types_of(*chain):
    """Return a section of types of which each holds the next."""
    return "{" + ", ".join(f"{one}: {{fields: {{x: {other}}}}}" for one, other in pairwise(chain)) + "}"


def test_a_circle_of_types_is_told_once_at_the_field_that_closes_it():
    found = diagnostics(small("M: {fields: {x: A}}", types=types_of("A", "B", "C", "A")))

    assert [(one.rule, one.message) for one in found] == [
        ("E-RECURSIVE-TYPE", "types.C.x: a type may not hold itself, got 'A'")
    ]


@pytest.mark.parametrize(("n_types", "rules"), [(32, set()), (33, {"E-RECURSIVE-TYPE"})])
@pytest.mark.parametrize("order", [1, -1])
def test_types_stand_inside_one_another_only_so_deep(n_types, rules, order):
    chain = [f"T{number}" for number in range(n_types)]
    text = small("M: {fields: {x: T0}}", types=types_of(*chain, "int"))
    if order < 0:
        text = small(
            "M: {fields: {x: T0}}", types="{" + ", ".join(reversed(types_of(*chain, "int")[1:-1].split(", "))) + "}"
        )

    assert rules_of(text) == rules


def test_a_parallel_that_is_too_large_is_refused_before_it_is_made():
    branches = "".join(f"    x{number}: [a -> b: M{number}]\n" for number in range(200))
    text = small(", ".join(f"M{number}: {{}}" for number in range(200)), f"- parallel:\n{branches}")

    assert rules_of(text) == {"E-TOO-MANY-POSITIONS"}


def test_as_many_positions_as_are_allowed_may_stand_side_by_side():
    branches = "".join(f"    x{number}: [a -> b: M{number}]\n" for number in range(8))
    text = small(", ".join(f"M{number}: {{}}" for number in range(8)), f"- parallel:\n{branches}")

    assert rules_of(text) == set()
