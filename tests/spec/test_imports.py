"""Imports: how they are found, what they bring in, and what is told where something is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_text import small

from bus.errors import SpecError
from bus.spec.bundle import SpecText, join_bundle, split_bundle
from bus.spec.compile import check_path, check_text, compile_protocol, load_protocol
from bus.spec.diagnostic import Diagnostic
from bus.spec.reference import parse_reference, parse_version
from bus.spec.syntax import Delivery

COMMON = """\
language: 1
library: common
version: 1.2.0
types:
  Source: {fields: {title: string, place: Place}}
  Place: {fields: {page: int}}
messages:
  Found: {fields: {source: Source, task_id: uuid}}
  Lost: {}
"""
USING = small(conversation="- a -> b: M\n- b -> a: Found", imports="[common@^1]")


def bundle(*texts: str) -> str:
    return join_bundle(SpecText("", text) for text in texts)


def told(*texts: str) -> list[Diagnostic]:
    return check_text(bundle(*texts), "small.yaml")[1]


def rules(*texts: str) -> list[str]:
    return [one.rule for one in told(*texts)]


def library(name: str, *lines: str, version: str = "1.0.0") -> str:
    return "\n".join([f"language: 1\nlibrary: {name}\nversion: {version}", *lines, ""])


# -- ranges --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "fits", "does_not"),
    [
        ("x@1", "1.0.0 1.9.7", "0.9.9 2.0.0"),
        ("x@1.2", "1.2.0 1.2.9", "1.1.9 1.3.0"),
        ("x@1.2.3", "1.2.3", "1.2.2 1.2.4"),
        ("x@^1", "1.0.0 1.9.0", "0.9.0 2.0.0"),
        ("x@^1.2", "1.2.0 1.9.0", "1.1.9 2.0.0"),
        ("x@^0.2.1", "0.2.1 0.2.9", "0.2.0 0.3.0"),
        ("x@^0.0.3", "0.0.3", "0.0.2 0.0.4"),
        ("x@^0", "0.0.0 0.9.0", "1.0.0"),
        ("x@~1", "1.0.0 1.9.0", "2.0.0"),
        ("x@~1.2", "1.2.0 1.2.5", "1.3.0"),
        ("x@~1.2.3", "1.2.3 1.2.9", "1.2.2 1.3.0"),
    ],
)
def test_a_range_holds_what_npm_says_it_holds(written: str, fits: str, does_not: str) -> None:
    reference = parse_reference(written)

    assert reference.name == "x"
    assert all(reference.fits(parse_version(one)) for one in fits.split())
    assert not any(reference.fits(parse_version(one)) for one in does_not.split())


# -- bundles -------------------------------------------------------------------------------------------


def test_a_single_text_is_its_own_bundle() -> None:
    assert split_bundle(COMMON, "f") == (SpecText("f", COMMON),)
    assert join_bundle([SpecText("f", COMMON)]) == COMMON


def test_a_bundle_is_split_as_it_was_joined_and_says_of_which_part_it_speaks() -> None:
    texts = [USING, COMMON.rstrip(), "# --- # import\n"]

    parts = split_bundle(bundle(*texts), "f")

    assert [one.text for one in parts] == [USING, COMMON, "# --- # import\n"]
    assert [one.file for one in parts] == ["f", "f#1", "f#2"]


def test_one_file_on_disk_is_no_bundle(tmp_path: Path) -> None:
    path = tmp_path / "small.protocol.yaml"
    path.write_text(bundle(USING, COMMON))

    [diagnostic] = check_path(path)[1]

    assert "expected one document" in diagnostic.message


def test_what_travels_compiles_to_the_same_protocol() -> None:
    protocol = compile_protocol(bundle(USING, COMMON, library("other")))

    again = compile_protocol(protocol.spec.source)

    assert again is protocol
    assert protocol.spec.source == bundle(USING, COMMON)


def test_a_bundle_of_too_many_files_is_refused() -> None:
    assert rules(small(), *[library(f"l{n}") for n in range(40)]) == ["E-TOO-MANY-FILES"]


# -- what is brought in --------------------------------------------------------------------------------


def test_an_import_brings_messages_and_the_types_of_their_fields() -> None:
    protocol = compile_protocol(bundle(USING, COMMON))

    found = protocol.Found(source={"title": "t", "place": {"page": 3}}, task_id="00000000-0000-4000-8000-000000000000")
    assert found.source.place.page == 3
    assert [one.name for one in protocol.messages] == ["M", "Found"]


def test_own_fields_have_imported_types() -> None:
    protocol = compile_protocol(bundle(small("M: {fields: {at: Place}}", imports="[common@1]"), COMMON))

    assert protocol.M(at={"page": 2}).at.page == 2
    assert [one.name for one in protocol.spec.types] == ["Place"]


def test_a_protocol_that_imports_need_not_declare_messages() -> None:
    text = small(imports="[common@1]", conversation="- a -> b: Lost").replace("messages: {M: {}}\n", "")

    assert rules(text, COMMON) == []


def test_a_library_s_other_messages_change_nothing() -> None:
    more = COMMON + "  Newest: {}\n"

    assert compile_protocol(bundle(USING, COMMON)).digest == compile_protocol(bundle(USING, more)).digest


def test_what_is_imported_counts_as_if_it_stood_in_the_file() -> None:
    changed = COMMON.replace("page: int", "page: number")
    here = small("M: {}, Lost: {}", "- a -> b: M\n- b -> a: Lost")
    there = small("M: {}", "- a -> b: M\n- b -> a: Lost", imports="[common@1]")

    assert compile_protocol(bundle(USING, COMMON)).digest != compile_protocol(bundle(USING, changed)).digest
    assert compile_protocol(bundle(there, COMMON)).digest == compile_protocol(here).digest


def test_a_message_keeps_the_delivery_class_of_its_file() -> None:
    fast = library("fast", "defaults: {delivery: at-most-once}", "messages: {Tick: {}, Tock: {delivery: durable}}")
    text = small(conversation="- a -> b: Tick*\n- a -> b: Tock\n- b -> a: M", imports="[fast@1]")

    protocol = compile_protocol(bundle(text, fast))

    delivery = {one.name: one.delivery for one in protocol.messages}
    assert delivery == {"M": Delivery.DURABLE, "Tick": Delivery.AT_MOST_ONCE, "Tock": Delivery.DURABLE}


def test_libraries_import_libraries() -> None:
    middle = library("middle", "imports: [common@1]", "messages: {Seen: {fields: {place: Place}}}")

    protocol = compile_protocol(
        bundle(small(conversation="- a -> b: M\n- b -> a: Seen", imports="[middle@1]"), middle, COMMON)
    )

    assert protocol.Seen(place={"page": 1}).place.page == 1


def test_one_library_by_two_ways_is_no_clash() -> None:
    middle = library("middle", "imports: [common@1]", "messages: {Seen: {fields: {place: Place}}}")
    text = small(conversation="- a -> b: Lost\n- b -> a: Seen\n- a -> b: M", imports="[middle@1, common@~1.2]")

    assert rules(text, middle, COMMON) == []


def test_messages_of_another_protocol_are_imported_like_those_of_a_library() -> None:
    other = small("Hello: {}", "- a -> b: Hello").replace("protocol: small", "protocol: other")

    assert rules(small(conversation="- a -> b: M\n- b -> a: Hello", imports="[other@1]"), other) == []


def test_a_key_may_be_a_field_of_an_imported_message() -> None:
    text = small(conversation="- a -> b: M\n- b -> a: Found", imports="[common@1]", keys="[task_id]")

    assert rules(text, COMMON) == []
    assert rules(text.replace("task_id", "task"), COMMON) == ["E-UNKNOWN-FIELD"]


def test_the_highest_version_in_range_is_taken() -> None:
    newer = COMMON.replace("1.2.0", "1.3.0").replace("Lost: {}", "Gone: {}")
    text = small(conversation="- a -> b: M\n- b -> a: Gone", imports="[common@1]")

    assert rules(text, COMMON, newer) == []
    assert rules(text.replace("common@1", "common@1.2"), COMMON, newer) == ["E-UNKNOWN-MESSAGE"]


# -- what is told --------------------------------------------------------------------------------------


def test_an_import_that_is_nowhere_is_told_at_its_place_and_alone() -> None:
    [one] = told(USING)

    assert (one.rule, str(one.mark)) == ("E-UNKNOWN-IMPORT", "small.yaml:5:11")
    assert "found no common.protocol.yaml" in one.message


def test_an_import_out_of_range_is_told_with_what_there_is() -> None:
    [one] = told(USING.replace("common@^1", "common@^2"), COMMON)

    assert one.rule == "E-UNKNOWN-IMPORT"
    assert "found 1.2.0 (small.yaml#1)" in one.message


def test_files_that_import_each_other_are_refused_with_the_way_round() -> None:
    one = library("one", "imports: [two@1]", "messages: {One: {}}")
    two = library("two", "imports: [one@1]", "messages: {Two: {}}")

    [finding] = told(one, two)

    assert finding.rule == "E-IMPORT-CYCLE"
    assert "one imports two imports one" in finding.message


def test_a_file_that_imports_itself_is_refused() -> None:
    assert rules(library("one", "imports: [one@1]")) == ["E-IMPORT-CYCLE"]


def test_a_name_declared_here_and_there_is_told_with_both_places() -> None:
    [one] = told(small("M: {}, Found: {}", imports="[common@1]"), COMMON)

    assert (one.rule, one.mark.line) == ("E-DUP-KEY", 6)
    assert "small.yaml#1:8:3" in one.message


def test_a_name_that_two_imports_bring_is_told_at_the_second() -> None:
    text = small(imports="[common@1, other@1]")

    [one] = told(text, COMMON, library("other", "types: {Lost: {fields: {x: int}}}"))

    assert (one.rule, str(one.mark)) == ("E-DUP-KEY", "small.yaml:5:21")
    assert "small.yaml#1:9:3" in one.message
    assert "small.yaml#2:4:9" in one.message


def test_an_import_with_errors_is_told_briefly_at_its_place() -> None:
    [one] = told(USING, COMMON.replace("Lost: {}", "lost: {}"))

    assert (one.rule, str(one.mark)) == ("E-BAD-IMPORT", "small.yaml:5:11")
    assert "small.yaml#1 has an error: small.yaml#1:9:3: E-SYNTAX" in one.message


def test_a_name_that_is_wrong_inside_an_import_is_told_at_its_place_there() -> None:
    [one] = told(USING, COMMON.replace("place: Place", "place: Plaice"))

    assert (one.rule, str(one.mark)) == ("E-UNKNOWN-TYPE", "small.yaml#1:5:36")


def test_an_import_of_which_nothing_is_used_is_a_warning() -> None:
    [one] = told(small(imports="[common@1]"), COMMON)

    assert (one.rule, str(one.mark)) == ("W-UNUSED-IMPORT", "small.yaml:5:11")


def test_a_library_is_checked_by_itself_and_cannot_be_opened() -> None:
    assert rules(COMMON) == []
    assert rules(COMMON.replace("place: Place", "place: Plaice")) == ["E-UNKNOWN-TYPE"]
    assert rules(COMMON + "roles: {a: {}}\n") == ["E-SYNTAX"]
    with pytest.raises(SpecError, match="E-LIBRARY: 'common' is a library"):
        compile_protocol(COMMON)


def test_numbers_without_end_in_a_range_are_refused() -> None:
    assert rules(small(imports=f"[common@{'9' * 5000}]")) == ["E-SYNTAX"]


# -- on disk -------------------------------------------------------------------------------------------


def test_files_are_found_beside_the_one_that_asks_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    for folder, version in ((near, "1.2.0"), (far, "1.3.0")):
        folder.mkdir()
        (folder / "common.protocol.yaml").write_text(COMMON.replace("1.2.0", version))
    (far / "more.protocol.yaml").write_text(library("more", "messages: {More: {}}"))
    text = small(conversation="- a -> b: M\n- b -> a: Lost\n- a -> b: More", imports="[common@^1, more@1]")
    (near / "small.protocol.yaml").write_text(text)
    monkeypatch.setenv("PALAVER_SPECS", str(far))

    protocol = load_protocol(near / "small.protocol.yaml")

    assert protocol.spec.messages[1].mark.file == str(near / "common.protocol.yaml")
    assert protocol.spec.messages[2].mark.file == str(far / "more.protocol.yaml")
    assert compile_protocol(protocol.spec.source) is protocol


def test_a_version_out_of_range_beside_it_is_passed_over(tmp_path: Path) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    for folder, version in ((near, "2.0.0"), (far, "1.3.0")):
        folder.mkdir()
        (folder / "common.protocol.yaml").write_text(COMMON.replace("1.2.0", version))
    (near / "small.protocol.yaml").write_text(USING.replace("version: 1.0.0", "version: 1.0.7"))

    protocol = load_protocol(near / "small.protocol.yaml", search=[far])

    assert protocol.spec.messages[1].mark.file == str(far / "common.protocol.yaml")


def test_check_says_what_was_found_on_disk(tmp_path: Path) -> None:
    (tmp_path / "common.protocol.yaml").write_text(COMMON.replace("1.2.0", "2.0.0"))
    (tmp_path / "small.protocol.yaml").write_text(USING)

    [one] = check_path(tmp_path / "small.protocol.yaml")[1]

    assert one.rule == "E-UNKNOWN-IMPORT"
    assert f"found 2.0.0 ({tmp_path / 'common.protocol.yaml'})" in one.message


def test_an_import_that_is_no_yaml_is_told_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "common.protocol.yaml").write_text("a: [")
    (tmp_path / "small.protocol.yaml").write_text(USING)

    [one] = check_path(tmp_path / "small.protocol.yaml")[1]

    assert one.rule == "E-BAD-IMPORT"
    assert f"{tmp_path / 'common.protocol.yaml'}:1:5: E-SYNTAX" in one.message


# -- hostile -------------------------------------------------------------------------------------------

CALLING = small(
    conversation="- call: task@1\n  as: {asker: a}\n  outcomes: {done: [], failed: [], canceled: []}\n"
    "- a -> b: Found\n- b -> a: M",
    imports="[common@^1, task@~1.0]",
    keys="[task_id]",
)
TASK = small("Do: {}", "- asker -> doer: Do").replace("small", "task").replace("a: {}, b: {}", "asker: {}, doer: {}")
LINES = [
    *bundle(CALLING, COMMON, TASK).splitlines(),
    "imports: [task@1]",
    "library: task",
    "protocol: common",
    "  x: x",
]


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    dropped=st.sets(st.integers(0, 40), max_size=4),
    moved=st.lists(st.tuples(st.integers(0, 40), st.sampled_from(LINES)), max_size=4),
)
def test_any_bundle_gives_a_spec_or_findings(dropped: set[int], moved: list[tuple[int, str]]) -> None:
    lines = [line for index, line in enumerate(bundle(CALLING, COMMON, TASK).splitlines()) if index not in dropped]
    for index, line in moved:
        lines.insert(min(index, len(lines)), line)
    text = "\n".join(lines) + "\n"

    spec, found = check_text(text)

    assert spec is not None or found


def test_the_bundle_that_is_mangled_is_in_order_itself() -> None:
    assert rules(CALLING, COMMON, TASK) == []


@pytest.mark.slow
def test_a_bundle_of_files_that_all_call_all_behind_them_is_refused_at_once() -> None:
    names = [f"p{n}" for n in range(31)]
    texts = []
    for index, name in enumerate(names):
        steps = "".join(
            f"\n- call: {below}@1\n  as: {{}}\n  outcomes: {{done: [], failed: [], canceled: []}}"
            for below in names[index + 1 :]
        )
        texts.append(small(conversation=f"- a -> b: M{steps}").replace("small", name))

    # What p22 and those behind it may open is 2 ** 8 conversations and fewer.
    assert rules(*texts) == ["E-TOO-MANY-CALLS", *["E-BAD-CALLEE"] * 21]
