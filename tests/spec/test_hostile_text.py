"""Whatever a file holds: a protocol, or findings; never another error, and never a long wait."""

import contextlib
import io
import json
import os
import time

import pytest
from hostile_texts import FAULTY, LIMITED
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from protocol_text import negative_cases, text_of
from spec_fuzz import any_bytes, any_text, broken_mark, grammatical, shuffled

from bus.cli.main import main
from bus.errors import SpecError
from bus.spec.compile import check_text, compile_protocol, load_protocol
from bus.spec.diagnostic import MAX_FINDINGS
from bus.spec.loader import MAX_BYTES, load_document
from bus.spec.rules import RuleError, compile_rule

WORDS = st.sampled_from(
    """language|protocol|roles|messages|conversation|fields|type|enum|rules|default|do|loop|choice|branches|scope
    |interrupts|timeout|then|parallel|each|call|as|outcomes|end|break|a|b|M|a -> b|a -> b, c|a -> a|1.0.0|30s|forever
    |x > 1|list of M|int|many|1..3|within|max|else""".replace("\n    ", "").split("|")
)
RULE_WORDS = st.lists(
    st.sampled_from(
        ["a", "b", "(", ")", "and", "not", "in", "is", "None", "1", "<", "==", "len(", ",", "[", "]", "*"],
    ),
    max_size=12,
)
SCALARS = st.none() | st.booleans() | st.integers(-5, 10**20) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    SCALARS | WORDS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=25,
)


def refusal_of(call, argument):
    """Return the SpecError that *call* raises, or None where it raises none."""
    try:
        call(argument)
    except SpecError as error:
        return error
    return None


CASES = [json.loads(text_of(case)) for case in negative_cases()]


FORMS = ["text", "json", "github"]
JSON_KEYS = {"file", "line", "column", "rule", "severity", "role", "message", "trace", "suggestion"}

# `make fuzz-specs` sets it: the same claims with as many examples as somebody has time for.
EXAMPLES = int(os.environ.get("PALAVER_FUZZ_EXAMPLES", "300"))
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="PALAVER_FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)


def assert_spec_or_findings(text):
    spec, found = check_text(text, "f.yaml")

    assert spec is not None or found
    for one in found:
        assert broken_mark(text, one.mark) is None, one
        assert str(one).startswith("f.yaml:")


@pytest.mark.slow
@FUZZ
@given(any_text)
def test_any_text_gives_a_spec_or_findings_inside_the_file(text):
    assert_spec_or_findings(text)


@pytest.mark.slow
@FUZZ
@given(shuffled())
def test_any_spec_with_lines_or_words_out_of_place_gives_a_spec_or_findings(text):
    assert_spec_or_findings(text)


@pytest.mark.slow
@FUZZ
@given(grammatical())
def test_any_document_with_wrong_values_gives_a_spec_or_findings(text):
    assert_spec_or_findings(text)


@pytest.mark.slow
@FUZZ
@given(data=any_bytes | shuffled().map(lambda text: text.encode("utf-8", "surrogatepass")), form=st.sampled_from(FORMS))
def test_no_file_makes_check_print_a_traceback(tmp_path_factory, data, form):
    path = tmp_path_factory.mktemp("fuzz") / "any.protocol.yaml"
    path.write_bytes(data)

    out, err, code = run_check(str(path), "--format", form)

    assert code in (0, 1)
    assert "Traceback" not in out + err
    if form == "json":
        assert all(set(one) == JSON_KEYS for one in json.loads(out))


def run_check(*arguments):
    """Return (standard output, standard error, exit code) of ``palaver check`` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(["check", *arguments])
    return out.getvalue(), err.getvalue(), ended.value.code


@pytest.mark.parametrize("name", LIMITED)
def test_what_breaks_a_limit_is_refused_at_a_place_with_one_finding(name):
    text = LIMITED[name]

    spec, found = check_text(text, "f.yaml")

    assert spec is None
    assert [one.rule for one in found] == ["E-SYNTAX"]
    assert broken_mark(text, found[0].mark) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTY)
def test_the_worst_files_we_know_give_findings_inside_the_file_and_not_too_many(name):
    text = FAULTY[name]

    found = check_text(text, "f.yaml")[1]

    assert len(found) <= 2 * MAX_FINDINGS
    assert {reason for one in found if (reason := broken_mark(text, one.mark))} == set()


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_any_bytes_give_a_document_or_a_spec_error(tmp_path, data):
    path = tmp_path / "any.yaml"
    path.write_bytes(data)

    error = refusal_of(load_document, path)

    assert error is None or str(error).startswith(f"{path}:")


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=st.sampled_from(CASES), key=WORDS, value=VALUES, section=st.sampled_from(sorted(CASES[0])))
def test_any_tree_in_the_place_of_a_section_gives_a_protocol_or_a_spec_error(case, key, value, section):
    for changed in (case | {section: value}, case | {"messages": {"M1": {"fields": {"f": {key: value}}}}}):
        error = refusal_of(compile_protocol, json.dumps(changed))

        assert error is None or str(error)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=40) | RULE_WORDS.map(" ".join))
def test_any_rule_compiles_or_is_refused_and_then_only_answers(text):
    try:
        rule = compile_rule(text, ["a", "b"])
    except RuleError:
        return
    assert rule.holds({"a": None, "b": "text"}) in (True, False)


@pytest.mark.parametrize("name", ["", "..", "/", "a/b", "\0", "x" * 5000, "newsroom\n", "é"])
def test_any_name_gives_a_protocol_or_a_spec_error(name):
    with pytest.raises(SpecError):
        load_protocol(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "a: [" + "x, " * (MAX_BYTES // 4) + "]",
        "a: " + "x" * (MAX_BYTES - 10),
        "- a -> b: M\n" * (MAX_BYTES // 16),
        '"' + "\\x41" * (MAX_BYTES // 5) + '"',
        "? " * 1000,
        "a: |\n" + " x\n" * (MAX_BYTES // 4),
        "\n".join(f"k{number}: {number}" for number in range(15_000)),
    ],
    ids=["flow", "scalar", "steps", "escapes", "keys", "block", "map"],
)
def test_the_largest_files_are_read_within_seconds(text):
    start = time.monotonic()

    assert check_text(text)[1]

    assert time.monotonic() - start < 20
