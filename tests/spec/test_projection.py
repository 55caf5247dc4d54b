"""What each role may do: the tables of real protocols, and of small ones that show one rule each."""

import math

import pytest
from spec_source import Walk, shipped, spec_of

from bus.spec.projection import project
from bus.spec.tables import Timer

NEWSROOM = Walk(shipped("newsroom"))
TRAINING = Walk(shipped("training"))
RUNNING = ("TrainRequest", "Quote", "Accept", "Queued", "Started")


# -- the newsroom -------------------------------------------------------------------------------------


def test_the_writer_owes_a_draft_after_the_digest() -> None:
    state = NEWSROOM.after("writer", "Brief", "Digest")

    assert sorted(NEWSROOM.sends("writer", state)) == ["Draft"]
    assert NEWSROOM.machine("writer").owes[state]
    assert NEWSROOM.machine("writer").receive[state] == {}


def test_the_writer_owes_nothing_while_the_editor_reads() -> None:
    state = NEWSROOM.after("writer", "Brief", "Digest", "Draft")

    assert not NEWSROOM.machine("writer").owes[state]
    assert NEWSROOM.receives("writer", state) == {"Approve", "Revise", "Kill"}


@pytest.mark.parametrize(
    ("role", "path"),
    [
        ("desk", ["Brief"]),
        ("researcher", ["Brief", "FindingsDone"]),
        ("summarizer", ["FindingsDone", "Digest"]),
        ("writer", ["Brief", "Digest", "Draft", "Revise", "Draft", "Revise", "Draft", "Revise"]),
        ("editor", ["Draft", "Revise", "Draft", "Revise", "Draft", "Revise"]),
    ],
)
def test_after_the_third_revision_the_end_of_the_loop_is_due_for_every_role(role: str, path: list[str]) -> None:
    state = NEWSROOM.after(role, *path)

    assert NEWSROOM.event("revisions.max") in NEWSROOM.machine(role).due[state]
    assert NEWSROOM.event("revisions.max") in NEWSROOM.machine(role).bus[state]


def test_each_revision_counts_and_a_draft_needs_a_pass_that_is_left() -> None:
    revise = NEWSROOM.sends("editor", NEWSROOM.after("editor", "Draft"))["Revise"]
    draft = NEWSROOM.sends("writer", NEWSROOM.after("writer", "Brief", "Digest"))["Draft"]

    (counter,) = revise.counts
    assert draft.guards == (counter,)
    assert NEWSROOM.tables.counters[counter].limit == 3
    assert NEWSROOM.tables.counters[counter].event == NEWSROOM.event("revisions.max")


def test_the_desk_can_receive_the_story_or_hear_that_it_was_dropped() -> None:
    state = NEWSROOM.after("desk", "Brief")

    assert NEWSROOM.receives("desk", state) == {"Published", "Spiked"}
    assert NEWSROOM.told("desk", NEWSROOM.after("desk", "Brief", "Published")) == {"published.end"}


def test_a_stream_has_the_deadline_of_the_message_that_ends_it() -> None:
    for path in (["Brief"], ["Brief", "Finding"]):
        timer = NEWSROOM.timer("researcher", *path)

        assert timer == Timer(
            role=1, step="FindingsDone", within=600.0, event=NEWSROOM.event("FindingsDone.else"), retry=2
        )


def test_a_choice_has_one_deadline_and_its_first_messages_none_of_their_own() -> None:
    timer = NEWSROOM.timer("editor", "Draft")

    assert timer == Timer(
        role=4, step="choice editor", within=86_400.0, event=NEWSROOM.event("choice editor.else"), remind=14_400.0
    )


def test_only_the_role_that_is_to_speak_has_a_deadline() -> None:
    assert NEWSROOM.timer("writer", "Brief", "Digest", "Draft") is None
    assert NEWSROOM.timer("desk", "Brief") is None


def test_the_address_of_a_message_is_its_receivers_in_the_order_written() -> None:
    ((_, address),) = NEWSROOM.machine("desk").send[0]

    assert NEWSROOM.tables.addresses[address] == (1, 3)


# -- training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_messages", [3, 4, 5])
def test_cancel_is_possible_throughout_the_run(n_messages: int) -> None:
    state = TRAINING.after("client", *RUNNING[:n_messages])
    cancel = TRAINING.sends("client", state)["Cancel"]

    assert cancel.interrupt == TRAINING.event("run.Cancel")
    assert cancel.next == TRAINING.machine("client").bus[state][cancel.interrupt]
    assert cancel.interrupt in TRAINING.machine("trainer").bus[TRAINING.after("trainer", *RUNNING[:n_messages])]


def test_cancel_is_possible_while_paused_and_not_before_the_run() -> None:
    assert "Cancel" in TRAINING.sends("client", TRAINING.after("client", *RUNNING, "Pause"))
    assert "Cancel" not in TRAINING.sends("client", TRAINING.after("client", "TrainRequest", "Quote"))


