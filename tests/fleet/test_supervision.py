"""When processes are started again, given up and ended."""

import pytest

from bus.fleet.supervision import (
    BACK_OFF,
    BACK_OFF_LIMIT,
    ENDED,
    GRACE,
    TRANSITIONS,
    GivenUp,
    Happening,
    Kill,
    ProcessState,
    Restarting,
    RestartRule,
    Start,
    SupervisedProcess,
    Supervision,
    Terminate,
)

RULE = RestartRule(at_most=2, within=60.0)
FROM_OUTSIDE = (
    Happening.SEEN,
    Happening.LATE,
    Happening.DIED,
    Happening.REFUSED,
    Happening.DUE,
    Happening.STOP,
)


def in_state(state, rule=RULE):
    """Return a process brought to *state* by what happens in life."""
    process = SupervisedProcess("writer", rule)
    paths = {
        ProcessState.STARTING: (),
        ProcessState.REGISTERED: (Happening.SEEN,),
        ProcessState.BACKING_OFF: (Happening.DIED,),
        ProcessState.GAVE_UP: (Happening.REFUSED,),
        ProcessState.STOPPING: (Happening.STOP,),
        ProcessState.STOPPED: (Happening.STOP, Happening.DIED),
    }
    process.start()
    for happening in paths[state]:
        process.handle(happening, 0.0, "why")
    assert process.state is state
    return process


def die(process, now):
    """Let the process die at *now* and, if it may, start again when its pause is over."""
    effects = process.handle(Happening.DIED, now)
    if process.state is ProcessState.BACKING_OFF:
        process.handle(Happening.DUE, process.due_at)
    return effects


@pytest.mark.parametrize("state", [one for one in ProcessState if one is not ProcessState.EXITED])
@pytest.mark.parametrize("happening", FROM_OUTSIDE)
def test_every_step_is_in_the_table_or_refused_without_effect(state, happening):
    process = in_state(state)

    if (state, happening) in TRANSITIONS:
        process.handle(happening, 1.0, "why")
        expected = TRANSITIONS[state, happening]
        assert process.state is (ProcessState.BACKING_OFF if expected is ProcessState.EXITED else expected)
    else:
        before = (process.due_at, process.running)
        with pytest.raises(KeyError):
            process.handle(happening, 1.0)
        assert (process.state, process.due_at, process.running) == (state, *before)


@pytest.mark.parametrize("state", [one for one in ProcessState if one not in (ProcessState.EXITED, *ENDED)])
def test_every_state_that_is_not_the_end_can_be_stopped(state):
    assert TRANSITIONS[state, Happening.STOP] in (ProcessState.STOPPING, ProcessState.STOPPED)


@pytest.mark.parametrize("state", list(ProcessState))
def test_news_from_the_poll_is_never_out_of_place(state):
    if state is not ProcessState.EXITED:
        assert {(state, Happening.SEEN), (state, Happening.LATE)} <= TRANSITIONS.keys()


def test_a_death_is_followed_by_a_pause_and_a_new_start():
    process = in_state(ProcessState.REGISTERED)

    effects = process.handle(Happening.DIED, 10.0)

    assert effects == [Restarting("writer", 1, 2, BACK_OFF)]
    assert process.due_at == 10.0 + BACK_OFF
    assert process.handle(Happening.DUE, process.due_at) == [Start("writer")]
    assert process.running


def test_pauses_double_up_to_their_limit():
    process = in_state(ProcessState.REGISTERED, RestartRule(at_most=9, within=3600.0))

    pauses = [die(process, 0.0)[0].pause for _ in range(9)]

    assert pauses[:3] == [BACK_OFF, 2 * BACK_OFF, 4 * BACK_OFF]
    assert max(pauses) == BACK_OFF_LIMIT


def test_one_death_too_many_gives_up_and_says_why():
    process = in_state(ProcessState.REGISTERED)
    for now in (1.0, 2.0):
        die(process, now)

    effects = die(process, 3.0)

    assert effects == [GivenUp("writer", "died 3 times within 60 s, at most 2 allowed")]
    assert process.state is ProcessState.GAVE_UP


def test_old_deaths_are_forgotten():
    process = in_state(ProcessState.REGISTERED)
    for now in (1.0, 2.0, 100.0, 101.0, 200.0):
        die(process, now)

    assert process.state is ProcessState.STARTING


