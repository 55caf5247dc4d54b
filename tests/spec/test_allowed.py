"""What may be sent is told with its fields: short, sorted, and without secrets."""

from __future__ import annotations

from bus.spec.allowed import MAX_FIELD_TEXT, describe_allowed, describe_fields, show_allowed
from bus.spec.compile import compile_protocol, load_protocol

KINDS = compile_protocol(
    """
language: 1
protocol: kinds
version: 1.0.0
roles: {a: {}, b: {}, c: {}}
types:
  Inner: {fields: {x: int}}
messages:
  All:
    fields:
      text: {type: string, min_len: 1, max_len: 9, pattern: "[a-z]+"}
      n: {type: int, min: 1, max: 3, default: 2}
      ratio: {type: number, min: 0.5}
      tags: {type: list of string, min_items: 1}
      inner: {type: optional Inner}
      kind: {enum: [x, y], open: true}
      key: {type: string, secret: true, default: hunter2}
      long: {enum: ["""
    + ", ".join(f"word{index}" for index in range(100))
    + """]}
  Go: {}
conversation:
  - a -> b, c: All
  - a -> b: Go
"""
)
FIELDS = describe_fields(KINDS.spec.messages[0].fields)


def test_fields_are_told_as_a_spec_writes_them_with_constraints_and_defaults() -> None:
    assert {name: text for name, text in FIELDS.items() if name != "long"} == {
        "text": "string, min_len 1, max_len 9, pattern [a-z]+",
        "n": "int, min 1, max 3, default 2",
        "ratio": "number, min 0.5",
        "tags": "list of string, min_items 1",
        "inner": "optional Inner",
        "kind": "x | y | …",
        "key": "string, default is secret",
    }


def test_long_field_is_cut() -> None:
    assert len(FIELDS["long"]) == MAX_FIELD_TEXT
    assert FIELDS["long"].endswith("…")


def test_messages_are_sorted_and_have_their_receivers() -> None:
    found = describe_allowed(KINDS, [(1, ["b"]), (0, ["b", "c"])])

    assert [(one["type"], one["to"]) for one in found] == [("All", ["b", "c"]), ("Go", ["b"])]


def test_list_reads_as_one_clause() -> None:
    shown = show_allowed(
        [{"type": "Ask", "to": ["b", "c"], "fields": {"n": "int"}}, {"type": "Go", "to": ["b"], "fields": {}}]
    )

    assert shown == "Ask to b, c {n: int}; Go to b"


def test_every_message_of_the_shipped_protocols_can_be_described() -> None:
    for name in ("newsroom", "training", "task", "echo"):
        protocol = load_protocol(name)
        everything = [key for machine in protocol.tables.machines for moves in machine.send for key in moves]

        assert len(describe_allowed(protocol, [(type, []) for type, _ in everything])) == len(everything)
