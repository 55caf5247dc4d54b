"""The step `call` before anything runs: what it becomes for each role, and what is told where it does not fit."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from protocol_text import small
from reference_run import FAILED_BY_DEADLINE, ReferenceRun
from spec_source import Walk, parsed

from bus.spec.bundle import SpecText, join_bundle
from bus.spec.check_call import n_conversations
from bus.spec.compile import check_text, compile_protocol, load_protocol
from bus.spec.diagnostic import Diagnostic
from bus.spec.tables import CallTable, EventKind

TASK = """\
language: 1
protocol: task
version: 1.4.0
roles: {asker: {}, doer: {pool: true}}
messages: {Do: {}, Did: {}, Not: {}}
outcomes: {did: It is done.}
conversation:
  - asker -> doer: Do
  - choice: doer
    within: 1h
    branches:
      did: [doer -> asker: Did, end: did]
      not: [doer -> asker: Not]
"""
OUTCOMES = "{did: [b -> a: N], done: [], failed: [end: failed], canceled: []}"
CALL = f"- a -> b: M\n- call: task@^1\n  as: {{asker: b}}\n  within: 30m\n  outcomes: {OUTCOMES}"
TWO = "M: {}, N: {}"


def calling(conversation: str = CALL, messages: str = TWO, **sections: str) -> str:
    return small(messages, conversation, **sections)


def told(*texts: str) -> list[Diagnostic]:
    return check_text(join_bundle(SpecText("", text) for text in texts), "small.yaml")[1]


def rules(*texts: str) -> list[str]:
    return [one.rule for one in told(*texts)]


def only(*texts: str) -> Diagnostic:
    [finding] = told(*texts)
    return finding


# -- what it becomes -----------------------------------------------------------------------------------


def test_a_call_is_a_place_that_only_its_outcomes_leave_and_everybody_sees_them() -> None:
    walk = Walk(parsed(calling()))
    events = {"call task.did", "call task.done", "call task.failed", "call task.canceled"}

    for role in ("a", "b"):
        state = walk.after(role, "M")
        assert walk.told(role, state) == events
        assert walk.sends(role, state) == {}
        assert walk.receives(role, state) == set()
        assert {walk.tables.events[event].name for event in walk.machine(role).due[state]} == events
        assert not walk.machine(role).owes[state]
    assert set(walk.sends("b", walk.after("b", "M", "call task.did"))) == {"N"}
    assert walk.timer("b", "M") is None


def test_the_table_of_a_call_says_who_plays_what_and_which_event_each_outcome_is() -> None:
    tables = Walk(parsed(calling())).tables

    [call] = tables.calls

    assert call == CallTable("task@^1", (("asker", 1),), call.events, 1800.0)
    assert call.name == "task"
    assert [outcome for outcome, _ in call.events] == ["did", "done", "failed", "canceled"]
    for outcome, number in call.events:
        event = tables.events[number]
        assert (event.kind, event.outcome, event.call, event.discards) == (EventKind.CALL, outcome, 0, False)


def test_a_role_that_takes_no_part_before_the_call_stands_there_from_the_start() -> None:
    walk = Walk(parsed(calling().replace("b: {}}", "b: {}, c: {}}").replace("did: [b -> a: N]", "did: [c -> a: N]")))

    assert "call task.did" in walk.told("c", walk.machine("c").start)
    assert set(walk.sends("c", walk.after("c", "call task.did"))) == {"N"}


def test_an_interrupt_strikes_while_a_call_runs() -> None:
    text = calling(
        f"- scope: s\n  do:\n    - call: task@^1\n      as: {{asker: a}}\n"
        f"      outcomes: {OUTCOMES}\n  interrupts: [{{a -> b: M, then: [end: failed]}}]"
    )
    walk = Walk(parsed(text))

    assert walk.sends("a", walk.machine("a").start)["M"].interrupt == walk.event("s.M")
    assert rules(text, TASK) == []


def test_two_calls_in_parallel_branches_have_events_of_their_own() -> None:
    branch = f"[{{call: task@1, as: {{asker: a}}, outcomes: {OUTCOMES.replace('[b -> a: N]', '[]')}}}]"
    tables = Walk(parsed(calling(f"- parallel: {{x: {branch}, y: {branch}}}\n- a -> b: M\n- b -> a: N"))).tables

    assert len(tables.calls) == 2
    assert len({event for call in tables.calls for _, event in call.events}) == 8


# -- what is called ------------------------------------------------------------------------------------


def test_a_protocol_knows_what_it_calls_and_one_that_is_not_called_is_not_kept() -> None:
    protocol = compile_protocol(join_bundle(SpecText("", text) for text in (calling(), TASK)))

    assert protocol.callees == {"task@^1": compile_protocol(TASK)}
    assert protocol.spec.source == join_bundle(SpecText("", text) for text in (calling(), TASK))


def test_the_digest_covers_what_is_called() -> None:
    other = TASK.replace("within: 1h", "within: 2h")
    one, two = (
        compile_protocol(join_bundle(SpecText("", text) for text in (calling(), task))) for task in (TASK, other)
    )

    assert one.digest != two.digest


def test_what_is_called_is_found_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "task.protocol.yaml").write_text(TASK)
    (tmp_path / "small.protocol.yaml").write_text(calling())

    protocol = load_protocol(tmp_path / "small.protocol.yaml")

    assert protocol.callees["task@^1"].version == "1.4.0"
    assert compile_protocol(protocol.spec.source) is protocol


def test_what_is_called_may_be_imported_and_is_used_by_the_call() -> None:
    task = TASK.replace("Do: {}", "Do: {fields: {what: string}}")

    assert rules(calling(imports="[task@^1]"), task) == []


def test_what_is_called_and_nowhere_is_told() -> None:
    finding = only(calling())

    assert (finding.rule, str(finding.mark)) == ("E-UNKNOWN-PROTOCOL", "small.yaml:8:5")
    assert "found no task.protocol.yaml" in finding.message


def test_what_is_called_in_another_version_is_told_with_what_there_is() -> None:
    assert "found 2.0.0 (small.yaml#1)" in only(calling(), TASK.replace("1.4.0", "2.0.0")).message


def test_a_library_cannot_be_called() -> None:
    finding = only(calling(), "language: 1\nlibrary: task\nversion: 1.0.0\n")

    assert finding.rule == "E-BAD-CALLEE"
    assert "is a library" in finding.message


def test_errors_of_what_is_called_are_told_briefly_at_the_call() -> None:
    finding = only(calling(), TASK.replace("asker -> doer: Do", "asker -> dooer: Do"))

    assert (finding.rule, str(finding.mark)) == ("E-BAD-CALLEE", "small.yaml:8:5")
    assert "small.yaml#1 has an error: small.yaml#1:8:5: E-UNKNOWN-ROLE" in finding.message


def test_warnings_of_what_is_called_are_its_own() -> None:
    assert rules(calling(), TASK.replace("Not: {}}", "Not: {}, Nobody: {}}")) == []


def test_what_is_over_before_a_word_cannot_be_called() -> None:
    spent = (
        TASK.replace("asker -> doer: Do\n", "asker -> doer: Do*\n    max: 3\n").split("  - choice")[0]
        + "  - end: did\n"
    )

    finding = only(calling().replace("done: [], ", ""), spent)

    assert finding.rule == "E-BAD-CALLEE"
    assert "before anybody has said a word" in finding.message


# -- calls in a circle ---------------------------------------------------------------------------------


def back(name: str, to: str) -> str:
    return (
        f"language: 1\nprotocol: {name}\nversion: 1.0.0\nroles: {{a: {{}}, b: {{}}}}\nmessages: {{M: {{}}}}\n"
        f"conversation:\n- a -> b: M\n- call: {to}@1\n  as: {{a: a}}\n"
        f"  outcomes: {{done: [], failed: [], canceled: []}}\n"
    )


def test_a_protocol_that_calls_itself_is_refused() -> None:
    finding = only(back("one", "one"))

    assert finding.rule == "E-RECURSIVE-CALL"
    assert finding.message.endswith("one calls one")


def test_protocols_that_call_each_other_are_refused_with_the_way_round() -> None:
    finding = only(back("one", "two"), back("two", "three"), back("three", "one"))

    assert finding.rule == "E-RECURSIVE-CALL"
    assert finding.message.endswith("one calls two calls three calls one")


def test_a_circle_further_down_is_told_at_the_call_that_leads_there() -> None:
    finding = only(back("zero", "one"), back("one", "two"), back("two", "one"))

    assert finding.rule == "E-BAD-CALLEE"
    assert "E-RECURSIVE-CALL" in finding.message


def test_what_a_call_may_open_is_bounded() -> None:
    names = [f"p{n}" for n in range(9)]
    outcomes = "{done: [], failed: [], canceled: []}"
    texts = [
        back(name, below).rstrip() + f"\n- a -> b: M\n- call: {below}@1\n  as: {{a: a}}\n  outcomes: {outcomes}\n"
        for name, below in zip(names, [*names[1:], "leaf"], strict=False)
    ]
    leaf = small().replace("protocol: small", "protocol: leaf")

    # The eighth from below would open 2 ** 8 of the leaves, and 2 ** 8 - 1 conversations between.
    assert rules(*texts[3:], leaf) == []
    assert rules(*texts[2:], leaf) == []
    assert rules(*texts[1:], leaf) == ["E-TOO-MANY-CALLS"]


def test_conversations_are_counted_with_all_that_they_call() -> None:
    protocol = compile_protocol(join_bundle(SpecText("", text) for text in (calling(), TASK)))

    assert n_conversations(protocol.spec, protocol.callees) == 2


# -- roles and outcomes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ("{asked: b}", "expected a role of task (asker, doer), got 'asked'"),
        ("{asker: b, doer: b}", "'b' is 'asker' already"),
    ],
)
def test_roles_that_do_not_fit_are_told(theirs: str, said: str) -> None:
    finding = only(calling().replace("{asker: b}", theirs), TASK)

    assert (finding.rule, finding.role) == ("E-CALL-ROLES", "b")
    assert said in finding.message


def test_a_protocol_with_members_is_not_called_for_nobody_names_them() -> None:
    task = """\