def test_in_every_state_inside_the_run_the_client_may_cancel() -> None:
    machine = TRAINING.machine("client")
    run = [scope.name for scope in TRAINING.tables.scopes].index("run")

    for state, scopes in enumerate(machine.scopes):
        assert ("Cancel" in TRAINING.sends("client", state)) == (run in scopes)


def test_pause_is_possible_only_while_the_run_is_running() -> None:
    machine = TRAINING.machine("client")
    running = [scope.name for scope in TRAINING.tables.scopes].index("running")

    for state, scopes in enumerate(machine.scopes):
        assert ("Pause" in TRAINING.sends("client", state)) == (running in scopes)


def test_an_interrupt_reaches_its_receiver_as_a_bus_event_and_not_as_a_message() -> None:
    state = TRAINING.after("trainer", *RUNNING)

    assert not {"Cancel", "Pause"} & TRAINING.receives("trainer", state)
    assert {"run.Cancel", "running.Pause"} <= TRAINING.told("trainer", state)


def test_waits_inside_a_scope_with_a_timeout_have_no_deadline_of_their_own() -> None:
    assert TRAINING.timer("trainer", *RUNNING) is None
    assert TRAINING.timer("trainer", *RUNNING[:4]).within == 604_800.0  # type: ignore[union-attr]  # there is one


def test_a_lossy_message_leaves_every_state_as_it_is() -> None:
    for role in ("trainer", "client"):
        assert TRAINING.after(role, *RUNNING, "Progress") == TRAINING.after(role, *RUNNING)


def test_a_message_belongs_to_every_scope_around_it() -> None:
    trained = TRAINING.sends("trainer", TRAINING.after("trainer", *RUNNING))["Trained"]

    assert [TRAINING.tables.scopes[scope].name for scope in trained.scopes] == ["run", "running"]


# -- deadlines ----------------------------------------------------------------------------------------


def test_an_uncovered_wait_takes_the_specs_own_default_or_else_the_setting() -> None:
    assert Walk(spec_of("- a -> b: M1")).timer("a").within is None  # type: ignore[attr-defined]  # there is one
    assert Walk(spec_of("- a -> b: M1", within="7s")).timer("a").within == 7.0  # type: ignore[attr-defined]  # there is one


def test_forever_is_no_deadline_and_no_event_of_its_own() -> None:
    walk = Walk(spec_of("- a -> b: M1\n  within: forever"))

    assert walk.timer("a") is None
    assert walk.tables.timers == ()


def test_forever_with_a_reminder_keeps_the_reminder() -> None:
    timer = Walk(spec_of("- a -> b: M1\n  within: forever\n  remind: 5s")).timer("a")

    assert timer == Timer(role=0, step="M1", within=math.inf, remind=5.0)


def test_a_written_else_asks_for_a_deadline_even_where_a_timeout_covers_the_wait() -> None:
    walk = Walk(
        spec_of(
            "- scope: s\n  do: [{a -> b: M1, else: [{end: late}]}, {b -> a: M2}]\n"
            "  interrupts: [{timeout: 5s, then: []}]"
        )
    )

    assert walk.timer("a") == Timer(role=0, step="M1", within=None, event=walk.event("M1.else"))
    assert walk.timer("b", "M1") is None


def test_a_timeout_of_forever_covers_nothing() -> None:
    walk = Walk(spec_of("- scope: s\n  do: [{a -> b: M1}]\n  interrupts: [{timeout: forever, then: []}]"))

    assert walk.timer("a") is not None


def test_a_choice_that_may_take_forever_silences_the_defaults_of_its_branches() -> None:
    walk = Walk(
        spec_of("- choice: a\n  within: forever\n  branches: {x: [{a -> b: M1}], y: [{a -> b: M2}]}", within="7s")
    )

    assert walk.timer("a") is None


def test_a_non_empty_stream_has_the_deadline_of_its_ending_from_the_first_message_on() -> None:
    walk = Walk(spec_of("- a -> b: M1+\n  within: 1s\n- a -> b: M2\n  within: 9s\n  else: [{end: late}]\n- b -> a: M3"))

    for path in ([], ["M1"], ["M1", "M1"]):
        assert walk.timer("a", *path) == Timer(role=0, step="M2", within=9.0, event=walk.event("M2.else"))
        assert "M2.else" in walk.told("b", walk.after("b", *path))


def test_a_stream_keeps_its_own_deadline_where_another_role_speaks_next() -> None:
    walk = Walk(spec_of("- a -> b: M1+\n  within: 4s\n- b -> a: M2\n  within: 9s"))

    assert walk.timer("a").within == 4.0  # type: ignore[attr-defined]  # there is one


