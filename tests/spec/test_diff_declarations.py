"""The rule table of LANGUAGE.md, "Evolution": one row, one test; OS and OR as its columns say."""

import re
from pathlib import Path

import pytest
from protocol_text import small

import bus.spec
from bus.spec.change import Bump, Change, Level, Verdict
from bus.spec.diff import Diff, diff
from bus.spec.version import read_version


def versions(old: str, new: str) -> Diff:
    return diff(read_version(old, file="old.yaml"), read_version(new, file="new.yaml"))


def of_fields(old: str, new: str, **more: str) -> Diff:
    """Return the diff of a message M with these fields, written as the inside of a YAML map."""
    return versions(*(small(f"M: {{fields: {{{fields}}}}}", **more) for fields in (old, new)))


def only(found: Diff) -> Change:
    """Return the one change beside what is said about the version."""
    [change] = [one for one in found.changes if not one.rule.startswith("version-")]
    return change


def row(change: Change) -> tuple[str, bool, bool, Level]:
    return change.rule, change.old_senders, change.old_receivers, change.level


OK, BREAK = True, False
ROWS: dict[str, tuple[str, str, tuple[str, bool, bool, Level]]] = {
    "field added, required": ("x: int", "x: int, y: int", ("field-added-required", BREAK, OK, Level.ERR)),
    "field added, optional": ("x: int", "x: int, y: optional int", ("field-added-optional", OK, OK, Level.INFO)),
    "field added, default": (
        "x: int",
        "x: int, y: {type: int, default: 3}",
        ("field-added-optional", OK, OK, Level.INFO),
    ),
    "field removed, required": ("x: int, y: int", "x: int", ("field-removed-required", OK, BREAK, Level.ERR)),
    "field removed, optional": ("x: int, y: optional int", "x: int", ("field-removed-optional", OK, OK, Level.WARN)),
    "field renamed": ("x: int, y: bool", "x: int, z: bool", ("field-renamed", BREAK, BREAK, Level.ERR)),
    "type changed": ("x: int", "x: bool", ("type-changed", BREAK, BREAK, Level.ERR)),
    "container changed": ("x: int", "x: list of int", ("type-changed", BREAK, BREAK, Level.ERR)),
    "int to number": ("x: int", "x: number", ("type-widened", OK, BREAK, Level.ERR)),
    "in a list": ("x: list of int", "x: list of number", ("type-widened", OK, BREAK, Level.ERR)),
    "T to optional T": ("x: int", "x: optional int", ("type-widened", OK, BREAK, Level.ERR)),
    "enum to string": ("x: {enum: [a, b]}", "x: string", ("type-widened", OK, BREAK, Level.ERR)),
    "T to any": ("x: int", "x: any", ("type-widened", OK, BREAK, Level.ERR)),
    "number to int": ("x: number", "x: int", ("type-narrowed", BREAK, OK, Level.ERR)),
    "optional T to T": ("x: optional int", "x: int", ("type-narrowed", BREAK, OK, Level.ERR)),
    "optional int to number": ("x: optional int", "x: number", ("type-changed", BREAK, BREAK, Level.ERR)),
    "default taken away": ("x: {type: int, default: 1}", "x: int", ("type-narrowed", BREAK, OK, Level.ERR)),
    "default given": ("x: int", "x: {type: int, default: 1}", ("type-widened", OK, BREAK, Level.ERR)),
    "upper bound lowered": (
        "x: {type: int, max: 9}",
        "x: {type: int, max: 5}",
        ("constraint-tightened", BREAK, OK, Level.ERR),
    ),
    "lower bound added": ("x: string", "x: {type: string, min_len: 1}", ("constraint-tightened", BREAK, OK, Level.ERR)),
    "pattern added": ("x: string", "x: {type: string, pattern: '^a$'}", ("constraint-tightened", BREAK, OK, Level.ERR)),
    "pattern changed": (
        "x: {type: string, pattern: '^b$'}",
        "x: {type: string, pattern: '^a$'}",
        ("constraint-tightened", BREAK, BREAK, Level.ERR),
    ),
    "upper bound raised": (
        "x: {type: list of int, max_items: 5}",
        "x: {type: list of int, max_items: 9}",
        ("constraint-loosened", OK, BREAK, Level.WARN),
    ),
    "lower bound gone": ("x: {type: int, min: 0}", "x: int", ("constraint-loosened", OK, BREAK, Level.WARN)),
    "enum value removed": ("x: {enum: [a, b]}", "x: {enum: [a]}", ("enum-value-removed", BREAK, OK, Level.ERR)),
    "enum value added, closed": ("x: {enum: [a]}", "x: {enum: [a, b]}", ("enum-value-added", OK, BREAK, Level.WARN)),
    "enum value added, open": (
        "x: {enum: [a], open: true}",
        "x: {enum: [a, b], open: true}",
        ("enum-value-added", OK, OK, Level.INFO),
    ),
    "default changed": (
        "x: {type: int, default: 1}",
        "x: {type: int, default: 2}",
        ("default-changed", OK, OK, Level.WARN),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_change_of_a_field_is_judged_by_its_row_of_the_table(name: str) -> None:
    old, new, expected = ROWS[name]

    change = only(of_fields(old, new))

    assert row(change) == expected
    assert change.mark.file == ("old.yaml" if change.rule.startswith("field-removed") else "new.yaml")


@pytest.mark.parametrize("name", ROWS)
def test_roles_that_send_and_receive_the_message_are_judged_by_the_two_columns(name: str) -> None:
    old, new, (_, old_senders, old_receivers, _) = ROWS[name]

    [sender, receiver] = of_fields(old, new).verdicts  # a -> b: M

    assert (sender.old_in_new is None, receiver.old_in_new is None) == (old_senders, old_receivers)


def test_struct_counts_for_every_message_that_holds_it() -> None:
    texts = [
        small(
            "M: {fields: {x: list of Outer}}, N: {}", "- a -> b: M\n- b -> a: N",
            types=f"{{Inner: {{fields: {{y: {kind}}}}}, Outer: {{fields: {{z: Inner}}}}}}",
        )
        for kind in ("int", "number")
    ]  # fmt: skip
    found = versions(*texts)

    assert row(only(found)) == ("type-widened", OK, BREAK, Level.ERR)
    assert only(found).message.startswith("Inner.y:")
    assert [one.verdict for one in found.verdicts] == [Verdict.BACKWARD, Verdict.FORWARD]


def test_reserved_name_may_not_be_used_again() -> None:
    old, new = small("M: {reserved: [y]}"), small("M: {fields: {y: optional int}}")

    assert row(only(versions(old, new))) == ("reserved-name-reused", BREAK, BREAK, Level.ERR)


def test_name_that_went_to_reserved_was_not_renamed() -> None:
    old = small("M: {fields: {x: optional int}}")
    new = small("M: {fields: {y: optional int}, reserved: [x]}")

    rules = {change.rule for change in versions(old, new).changes}

    assert rules == {"field-removed-optional", "field-added-optional", "version-bump"}


def test_removing_an_optional_field_suggests_to_reserve_its_name() -> None:
    change = only(of_fields("x: int, y: optional int", "x: int"))

    assert change.suggestion == "put 'y' under 'reserved' of M"


def test_unused_message_that_is_removed_breaks_and_an_added_one_does_not() -> None:
    one, two = small("M: {}"), small("M: {}, N: {}")

    assert row(only(versions(two, one))) == ("message-removed", BREAK, OK, Level.ERR)
    assert row(only(versions(one, two))) == ("message-added", OK, OK, Level.INFO)


def test_deprecated_message_may_be_removed_with_a_warning() -> None:
    found = versions(small("M: {}, N: {deprecated: true}"), small("M: {}"))

    assert row(only(found)) == ("message-removed", BREAK, OK, Level.WARN)


def test_rule_added_breaks_old_senders_and_rule_removed_is_a_warning() -> None:
    bare, ruled = small("M: {fields: {x: int}}"), small('M: {fields: {x: int}, rules: ["x > 3"]}')

    assert row(only(versions(bare, ruled))) == ("rule-added", BREAK, OK, Level.ERR)
    assert row(only(versions(ruled, bare))) == ("rule-removed", OK, OK, Level.WARN)


def test_key_added_breaks_old_senders_of_that_field_only() -> None:
    messages, order = "M: {fields: {x: int}}, N: {}", "- a -> b: M\n- b -> a: N"
    bare, keyed = small(messages, order), small(messages, order, keys="[x]")
    found = versions(bare, keyed)

    assert row(only(found)) == ("key-added", BREAK, OK, Level.ERR)
    assert [one.old_in_new is None for one in found.verdicts] == [False, True]
    assert row(only(versions(keyed, bare))) == ("key-removed", OK, OK, Level.WARN)


def test_role_added_or_removed_is_an_error() -> None:
    two = small("M: {}, N: {}", "- a -> b: M")
    three = small("M: {}, N: {}", "- a -> b: M\n- b -> c: N").replace("b: {}}", "b: {}, c: {}}", 1)

    assert ("role-added", Level.ERR) in {(one.rule, one.level) for one in versions(two, three).changes}
    assert ("role-removed", Level.ERR) in {(one.rule, one.level) for one in versions(three, two).changes}


@pytest.mark.parametrize(
    ("old", "new", "rule", "level"),
    [
        ("{pool: true}", "{}", "cardinality-narrowed", Level.ERR),
        ("{}", "{pool: true}", "cardinality-widened", Level.WARN),
        ("{}", "{human: true}", "role-changed", Level.ERR),
    ],
)
def test_role_that_may_be_played_by_fewer_is_an_error_and_by_more_a_warning(
    old: str, new: str, rule: str, level: Level
) -> None:
    text = small("M: {}, N: {}", "- a -> b: M\n  within: 5m\n- b -> a: N\n  within: 5m")
    change = only(versions(*(text.replace("b: {}}", f"b: {kind}}}", 1) for kind in (old, new))))

    assert (change.rule, change.level, change.role) == (rule, level, "b")


def test_deadline_shortened_or_removed_is_a_warning() -> None:
    order = "- a -> b: M\n  within: {}"
    short, long, never = (small(conversation=order.format(within)) for within in ("5s", "10s", "forever"))

    assert row(only(versions(long, short))) == ("deadline-shortened", OK, OK, Level.WARN)
    assert row(only(versions(long, never))) == ("deadline-removed", OK, OK, Level.WARN)
    assert row(only(versions(short, long))) == ("deadline-lengthened", OK, OK, Level.INFO)
    assert row(only(versions(never, long))) == ("deadline-added", OK, OK, Level.INFO)


def test_timeout_of_a_scope_is_a_deadline() -> None:
    scope = "- scope: s\n  do: [{a -> b: M}]\n  interrupts: [{timeout: TIME, then: [{end: failed}]}]"
    texts = [small(conversation=scope.replace("TIME", time)) for time in ("2h", "1h")]

    change = only(versions(*texts))

    assert change.message == "the deadline of s was 7200 s and is 3600 s"


@pytest.mark.parametrize(("old", "new"), [("max: 9", "max: 3"), ("window: 9", "window: 3"), ("", "max: 3")])
def test_max_or_window_lowered_is_a_warning(old: str, new: str) -> None:
    texts = [
        small(
            f"M: {{{limit if 'window' in limit else ''}}}, N: {{}}",
            "- a -> b: M*" + (f"\n  {limit}" if "max" in limit else "") + "\n- a -> b: N",
        )
        for limit in (old, new)
    ]
    what = new.partition(":")[0]

    assert row(only(versions(*texts))) == (f"{what}-lowered", OK, OK, Level.WARN)
    if old:
        assert row(only(versions(*reversed(texts)))) == (f"{what}-raised", OK, OK, Level.INFO)


def test_delivery_weakened_is_an_error_and_strengthened_is_not() -> None:
    durable, lazy = small("M: {}"), small("M: {}", defaults="{delivery: at-least-once}")
    found = versions(durable, lazy)

    assert (only(found).rule, only(found).level) == ("delivery-weakened", Level.ERR)
    assert {one.verdict for one in found.verdicts} == {Verdict.FORWARD}
    assert row(only(versions(lazy, durable))) == ("delivery-strengthened", OK, OK, Level.INFO)


def test_another_protocol_breaks_everything() -> None:
    found = versions(small(), small().replace("protocol: small", "protocol: large"))

    assert only(found).rule == "protocol-renamed"
    assert {one.verdict for one in found.verdicts} == {Verdict.BREAKING}


# -- versions and status --------------------------------------------------------------------------------


def at(text: str, version: str) -> str:
    return text.replace("version: 1.0.0", f"version: {version}")


REQUIRED = {
    "nothing": (small(), small() + "# a remark\n", Bump.NONE),
    "docs": (small(), small(doc="Now with words."), Bump.PATCH),
    "status": (small(), small(status="deprecated"), Bump.PATCH),
    "additive": (small("M: {}"), small("M: {fields: {x: optional int}}"), Bump.MINOR),
    "order of declarations": (small("M: {}, N: {}"), small("N: {}, M: {}"), Bump.MINOR),
    "breaking": (small("M: {}"), small("M: {fields: {x: int}}"), Bump.MAJOR),
}


@pytest.mark.parametrize("name", REQUIRED)
def test_changes_ask_for_a_version(name: str) -> None:
    old, new, required = REQUIRED[name]

    found = versions(old, new)

    assert (found.required, found.made) == (required, Bump.NONE)
    assert any(one.rule == "version-bump" for one in found.changes) == (required is not Bump.NONE)


@pytest.mark.parametrize(
    ("version", "made"), [("1.0.0", "none"), ("1.0.1", "patch"), ("1.1.0", "minor"), ("2.0.0", "major")]
)
def test_version_that_went_up_enough_is_no_finding(version: str, made: str) -> None:
    old, new, _ = REQUIRED["additive"]

    found = versions(old, at(new, version))

    assert found.made == made
    assert any(one.rule == "version-bump" for one in found.changes) == (version in ("1.0.0", "1.0.1"))


def test_version_bump_names_the_version_to_set() -> None:
    old, new, _ = REQUIRED["breaking"]

    [change] = [one for one in versions(at(old, "1.4.2"), at(new, "1.5.0")).changes if one.rule == "version-bump"]

    assert change.message == "the changes ask for a major version, and the version went from 1.4.2 to 1.5.0"
    assert change.suggestion == "set the version to 2.0.0"
    assert change.level is Level.ERR


def test_version_that_went_down_is_an_error() -> None:
    found = versions(at(small(), "1.2.0"), at(small(), "1.1.9"))

    assert [(one.rule, one.level) for one in found.changes] == [("version-lowered", Level.ERR)]


@pytest.mark.parametrize("status", ["draft", "beta"])
def test_below_stable_nothing_is_an_error_and_a_minor_version_is_enough(status: str) -> None:
    old, new, _ = REQUIRED["breaking"]

    found = versions(f"status: {status}\n{old}", at(new, "1.1.0"))

    assert [(one.rule, one.level) for one in found.changes] == [("field-added-required", Level.WARN)]
    assert [one.verdict for one in found.verdicts] == [Verdict.FORWARD, Verdict.BACKWARD]


def test_most_serious_changes_come_first() -> None:
    found = of_fields("x: int, y: optional int", "x: number, z: optional bool")

    levels = [change.level for change in found.changes]
    assert levels == sorted(levels, key=list(Level).index)


# -- the page that lists the findings -------------------------------------------------------------------

SPEC = Path(bus.spec.__file__).parent
SOURCES = [*SPEC.glob("*diff.py"), SPEC / "change.py"]
RULE = re.compile(r'(?:Change\(\s*[\w.:\[\]]+,|_wrong\()\s*f?"([a-z-]+|\{what\}-[a-z]+)"')


def test_every_finding_stands_in_the_page_and_nothing_else_does() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    found = set(RULE.findall(text)) | set(re.findall(r'_send_wrong.*?self\._wrong\("([a-z-]+)"', text, re.DOTALL))
    rules = {name.replace("{what}", what) for name in found for what in ("max", "window")}
    page = (SPEC.parents[1] / "docs" / "evolution.md").read_text(encoding="utf-8")
    section = page.partition("## Levels")[2].partition("## Versions")[0]
    listed = set(re.findall(r"`([a-z]+(?:-[a-z]+)+|other)`", section))

    assert rules - {"order-role"} == listed
