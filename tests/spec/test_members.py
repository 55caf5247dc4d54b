"""Roles with many members: where they may speak, who may be enrolled, and the tables of a gathering."""

from __future__ import annotations

import pytest

from bus.spec.compile import check_text, compile_protocol
from bus.spec.gathering import Gathering
from bus.spec.members import Members

HEAD = """
language: 1
protocol: panel
version: 1.0.0
roles:
  chair: {}
  judge: {many: 1..9}
  keen: {from: judge, many: 0..2}
  scribe: {}
messages: {Ask: {}, Yes: {}, No: {}, Note: {}, Last: {}}
outcomes: {over: All is said.}
conversation:
"""
FIRST = """
  - each: judge
    do:
      - chair -> judge: Ask
      - choice: judge
        branches:
          "yes": [{judge -> chair: "Yes"}, {enroll: keen}]
          "no": [{judge -> chair: "No"}]
"""
REST = """
  - each: keen
    do: [{chair -> keen: Note}]
  - chair -> scribe: Last
  - end: over
"""


def rules(steps: str, head: str = HEAD) -> list[str]:
    return [one.rule for one in check_text(head + steps)[1]]


def test_a_panel_in_which_members_are_enrolled_is_clean() -> None:
    assert rules(FIRST + REST) == []


@pytest.mark.parametrize(
    ("steps", "rule"),
    [
        ("  - judge -> chair: Yes\n", "E-MEMBERS"),
        ("  - {choice: judge, branches: {a: [{judge -> chair: Yes}], b: [{judge -> chair: No}]}}\n", "E-MEMBERS"),
        ("  - chair -> judge: Ask\n  - chair -> keen: Note\n", "E-MEMBERS"),
        ("  - each: judge\n    do: [{chair -> keen: Note}]\n", "E-MEMBERS"),
        ("  - each: scribe\n    do: [{chair -> scribe: Note}]\n", "E-EACH"),
        ("  - each: judge\n    do: [{each: keen, do: [{chair -> keen: Note}]}]\n", "E-EACH"),
        ("  - parallel: {x: [{each: judge, do: [{chair -> judge: Ask}]}], y: [{chair -> scribe: Note}]}\n", "E-EACH"),
        ("  - chair -> scribe: Note\n  - enroll: keen\n", "E-ENROLL"),
        ("  - each: judge\n    do: [{chair -> judge: Ask}, {enroll: judge}]\n", "E-ENROLL"),
        ("  - chair -> scribe: Note\n  - each: judge\n    do: [{enroll: keen}, {chair -> judge: Ask}]\n", "E-ENROLL"),
    ],
)
def test_what_is_said_to_or_by_members_in_the_wrong_place_is_refused(steps: str, rule: str) -> None:
    assert rules(steps + REST)[0] == rule


@pytest.mark.parametrize(
    ("step", "rule"),
    [("{each: scribe, do: [chair -> scribe: Note]}", "E-EACH"), ("{enroll: scribe}", "E-ENROLL")],
)
def test_members_are_refused_also_where_no_role_has_any(step: str, rule: str) -> None:
    head = HEAD[: HEAD.index("roles:")] + "roles: {chair: {}, scribe: {}}\n" + HEAD[HEAD.index("messages:") :]

    assert rules(f"  - chair -> scribe: Ask\n  - {step}\n", head) == [rule]


@pytest.mark.parametrize(
    "roles",
    [
        "{chair: {}, judge: {from: judge}, scribe: {}}",
        "{chair: {}, judge: {from: scribe}, scribe: {}}",
        "{chair: {}, judge: {many: 1..2, human: true}, scribe: {}}",
    ],
)
def test_a_role_whose_members_make_no_sense_is_refused(roles: str) -> None:
    head = HEAD[: HEAD.index("roles:")] + f"roles: {roles}\n" + HEAD[HEAD.index("messages:") :]

    assert rules("  - chair -> judge: Ask\n  - chair -> scribe: Last\n", head)[0] == "E-MEMBERS"


