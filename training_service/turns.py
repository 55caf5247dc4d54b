"""Which runs hold places, who leaves the queue next, and whose slice comes next. Pure.

A run waits until it holds one of the places of its kind, and waits again when one of higher priority took its
place. Turns go first to the owner and then to the owner's run that has had the fewest tokens. Knows runs as names
alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from training_service.errors import ExactnessBroken


class Stand(StrEnum):
    """Where a run stands."""

    WAITING = "waiting"
    PLACED = "placed"
    RESTING = "resting"  # placed, but it waits for its files


class Move(StrEnum):
    """What may happen to it."""

    ENTER = "enter"
    PLACE = "place"
    REST = "rest"
    WAKE = "wake"
    EVICT = "evict"
    LEAVE = "leave"


MOVES: dict[tuple[Stand | None, Move], Stand | None] = {
    (None, Move.ENTER): Stand.WAITING,
    (Stand.WAITING, Move.PLACE): Stand.PLACED,
    (Stand.PLACED, Move.REST): Stand.RESTING,
    (Stand.RESTING, Move.WAKE): Stand.PLACED,
    (Stand.PLACED, Move.EVICT): Stand.WAITING,
    (Stand.RESTING, Move.EVICT): Stand.WAITING,
    (Stand.WAITING, Move.LEAVE): None,
    (Stand.PLACED, Move.LEAVE): None,
    (Stand.RESTING, Move.LEAVE): None,
}
"""(where it stands, what happens) → where it stands then; None is outside. What is missing is a fault."""


class Kind(StrEnum):
    """What a run computes on: its adapter on a shared base, or a copy of the weights for itself."""

    SHARED = "shared"
    EXCLUSIVE = "exclusive"


@dataclass(frozen=True, slots=True)
class Entrant:
    """A run as the queue sees it; *owner* is the same for runs of one owner, a higher *priority* goes first."""

    task_id: str
    owner: str
    priority: int
    kind: Kind


class FairShare:
    """Whose turn is next among those at work: who has had the fewest tokens.

    The clock counts the tokens that each of those at work should have had by now. Whoever begins to work begins
    there at the earliest: it neither makes up for the time when it wanted nothing nor waits for the others.
    """

    def __init__(self) -> None:
        self._levels: dict[str, float] = {}
        self._at_work: dict[str, None] = {}  # in the order of beginning, which decides among equals
        self._clock = 0.0

    def level(self, name: str) -> float:
        """Return how many tokens *name* has had, what it let pass without a wish included."""
        return self._levels.get(name, self._clock)

    def meet(self, name: str) -> None:
        """Let *name* wait: its level counts from now on, though it does not work."""
        if name not in self._at_work:
            self._levels[name] = max(self.level(name), self._clock)

    def add(self, name: str) -> None:
        """Let *name* work."""
        self.meet(name)
        self._at_work.setdefault(name)

    def remove(self, name: str) -> None:
        """Let *name* work no longer."""
        self._at_work.pop(name, None)

    def forget(self, name: str) -> None:
        """Forget a *name* that is not there any more, as far as that gives it nothing."""
        if name not in self._at_work and self.level(name) <= self._clock:
            self._levels.pop(name, None)

    def charge(self, name: str, n_tokens: int) -> None:
        """Note that *name* has had *n_tokens*."""
        if name in self._at_work:
            self._levels[name] += n_tokens
            self._clock += n_tokens / len(self._at_work)

    def next(self) -> str | None:
        """Return whose turn it is, or None where nobody works."""
        return min(self._at_work, key=self.level, default=None)


@dataclass(slots=True)
class _Seat:
    entrant: Entrant
    stand: Stand
    number: int  # of its arrival


class Turns:
    """The queue and the places.

    Args:
        places: How many runs of each kind may be placed at a time.
    """

    def __init__(self, places: Mapping[Kind, int]) -> None:
        self._places = dict(places)
        self._seats: dict[str, _Seat] = {}
        self._n_arrived = 0
        self._owners = FairShare()
        self._runs: dict[str, FairShare] = {}  # owner → its runs

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._seats

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits and nobody is placed."""
        return not self._seats

    @property
    def waiting(self) -> tuple[str, ...]:
        """Who waits, in the order of leaving the queue."""
        return tuple(seat.entrant.task_id for seat in sorted(self._of(Stand.WAITING), key=self._rank))

    @property
    def placed(self) -> tuple[str, ...]:
        """Who holds a place, in the order of arrival."""
        return tuple(seat.entrant.task_id for seat in self._holders())

    @property
    def resting(self) -> tuple[str, ...]:
        """Who rests, in the order of arrival."""
        return tuple(seat.entrant.task_id for seat in self._of(Stand.RESTING))

    def position(self, task_id: str) -> int:
        """Return how many leave the queue before *task_id*; 0 where it does not wait."""
        seat = self._seats.get(task_id)
        if seat is None or seat.stand is not Stand.WAITING:
            return 0
        rivals = [one for one in self._of(Stand.WAITING) if one.entrant.kind is seat.entrant.kind]
        return sum(self._rank(one) < self._rank(seat) for one in rivals)

    def enter(self, entrant: Entrant) -> None:
        """Let a run wait for a place."""
        stand = self._moved(entrant.task_id, Move.ENTER)
        assert stand is not None  # the table has it so
        self._seats[entrant.task_id] = _Seat(entrant, stand, self._n_arrived)
        self._n_arrived += 1
        self._owners.meet(entrant.owner)

    def next_move(self) -> tuple[Move, str] | None:
        """Return what is to happen now, or None where everything is as it must be.

        That is to place the first of the queue, or, where all places are taken, to evict for it who has the
        lowest priority, if that is lower than its own. Carrying it out is the caller's, ``place`` and ``evict``
        included.
        """
        for kind, n_places in self._places.items():
            waiting = [seat for seat in self._of(Stand.WAITING) if seat.entrant.kind is kind]
            if not waiting:
                continue
            first = min(waiting, key=self._rank)
            placed = [seat for seat in self._holders() if seat.entrant.kind is kind]
            if len(placed) < n_places:
                return Move.PLACE, first.entrant.task_id
            last = max(placed, key=self._rank)
            if last.entrant.priority < first.entrant.priority:
                return Move.EVICT, last.entrant.task_id
        return None

    def place(self, task_id: str, *, by_slices: bool = True) -> None:
        """Give a place to one that waits; one that does not work *by_slices* never has its turn."""
        self._move(task_id, Move.PLACE)
        if by_slices:
            self._add(self._seats[task_id].entrant)

    def rest(self, task_id: str) -> None:
        """Let one that works by slices keep its place and have no turn until ``wake``."""
        self._move(task_id, Move.REST)
        self._retire(self._seats[task_id].entrant)

    def wake(self, task_id: str) -> None:
        """Let one that rests have its turns again; it makes up for none."""
        self._move(task_id, Move.WAKE)
        self._add(self._seats[task_id].entrant)

    def evict(self, task_id: str) -> None:
        """Let one that holds a place wait again, as one that came when it came first."""
        self._move(task_id, Move.EVICT)
        self._retire(self._seats[task_id].entrant)

    def leave(self, task_id: str) -> None:
        """Let a run go, if it is there at all."""
        if task_id not in self._seats:
            return
        entrant = self._seats[task_id].entrant
        self._moved(task_id, Move.LEAVE)
        del self._seats[task_id]
        self._retire(entrant)
        if all(seat.entrant.owner != entrant.owner for seat in self._seats.values()):
            self._owners.forget(entrant.owner)

    def next(self) -> str | None:
        """Return whose slice is next, or None where nobody is placed."""
        owner = self._owners.next()
        return None if owner is None else self._runs[owner].next()

    def charge(self, task_id: str, n_tokens: int) -> None:
        """Note that a run has had *n_tokens*."""
        seat = self._seats.get(task_id)
        if seat is not None and seat.stand is Stand.PLACED:
            self._owners.charge(seat.entrant.owner, n_tokens)
            self._runs[seat.entrant.owner].charge(task_id, n_tokens)

    def _rank(self, seat: _Seat) -> tuple[int, float, int]:
        return -seat.entrant.priority, self._owners.level(seat.entrant.owner), seat.number

    def _of(self, stand: Stand) -> list[_Seat]:
        return [seat for seat in self._seats.values() if seat.stand is stand]

    def _holders(self) -> list[_Seat]:
        return [seat for seat in self._seats.values() if seat.stand is not Stand.WAITING]

    def _add(self, entrant: Entrant) -> None:
        self._owners.add(entrant.owner)
        self._runs.setdefault(entrant.owner, FairShare()).add(entrant.task_id)

    def _retire(self, entrant: Entrant) -> None:
        share = self._runs.get(entrant.owner)
        if share is None:
            return
        share.remove(entrant.task_id)
        if share.next() is None:
            del self._runs[entrant.owner]
            self._owners.remove(entrant.owner)

    def _move(self, task_id: str, move: Move) -> None:
        stand = self._moved(task_id, move)
        assert stand is not None  # only LEAVE leads outside
        self._seats[task_id].stand = stand

    def _moved(self, task_id: str, move: Move) -> Stand | None:
        seat = self._seats.get(task_id)
        stand = None if seat is None else seat.stand
        if (stand, move) not in MOVES:
            raise ExactnessBroken(f"run {task_id}: expected no {move} of one that is {stand or 'outside'}")
        return MOVES[stand, move]
