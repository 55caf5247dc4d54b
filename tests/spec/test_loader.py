"""Strict YAML: what is accepted, what is refused, and where."""

import os
import time

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spec_source import SPECS
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner

from bus.errors import SpecError
from bus.spec.loader import MAX_BYTES, MAX_DEPTH, _Events, load_document, parse_document, split_lines
from bus.spec.node import MapNode, plain
from bus.spec.syntax import Mark


def refusal(text):
    with pytest.raises(SpecError) as caught:
        parse_document(text, "f.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"), ("NO", "NO"), ("yes", "yes"), ("12:30", "12:30"), ("2026-01-01", "2026-01-01"),
        ("017", 17), ("0o17", 15), ("0x1F", 31), ("-3", -3), ("1_000", "1_000"), ("2e-4", 2e-4), ("1.", 1.0),
        (".5", 0.5), ("1.0.0", "1.0.0"), ("true", True), ("False", False), ("null", None), ("~", None),
        ("'1'", "1"), ('"true"', "true"), ("1..50", "1..50"), ("=", "="),
    ],
)  # fmt: skip
def test_scalars_follow_the_core_schema_of_yaml_1_2(text, value):
    got = plain(parse_document(f"x: {text}"))["x"]

    assert got == value
    assert type(got) is type(value)


def test_marks_count_lines_and_columns_from_one():
    node = parse_document("a:\n  - b: [1,\n      two]\n", "f.yaml")

    inner = node.get("a").items[0]
    assert inner.entries[0].mark == Mark("f.yaml", 2, 5)
    assert inner.get("b").items[1].mark == Mark("f.yaml", 3, 7)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1", "second time; first in line 1"),
        ("a: &x 1\n", "f.yaml:1:4", "anchors"),
        ("a: 1\nb: *x\n", "f.yaml:2:4", "aliases"),
        ("a: !!python/object:os.system {}\n", "f.yaml:1:4", "tags"),
        ("a: !mine 1\n", "f.yaml:1:4", "tags"),
        ("<<: {a: 1}\n", "f.yaml:1:1", "merge keys"),
        ("1: a\n", "f.yaml:1:1", "expected text as key, got 1"),
        ("true: a\n", "f.yaml:1:1", "expected text as key, got true"),
        ("[a]: b\n", "f.yaml:1:1", "expected text as key, got a list"),
        ("a: 1\n---\nb: 1\n", "f.yaml:2:1", "second one"),
        ("a: b\u2028c: d\n", "f.yaml:1:5", "expected line feeds between lines, got #x2028"),
        ("a: b\nc: \u0085", "f.yaml:2:4", "got #x0085"),
        ("a: [b, &x c]\n", "f.yaml:1:8", "got '&x'"),
        ("? *x : 1\n", "f.yaml:1:3", "got '*x'"),
        ("%YAML 1.1\n---\na: 1\n", "f.yaml:1:1", "directives"),
        ("a: .nan\n", "f.yaml:1:4", "finite"),
        ("a: -.inf\n", "f.yaml:1:4", "finite"),
        ("a: 1e999\n", "f.yaml:1:4", "finite"),
        (f"a: {'9' * 5000}\n", "f.yaml:1:4", "finite"),
        ("a: [1\nb: 2\n", "f.yaml:2:2", "not YAML"),
        ("a:\n\tb: 1\n", "f.yaml:2:1", "not YAML"),
        ("a: \x07\n", "f.yaml:1:4", "forbids"),
        ('a: "\\uD800"\n', "f.yaml:1:4", "surrogate"),
        ('a: "\\UFFFFFFFF"\n', "f.yaml:1:1", "not YAML"),
        ("", "f.yaml:1:1", "empty"),
        ("# nothing\n", "f.yaml:1:1", "empty"),
    ],
)  # fmt: skip
def test_what_yaml_allows_and_we_do_not_is_refused_with_its_place(text, place, words):
    error = refusal(text)

    assert str(error).startswith(f"{place}: E-")
    assert words in str(error)


