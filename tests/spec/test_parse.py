"""Nodes to Spec: every step and section, and what is told where the grammar is missed."""

import math

import pytest
from protocol_text import DATA, diagnostics, small
from spec_source import parsed

from bus.spec.compile import check_text
from bus.spec.node import parse_duration
from bus.spec.syntax import Break, Call, Choice, Continue, Each, End, Enroll, Loop, Parallel, Scope, Send


def block_of(conversation, messages="M: {}, N: {}"):
    spec, found = check_text(small(messages, conversation), "small.yaml")
    assert spec is not None, found
    return spec.conversation


def test_a_message_step_holds_everything_written_beside_it():
    (send,) = block_of(
        "- a -> b: M\n  within: 30s\n  retry: 2\n  remind: 4h\n  doc: Say it.\n  else: [end: failed]", "M: {}"
    )

    assert (send.sender, send.receivers, send.message, send.repeat) == ("a", ("b",), "M", "")
    assert (send.within, send.retry, send.remind, send.doc) == (30.0, 2, 14400.0, "Say it.")
    assert send.otherwise == (End(send.otherwise[0].mark, "failed"),)
    assert str(send.mark) == "small.yaml:7:5"


def test_streams_know_their_least_and_their_bound():
    first, second, _ = block_of("- a -> b: M*\n  max: 7\n- a -> b: N+\n- a -> b: M")

    assert (first.repeat, first.max, second.repeat, second.max) == ("*", 7, "+", None)


def test_several_receivers_stand_in_the_order_written():
    text = small(conversation="- a -> c, b: M").replace("b: {}", "b: {}, c: {}")

    assert check_text(text)[0].conversation[0].receivers == ("c", "b")


def test_loops_are_left_and_turned_by_name_or_without():
    (loop,) = block_of(
        "- loop: l\n  max: 3\n  within: 1h\n  endless: true\n  do:\n    - choice: a\n      branches:\n"
        "        x: [a -> b: M, break]\n        y: [a -> b: N, break: l]\n        z: [b -> a: M, continue: l]\n"
        "  else: [end: failed]".replace("b -> a: M", "a -> b: Z"),
        "M: {}, N: {}, Z: {}",
    )

    assert isinstance(loop, Loop)
    assert (loop.name, loop.max, loop.within, loop.endless) == ("l", 3, 3600.0, True)
    ends = [branch.body[-1] for branch in loop.body[0].branches]
    assert [type(end) for end in ends] == [Break, Break, Continue]
    assert [end.loop for end in ends] == [None, "l", "l"]


def test_scopes_hold_the_four_kinds_of_interrupt():
    (scope,) = block_of(
        "- scope: s\n  do: [a -> b: M]\n  interrupts:\n    - b -> a: N\n      then: [end: failed]\n"
        "    - {timeout: 2h, then: []}\n    - {lost: b, then: []}\n    - {failed: b, then: [], doc: Gone.}"
    )

    assert isinstance(scope, Scope)
    assert [(one.message and one.message.message, one.timeout, one.lost, one.failed) for one in scope.interrupts] == [
        ("N", None, None, None),
        (None, 7200.0, None, None),
        (None, None, "b", None),
        (None, None, None, "b"),
    ]


def test_parallel_and_choice_keep_their_branches_in_order():
    parallel, choice, _ = block_of(
        "- parallel: {y: [a -> b: M], x: [b -> a: N]}\n"
        "- choice: a\n  within: 5m\n  branches: {q: [a -> b: M], p: []}\n  else: []\n"
        "- a -> b: N"
    )

    assert isinstance(parallel, Parallel)
    assert [branch.name for branch in parallel.branches] == ["y", "x"]
    assert isinstance(choice, Choice)
    assert [branch.name for branch in choice.branches] == ["q", "p"]
    assert (choice.within, choice.otherwise) == (300.0, ())


def test_each_enroll_and_call_are_read():
    spec = check_text((DATA / "contract-net.protocol.yaml").read_text(encoding="utf-8"))[0]
    (call,) = parsed(
        small(
            conversation="- call: training@^1.2\n  as: {client: a, trainer: b}\n"
            "  within: 1d\n  outcomes: {trained: [a -> b: M], failed: []}"
        )
    ).conversation

    each = spec.conversation[0]
    assert isinstance(each, Each)
    assert (each.role, each.until, each.within, each.late) == ("bidder", "all", 30.0, ())
    assert isinstance(each.body[1].branches[0].body[1], Enroll)
    assert spec.roles[1].many == (1, 50)
    assert (spec.roles[3].source, spec.roles[3].many) == ("proposer", (0, 1))
    assert isinstance(call, Call)
    assert (call.protocol, call.roles, call.within) == ("training@^1.2", (("client", "a"), ("trainer", "b")), 86400.0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("30s", 30), ("5m", 300), ("24h", 86400), ("7d", 604800), ("forever", math.inf), ("0s", 0)],
)
def test_durations_are_seconds(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "1.5s", "-1s", "5 m", "5min", "٣s", "s", "99999999999s"])
def test_what_is_no_duration_is_none(text):
    assert parse_duration(text) is None