def test_a_missed_deadline_goes_on_with_what_follows_the_step() -> None:
    walk = Walk(spec_of("- a -> b: M1\n  within: 1s\n  else: [{a -> b: M4}]\n- b -> a: M2"))

    assert sorted(walk.sends("a", walk.after("a", "M1.else"))) == ["M4"]
    assert walk.receives("a", walk.after("a", "M1.else", "M4")) == {"M2"}


# -- states -------------------------------------------------------------------------------------------


def test_a_role_that_sees_nothing_of_a_choice_waits_for_any_of_its_ways() -> None:
    walk = Walk(
        spec_of(
            "- choice: a\n  branches: {x: [{a -> b: M1}, {b -> c: M3}, {end: kept}], y: [{a -> b: M2}, {end: dropped}]}"
        )
    )

    assert walk.receives("c", walk.after("c")) == {"M3"}
    assert walk.told("c", walk.after("c")) == {"dropped.end"}
    assert not walk.machine("c").final[walk.after("c")]


def test_a_role_that_has_nothing_more_to_say_or_hear_is_final() -> None:
    walk = Walk(spec_of("[{a -> b: M1}, {b -> c: M2}]"))

    assert walk.machine("a").final[walk.after("a", "M1")]
    assert not walk.machine("b").final[walk.after("b", "M1")]


def test_a_role_that_the_end_may_take_before_it_speaks_owes_nothing() -> None:
    walk = Walk(spec_of("- a -> b: M1\n- choice: a\n  branches: {x: [{a -> b: M2}], skip: []}"))

    assert not walk.machine("a").owes[walk.after("a", "M1")]


def test_what_a_role_may_only_interrupt_with_it_does_not_owe() -> None:
    walk = Walk(
        spec_of("- a -> b: M1\n- scope: s\n  do: [{b -> c: M2}]\n  interrupts: [{a -> b: M9, then: [{end: x}]}]")
    )
    state = walk.after("a", "M1")

    assert sorted(walk.sends("a", state)) == ["M9"]
    assert not walk.machine("a").owes[state]


def test_of_nested_scopes_with_the_same_interrupt_the_innermost_is_meant() -> None:
    walk = Walk(
        spec_of(
            "- a -> b: M1\n- scope: outer\n  do:\n    - scope: inner\n      do: [{b -> a: M2}]\n"
            "      interrupts: [{a -> b: M9, then: [{b -> a: M3}]}]\n    - b -> a: M4\n"
            "  interrupts: [{a -> b: M9, then: [{end: x}]}]"
        )
    )

    assert walk.sends("a", walk.after("a", "M1"))["M9"].interrupt == walk.event("inner.M9")
    assert walk.sends("a", walk.after("a", "M1", "M2"))["M9"].interrupt == walk.event("outer.M9")


def test_a_role_stands_certainly_only_in_scopes_that_it_cannot_have_left_unseen() -> None:
    walk = Walk(
        spec_of(
            "- a -> b: M1\n- scope: s\n  do: [{b -> c: M2}, {c -> b: M3}]\n"
            "  interrupts: [{lost: c, then: []}]\n- b -> a: M4"
        )
    )

    assert walk.scopes("c") == []
    assert walk.scopes("c", "M2") == ["s"]
    assert walk.scopes("a", "M1") == []


def test_equal_scope_tuples_are_one_object() -> None:
    seen: dict[tuple[int, ...], int] = {}
    for machine in TRAINING.tables.machines:
        for scopes in machine.scopes:
            assert seen.setdefault(scopes, id(scopes)) == id(scopes)


@pytest.mark.parametrize("name", ["newsroom", "training", "task", "generation", "echo"])
def test_equal_specs_give_equal_tables(name: str) -> None:
    assert project(shipped(name)).tables() == project(shipped(name)).tables()


@pytest.mark.parametrize("name", ["newsroom", "training", "task", "generation", "echo"])
def test_every_state_can_be_reached_and_every_table_has_a_row_for_it(name: str) -> None:
    for machine in project(shipped(name)).tables().machines:
        rows = [(*(move.next for move in (*send.values(), *receive.values())), *bus.values())
                for send, receive, bus in zip(machine.send, machine.receive, machine.bus, strict=True)]  # fmt: skip
        columns = (machine.due, machine.timer, machine.scopes, machine.owes, machine.final)
        assert {len(column) for column in columns} == {len(rows)}
        assert {machine.start}.union(*rows) == set(range(len(rows)))


@pytest.mark.parametrize("name", ["newsroom", "training", "task", "generation", "echo"])
def test_no_shipped_protocol_lets_a_role_speak_and_listen_at_once(name: str) -> None:
    for machine in project(shipped(name)).tables().machines:
        for send, receive in zip(machine.send, machine.receive, strict=True):
            assert not receive or all(move.interrupt >= 0 for move in send.values())
