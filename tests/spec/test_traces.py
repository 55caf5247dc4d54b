"""Traces: each is a run of its conversation, and none is longer than it must be.

What a run is and how short it can be is asked of ``small_steps``, which knows only the syntax tree.
"""

import json

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from protocol_text import DATA, negative_cases, text_of
from small_steps import all_sends, distances, is_run, knowledge, moves, reachable, takes_part
from spec_source import parsed

from bus.spec.compile import check_text
from bus.spec.syntax import Parallel
from bus.spec.walk import steps

MOST = 400  # things that may be left, in a conversation that is searched through
CORPUS = [json.loads(line)["yaml"] for line in (DATA / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
CASES = [text_of(case) for case in negative_cases()]
# The rules that the syntax tree alone shows need none; all others have a trace.
OF_THE_AUTOMATON = {
    "E-RACE", "E-UNAWARE-SENDER", "E-MIXED", "E-RECEIVE-RACE", "E-UNAWARE-END", "E-STARVED", "E-STARVED-UNBOUNDED",
    "E-LOSSY-CONTROL", "W-NO-END", "W-UNBOUNDED",
}  # fmt: skip


def findings(text):
    """Return the spec and the findings with a trace."""
    found = check_text(text, "test")[1]  # as spec_source.parsed names it
    for one in found:
        assert one.trace or one.rule not in OF_THE_AUTOMATON, one
    traced = [one for one in found if one.trace]
    return (parsed(text), traced) if traced else (None, [])


@pytest.mark.parametrize("text", [*CORPUS, *CASES])
def test_a_trace_is_a_run(text):
    spec, found = findings(text)

    for one in found:
        assert is_run(spec, one.trace), one


@pytest.mark.parametrize("text", [*CORPUS, *CASES])
def test_no_trace_is_longer_than_it_must_be(text):
    spec, found = findings(text)

    check_lengths(spec, found)


ROLES = ("a", "b", "c")
PAIRS = [(one, other) for one in ROLES for other in ROLES if one != other]
SENDS = st.builds(
    lambda pair, number, repeat: {f"{pair[0]} -> {pair[1]}": f"M{number}{repeat}"},
    st.sampled_from(PAIRS),
    st.integers(0, 9),
    st.sampled_from(["", "", "", "*", "+"]),
)


def blocks(depth, loops=0):
    """Return blocks of steps, nested at most *depth* deep."""
    if depth == 0:
        return st.lists(SENDS, max_size=2)
    inner = blocks(depth - 1, loops)
    choices = st.builds(
        lambda role, one, other: {"choice": role, "branches": {"x": one, "y": other}},
        st.sampled_from(ROLES), inner, inner,
    )  # fmt: skip
    name = f"l{loops}"
    ended = blocks(depth - 1, loops + 1).map(lambda block: [*block, {"break": name}])
    turns = st.builds(
        lambda role, more, stop: {"loop": name, "do": [{"choice": role, "branches": {"m": more, "s": stop}}]},
        st.sampled_from(ROLES), blocks(depth - 1, loops + 1), ended,
    )  # fmt: skip
    beside = st.builds(lambda one, other: {"parallel": {"x": [one], "y": [other]}}, SENDS, SENDS)
    step = SENDS | choices | choices | turns | beside
    return st.lists(step, min_size=1, max_size=3) | st.lists(step, min_size=1, max_size=2).map(
        lambda block: [*block, {"end": "failed"}]
    )


@st.composite
def protocols(draw):
    """Return the text of a protocol of three roles, in order or not."""
    # Each begins so that every role takes part: else E-UNUSED-ROLE would hide what is behind it.
    begin = draw(st.permutations([{"a -> b": "X0"}, {"b -> c": "X1"}, {"c -> a": "X2"}]))
    conversation = [*begin[: draw(st.integers(2, 3))], *draw(blocks(2))]
    lossy = draw(st.booleans())
    declared = {f"M{number}": {"delivery": "at-most-once"} if lossy and number < 3 else {} for number in range(10)}
    return json.dumps({
        "language": 1, "protocol": "p", "version": "1.0.0", "roles": {role: {} for role in ROLES},
        "messages": declared | {f"X{number}": {} for number in range(3)}, "conversation": conversation,
    })  # fmt: skip


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(protocols())
def test_the_traces_of_any_protocol_are_shortest_runs(text):
    spec, found = findings(text)
    assume(found)
    for rule in {one.rule for one in found}:
        event(rule)

    for one in found:
        assert is_run(spec, one.trace), one
    check_lengths(spec, found)


def check_lengths(spec, found):
    """Compare with the nearest place at which the fault shows."""
    if not found or any(isinstance(step, Parallel) for step in steps(spec.conversation)):
        return  # beside each other messages are no race: the predicates below do not know that
    around = distances(spec, most=MOST)
    if around is None:
        return
    for one in found:
        nearest = NEAREST.get(one.rule)
        if nearest is not None:
            assert len(one.trace) == min(nearest(around, one)), one
    found = [one for one in found if "comes in between" not in one.message]  # those are about bus events
    for rule, role in {(one.rule, one.role) for one in found if one.rule in NEAREST_OF_ROLE}:
        known = knowledge(spec, role, most=MOST)
        if known is not None:
            shortest = min(len(one.trace) for one in found if (one.rule, one.role) == (rule, role))
            assert shortest == min(NEAREST_OF_ROLE[rule](known, role)), (rule, role)


def nearest_race(around, finding):
    for left, distance in around.items():
        sent = [move.send for move in moves(left) if move.send]
        if any(one.mark == finding.mark and other.sender != one.sender for one in sent for other in sent):
            yield distance + 1


def nearest_doubt(around, finding):
    for left, distance in around.items():
        sent = [move.send for move in moves(left) if move.send]
        if any(
            one.mark == finding.mark != other.mark
            and (one.sender, one.message) == (other.sender, other.message)
            and set(one.receivers) & set(other.receivers)
            for one in sent
            for other in sent
        ):
            yield distance + 1


def nearest_undecided(around, finding):
    for left, distance in around.items():
        if any(move.send and finding.mark in move.via and move.send.sender == finding.role for move in moves(left)):
            yield distance + 1


def nearest_loss(around, finding):
    for left, distance in around.items():
        if any(move.send and move.send.mark == finding.mark for move in moves(left)):
            yield distance + 1


def nearest_mixed(known, role):
    for (left, standing), distance in known.items():
        speaks = any(send.sender == role for send in all_sends(standing))
        if speaks and any(role in send.receivers for send in all_sends({left})):
            yield distance + 1


def nearest_unaware(known, role):
    for (left, standing), distance in known.items():
        awaited = {(send.message, send.receivers) for send in all_sends(standing) if send.sender == role}
        ahead = reachable({left}, lambda move: move.send is not None and not takes_part(role, move))
        if awaited - {(send.message, send.receivers) for send in all_sends(ahead) if send.sender == role}:
            yield distance


def nearest_end(known, role):
    for (left, standing), distance in known.items():
        over = any(move.label == "the bus: done.end" for move in moves(left))
        if over and any(
            role == send.sender or role in send.receivers for send in all_sends(reachable(standing, lambda move: True))
        ):
            yield max(distance, 1)


NEAREST = {
    "E-RACE": nearest_race,
    "E-AMBIGUOUS": nearest_doubt,
    "E-CHOICE-DECIDER": nearest_undecided,
    "E-LOSSY-CONTROL": nearest_loss,
}
NEAREST_OF_ROLE = {"E-MIXED": nearest_mixed, "E-UNAWARE-SENDER": nearest_unaware, "E-UNAWARE-END": nearest_end}
