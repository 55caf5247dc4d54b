"""The global automaton: what unfolds to what, what is refused, and what is counted where."""

import pytest
from spec_source import Walk, shipped, spec_of

from bus.errors import SpecError
from bus.spec.automaton import closure
from bus.spec.syntax import Break, Interrupt, Mark, Scope, Send
from bus.spec.tables import EventKind
from bus.spec.unfold import unfold


def refusal(conversation: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        Walk(spec_of(conversation))
    return caught.value


def rule_of(error: SpecError) -> str:
    (diagnostic,) = error.diagnostics
    return diagnostic.rule


# -- what is refused ----------------------------------------------------------------------------------


def test_a_step_behind_an_end_is_refused() -> None:
    assert rule_of(refusal("[{a -> b: M1}, {end: x}, {b -> a: M2}]")) == "E-UNREACHABLE"


def test_a_step_behind_a_loop_that_is_never_left_is_refused() -> None:
    assert rule_of(refusal("[{loop: l, do: [{a -> b: M1}]}, {b -> a: M2}]")) == "E-UNREACHABLE"


def test_a_step_behind_a_parallel_that_never_joins_is_refused() -> None:
    error = refusal("[{parallel: {x: [{a -> b: M1}, {end: x}], y: [{a -> c: M2}]}}, {a -> b: M3}]")

    assert rule_of(error) == "E-UNREACHABLE"


@pytest.mark.parametrize("step", ["break", "{break: l}", "{continue: l}"])
def test_leaving_a_loop_from_outside_is_refused(step: str) -> None:
    assert rule_of(refusal(f"[{{a -> b: M1}}, {step}]")) == "E-UNBOUND-LOOP"


def test_an_undeclared_role_or_message_is_refused_even_where_no_check_ran_before() -> None:
    spec = spec_of("- a -> b: M1")
    mark = Mark("f", 3, 5)
    for send, rule in [
        (Send(mark, "a", ("c",), "M1"), "E-UNKNOWN-ROLE"),
        (Send(mark, "a", ("b",), "M7"), "E-UNKNOWN-MESSAGE"),
    ]:
        wrong = type(spec)(**{**_fields(spec), "conversation": (send,)})

        with pytest.raises(SpecError, match="f:3:5") as caught:
            unfold(wrong)

        assert rule_of(caught.value) == rule


def test_an_interrupt_without_a_trigger_is_refused() -> None:
    spec = spec_of("- a -> b: M1")
    mark = Mark("f", 3, 5)
    scope = Scope(mark, "s", (Send(mark, "a", ("b",), "M1"),), (Interrupt(mark, ()),))

    with pytest.raises(SpecError, match="trigger"):
        unfold(type(spec)(**{**_fields(spec), "conversation": (scope,)}))


def test_a_break_that_names_no_loop_around_it_is_refused_by_name() -> None:
    spec = spec_of("- a -> b: M1")

    with pytest.raises(SpecError, match="expected the loop 'outer'"):
        unfold(type(spec)(**{**_fields(spec), "conversation": (Break(Mark("f", 3, 5), "outer"),)}))


@pytest.mark.slow
def test_a_product_of_too_many_positions_is_refused() -> None:
    branches = ", ".join(
        f"x{number}: [{', '.join(f'{{a -> b: M{number}{step}}}' for step in range(10))}]" for number in range(5)
    )
    error = refusal(f"- parallel: {{{branches}}}")

    assert rule_of(error) == "E-TOO-MANY-POSITIONS"
    assert "20,000" in str(error)


def test_a_message_that_is_both_the_next_step_and_an_interrupt_is_refused() -> None:
    error = refusal("- scope: s\n  do: [{a -> b: M1}, {b -> a: M2}]\n  interrupts: [{a -> b: M1, then: [{end: x}]}]")

    assert rule_of(error) == "E-AMBIGUOUS"


# -- counting -----------------------------------------------------------------------------------------


def test_an_optional_last_message_of_a_counted_pass_is_refused() -> None:
    error = refusal(
        "- loop: l\n  max: 3\n  do:\n    - a -> b: M1\n    - choice: a\n      branches: {x: [{a -> b: M2}], skip: []}"
    )

    assert rule_of(error) == "E-UNCOUNTABLE"
    assert "'l'" in str(error)


def test_a_counted_pass_that_may_be_empty_is_refused() -> None:
    error = refusal(
        "- a -> b: M1\n- loop: l\n  max: 3\n  do:\n    - choice: a\n      branches: {x: [{a -> b: M2}], skip: []}"
    )

    assert rule_of(error) == "E-UNCOUNTABLE"


def test_a_bus_event_behind_which_a_pass_may_be_over_is_refused_by_the_events_name() -> None:
    error = refusal(
        "- loop: l\n  max: 3\n  do:\n    - a -> b: M1\n    - b -> a: M2\n      within: 1s\n      else: []\n"
        "    - choice: a\n      branches: {x: [{a -> b: M3}], skip: []}"
    )

    assert rule_of(error) == "E-UNCOUNTABLE"


def test_falling_off_a_loop_and_continue_both_count_a_pass() -> None:
    walk = Walk(
        spec_of(
            "- loop: l\n  max: 3\n  do:\n    - choice: a\n      branches:\n"
            "        again: [{a -> b: M1}, {continue: l}]\n        fall: [{a -> b: M2}]\n"
            "        out: [{a -> b: M3}, {break: l}]\n  else: [{a -> b: M4}]"
        )
    )

    moves = walk.sends("a", walk.after("a"))

    assert [(name, move.counts) for name, move in sorted(moves.items())] == [("M1", (0,)), ("M2", (0,)), ("M3", ())]


def test_only_the_first_message_of_a_pass_waits_for_the_counter() -> None:
    walk = Walk(spec_of("- loop: l\n  max: 3\n  do: [{a -> b: M1}, {b -> a: M2}, {a -> b: M3}]\n  else: []"))

    assert walk.sends("a", walk.after("a"))["M1"].guards == (0,)
    assert walk.sends("b", walk.after("b", "M1"))["M2"].guards == ()
    assert walk.sends("a", walk.after("a", "M1", "M2"))["M3"].guards == ()
    assert walk.sends("a", walk.after("a", "M1", "M2"))["M3"].counts == (0,)


def test_a_message_behind_the_loop_does_not_wait_for_its_counter() -> None:
    walk = Walk(
        spec_of(
            "- loop: l\n  max: 3\n  do:\n    - choice: a\n      branches:\n        more: [{a -> b: M1}]\n"
            "        one: [break]\n        two: [break]\n  else: []\n- a -> b: M2"
        )
    )

    moves = walk.sends("a", walk.after("a"))

    assert (moves["M1"].guards, moves["M2"].guards) == ((0,), ())


def test_a_break_by_name_leaves_the_loops_between() -> None:
    walk = Walk(
        spec_of("- loop: outer\n  do:\n    - loop: inner\n      do: [{a -> b: M1}, {break: outer}]\n- b -> a: M2")
    )

    assert sorted(walk.sends("b", walk.after("b", "M1"))) == ["M2"]


def test_the_message_that_leads_into_a_loop_resets_its_counter() -> None:
    walk = Walk(
        spec_of(
            "- loop: outer\n  do:\n    - a -> b: M1\n    - loop: inner\n      max: 2\n      do: [{b -> a: M2}]\n"
            "      else: []"
        )
    )

    assert walk.sends("a", walk.after("a"))["M1"].resets == (0,)
    assert walk.sends("b", walk.after("b", "M1"))["M2"].resets == ()
    assert walk.sends("b", walk.after("b", "M1"))["M2"].counts == (0,)


def test_a_bus_event_that_leads_into_a_loop_resets_its_counter() -> None:
    walk = Walk(
        spec_of(
            "- loop: outer\n  max: 4\n  do:\n"
            "    - loop: inner\n      max: 2\n      do: [{a -> b: M1}]\n      else: []\n"
            "  else: [{end: enough}]"
        )
    )

    event = walk.tables.events[walk.event("inner.max")]
    inner, outer = (
        [one.name for one in walk.tables.counters].index("inner"),
        [one.name for one in walk.tables.counters].index("outer"),
    )
    assert (event.resets, event.counts) == ((inner,), (outer,))


def test_hearing_what_a_stream_follows_resets_its_counter_and_each_of_its_messages_counts_and_waits() -> None:
    walk = Walk(spec_of("- b -> a: M0\n- a -> b: M1*\n  max: 7\n- a -> b: M2"))

    assert walk.sends("b", walk.after("b"))["M0"].resets == ()
    [heard] = walk.machine("a").receive[walk.after("a")].values()
    assert heard.resets == (0,)
    for path in (["M0"], ["M0", "M1"], ["M0", "M1", "M1"]):
        move = walk.sends("a", walk.after("a", *path))["M1"]
        assert (move.counts, move.guards, move.keeps_timer) == ((0,), (0,), True)
    assert walk.tables.counters[0].event == -1


def test_the_first_message_of_a_non_empty_stream_begins_its_count() -> None:
    walk = Walk(spec_of("- a -> b: M1+\n  max: 7\n- a -> b: M2"))

    first = walk.sends("a", walk.after("a"))
    assert sorted(first) == ["M1"]
    assert (first["M1"].resets, first["M1"].counts, first["M1"].guards) == ((0,), (0,), ())
    assert sorted(walk.sends("a", walk.after("a", "M1"))) == ["M1", "M2"]


# -- events and scopes --------------------------------------------------------------------------------


def test_events_are_named_by_their_place_and_numbered_where_a_name_repeats() -> None:
    names = [event.name for event in Walk(shipped("newsroom")).tables.events]

    assert names == [
        "FindingsDone.else", "spiked.end", "revisions.max", "choice editor.else", "spiked.end.2",
        "published.end", "spiked.end.3", "spiked.end.4",
    ]  # fmt: skip


def test_falling_off_the_end_is_the_outcome_done() -> None:
    (event,) = Walk(spec_of("- a -> b: M1")).tables.events

    assert (event.kind, event.outcome) == (EventKind.END, "done")


def test_only_what_cuts_a_scope_short_discards() -> None:
    kinds = {
        event.kind: (event.discards, event.scope >= 0)
        for name in ("newsroom", "training")
        for event in Walk(shipped(name)).tables.events
    }

    assert kinds == {
        EventKind.ELSE: (False, False),
        EventKind.END: (False, False),
        EventKind.MAX: (False, False),
        EventKind.INTERRUPT: (True, True),
        EventKind.TIMEOUT: (True, True),
        EventKind.LOST: (True, True),
    }


def test_scopes_know_their_parent_and_what_may_close_them() -> None:
    walk = Walk(
        spec_of(
            "- scope: outer\n  do:\n    - scope: inner\n      do: [{a -> b: M1}, {b -> a: M2}]\n"
            "      interrupts: [{failed: b, then: [{end: x}]}, {timeout: 5s, then: []}, {timeout: 9s, then: []}]\n"
            "  interrupts: [{lost: a, then: [{end: y}]}]"
        )
    )
    outer, inner = walk.tables.scopes

    assert (outer.name, outer.parent, inner.name, inner.parent) == ("outer", -1, "inner", 0)
    assert outer.lost == ((0, walk.event("outer.lost.a")),)
    assert inner.failed == ((1, walk.event("inner.failed.b")),)
    assert inner.timeouts == ((5.0, walk.event("inner.timeout")), (9.0, walk.event("inner.timeout.2")))


def test_a_loop_without_else_that_runs_out_ends_as_failed() -> None:
    for bound, event in (("max: 2", "l.max"), ("within: 3s", "l.timeout")):
        walk = Walk(spec_of(f"- loop: l\n  {bound}\n  do: [{{a -> b: M1}}]"))

        state = walk.after("a", event)

        (end,) = walk.told("a", state)
        assert walk.tables.events[walk.event(end)].outcome == "failed"


def test_a_loop_with_within_is_a_scope_with_a_timeout_alone() -> None:
    walk = Walk(spec_of("- loop: l\n  within: 3s\n  do: [{a -> b: M1}, {b -> a: M2}]\n  else: [{a -> b: M3}]"))
    (scope,) = walk.tables.scopes

    assert (scope.name, scope.lost, scope.failed) == ("l", (), ())
    assert scope.timeouts == ((3.0, walk.event("l.timeout")),)
    assert walk.scopes("a", "M1") == ["l"]
    assert sorted(walk.sends("a", walk.after("a", "M1", "l.timeout"))) == ["M3"]


def test_a_loop_that_may_last_forever_is_no_scope() -> None:
    assert Walk(spec_of("- loop: l\n  within: forever\n  do: [{a -> b: M1}]")).tables.scopes == ()


def test_what_follows_an_interrupt_runs_outside_its_scope_and_inside_the_outer_one() -> None:
    walk = Walk(shipped("training"))

    assert walk.scopes("trainer", "TrainRequest", "Quote", "Accept", "Queued") == ["run", "running"]
    assert walk.scopes("trainer", "TrainRequest", "Quote", "Accept", "Queued", "running.Pause") == ["run"]


# -- parallel -----------------------------------------------------------------------------------------


def test_branches_of_a_parallel_interleave_and_join() -> None:
    walk = Walk(spec_of("- parallel: {x: [{a -> b: M1}, {b -> a: M2}], y: [{a -> c: M3}, {c -> a: M4}]}\n- a -> b: M5"))

    assert sorted(walk.sends("a", walk.after("a"))) == ["M1", "M3"]
    for path in (["M1", "M2", "M3", "M4"], ["M3", "M1", "M4", "M2"], ["M3", "M4", "M1", "M2"]):
        assert sorted(walk.sends("a", walk.after("a", *path))) == ["M5"]
    assert len(walk.machine("a").send) == 9 + 2


def test_an_end_inside_a_parallel_ends_the_other_branches_too() -> None:
    walk = Walk(spec_of("- parallel: {x: [{a -> b: M1}, {end: x}], y: [{a -> c: M3}, {c -> a: M4}, {end: y}]}"))

    state = walk.after("a", "M3", "M1", "x.end")

    assert (walk.sends("a", state), walk.receives("a", state), walk.told("a", state)) == ({}, set(), set())


def test_a_break_out_of_a_parallel_leaves_all_its_branches() -> None:
    walk = Walk(
        spec_of(
            "- loop: l\n  do:\n    - parallel:\n        x: [{a -> b: M1}, {break: l}]\n"
            "        y: [{a -> c: M3}, {c -> a: M4}, {end: y}]\n- a -> b: M5"
        )
    )

    assert "M5" in walk.sends("a", walk.after("a", "M1"))


def test_a_scope_inside_a_branch_is_cut_short_alone() -> None:
    walk = Walk(
        spec_of(
            "- parallel:\n"
            "    x: [{scope: s, do: [{a -> b: M1}, {b -> a: M2}], interrupts: [{timeout: 5s, then: [{b -> a: M6}]}]}]\n"
            "    y: [{a -> c: M3}, {c -> a: M4}]\n- a -> b: M5"
        )
    )

    after = walk.after("a", "M1", "s.timeout")

    assert walk.receives("a", after) == {"M6"}
    assert sorted(walk.sends("a", after)) == ["M3"]
    assert walk.scopes("a", "M1", "M3") == ["s"]
    assert sorted(walk.sends("a", walk.after("a", "M1", "s.timeout", "M6", "M3", "M4"))) == ["M5"]


def test_a_counted_loop_in_one_branch_does_not_hold_up_the_other() -> None:
    walk = Walk(
        spec_of(
            "- parallel:\n"
            "    x: [{b -> a: M0}, {loop: l, max: 2, do: [{a -> b: M1}], else: []}]\n"
            "    y: [{a -> c: M3}, {a -> c: M4}]\n- a -> b: M5"
        )
    )

    assert walk.sends("b", walk.after("b"))["M0"].resets == (0,)
    after = walk.sends("a", walk.after("a", "M0"))
    assert (after["M1"].guards, after["M1"].counts) == ((0,), (0,))
    assert (after["M3"].guards, after["M3"].counts, after["M3"].resets) == ((), (), ())
    assert sorted(walk.sends("a", walk.after("a", "M0", "M1", "M1", "l.max", "M3", "M4"))) == ["M5"]


def test_closure_holds_its_beginning_and_everything_reachable() -> None:
    assert closure({1}, {1: [2], 2: [1, 3], 3: [], 4: [1]}.__getitem__) == {1, 2, 3}


def _fields(spec: object) -> dict[str, object]:
    return {name: getattr(spec, name) for name in spec.__slots__}  # type: ignore[attr-defined]  # slotted dataclass
