"""What diff says of random pairs of protocols, held against execution: a role of one version plays in the other."""

import json
from copy import deepcopy
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from protocol_text import DATA
from reference_run import ReferenceRun, Stuck

from bus.errors import SpecError
from bus.spec.change import Verdict
from bus.spec.compile import compile_protocol
from bus.spec.diff import diff, find_misfits
from bus.spec.loader import parse_document
from bus.spec.node import plain
from bus.spec.protocol import Protocol
from bus.spec.tables import EventKind, Machine, Move, Tables
from bus.spec.version import version_of

PAIRS = 150  # each is drawn until both versions pass their checks
STEPS = 80
NOWHERE = 10_000  # an address that no protocol has: sending there fails the run
MIRRORED = {
    Verdict.FULL: Verdict.FULL,
    Verdict.BACKWARD: Verdict.FORWARD,
    Verdict.FORWARD: Verdict.BACKWARD,
    Verdict.BREAKING: Verdict.BREAKING,
}


# -- random pairs: a protocol and an edit of it ---------------------------------------------------------


def block(random: Random, depth: int, roles: str) -> list[Any]:
    """Return steps that fall off their end."""
    return [step(random, depth, roles) for _ in range(random.randint(1, 3))]


def step(random: Random, depth: int, roles: str) -> Any:
    kind = random.random()
    if depth == 0 or kind < 0.5:
        return send(random, random.choice(roles), roles)
    decider = random.choice(roles)
    if kind < 0.8:
        names = random.sample("xyz", random.randint(1, 3))
        return {"choice": decider, "branches": {name: branch(random, depth, roles, decider) for name in names}}
    again, stop = branch(random, depth, roles, decider), branch(random, 0, roles, decider)
    do = [{"choice": decider, "branches": {"again": again, "stop": [*stop, {"break": None}]}}]
    return {"loop": f"l{random.randint(0, 10**6)}", "do": do}


def branch(random: Random, depth: int, roles: str, decider: str) -> list[Any]:
    rest = block(random, depth - 1, roles) if depth > 0 and random.random() < 0.5 else []
    end = [{"end": random.choice(["good", "bad"])}] if random.random() < 0.2 else []
    return [send(random, decider, roles), *rest, *end]


def send(random: Random, sender: str, roles: str) -> Any:
    receiver = random.choice([role for role in roles if role != sender])
    return {f"{sender} -> {receiver}": f"M{random.randint(0, 9)}"}


def edit(random: Random, conversation: list[Any], roles: str) -> list[Any]:
    """Return the conversation with a branch more or less, or a message more, less or another."""
    edited = deepcopy(conversation)
    blocks, choices = [edited], []
    for one in blocks:  # grows while it is read
        for inner in one:
            blocks += inner.get("branches", {}).values()
            blocks += [inner["do"]] if "do" in inner else []
            choices += [inner] if "choice" in inner else []
    kind = random.random()
    if choices and kind < 0.6:
        choice = random.choice(choices)
        if kind < 0.3 and len(choice["branches"]) > 1:
            del choice["branches"][random.choice([*choice["branches"]])]
        else:
            choice["branches"]["more"] = branch(random, 1, roles, choice["choice"])
        return edited
    one = random.choice(blocks)
    place = random.randrange(len(one))
    if kind < 0.8:
        one.insert(place, send(random, random.choice(roles), roles))
    else:
        one[place] = send(random, random.choice(roles), roles)
    return edited


def compiled(conversation: list[Any], roles: str) -> Protocol | None:
    text = {
        "language": 1,
        "protocol": "random",
        "version": "1.0.0",
        "roles": {role: {} for role in roles},
        "messages": {f"M{number}": {} for number in range(10)},
        "outcomes": {"good": None, "bad": None},
        "conversation": conversation,
    }
    try:
        return compile_protocol(json.dumps(text))
    except SpecError:
        return None


def pairs() -> list[tuple[Protocol, Protocol]]:
    random, found = Random(7), []
    while len(found) < PAIRS:
        roles = random.choice(["ab", "abc"])
        conversation = block(random, 2, roles)
        old, new = compiled(conversation, roles), compiled(edit(random, conversation, roles), roles)
        if old is not None and new is not None and old is not new:
            found.append((old, new))
    return found


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def random_pairs() -> list[tuple[Protocol, Protocol]]:
    return pairs()


# -- a role of one version in the other -----------------------------------------------------------------


def hybrid(old: Protocol, new: Protocol, role: int) -> Tables:
    """Return the tables of *new* with *role* played by the machine of *old*, said in the numbers of *new*."""
    machines = [replace(one, timer=(-1,) * len(one.timer)) for one in new.tables.machines]
    machines[role] = translated(old, new, role)
    return replace(new.tables, machines=tuple(machines))


