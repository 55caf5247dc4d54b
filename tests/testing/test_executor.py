"""Random execution: what `check` accepts holds every claim, and a monitor that is wrong is found out."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import pytest

from bus.spec.compile import check_text, compile_protocol, load_protocol
from bus.spec.diagnostic import Severity
from bus.spec.protocol import Protocol
from bus.spec.tables import Machine, Move
from bus.testing.arena import Arena, Fault
from bus.testing.choices import Choices, shortened
from bus.testing.executor import CUT, Run
from bus.testing.fuzzer import Finding, fuzz_protocol, play_seed
from bus.testing.random_members import random_gathering
from bus.testing.random_protocol import random_protocol
from bus.testing.record_desk import RecordDesk

DATA = Path(__file__).parents[1] / "spec" / "data"
SPECS = ("echo", "generation", "newsroom", "task", "training")
TALK = """
language: 1
protocol: talk
version: 1.0.0
roles: {a: {}, b: {}, c: {}}
messages: {Ask: {}, Answer: {}, Pass: {}, Stop: {}}
outcomes: {told: All know., stopped: It was stopped.}
conversation:
  - scope: s
    do:
      - a -> b: Ask
      - b -> c: Pass
      - c -> a: Answer
    interrupts:
      - a -> b, c: Stop
        then: [{end: stopped}]
  - end: told
"""


@cache
def accepted(n: int) -> tuple[Protocol, ...]:
    """Return the first *n* random protocols that are in order."""

    def drawn() -> Iterator[Protocol]:
        seed = 0
        while True:
            text = random_protocol(seed)
            if not any(one.severity is Severity.ERROR for one in check_text(text)[1]):
                yield compile_protocol(text)
            seed += 1

    return tuple(islice(drawn(), n))


def corpus() -> Iterator[Protocol]:
    for line in (DATA / "corpus.jsonl").read_text(encoding="utf-8").splitlines():
        text = json.loads(line)["yaml"]
        if not any(one.severity is Severity.ERROR for one in check_text(text)[1]):
            yield compile_protocol(text)


def findings(protocol: Protocol, **options: int) -> list[Finding]:
    return fuzz_protocol(protocol, **options).findings


# -- the claims hold ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_random_protocols_that_are_accepted_hold_every_claim() -> None:
    assert [found for protocol in accepted(60) for found in findings(protocol, runs=60)] == []


@pytest.mark.parametrize(("seed", "run"), [(2421, "0-91"), (3505, "0-51")])
def test_what_follows_a_superseded_message_may_be_superseded_too(seed: int, run: str) -> None:
    """Found by random execution: an interrupt crossed with a timeout, and the next message of its epoch was tried."""
    outcome = Run(Arena(compile_protocol(random_protocol(seed))), Choices(run)).play()

    assert outcome in ("kept", "enough")


@pytest.mark.slow
def test_the_corpus_holds_every_claim() -> None:
    assert [found for protocol in corpus() for found in findings(protocol, runs=10)] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_the_specs_that_ship_hold_every_claim(name: str) -> None:
    assert findings(load_protocol(name), runs=300) == []


@pytest.mark.slow
def test_the_whole_broker_holds_every_claim() -> None:
    for protocol in (*accepted(60), *map(load_protocol, SPECS)):
        arena = Arena(protocol)
        for number in range(3):
            Run(arena, Choices(number), new_desk=RecordDesk).play()


@pytest.mark.slow
def test_random_protocols_have_every_step_that_can_be_run() -> None:
    texts = " ".join(protocol.spec.source for protocol in accepted(60))

    for word in ("choice", "loop", "parallel", "scope", "break", "end", "else", "retry", "max", "within", "timeout",
                 "lost", "failed", "endless"):  # fmt: skip
        assert f'"{word}"' in texts
    assert ', b": ' in texts or ', c": ' in texts
    assert '*"' in texts
    assert '+"' in texts


def test_equal_seeds_give_equal_protocols_and_equal_runs() -> None:
    protocol = load_protocol("newsroom")
    runs = [Run(Arena(protocol), Choices("seed")) for _ in range(2)]

    assert random_protocol(7) == random_protocol(7)
    first, second = ((run.play(), run.trace) for run in runs)
    assert first == second


@pytest.mark.slow
def test_runs_reach_every_state_and_every_outcome_of_the_newsroom() -> None:
    report = fuzz_protocol(load_protocol("newsroom"), runs=1000)

    assert {"published", "spiked", "failed"} <= report.tally.outcomes.keys()
    assert report.unreached() == []


def test_a_state_to_which_only_messages_that_may_be_lost_lead_is_not_awaited() -> None:
    text = """
language: 1
protocol: lossy
version: 1.0.0
roles: {a: {}, b: {}}
messages: {M: {delivery: at-most-once}, N: {}}
conversation:
  - a -> b: M*
    max: 5
  - a -> b: N
