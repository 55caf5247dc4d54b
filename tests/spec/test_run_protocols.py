"""Random execution of whole protocols over their tables: nothing gets stuck, nothing is left behind."""

from random import Random

import pytest
from reference_run import FAILED_BY_DEADLINE, ReferenceRun
from spec_source import CANCEL_ANYWHERE, PARALLEL_OK, PING, STARVATION_BOUNDED_BY_MAX, shipped, spec_of

from bus.spec.projection import project
from bus.spec.syntax import Spec

RUNS = 200
SPECS: dict[str, Spec] = {
    **{name: shipped(name) for name in ("newsroom", "training", "task", "generation", "echo")},
    "ping": spec_of(PING),
    "parallel-ok": spec_of(PARALLEL_OK),
    "cancel-anywhere": spec_of(CANCEL_ANYWHERE),
    "starvation-bounded-by-max": spec_of(STARVATION_BOUNDED_BY_MAX),
}
TABLES = {name: project(spec).tables() for name, spec in SPECS.items()}


def finished(name: str, *, mishap: float) -> list[ReferenceRun]:
    runs = [ReferenceRun(TABLES[name], Random(f"{name}-{number}"), mishap) for number in range(RUNS)]
    for run in runs:
        run.run()
    return runs


@pytest.mark.parametrize("name", TABLES)
def test_every_random_run_ends_and_leaves_no_message_behind(name: str) -> None:
    for run in finished(name, mishap=0.1):
        assert run.outcome is not None
        if run.outcome != FAILED_BY_DEADLINE:
            assert run.early == [[] for _ in run.states], run.history


@pytest.mark.parametrize("name", TABLES)
def test_where_nothing_goes_wrong_every_run_ends_in_an_outcome_of_the_protocol(name: str) -> None:
    known = {outcome for outcome, _ in SPECS[name].outcomes} | {"done", "gave-up", "stopped"}

    for run in finished(name, mishap=0.0):
        assert run.outcome in known
        assert run.early == [[] for _ in run.states], run.history


@pytest.mark.parametrize("name", TABLES)
def test_after_an_end_no_role_can_do_anything(name: str) -> None:
    for run in finished(name, mishap=0.1):
        if run.outcome == FAILED_BY_DEADLINE:
            continue
        for machine, state in zip(run.tables.machines, run.states, strict=True):
            assert (machine.send[state], machine.receive[state], machine.bus[state]) == ({}, {}, {})
            assert machine.final[state]


def test_random_runs_of_the_newsroom_reach_both_outcomes_and_the_end_of_the_loop() -> None:
    runs = finished("newsroom", mishap=0.02)

    assert {"published", "spiked"} <= {run.outcome for run in runs}
    assert any("revisions.max" in run.history for run in runs)


def test_a_counted_loop_that_its_own_end_leads_into_again_begins_its_passes_anew() -> None:
    spec = spec_of(
        "- loop: outer\n  max: 3\n  do:\n"
        "    - loop: inner\n      max: 2\n      do: [{a -> b: M1}]\n      else: []\n"
        "  else: [{end: enough}]"
    )
    run = ReferenceRun(project(spec).tables(), Random(0), mishap=0.0)

    assert run.run() == "enough"
    assert run.history == ["0 -> (1,): 0", "0 -> (1,): 0", "inner.max"] * 3 + ["outer.max", "enough.end"]