language: 1
protocol: task
version: 1.4.0
roles: {asker: {}, doer: {many: 1..3}}
messages: {Do: {}}
conversation: [{each: doer, do: [asker -> doer: Do]}]
"""

    assert [one.rule for one in told(calling(CALL), task)] == ["E-BAD-CALLEE"]


@pytest.mark.parametrize(
    ("asker", "b", "said"),
    [
        ("{human: true}", "{}", "'asker' is a person, 'b' an agent"),
        ("{}", "{human: true}", "'b' is a person, 'asker' an agent"),
        ("{}", "{many: 1..5}", "'b' here is a set of agents"),
    ],
)
def test_a_set_or_a_person_does_not_play_what_one_agent_plays(asker: str, b: str, said: str) -> None:
    task = TASK.replace("asker: {}", f"asker: {asker}").replace(
        "asker -> doer: Do\n", "asker -> doer: Do\n    within: 1h\n"
    )
    text = calling(CALL.replace("b -> a: N", "a -> b: N").replace("as: {asker: b}", "as: {asker: b}"))

    findings = told(text.replace("b: {}", f"b: {b}"), task)

    assert "E-CALL-ROLES" in {one.rule for one in findings}
    assert any(said in one.message for one in findings)


@pytest.mark.parametrize("missing", ["did", "done", "failed", "canceled"])
def test_every_outcome_is_handled(missing: str) -> None:
    outcomes = OUTCOMES.replace("[b -> a: N]", "[]").replace("[end: failed]", "[]").replace(f"{missing}: [], ", "")
    outcomes = outcomes.replace(f", {missing}: []", "")

    finding = only(calling(CALL.replace(OUTCOMES, outcomes) + "\n- b -> a: N"), TASK)

    assert (finding.rule, str(finding.mark)) == ("E-CALL-OUTCOMES", "small.yaml:8:5")
    assert repr(missing) in finding.message


def test_outcomes_that_every_protocol_has_are_asked_for_even_of_one_that_is_not_there() -> None:
    assert rules(calling().replace(", canceled: []", "")) == ["E-CALL-OUTCOMES"]


def test_an_outcome_that_there_is_not_is_told_at_its_place() -> None:
    finding = only(calling().replace("done: []", "done: [], downe: []"), TASK)

    assert (finding.rule, finding.mark.line, finding.suggestion) == ("E-CALL-OUTCOMES", 11, "did you mean 'done'?")


def test_a_conversation_that_cannot_fall_off_its_end_has_no_outcome_done() -> None:
    task = TASK.replace("not: [doer -> asker: Not]", "not: [doer -> asker: Not, end: failed]")

    assert "never ends as 'done'" in only(calling(), task).message


# -- when a call may begin -----------------------------------------------------------------------------


def test_a_call_where_somebody_may_still_speak_is_refused() -> None:
    finding = only(calling(CALL.replace("a -> b: M\n", "a -> b: M*\n  max: 3\n")), TASK)

    assert (finding.rule, finding.role) == ("E-RACE", "a")
    assert "'a -> b: M' may both come next" in finding.message


def test_an_empty_branch_before_a_call_decides_nothing() -> None:
    text = calling("- choice: a\n  branches: {more: [a -> b: M], skip: []}\n" + CALL.partition("\n")[2])

    assert rules(text, TASK) == ["E-RACE"]


def test_a_branch_that_begins_with_a_call_decides_nothing() -> None:
    call = f"{{call: task@1, as: {{asker: a}}, outcomes: {OUTCOMES.replace('[b -> a: N]', '[]')}}}"
    text = calling(f"- choice: a\n  branches:\n    call: [{call}]\n    say: [a -> b: M]\n- b -> a: N")

    assert "E-CHOICE-DECIDER" in rules(text, TASK)


def test_what_another_branch_says_beside_a_call_is_no_race() -> None:
    branch = f"[{{call: task@1, as: {{asker: a}}, outcomes: {OUTCOMES.replace('[b -> a: N]', '[]')}}}]"

    assert rules(calling(f"- parallel: {{x: {branch}, y: [a -> b: M]}}\n- b -> a: N"), TASK) == []


def test_a_call_is_a_wait_that_ends_so_nobody_starves_behind_it() -> None:
    loop = "- loop: l\n  do:\n" + "\n".join(f"    {line}" for line in CALL.splitlines())

    assert rules(calling(loop.replace("canceled: []", "canceled: [break]")), TASK) == []


def test_a_time_that_never_passes_because_what_is_around_ends_sooner_is_a_warning() -> None:
    scope = "- a -> b: M\n- scope: s\n  do:\n" + "\n".join(f"    {line}" for line in CALL.splitlines()[1:])

    findings = told(calling(scope + "\n  interrupts: [{timeout: 10m, then: [end: failed]}]"), TASK)

    assert [(one.rule, one.mark.line) for one in findings] == [("W-DEADLINE", 10)]


def test_what_follows_an_outcome_is_outside_the_time_of_the_call() -> None:
    assert rules(calling(CALL.replace("did: [b -> a: N]", "did: [{b -> a: N, within: 2h}]")), TASK) == []


NESTED = """
- a -> b: M
- loop: l
  max: 3
  do:
    - scope: s
      do:
        - parallel:
            x:
              - call: task@1
                as: {asker: a}
                outcomes: {did: [b -> a: Did], done: [], failed: [end: failed], canceled: []}
            y:
              - call: task@1
                as: {asker: b}
                outcomes: {did: [], done: [a -> b: Done], failed: [], canceled: [end: canceled]}
            z: [{a -> b: Note}, {b -> a: Noted}]
      interrupts:
        - a -> b: Stop
          then: [b -> a: Stopped]
        - timeout: 1h
          then: [b -> a: Late]
    - a -> b: More
  else: [end: failed]
"""
SAID = "M: {}, N: {}, Did: {}, Done: {}, Note: {}, Noted: {}, Stop: {}, Stopped: {}, Late: {}, More: {}"


@pytest.mark.parametrize("text", [calling(), calling(NESTED, SAID.replace("N: {}, ", ""))], ids=["small", "nested"])
def test_every_way_through_a_conversation_with_calls_ends(text: str) -> None:
    protocol = compile_protocol(join_bundle(SpecText("", one) for one in (text, TASK)))

    outcomes = {ReferenceRun(protocol.tables, Random(seed)).run() for seed in range(300)}

    assert outcomes <= {*protocol.outcomes, FAILED_BY_DEADLINE}
    assert len(outcomes) > 1