class PyYAML(Reader, Scanner, Parser):
    """The events of PyYAML as it is."""

    def __init__(self, text):
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)


def events_of(source):
    """Return all that a reader of events says, or the kind of error that ends it."""
    found = []
    try:
        while (event := source.get_event()) is not None:
            begin, end = event.start_mark, event.end_mark
            what = type(event), getattr(event, "value", None), getattr(event, "style", None)
            found.append((*what, begin.line, begin.column, begin.index, end.index))
    except yaml.YAMLError as error:
        return type(error)
    return found


YAML_TEXTS = st.text("[]{}:-,|>'\"# \n ab1?\\\r\t\ufeff~.", max_size=60)
REAL_PARTS = st.builds(
    lambda text, first, length, at, more: text[first:][:length][:at] + more + text[first:][:length][at:],
    st.sampled_from([path.read_text(encoding="utf-8") for path in SPECS.glob("*.yaml")]),
    st.integers(0, 5000), st.integers(1, 400), st.integers(0, 400), YAML_TEXTS,
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(YAML_TEXTS | REAL_PARTS)
def test_our_shorter_scanner_says_what_that_of_pyyaml_says(text):
    theirs = events_of(PyYAML(text))

    try:
        ours = events_of(_Events(text, "f.yaml"))
    except SpecError:
        return  # what we refuse: anchors, tags, directives, depth

    assert ours == theirs


def test_all_duplicate_keys_are_told_at_once():
    error = refusal("a: 1\na: 2\nb: {c: 1, c: 2}\n")

    assert [(one.rule, one.mark.line) for one in error.diagnostics] == [("E-DUP-KEY", 2), ("E-DUP-KEY", 3)]


@pytest.mark.parametrize(
    "deep", ["[" * 40_000, "{" * 40_000, "- " * 40_000, "? " * 40_000, "{a: " * 40_000, "[{a: " * 20_000]
)
def test_deep_input_is_refused_before_it_is_built(deep):
    start = time.monotonic()

    error = refusal(deep)

    assert f"at most {MAX_DEPTH} levels" in str(error)
    assert time.monotonic() - start < 2


def test_the_deepest_allowed_document_is_read():
    text = "[" * (MAX_DEPTH - 1) + "1" + "]" * (MAX_DEPTH - 1)

    value = plain(parse_document(text))

    for _ in range(MAX_DEPTH - 1):
        (value,) = value
    assert value == 1


def test_one_byte_above_the_limit_is_refused_unread(tmp_path):
    path = tmp_path / "big.yaml"
    path.write_text("#" * (MAX_BYTES + 1))

    with pytest.raises(SpecError, match=f"at most {MAX_BYTES} bytes"):
        load_document(path)
    assert f"at most {MAX_BYTES} bytes" in str(refusal("é" * (MAX_BYTES // 2 + 1)))


@pytest.mark.parametrize("name", ["missing.yaml", "nul\0name", "."])
def test_what_is_no_file_is_refused_by_name(tmp_path, name):
    with pytest.raises(SpecError, match="expected a"):
        load_document(tmp_path / name)


def test_a_pipe_that_nobody_writes_to_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(SpecError, match="plain file"):
        load_document(tmp_path / "pipe")


def test_a_device_is_refused():
    with pytest.raises(SpecError, match="plain file"):
        load_document(os.devnull)


def test_bytes_that_are_no_utf_8_are_refused_at_their_place(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"a: 1\nb: caf\xe9\n")

    with pytest.raises(SpecError, match=r"latin.yaml:2:7: E-SYNTAX: expected UTF-8, got the byte 0xe9"):
        load_document(path)


def test_a_byte_order_mark_does_no_harm():
    document = parse_document("\ufeffa: 1")

    assert isinstance(document, MapNode)
    assert plain(document.get("a")) == 1
    assert document.get("b") is None


def test_lines_end_as_marks_count_them():
    assert split_lines("a\nb\r\nc\rd\u2028e") == ["a", "b", "c", "d\u2028e"]