SCOPE = "- scope: s\n  do: [a -> b: M]\n  interrupts: "

WRONG = [
    (small(conversation="- a->b: M"), "did you mean 'a -> b'?"),
    (small(conversation="- a -> b"), "add the message"),
    (small(conversation="- a -> b: m"), "expected a message type such as Draft, Draft* or Draft+, got 'm'"),
    (small(conversation="- a -> b, b: M"), "each receiver once"),
    (small(conversation="- a -> b: M\n  b -> a: M"), "one 'sender -> receiver: Message' in a step"),
    (small(conversation="- a -> b: M\n  withn: 5s"), "did you mean 'within'?"),
    (small(conversation="- a -> b: M\n  within: 5"), "did you mean '5s'?"),
    (small(conversation="- a -> b: M\n  within: soon"), "expected a duration"),
    (small(conversation="- a -> b: M\n  max: 5"), "a stream (M* or M+) to bound"),
    (small(conversation="- a -> b: M*\n  max: 0"), "a whole number of at least 1, got 0"),
    (small(conversation="- a -> b: M\n  retry: -1"), "a whole number of at least 0, got -1"),
    (small(conversation="- brake"), "did you mean 'break'?"),
    (small(conversation="- break:"), "expected a name in lower case, got nothing"),
    (small(conversation="- 7"), "expected a step, got 7"),
    (small(conversation="- {}"), "got an empty map"),
    (small(conversation="- choice: a\n  branches: {}"), "at least one branch"),
    (small(conversation="- choice: a\n  branches: {x: }"), "write [] where there is none"),
    (small(conversation="- choice: a\n  branches: {X: [a -> b: M]}"), "a branch name in lower case"),
    (small(conversation="- loop: l"), "expected 'do', which is missing"),
    (small(conversation="- loop: l\n  endless: maybe\n  do: [a -> b: M]"), "expected true or false, got 'maybe'"),
    (small(conversation="- each: b\n  until: most\n  do: [a -> b: M]"), "all, any or a number"),
    (small(conversation=SCOPE + "[{timeout: 1s, lost: b, then: []}]"), "exactly one trigger"),
    (small(conversation=SCOPE + "[{then: []}]"), "exactly one trigger"),
    (small(conversation=SCOPE + "[{b -> a: M*, then: []}]"), "one message, no stream"),
    (small(conversation=SCOPE + "[now]"), "expected an interrupt"),
    (small(conversation="- call: training\n  as: {}\n  outcomes: {x: []}"), "a protocol such as training@^1"),
    (small("M: {delivery: exactly-once}"), "expected one of at-least-once, at-most-once, durable"),
    (small("m: {}"), "a message name such as Draft"),
    (small("M: {fields: {X: int}}"), "a field name such as max_steps"),
    (small("M: {fields: {x: integer}}"), "did you mean 'int'?"),
    (small("M: {fields: {x: 'string?'}}"), "did you mean 'optional string'?"),
    (small("M: {fields: {x: 'string[]'}}"), "did you mean 'list of string'?"),
    (small("M: {fields: {x: {min: 1}}}"), "exactly one of 'type' and 'enum'"),
    (small("M: {fields: {x: {enum: []}}}"), "at least one word"),
    (small("M: {fields: {x: {enum: [p, p]}}}"), "got 'p' twice"),
    (small("M: {fields: {x: {type: int, open: true}}}"), "an enum beside it"),
    (small("M: {fields: {x: {type: int, min_len: 1}}}"), "'min_len' means nothing for int"),
    (small("M: {fields: {x: {type: list of int, max: 1}}}"), "'max' means nothing for a list"),
    (small("M: {fields: {x: {type: int, min: 2, max: 1}}}"), "expected 'min' at most 'max'"),
    (small("M: {fields: {x: {type: string, pattern: '('}}}"), "expected a regular expression, got '('"),
    (small("M: {fields: {x: int}, rules: ['x +']}"), "not an expression"),
    (small("M: {examples: [1]}"), "a map of fields, got 1"),
    (small("M: {fields: {x: int}, rules: [1]}"), "a rule such as"),
    (small("M: {fields: {x: {type: 1}}}"), "a type such as string, optional int or list of Source, got 1"),
    (small("M: {fields: {x: list int}}"), "expected a type such as"),
    (small("M: {fields: [x]}"), "expected a map, got a list"),
    (small(conversation="- a -> b: M\n  else: {end: failed}"), "expected a list of steps, got a map"),
    (small(conversation="- choice: A\n  branches: {x: [a -> b: M]}"), "a name in lower case, got 'A'"),
    (small(conversation="- choice: a\n  branches: [a -> b: M]"), "expected a map, got a list"),
    (small("M: {fields: {x: {enum: [a, 1]}}}"), "expected a word, got 1; put it in quotes"),
    (small("M: {fields: {x: int}}", keys="[X, x]"), "keys: expected a field name, got 'X'"),
    (small(conversation="- choice: a"), "expected 'branches', which is missing"),
    (small("M: {deprecated: 1}"), "true, false or a reason"),
    (small(defaults="{delivery: durable, withn: 1s}"), "did you mean 'within'?"),
    (small(outcomes="{Done: }"), "an outcome in lower case"),
    (small(status="final"), "expected one of beta, deprecated, draft, stable, got 'final'"),
    (small(imports="[common]"), "an import such as common@^1"),
    (small().replace("language: 1", "language: 2"), "language: expected 1, got 2"),
    (small().replace("language: 1", "language: true"), "language: expected 1, got true"),
    (small().replace("1.0.0", "1.0"), "put it in quotes if you mean text"),
    (small().replace("protocol: small\n", ""), "expected 'protocol', which is missing"),
    (small().replace("b: {}", "b: {many: 5..2}"), "a range that rises"),
    (small().replace("b: {}", "b: {poool: true}"), "did you mean 'pool'?"),
    (small().replace(", b: {}", ""), "expected 2 to 16 roles, got 1"),
    ("- a\n- b\n", "expected a map, got a list"),
    ("hello\n", "expected a map, got 'hello'"),
]