def test_our_own_pauses_do_not_make_deaths_look_rare():
    process = in_state(ProcessState.REGISTERED, RestartRule(at_most=4, within=1.0))
    now, pauses = 0.0, 0.0
    for _ in range(4):
        [effect] = die(process, now)
        now, pauses = now + effect.pause, pauses + effect.pause

    die(process, now)

    assert pauses > 1.0
    assert process.state is ProcessState.GAVE_UP


def test_no_restart_allowed_means_the_first_death_is_the_last():
    process = in_state(ProcessState.REGISTERED, RestartRule(at_most=0, within=60.0))

    assert isinstance(process.handle(Happening.DIED, 1.0)[-1], GivenUp)


def test_a_process_that_cannot_be_launched_is_not_tried_again():
    process = in_state(ProcessState.STARTING)

    effects = process.handle(Happening.REFUSED, 1.0, "no such spec")

    assert effects == [GivenUp("writer", "no such spec")]


def test_a_late_process_is_killed():
    process = in_state(ProcessState.STARTING)

    assert process.handle(Happening.LATE, 1.0, "late") == [Kill("writer"), GivenUp("writer", "late")]


def test_a_process_that_does_not_end_in_its_grace_is_killed():
    process = in_state(ProcessState.REGISTERED)

    assert process.handle(Happening.STOP, 5.0) == [Terminate("writer")]
    assert process.due_at == 5.0 + GRACE
    assert process.handle(Happening.DUE, 5.0 + GRACE) == [Kill("writer")]


def fleet():
    supervision = Supervision({"broker": RULE, "writer": RULE, "echo": RULE}, broker="broker")
    effects = supervision.start()
    for name in supervision.processes:
        supervision.handle(name, Happening.SEEN, 0.0)
    return supervision, effects


def test_the_broker_starts_first_and_all_registered_is_ready():
    supervision, effects = fleet()

    assert effects == [Start("broker"), Start("writer"), Start("echo")]
    assert supervision.is_ready


def test_the_broker_ends_after_the_last_agent():
    supervision, _ = fleet()

    assert supervision.stop(1.0) == [Terminate("writer"), Terminate("echo")]
    assert supervision.handle("echo", Happening.DIED, 2.0) == []
    assert supervision.handle("writer", Happening.DIED, 3.0) == [Terminate("broker")]
    assert not supervision.is_over
    supervision.handle("broker", Happening.DIED, 4.0)
    assert supervision.is_over
    assert supervision.failures == {}


def test_a_second_stop_kills():
    supervision, _ = fleet()
    supervision.stop(1.0)

    assert supervision.stop(2.0) == [Terminate("broker"), Kill("writer"), Kill("echo")]


def test_one_given_up_takes_the_fleet_down():
    supervision, _ = fleet()

    effects = supervision.handle("writer", Happening.REFUSED, 1.0, "bad")

    assert effects == [GivenUp("writer", "bad"), Terminate("echo")]
    assert supervision.handle("echo", Happening.DIED, 2.0) == [Terminate("broker")]
    supervision.handle("broker", Happening.DIED, 3.0)
    assert supervision.is_over
    assert supervision.failures == {"writer": "bad"}


def test_a_pause_ends_at_once_when_the_fleet_ends():
    supervision, _ = fleet()
    supervision.handle("writer", Happening.DIED, 1.0)

    supervision.stop(1.1)

    assert supervision.processes["writer"].state is ProcessState.STOPPED
    assert supervision.tick(100.0) == [Kill("echo")]


def test_tick_starts_what_is_due_and_only_that():
    supervision, _ = fleet()
    supervision.handle("writer", Happening.DIED, 1.0)

    assert supervision.next_due() == 1.0 + BACK_OFF
    assert supervision.tick(1.0) == []
    assert supervision.tick(1.0 + BACK_OFF) == [Start("writer")]
    assert supervision.next_due() is None


def test_a_fleet_without_agents_ends_with_its_broker():
    supervision = Supervision({"broker": RULE}, broker="broker")
    supervision.start()

    assert supervision.stop(1.0) == [Terminate("broker")]


def test_a_broker_that_runs_elsewhere_is_left_alone():
    supervision = Supervision({"writer": RULE})
    supervision.start()

    assert supervision.stop(1.0) == [Terminate("writer")]
    supervision.handle("writer", Happening.DIED, 2.0)
    assert supervision.is_over
