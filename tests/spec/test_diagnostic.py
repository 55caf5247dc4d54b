"""Findings: how they read, for people and for programs."""

import copy

import pytest

from bus.errors import SpecError
from bus.spec.diagnostic import Diagnostic, Report, did_you_mean, spec_error
from bus.spec.syntax import Mark

HERE = Mark("f.yaml", 3, 5)


def test_a_finding_reads_as_place_rule_message_suggestion():
    one = Diagnostic(HERE, "E-X", "expected this, got that", trace=("a -> b: M",), suggestion="did you mean 'this'?")

    assert str(one) == "f.yaml:3:5: E-X: expected this, got that (after a -> b: M); did you mean 'this'?"


def test_a_finding_as_json_holds_everything():
    one = Diagnostic(HERE, "E-X", "wrong", role="writer", trace=("x",))

    assert one.as_json() == {
        "file": "f.yaml", "line": 3, "column": 5, "rule": "E-X", "severity": "error",
        "role": "writer", "message": "wrong", "trace": ["x"], "suggestion": None,
    }  # fmt: skip


def test_a_report_keeps_the_order_of_the_file_and_each_finding_once():
    report = Report()
    report.error(HERE, "E-X", "second")
    report.warn(Mark("f.yaml", 1, 1), "W-Y", "first")
    report.error(HERE, "E-X", "second")

    assert [one.message for one in report.diagnostics] == ["first", "second"]


def test_warnings_alone_refuse_nothing():
    report = Report()
    report.warn(HERE, "W-Y", "odd")

    report.raise_errors()

    assert not report.has_errors


def test_a_spec_error_survives_copying_between_processes():
    error = spec_error([Diagnostic(HERE, "E-X", "wrong")])

    twin = copy.copy(error)

    assert isinstance(twin, SpecError)
    assert (str(twin), twin.diagnostics) == (str(error), error.diagnostics)


@pytest.mark.parametrize(
    ("word", "hint"),
    [("wirter", "did you mean 'writer'?"), ("WRITER", "did you mean 'writer'?"), ("zzz", None), ("x" * 10_000, None)],
)
def test_the_nearest_right_word_is_offered(word, hint):
    assert did_you_mean(word, ["writer", "editor"]) == hint
