"""What diagrams show, and that Mermaid can read them."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from npm_packages import npm_folder
from protocol_text import DATA, small
from spec_source import CANCEL_ANYWHERE, PARALLEL_OK, STARVATION_BOUNDED_BY_MAX, parsed, shipped, spec_of

from bus.spec.compile import check_text
from bus.spec.draw import draw_sequence
from bus.spec.draw_states import draw_states
from bus.spec.projection import project
from bus.spec.state_names import describe_states, find_state, machine_of, steps_of
from bus.spec.syntax import Spec

SHIPPED = ("newsroom", "training", "task", "generation", "echo")
EVERYTHING = """
- each: b
  until: any
  within: 30s
  do:
    - a -> b: M1
    - choice: b
      branches:
        yes: [b -> a: M2, enroll: c]
        no: [b -> a: M3]
      within: 10s
      else: []
  late: [a -> d: M4]
- call: other@^1
  as: {x: a, y: d}
  within: 1h
  outcomes:
    done: [a -> d: M5]
    failed: [{end: failed}]
    canceled: []
- loop: again-and-again
  max: 3
  within: 1d
  do:
    - choice: a
      branches:
        stop: [a -> d: M6, break]
        go: [a -> d: M7, continue: again-and-again]
        skip: []
    - a -> d: M8+
      max: 10
  else: [a -> d: M9]
- scope: whole
  do: [a -> d: M10, {parallel: {one: [a -> d: M11], two: [d -> a: M12]}}]
  interrupts:
    - d -> a: M13
      then: []
    - timeout: 90s
      then: [{end: failed}]
    - lost: a
      then: []
    - failed: d
      then: []
