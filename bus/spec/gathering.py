"""The tables of one conversation whose protocol has roles with many members.

``projection`` makes the tables for one member of each role; here they are laid out for the members that the
conversation was opened with. ``members`` numbers what exists once for each member, ``strand`` steps the
machines; this module puts them together, and knows when an `each` is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bus.spec.members import Members
from bus.spec.strand import Strands
from bus.spec.tables import BusEvent, Counter, Move, ScopeTable, Tables, Timer


class Gathering:
    """What broker and SDK step through for one conversation.

    Attributes:
        members: Who takes part.
        tables: Machines by player; those grow while the conversation goes on.
    """

    def __init__(self, members: Members) -> None:
        self.members = members
        self._eaches = members.protocol.tables.eaches
        self._strands = [Strands(members, number) for number in range(len(members.players))]
        self.tables = self._lay_out()

    # -- steps ----------------------------------------------------------------------------------------

    def after(self, player: int, at: int, move: Move) -> int:
        """Return the state of *player* once it has made *move* in the state *at*."""
        if move.next < 0:
            move.next = self._strands[player].after(at, move)
        return move.next

    def after_event(self, player: int, at: int, event: int) -> int:
        """Return the state of *player* once *event*, which its state *at* knows, has happened."""
        return self._strands[player].after_event(at, *self.members.events[event])

    def after_late(self, player: int, at: int, each: int, members: Sequence[int]) -> int:
        """Return the state of *player* once *members* were cut off in *each*."""
        return self._strands[player].after_late(at, self._eaches[each].late, members)

    def through(self, each: int, states: Sequence[int]) -> tuple[int, ...]:
        """Return the members that are through, as everybody concerned knows; *states* are those of the players."""
        joined = self._eaches[each].joined
        return tuple(one for one in self.members.active(each) if self._all_know(each, one, joined, states))

    def to_cut(self, each: int, states: Sequence[int]) -> tuple[int, ...]:
        """Return the members that LATE would cut off."""
        through, late = self.through(each, states), self._eaches[each].late
        staying = (one for one in self.members.active(each) if one not in through)
        return tuple(one for one in staying if self._all_know(each, one, late, states))

    def is_due(self, event: int, states: Sequence[int]) -> bool:
        """Return whether a JOINED or LATE event that is in somebody's *due* may happen now."""
        each = self.each_of(event)
        table = self._eaches[each]
        active = self.members.active(each)
        if event == table.none:
            return not active
        n_through = len(self.through(each, states))
        enough = min(table.needs or len(active), len(active))
        if event == table.late:
            return enough <= n_through < len(active) and bool(self.to_cut(each, states))
        return n_through == len(active) > 0 or (table.needs > 0 and not table.on_join and n_through >= enough > 0)

    def each_of(self, event: int) -> int:
        """Return the `each` that a JOINED or LATE *event* is about."""
        for number, table in enumerate(self._eaches):
            if event in (table.joined, table.none, table.late):
                return number
        raise LookupError(f"expected an event of an each, got {self.tables.events[event].name!r}")

    def show_state(self, player: int, at: int) -> list[object]:
        """Return the state *at* of *player* as it travels: [each, [[member, state], …]], or [-1, [[-1, state]]]."""
        return self._strands[player].show(at)

    def read_state(self, player: int, shown: list[object]) -> int:
        """Return the number here of a state that ``show_state`` gave elsewhere."""
        return self._strands[player].read(shown)

    def _all_know(self, each: int, member: int, event: int, states: Sequence[int]) -> bool:
        """Return whether *event* may befall *member* in *each* as far as everybody concerned knows."""
        family = self.members.family(each)
        return all(
            strands.knows(states[player], each, member, event)
            for player, (one, strands) in enumerate(zip(self.members.players, self._strands, strict=True))
            if one.role != family or one.member == member
        )

    # -- tables ---------------------------------------------------------------------------------------

    def _lay_out(self) -> Tables:
        base, members = self.members.protocol.tables, self.members
        return Tables(
            machines=tuple(strands.machine for strands in self._strands),
            addresses=tuple(players for players, _, _ in members.addresses),
            events=tuple(self._event(base.events[number], member) for number, member in members.events),
            timers=tuple(self._timer(base.timers[number], member) for number, member in members.timers),
            scopes=tuple(self._scope(base.scopes[number], member) for number, member in members.scopes),
            counters=tuple(self._counter(base.counters[number], member) for number, member in members.counters),
            eaches=base.eaches,
            calls=base.calls,
        )

    def _event(self, event: BusEvent, member: int) -> BusEvent:
        name = (
            event.name if member < 0 else f"{event.name}[{self.members.names[self.members.family(event.each)][member]}]"
        )
        return replace(
            event,
            name=name,
            scope=self.members.scope(event.scope, member),
            role=self._who(event.role, event.each, member),
            counter=self.members.counter(event.counter, member),
            resets=self.members.counters_of(event.resets, member),
            counts=self.members.counters_of(event.counts, member),
        )

    def _timer(self, timer: Timer, member: int) -> Timer:
        return replace(
            timer, role=self._who(timer.role, timer.each, member), event=self.members.event(timer.event, member)
        )

    def _scope(self, scope: ScopeTable, member: int) -> ScopeTable:
        def by_player(pairs: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
            return tuple(
                (player, self.members.event(event, member))
                for role, event in pairs
                for player in self.members.whom(role, scope.each, member)
            )

        return replace(
            scope,
            parent=self.members.scope(scope.parent, member),
            timeouts=tuple((seconds, self.members.event(event, member)) for seconds, event in scope.timeouts),
            lost=by_player(scope.lost),
            failed=by_player(scope.failed),
        )

    def _counter(self, counter: Counter, member: int) -> Counter:
        return replace(counter, event=self.members.event(counter.event, member))

    def _who(self, role: int, each: int, member: int) -> int:
        return next(iter(self.members.whom(role, each, member)), -1) if role >= 0 else role
