"""Exit codes: one table, and every error and outcome has its place in it."""

import pytest

from bus.cli.exit_codes import (
    MEANINGS,
    ExitCode,
    exit_code_of_error,
    exit_code_of_launch,
    exit_code_of_outcome,
    show_exit_codes,
)
from bus.errors import BrokerRunning, BrokerUnavailable, FleetError, JournalFailed, ProgramError, SpecError

TRAINING = ["trained", "refused", "declined", "failed", "canceled"]


def test_every_code_has_a_meaning_that_help_shows():
    text = show_exit_codes()

    assert set(MEANINGS) == set(ExitCode)
    assert all(str(int(code)) in text for code in ExitCode)


@pytest.mark.parametrize(
    ("outcome", "code"),
    [("trained", 0), ("refused", 12), ("declined", 13), ("failed", 10), ("canceled", 11), ("done", 0)],
)
def test_the_outcome_decides_the_code(outcome, code):
    assert exit_code_of_outcome(outcome, TRAINING) == code


def test_failed_and_canceled_keep_their_codes_where_the_spec_names_them_first():
    assert exit_code_of_outcome("canceled", ["failed", "canceled", "good", "bad"]) == 11
    assert exit_code_of_outcome("good", ["failed", "canceled", "good", "bad"]) == 0
    assert exit_code_of_outcome("bad", ["failed", "canceled", "good", "bad"]) == 12


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BrokerUnavailable("x"), 3),
        (TimeoutError(), 4),
        (JournalFailed("x"), 74),
        (SpecError("x"), 1),
        (FleetError("x"), 1),
    ],
)
def test_the_error_decides_the_code(error, code):
    assert exit_code_of_error(error) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [(SpecError("x"), 78), (ProgramError("x"), 78), (BrokerRunning("x"), 78), (BrokerUnavailable("x"), 3)],
)
def test_a_launch_tells_whether_another_try_would_help(error, code):
    assert exit_code_of_launch(error) == code