def translated(old: Protocol, new: Protocol, role: int) -> Machine:
    machine = old.tables.machines[role]
    events = {
        number: [
            other for other, one in enumerate(new.tables.events)
            if (one.kind, one.outcome) == (EventKind.END, event.outcome)
        ]
        for number, event in enumerate(old.tables.events)
    }  # fmt: skip

    def address(receivers: tuple[int, ...]) -> int:
        return new.tables.addresses.index(receivers) if receivers in new.tables.addresses else NOWHERE

    addresses = [address(receivers) for receivers in old.tables.addresses]
    return replace(
        machine,
        send=tuple(
            {(type, addresses[to]): Move(move.next) for (type, to), move in one.items()} for one in machine.send
        ),
        receive=tuple({label: Move(move.next) for label, move in one.items()} for one in machine.receive),
        bus=tuple({new: after for event, after in one.items() for new in events[event]} for one in machine.bus),
        due=tuple(tuple(new for event in one for new in events[event]) for one in machine.due),
        timer=(-1,) * len(machine.timer),
    )


def plays_well(tables: Tables, random: Random) -> bool:
    """Return whether a random run neither gets stuck nor leaves anything behind nor sends to nowhere."""
    run = ReferenceRun(tables, random, mishap=0.0)
    try:
        for _ in range(STEPS):
            if run.outcome is not None:
                return run.early == [[] for _ in run.states]
            run.step()
    except (Stuck, AssertionError, IndexError):
        return False
    return True


def test_who_fits_plays_every_random_run_to_its_end(random_pairs: list[tuple[Protocol, Protocol]]) -> None:
    n_fitting = 0
    for old, new in random_pairs:
        for role in range(len(new.roles)):
            if not find_misfits(version_of(old), version_of(new), new.roles[role].name):
                n_fitting += 1
                tables = hybrid(old, new, role)
                assert all(plays_well(tables, Random(seed)) for seed in range(20)), (old.spec.source, new.spec.source)

    assert n_fitting > PAIRS / 4


def test_who_does_not_fit_goes_wrong_in_some_random_run(random_pairs: list[tuple[Protocol, Protocol]]) -> None:
    n_misfitting = 0
    for old, new in random_pairs:
        for role in range(len(new.roles)):
            if find_misfits(version_of(old), version_of(new), new.roles[role].name):
                n_misfitting += 1
                tables = hybrid(old, new, role)
                assert not all(plays_well(tables, Random(seed)) for seed in range(100)), (old.spec, new.spec)

    assert n_misfitting > PAIRS


def test_mirrored_the_two_answers_change_places(random_pairs: list[tuple[Protocol, Protocol]]) -> None:
    for old, new in random_pairs:
        there = {one.role: one.verdict for one in diff(version_of(old), version_of(new)).verdicts}
        back = {one.role: one.verdict for one in diff(version_of(new), version_of(old)).verdicts}

        assert back == {role: MIRRORED[verdict] for role, verdict in there.items()}


def accepted_in_the_corpus() -> list[Protocol]:
    found = []
    for line in (DATA / "corpus.jsonl").read_text().splitlines():
        try:
            found.append(compile_protocol(json.loads(line)["yaml"]))
        except SpecError:
            continue
    return found


def test_protocol_is_fully_compatible_with_itself() -> None:
    protocols = accepted_in_the_corpus()

    assert len(protocols) > 30
    for protocol in protocols:
        found = diff(version_of(protocol), version_of(protocol))
        assert found.changes == ()
        assert {one.verdict for one in found.verdicts} == {Verdict.FULL}


def test_protocol_with_its_declarations_in_another_order_is_fully_compatible() -> None:
    for protocol in accepted_in_the_corpus():
        text = json.loads(json.dumps(plain(parse_document(protocol.spec.source))))
        for section in ("roles", "messages"):
            text[section] = dict(reversed(text[section].items()))
        other = compile_protocol(json.dumps(text))

        assert {one.verdict for one in diff(version_of(protocol), version_of(other)).verdicts} == {Verdict.FULL}


def test_any_two_protocols_can_be_compared_and_mirrored() -> None:
    versions = [version_of(protocol) for protocol in accepted_in_the_corpus()[::3]]

    for old in versions:
        for new in versions:
            there = {one.role: one.verdict for one in diff(old, new).verdicts}
            back = {one.role: one.verdict for one in diff(new, old).verdicts}

            assert back == {role: MIRRORED[verdict] for role, verdict in there.items()}
