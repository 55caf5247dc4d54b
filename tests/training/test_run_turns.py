"""The queue and the places: who leaves first, who is evicted, and that nobody starves."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training_service.errors import ExactnessBroken
from training_service.turns import MOVES, Entrant, FairShare, Kind, Move, Stand, Turns

PLACES = {Kind.SHARED: 2, Kind.EXCLUSIVE: 1}


def entrant(name: str, *, owner: str = "", priority: int = 5, kind: Kind = Kind.SHARED) -> Entrant:
    return Entrant(name, owner, priority, kind)


def settle(turns: Turns) -> list[tuple[Move, str]]:
    """Carry out every move that is due and return them."""
    moves = []
    while (move := turns.next_move()) is not None:
        (turns.place if move[0] is Move.PLACE else turns.evict)(move[1])
        moves.append(move)
        assert len(moves) < 100, moves
    return moves


def test_higher_priority_leaves_the_queue_first_and_equals_in_the_order_of_arrival() -> None:
    turns = Turns(PLACES)
    for name, priority in (("a", 5), ("b", 3), ("c", 9), ("d", 5)):
        turns.enter(entrant(name, priority=priority))

    assert turns.waiting == ("c", "a", "d", "b")
    assert [turns.position(name) for name in "abcd"] == [1, 3, 0, 2]


def test_among_equals_the_owner_that_has_had_fewer_tokens_goes_first() -> None:
    turns = Turns({Kind.SHARED: 1})
    turns.enter(entrant("rich-1", owner="rich"))
    settle(turns)
    turns.enter(entrant("rich-2", owner="rich"))
    turns.charge("rich-1", 100)
    turns.enter(entrant("poor-1", owner="poor"))
    turns.charge("rich-1", 50)

    assert turns.waiting == ("poor-1", "rich-2")


def test_kinds_have_places_of_their_own_and_do_not_wait_for_each_other() -> None:
    turns = Turns(PLACES)
    for name, kind in (("f1", Kind.EXCLUSIVE), ("f2", Kind.EXCLUSIVE), ("l1", Kind.SHARED)):
        turns.enter(entrant(name, kind=kind))

    assert settle(turns) == [(Move.PLACE, "l1"), (Move.PLACE, "f1")]
    assert (turns.waiting, turns.position("f2")) == (("f2",), 0)


def test_higher_priority_takes_the_place_of_the_lowest_that_then_waits_again() -> None:
    turns = Turns(PLACES)
    for name, priority in (("a", 5), ("low", 2), ("urgent", 8), ("equal", 5)):
        turns.enter(entrant(name, priority=priority))
        settle(turns)

    assert set(turns.placed) == {"a", "urgent"}
    assert turns.waiting == ("equal", "low")
    turns.leave("urgent")
    assert settle(turns) == [(Move.PLACE, "equal")]


def test_an_equal_evicts_nobody() -> None:
    turns = Turns({Kind.SHARED: 1})
    turns.enter(entrant("a"))
    settle(turns)
    turns.enter(entrant("b"))

    assert turns.next_move() is None


@pytest.mark.parametrize("move", Move)
@pytest.mark.parametrize("stand", [None, *Stand])
def test_what_the_table_does_not_have_is_refused_and_changes_nothing(stand: Stand | None, move: Move) -> None:
    if (stand, move) in MOVES or (stand, move) == (None, Move.LEAVE):  # to leave twice is nothing
        return
    turns = Turns({Kind.SHARED: 1})
    if stand is not None:
        turns.enter(entrant("a"))
    if stand in (Stand.PLACED, Stand.RESTING):
        turns.place("a")
    if stand is Stand.RESTING:
        turns.rest("a")
    before = (turns.waiting, turns.placed, turns.resting)
    acts: dict[Move, Callable[[], None]] = {
        Move.ENTER: lambda: turns.enter(entrant("a")),
        Move.PLACE: lambda: turns.place("a"),
        Move.REST: lambda: turns.rest("a"),
        Move.WAKE: lambda: turns.wake("a"),
        Move.EVICT: lambda: turns.evict("a"),
    }

    with pytest.raises(ExactnessBroken, match="expected no"):
        acts[move]()

    assert (turns.waiting, turns.placed, turns.resting) == before


def test_who_rests_keeps_its_place_has_no_turn_and_makes_up_for_none() -> None:
    turns = Turns({Kind.SHARED: 2})
    for name in "abc":
        turns.enter(entrant(name))
        settle(turns)
    turns.rest("a")
    for _ in range(10):
        assert turns.next() == "b"
        turns.charge("b", 1)

    assert (turns.placed, turns.waiting, turns.resting) == (("a", "b"), ("c",), ("a",))
    turns.rest("b")
    assert turns.next() is None
    turns.wake("b")
    turns.wake("a")
    served = []
    for _ in range(6):
        served.append(turns.next())
        turns.charge(served[-1] or "", 1)
    assert sorted(served) == ["a"] * 3 + ["b"] * 3


def test_who_rests_may_be_evicted_and_may_leave() -> None:
    turns = Turns({Kind.SHARED: 1})
    turns.enter(entrant("a"))
    settle(turns)
    turns.rest("a")
    turns.enter(entrant("urgent", priority=9))

    assert settle(turns) == [(Move.EVICT, "a"), (Move.PLACE, "urgent")]
    turns.rest("urgent")
    turns.leave("urgent")
    assert settle(turns) == [(Move.PLACE, "a")]
    assert turns.next() == "a"


def test_share_is_fair_by_tokens_and_a_newcomer_does_not_wait() -> None:
    share, served = FairShare(), {"a": 0, "b": 0, "late": 0}
    cost = {"a": 10, "b": 40, "late": 10}
    share.add("a")
    share.add("b")
    for turn in range(100):
        if turn == 50:
            share.add("late")
        name = share.next()
        assert name is not None
        share.charge(name, cost[name])
        served[name] += cost[name]

    assert abs(served["a"] - served["b"]) <= max(cost.values())
    assert served["late"] > 100
    for name in cost:
        share.remove(name)
    assert share.next() is None


COSTS = st.lists(st.integers(1, 50), min_size=2, max_size=5)


@given(COSTS, st.integers(10, 200))
def test_owners_at_work_differ_by_one_step_at_most(costs: list[int], n_turns: int) -> None:
    turns = Turns({Kind.SHARED: 8})
    names = [f"run-{index}" for index in range(len(costs))]
    served = dict.fromkeys(names, 0)
    for name in names:
        turns.enter(entrant(name, owner=name))
    settle(turns)
    for _ in range(n_turns):
        name = turns.next()
        assert name is not None
        cost = costs[names.index(name)]
        turns.charge(name, cost)
        served[name] += cost

    assert max(served.values()) - min(served.values()) <= max(costs)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(1, 50))
def test_owners_share_equally_however_many_runs_each_has(n_runs: list[int], cost: int) -> None:
    turns = Turns({Kind.SHARED: 16})
    served: dict[str, int] = dict.fromkeys(map(str, range(len(n_runs))), 0)
    of_run: dict[str, int] = {}
    for owner, n in enumerate(n_runs):
        for index in range(n):
            turns.enter(entrant(f"{owner}/{index}", owner=str(owner)))
            of_run[f"{owner}/{index}"] = 0
    settle(turns)
    for _ in range(120):
        name = turns.next()
        assert name is not None
        turns.charge(name, cost)
        served[name.partition("/")[0]] += cost
        of_run[name] += cost

    assert max(served.values()) - min(served.values()) <= cost
    for owner in served:
        own = [n for name, n in of_run.items() if name.startswith(f"{owner}/")]
        assert max(own) - min(own) <= cost


@dataclass
class Stream:
    """Runs that keep coming, each of an owner never seen before, as soon as a place is free."""

    turns: Turns
    steps: dict[str, int] = field(default_factory=dict)
    n_come: int = 0

    def come(self, n_steps: int) -> None:
        name = f"new-{self.n_come}"
        self.n_come += 1
        self.steps[name] = n_steps
        self.turns.enter(entrant(name, owner=name))


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 30), st.integers(0, 500))
def test_nobody_starves_at_equal_priority_beside_a_stream_of_newcomers(
    n_places: int, n_steps: int, cost: int, had: int
) -> None:
    turns = Turns({Kind.SHARED: n_places})
    turns.enter(entrant("first", owner="old"))
    settle(turns)
    turns.charge("first", had)
    turns.leave("first")
    stream = Stream(turns)
    for _ in range(n_places + 2):
        stream.come(n_steps)
    settle(turns)
    turns.enter(entrant("patient", owner="old"))
    bound = 20 + (n_places + 2) * n_steps + n_places * had // cost

    for _ in range(bound):
        name = turns.next()
        assert name is not None
        if name == "patient":
            return
        turns.charge(name, cost)
        stream.steps[name] -= 1
        if not stream.steps[name]:
            turns.leave(name)
            stream.come(n_steps)
        settle(turns)
    raise AssertionError(f"expected the patient run to have had its turn, it still waits: {turns.waiting}")


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(Kind), st.sampled_from("xyz")), max_size=12))
def test_moves_come_to_an_end_and_no_one_of_lower_priority_keeps_a_place_from_a_higher(
    orders: list[tuple[int, Kind, str]],
) -> None:
    turns = Turns(PLACES)
    entrants = [entrant(str(at), owner=o, priority=p, kind=k) for at, (p, k, o) in enumerate(orders)]
    for one in entrants:
        turns.enter(one)
        settle(turns)

    for kind, n_places in PLACES.items():
        placed = [one for one in entrants if one.kind is kind and one.task_id in turns.placed]
        waiting = [one for one in entrants if one.kind is kind and one.task_id in turns.waiting]
        assert len(placed) <= n_places
        assert not waiting or len(placed) == n_places
        assert min((one.priority for one in placed), default=9) >= max((one.priority for one in waiting), default=0)
