"""Findings: how they read, for people and for programs."""

import copy

import pytest

from bus.errors import SpecError
from bus.spec.diagnostic import MAX_FINDINGS, Diagnostic, Report, did_you_mean, listed, spec_error
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


def test_reading_ends_where_nobody_reads_on():
    report = Report()

    for number in range(MAX_FINDINGS - 1):
        report.error(Mark("f.yaml", number + 1, 1), "E-X", "wrong")
    with pytest.raises(SpecError) as caught:
        report.error(Mark("f.yaml", MAX_FINDINGS, 1), "E-X", "wrong")

    assert len(caught.value.diagnostics) == MAX_FINDINGS == len(report.diagnostics)


def test_of_many_warnings_the_first_are_kept_and_the_file_is_not_refused():
    report = Report()

    for number in range(2 * MAX_FINDINGS):
        report.warn(Mark("f.yaml", number + 1, 1), "W-Y", "odd")

    assert len(report.diagnostics) == MAX_FINDINGS
    assert not report.has_errors


def test_the_nearest_of_very_many_words_is_found_among_those_that_begin_alike():
    words = [f"Message{number}" for number in range(20_000)]

    assert did_you_mean("Mesage1500", words) is not None


def test_of_very_many_words_some_are_listed():
    assert listed(f"w{number:03}" for number in range(100)).endswith("w028, w029 and 70 more")
    assert listed(["b", "a"]) == "a, b"
    assert listed([]) == "none"