def test_an_announcement_outside_an_each_goes_to_every_member() -> None:
    protocol = compile_protocol(HEAD + "  - chair -> judge: Ask\n" + FIRST + REST)
    members = Members(protocol, {"judge": ["ann", "ben"]})
    tables = Gathering(members).tables

    [(_, address)] = tables.machines[0].send[0]
    assert [members.players[player].name for player in tables.addresses[address]] == ["judge:ann", "judge:ben"]


def test_members_are_players_behind_the_roles() -> None:
    members = Members(compile_protocol(HEAD + FIRST + REST), {"judge": ["ann", "ben", "cid"]})

    assert [one.name for one in members.players] == ["chair", "scribe", "judge:ann", "judge:ben", "judge:cid"]


def test_numbers_follow_from_the_protocol_and_the_members_alone() -> None:
    protocol = compile_protocol(HEAD + FIRST + REST)
    one, other = (Gathering(Members(protocol, {"judge": ["ann", "ben"]})) for _ in range(2))

    one.members.enroll(2, 1)

    assert one.tables.addresses == other.tables.addresses
    assert one.tables.events == other.tables.events
    assert one.members.voices == other.members.voices


def test_a_state_that_travels_is_the_same_state_elsewhere() -> None:
    protocol = compile_protocol(HEAD + FIRST + REST)
    here, there = (Gathering(Members(protocol, {"judge": ["ann", "ben"]})) for _ in range(2))
    machine = here.tables.machines[0]
    key = next(iter(machine.send[0]))

    at = here.after(0, 0, machine.send[0][key])
    again = there.read_state(0, here.show_state(0, at))

    assert there.tables.machines[0].receive[again].keys() == machine.receive[at].keys()
    assert there.tables.machines[0].send[again].keys() == machine.send[at].keys()


def test_the_members_of_an_each_do_not_see_each_other() -> None:
    protocol = compile_protocol(HEAD + FIRST + REST)
    members = Members(protocol, {"judge": ["ann", "ben"]})
    machine = Gathering(members).tables.machines[2]

    assert list(machine.receive[0]) == [(members.voice(0, 0, 0), protocol.message_index("Ask"))]


# -- a sub-role that may be full ----------------------------------------------------------------------

AWARD = """
  - each: judge
    do:
      - judge -> chair: "Yes"
      - chair -> judge: Note
      - enroll: keen
  - chair -> scribe: Last
"""


def test_a_full_sub_role_may_not_be_the_only_way_on() -> None:
    [found] = check_text(HEAD + AWARD, "panel.yaml")[1][:1]

    assert (found.rule, found.role) == ("E-FULL", "chair")
    assert found.trace == ("judge -> chair: Yes", "chair -> judge: Note")
    assert "'keen' may be full (2), and then nobody can go on here" in found.message


@pytest.mark.parametrize("many", ["{many: 1..2}", "{many: 2..2}"])
def test_a_sub_role_with_room_for_every_member_is_never_full(many: str) -> None:
    assert "E-FULL" not in rules(AWARD, HEAD.replace("{many: 1..9}", many))


def test_a_bus_event_may_not_enroll_where_the_sub_role_may_be_full() -> None:
    late = AWARD.replace("    do:", "    within: 5s\n    late: [{enroll: keen}]\n    do:").replace(
        "      - enroll: keen\n", ""
    )

    assert "E-FULL" in rules(late)


@pytest.mark.parametrize("n", [0, 1])
def test_a_role_without_members_has_tables_too(n: int) -> None:
    head = HEAD.replace("{many: 1..9}", "{many: 0..9}").replace("  keen: {from: judge, many: 0..2}\n", "")
    protocol = compile_protocol(
        head + "  - each: judge\n    do: [{judge -> chair: 'Yes'}]\n  - chair -> scribe: Last\n"
    )

    gathering = Gathering(Members(protocol, {"judge": ["ann"][:n]}))

    assert len(gathering.tables.machines) == 2 + n
