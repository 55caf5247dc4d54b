"""Whatever a file holds: a protocol, or findings; never another error, and never a long wait."""

import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from protocol_text import negative_cases, text_of

from bus.errors import SpecError
from bus.spec.compile import check_text, compile_protocol, load_protocol
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


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=200) | st.text(alphabet="[]{}:-,&*!|>'\"#%@`\n ab1\t?\\uUx0", max_size=60))
def test_any_text_gives_a_spec_or_findings(text):
    spec, found = check_text(text)

    assert spec is not None or found


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
