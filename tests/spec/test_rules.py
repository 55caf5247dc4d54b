"""Rules: the little language of boolean expressions over fields."""

import pytest

from bus.spec.rules import MAX_RULE_DEPTH, RuleError, UnknownField, compile_rule

FIELDS = ("method", "lora", "count", "names", "ok")
VALUES = {"method": "lora", "lora": None, "count": 3, "names": ["a", "b"], "ok": True}


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("method == 'lora' or lora is None", True),
        ("method != 'lora' and lora is None", False),
        ("not ok", False),
        ("ok", True),
        ("1 <= count <= 3", True),
        ("1 <= count < 3", False),
        ("len(names) == count - 1", True),
        ("count * 2 + 1 > 6 and count / 2 == 1.5", True),
        ("count // 2 == 1 and count % 2 == 1 and -count < 0", True),
        ("method in ['lora', 'full']", True),
        ("'c' not in names", True),
        ("lora is not None", False),
    ],
)
def test_rules_mean_what_they_say(text, truth):
    assert compile_rule(text, FIELDS).holds(VALUES) is truth


@pytest.mark.parametrize(
    "text", ["lora < 3", "count / 0 > 1", "len(count) > 1", "count + method == 3", "names * 9 == names"]
)
def test_a_rule_that_cannot_be_worked_out_does_not_hold(text):
    assert compile_rule(text, FIELDS).holds(VALUES) is False


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "method.upper() == 'X'", "names[0] == 'a'", "(lambda: True)()",
        "[x for x in names]", "count ** count > 1", "count << 9 > 1", "f'{method}' == 'a'", "len(names, 2) > 1",
        "count := 3", "count is 3", "await count", "b'x' == method", "1j == count", "... == count", "len == 3",
        "{1: 2} == count", "count if ok else lora", "", "count +", "count; count", "~count > 1", "*names",
    ],
)  # fmt: skip
def test_what_is_not_on_the_whitelist_is_refused(text):
    with pytest.raises(RuleError):
        compile_rule(text, FIELDS)


@pytest.mark.parametrize("text", ["3", "'text'", "count + 1", "len(names)"])
def test_what_is_neither_true_nor_false_is_no_rule(text):
    with pytest.raises(RuleError, match="true or false"):
        compile_rule(text, FIELDS)


def test_an_unknown_field_is_told_with_place_and_nearest_word():
    with pytest.raises(UnknownField) as caught:
        compile_rule("ok and cuont > 1", FIELDS)

    assert (caught.value.offset, caught.value.suggestion) == (7, "did you mean 'count'?")


def test_depth_and_length_are_bounded():
    with pytest.raises(RuleError):
        compile_rule("not " * (MAX_RULE_DEPTH + 1) + "ok", FIELDS)
    with pytest.raises(RuleError, match="characters"):
        compile_rule("ok and " * 200 + "ok", FIELDS)