"""
# Every word of Mermaid's grammar for sequence diagrams, and names with what its arrows are made of.
WORDS = re.findall(
    r"\S+",
    "box participant actor create destroy as loop rect opt alt else par par_over and critical option break end left "
    "right links link properties details over note activate deactivate title autonumber off end-x box-office x1 a-b",
)

BROKEN = ("stateDiagram-v2\n    [*] --> \n", "sequenceDiagram\n    a->>b\n    end\n")


def everything() -> Spec:
    text = small(", ".join(f"M{number}: {{}}" for number in range(1, 14)), EVERYTHING.strip("\n"))
    return parsed(text.replace("{a: {}, b: {}}", "{a: {}, b: {many: 1..5}, c: {from: b}, d: {human: true}}"))


def accepted() -> list[Spec]:
    """Return the protocols of the corpus in which ``check`` finds no error."""
    lines = (DATA / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    return [spec for line in lines if (spec := check_text(json.loads(line)["yaml"])[0]) is not None]


def with_roles(first: str, second: str) -> Spec:
    text = small("M: {}", f"- {first} -> {second}: M\n- {second} -> {first}: M")
    return parsed(text.replace("{a: {}, b: {}}", f"{{{first}: {{}}, {second}: {{human: true}}}}"))


def states_of(spec: Spec, role: str) -> str:
    return draw_states(spec, project(spec).tables(), role)


def test_every_kind_of_step_is_drawn():
    drawn = draw_sequence(everything())

    for line in (
        "loop each b, until one is done, within 30s", "this b becomes c", "opt b: late after 30s",
        "else b: no answer after 10s", "Note over a,d: call other@^1, within 1h", "alt the call ended as done",
        "loop again-and-again, at most 3 times, within 1d", "Note over a,d: leave the loop",
        "Note over a,d: again again-and-again", "a->>d: M8 (one or more)", "critical whole", "option M13 by d",
        "d->>a: M13", "option timeout after 90s", "option a lost", "option d failed", "par one", "and two",
    ):  # fmt: skip
        assert line in drawn


def test_a_role_whose_name_mermaid_would_misread_gets_an_id_and_keeps_its_name():
    drawn = draw_sequence(with_roles("end", "box-office"))

    assert "participant role0 as end\n" in drawn
    assert "actor role1 as box-office\n" in drawn
    assert "role0->>role1: M\n" in drawn


def test_states_show_sends_receives_events_deadlines_and_ends():
    drawn = states_of(shipped("newsroom"), "writer")

    for line in (
        'state "2 (within 5m)" as s2', "[*] --> s0", "s0 --> s1: ?Brief from desk", "s2 --> s4: !Draft to editor",
        "s2 --> s5: (revisions.max)", "s4 --> s9: (choice editor.else)", "s11 --> [*]: (end published)",
    ):  # fmt: skip
        assert f"    {line}\n" in drawn


def test_what_cuts_a_scope_short_leaves_its_box_once():
    drawn = states_of(shipped("training"), "client")

    assert drawn.count("!Cancel to trainer") == 1
    assert drawn.count("(run.timeout)") == 1
    assert "    scope1 --> s18: !Pause to trainer\n" in drawn


def test_an_interrupt_that_a_role_receives_is_shown_as_the_message():
    assert "?M9 from a" in states_of(spec_of(CANCEL_ANYWHERE), "b")


def test_every_move_of_a_machine_is_in_its_diagram():
    spec = shipped("training")
    tables = project(spec).tables()
    machine = machine_of(spec, tables, "trainer")
    drawn = draw_states(spec, tables, "trainer")

    assert all(step.label in drawn for step in steps_of(spec, tables, machine))
    assert all(
        f"as s{state}\n" in drawn for state in range(len(machine.send)) if machine.send[state] or machine.bus[state]
    )


def test_states_are_found_by_number_and_by_what_led_there():
    spec = shipped("newsroom")
    tables = project(spec).tables()
    machine = machine_of(spec, tables, "writer")
    steps = steps_of(spec, tables, machine)

    assert [find_state(machine, steps, text) for text in ("start", "2", "Digest", "revisions.max")] == [0, 2, 2, 5]
    assert dict(describe_states(machine, steps))[4] == "Draft"
    with pytest.raises(LookupError, match="leads to the states 10, 12, 13"):
        find_state(machine, steps, "Spiked")
    with pytest.raises(LookupError, match="did you mean 'Digest'"):
        find_state(machine, steps, "Digst")


def test_an_unknown_role_is_told_with_those_there_are():
    spec = shipped("newsroom")

    with pytest.raises(LookupError, match=r"expected a role of newsroom \(desk, .*did you mean 'writer'"):
        draw_states(spec, project(spec).tables(), "writr")


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(240)
def test_mermaid_reads_every_diagram():
    folder = npm_folder()
    specs = [*(shipped(name) for name in SHIPPED), *accepted()]
    small_ones = [spec_of(text) for text in (PARALLEL_OK, CANCEL_ANYWHERE, STARVATION_BOUNDED_BY_MAX)]
    odd = [with_roles(word, "other") for word in WORDS]
    unrun = [everything(), *(parsed(path.read_text(encoding="utf-8")) for path in sorted(DATA.glob("*.protocol.yaml")))]
    sequences = [*specs, *small_ones, *odd, *unrun]
    machines = [(spec, role.name) for spec in [*specs, *small_ones, *odd] for role in spec.roles]
    diagrams = [*map(draw_sequence, sequences), *(states_of(spec, role) for spec, role in machines)]

    found = mermaid(folder, [*diagrams, *BROKEN])
    n_broken = len(BROKEN)

    assert [one["error"] for one in found[:-n_broken]] == [""] * len(diagrams)
    assert [one["kind"] for one in found[:-n_broken]] == ["sequence"] * len(sequences) + ["stateDiagram"] * len(
        machines
    )
    assert [one["actors"] for one in found[: len(sequences)]] == [[r.name for r in spec.roles] for spec in sequences]
    assert [one["arrows"] for one in found[len(sequences) : -n_broken]] == [
        one.count(" --> ") for one in diagrams[len(sequences) :]
    ]
    assert all(one["error"] for one in found[-n_broken:])


def mermaid(folder: Path, diagrams: list[str]) -> list[dict]:
    done = subprocess.run(
        ["node", str(Path(__file__).with_name("mermaid_check.mjs")), str(folder)],
        input=json.dumps(diagrams), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