@pytest.mark.parametrize(("text", "words"), WRONG)
def test_what_misses_the_grammar_is_told_with_what_was_expected(text, words):
    found = diagnostics(text)

    assert any(one.rule in ("E-SYNTAX", "E-UNKNOWN-TYPE") and words in str(one) for one in found), found


def test_sections_may_be_left_empty_and_reasons_given():
    text = small(
        "M: , N: {fields: , deprecated: Use M., reserved: [old]}, O: {fields: {x: {type: int, deprecated: true}}}",
        "- a -> b: M\n- a -> b: N\n- a -> b: O",
    ).replace("{a: {}, b: {}}", "{a: , b: {doc: The other.}}")

    spec, found = check_text(text)

    assert found == []
    assert [message.fields for message in spec.messages[:2]] == [(), ()]
    assert (spec.messages[1].deprecated, spec.messages[1].reserved) == ("Use M.", ("old",))
    assert spec.messages[2].fields[0].deprecated is True
    assert spec.roles[1].doc == "The other."


def test_each_may_wait_for_a_number_of_members():
    (each,) = block_of("- each: b\n  until: 2\n  do: [a -> b: M]\n  late: [end: failed]", "M: {}")

    assert (each.until, len(each.late)) == ("2", 1)


def test_a_choice_may_begin_with_a_loop_a_parallel_or_a_scope():
    conversation = """\
- choice: a
  branches:
    loop: [{loop: l, do: [a -> b: M, break]}, a -> b: N]
    both: [{parallel: {x: [a -> b: O], y: [a -> b: P]}}]
    scope: [{scope: s, do: [a -> b: Q]}]
    inner: [{choice: a, branches: {x: [a -> b: R], y: []}}, a -> b: S]
    skip: []
- a -> b: T"""
    choice, _ = block_of(conversation, ", ".join(f"{name}: {{}}" for name in "MNOPQRST"))

    assert [type(branch.body[0]).__name__ for branch in choice.branches[:4]] == ["Loop", "Parallel", "Scope", "Choice"]


def test_a_wrong_rule_is_told_at_its_own_column():
    text = small('M: {fields: {x: int}, rules: ["x > 0", "x > y"]}')

    (found,) = diagnostics(text)

    line = text.splitlines()[found.mark.line - 1]
    assert line[found.mark.column - 1 :].startswith('y"]')


def test_send_is_a_value():
    first, second = (block_of("- a -> b: M", "M: {}")[0] for _ in range(2))

    assert isinstance(first, Send)
    assert first == second