"""

    assert fuzz_protocol(compile_protocol(text), runs=50).unreached() == []


def test_a_run_that_does_not_end_is_cut() -> None:
    text = TALK.replace("  - end: told", "  - loop: l\n    endless: true\n    do: [{a -> b: Ask}, {b -> a: Answer}]")
    protocol = compile_protocol(text)

    assert Run(Arena(protocol), Choices(0), calm=True, steps=50).play() == CUT


# -- members and calls ----------------------------------------------------------------------------------


def test_contract_net_holds_every_claim_with_any_number_of_bidders() -> None:
    report = fuzz_protocol(load_protocol(DATA / "contract-net.protocol.yaml"), runs=150)

    assert report.findings == []
    assert {"done", "failed", "no-award"} <= report.tally.outcomes.keys()


@pytest.mark.slow
def test_random_protocols_with_members_and_calls_hold_every_claim() -> None:
    texts = (random_gathering(seed) for seed in range(150))
    protocols = [
        compile_protocol(text)
        for text in texts
        if not any(one.severity is Severity.ERROR for one in check_text(text)[1])
    ]

    assert [found for protocol in protocols for found in findings(protocol, runs=15)] == []
    assert sum(bool(one.tables.eaches) for one in protocols) >= 30
    assert sum(bool(one.tables.calls) for one in protocols) >= 10


def test_random_protocols_have_every_step_about_members() -> None:
    texts = " ".join(random_gathering(seed) for seed in range(200))

    for word in ("each", "enroll", "until", "within", "late", "many", "from", "call", "outcomes"):
        assert f'"{word}"' in texts


def tampered_net(change: Callable[[Machine], Machine]) -> Protocol:
    protocol = load_protocol(DATA / "contract-net.protocol.yaml")
    tables = protocol.tables
    return replace(protocol, tables=replace(tables, machines=tuple(change(one) for one in tables.machines)))


def test_a_winner_too_many_is_found() -> None:
    def unguarded(machine: Machine) -> Machine:
        rows = tuple({label: replace(move, guards=()) for label, move in row.items()} for row in machine.send)
        return replace(machine, send=rows)

    assert "illegal-accepted" in kinds(tampered_net(unguarded))


def test_members_that_are_never_joined_are_found() -> None:
    joined = {table.joined for table in load_protocol(DATA / "contract-net.protocol.yaml").tables.eaches}

    def apart(machine: Machine) -> Machine:
        return replace(machine, due=tuple(tuple(one for one in row if one not in joined) for row in machine.due),
                       bus=tuple({event: then for event, then in row.items() if event not in joined}
                                 for row in machine.bus))  # fmt: skip

    assert "event-missing" in kinds(tampered_net(apart))


# -- a monitor that is wrong is found out -------------------------------------------------------------


def tampered(role: str, **rows: object) -> Protocol:
    """Return TALK with rows of the role's machine changed: what the judge knows nothing of."""
    protocol = compile_protocol(TALK)
    tables = protocol.tables
    machines = list(tables.machines)
    index = protocol.role_index(role)
    machines[index] = replace(machines[index], **rows)  # type: ignore[arg-type]  # rows of a machine
    return replace(protocol, tables=replace(tables, machines=tuple(machines)))


def machine(role: str) -> Machine:
    protocol = compile_protocol(TALK)
    return protocol.tables.machines[protocol.role_index(role)]


def kinds(protocol: Protocol) -> set[str]:
    return {found.kind for found in findings(protocol, runs=100)}


def test_a_message_that_is_taken_without_being_allowed_is_found() -> None:
    rows = [dict(row) for row in machine("c").send]
    protocol = compile_protocol(TALK)
    rows[0][protocol.message_index("Answer"), protocol.tables.addresses.index((0,))] = Move(0)

    assert "illegal-accepted" in kinds(tampered("c", send=tuple(rows)))


def test_a_message_that_is_refused_although_it_is_allowed_is_found() -> None:
    rows = tuple({} if move.keys() else move for move in machine("b").send)

    assert kinds(tampered("b", send=rows)) == {"legal-refused"}


def test_a_message_that_never_reaches_its_receiver_is_found() -> None:
    rows = tuple({} for _ in machine("c").receive)

    assert kinds(tampered("c", receive=rows)) & {"inconsistent", "orphan", "legal-refused"}


def test_an_end_that_does_not_come_is_found() -> None:
    told = compile_protocol(TALK).tables.events
    rows = tuple(
        {event: then for event, then in row.items() if told[event].outcome != "told"} for row in machine("a").bus
    )

    assert kinds(tampered("a", bus=rows)) == {"event-missing"}


def test_a_role_that_is_left_out_by_a_bus_event_is_found() -> None:
    rows = tuple(dict.fromkeys(row, state) for state, row in enumerate(machine("c").bus))

    assert kinds(tampered("c", bus=rows)) == {"event-missing", "illegal-accepted"}


def test_a_role_that_never_speaks_is_found() -> None:
    protocol = compile_protocol(TALK)
    run = Run(Arena(protocol), Choices(0), calm=True, absent={protocol.role_index("c")})

    with pytest.raises(Fault, match=r"silent: .* c -> a: Answer"):
        run.play()


def test_a_finding_is_played_again_by_its_seed_and_told_by_a_short_way() -> None:
    protocol = tampered("b", send=tuple({} if move.keys() else move for move in machine("b").send))
    [found] = findings(protocol, runs=50)

    with pytest.raises(Fault) as again:
        play_seed(protocol, found.seed)

    assert again.value.kind == found.kind
    assert found.trace == ("a -> b: Ask",)


def test_decisions_are_shortened_to_those_that_matter() -> None:
    recorded = [0, 3, 1, 7, 2, 7, 5]

    assert shortened(recorded, lambda these: these.count(7) >= 2) == [7, 7]
