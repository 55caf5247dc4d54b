"""The machine of one player of a gathering: it stands in the block of an `each` once for every member.

A state is either one state of the protocol's machine (a conversation outside any `each`, or at its beginning,
where every member stands in the same place), or one such state for every member that takes part. Which of
them are ever reached is known only as the conversation goes on, so rows are made when a state is entered;
the moves in a row say ``ASK`` for what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from bus.spec.members import Members
from bus.spec.tables import ASK, NO_EACH, NO_EVENT, NO_TIMER, EventKind, Machine, Move


class _Standing(NamedTuple):
    """Where a player stands: *states* of the members *members* in *each*; outside any, one state and no members.

    *version* tells apart what depends on who was enrolled by then.
    """

    each: int
    members: tuple[int, ...]
    states: tuple[int, ...]
    version: int = 0


class Strands:
    """Makes the rows of one player's machine.

    Attributes:
        machine: Its tuples grow; a number once given stays.
    """

    def __init__(self, members: Members, player: int) -> None:
        self._members = members
        self._tables = members.protocol.tables
        self._player = player
        one = members.players[player]
        self._role, self._member = one.role, one.member
        self._base = self._tables.machines[one.role]
        self._behind = self._find_behind()
        self._numbers: dict[_Standing, int] = {}
        self._standings: list[_Standing] = []
        self._scopes: dict[tuple[int, ...], tuple[int, ...]] = {}
        self.machine = Machine(player, 0, (), (), (), (), (), (), (), (), (), ())
        self._enter(self._base.start)

    # -- where it goes --------------------------------------------------------------------------------

    def after(self, at: int, move: Move) -> int:
        """Return the state behind *move*, one of the row *at*."""
        if move.member < 0:
            return self._enter(move.then)
        standing = self._standings[at]
        if standing.each == NO_EACH:
            members = self._active(move.each)
            states = tuple(move.then if one == move.member else standing.states[0] for one in members)
            return self._number(_Standing(move.each, members, states))
        return self._moved(standing, {move.member: move.then})

    def after_event(self, at: int, event: int, member: int) -> int:
        """Return the state behind the protocol's *event*, its copy for *member* unless that is -1."""
        standing = self._standings[at]
        if member >= 0:
            each = self._tables.events[event].each
            return self._moved(
                self._spread(standing, each), {member: self._base.bus[self._of(standing, member)][event]}
            )
        for each, table in enumerate(self._tables.eaches):
            if event in (table.joined, table.none):
                return self._enter(self._behind[each])
        return self._enter(self._base.bus[standing.states[0]][event])

    def after_late(self, at: int, event: int, members: Sequence[int]) -> int:
        """Return the state once *members* were cut off by the LATE *event*."""
        standing = self._standings[at]
        each = next(number for number, table in enumerate(self._tables.eaches) if table.late == event)
        mine = [one for one in self._active(each) if one in members]
        moved = {one: self._base.bus[self._of(standing, one)].get(event, self._of(standing, one)) for one in mine}
        return self._moved(self._spread(standing, each), moved) if moved else at

    def knows(self, at: int, each: int, member: int, event: int) -> bool:
        """Return whether the JOINED or LATE *event* of *each* may befall *member*, as far as this player knows."""
        standing = self._standings[at]
        if standing.each not in (NO_EACH, each):
            return False
        return event in self._base.bus[self._of(standing, member)]

    def show(self, at: int) -> list[object]:
        """Return the state as plain values that mean the same to every peer."""
        standing = self._standings[at]
        members = standing.members or (-1,)
        return [standing.each, [[one, state] for one, state in zip(members, standing.states, strict=True)]]

    def read(self, shown: list[object]) -> int:
        """Return the number of a state that ``show`` gave elsewhere."""
        each, pairs = shown
        assert isinstance(each, int)
        assert isinstance(pairs, list)
        if each == NO_EACH:
            return self._enter(pairs[0][1])
        return self._number(_Standing(each, tuple(one for one, _ in pairs), tuple(state for _, state in pairs)))

    def _enter(self, state: int) -> int:
        version = self._members.version if self._base.begins[state] else 0
        return self._number(_Standing(NO_EACH, (), (state,), version))

    def _moved(self, standing: _Standing, then: dict[int, int]) -> int:
        pairs = zip(standing.members, standing.states, strict=True)
        return self._number(standing._replace(states=tuple(then.get(one, state) for one, state in pairs)))

    def _spread(self, standing: _Standing, each: int) -> _Standing:
        if standing.each != NO_EACH:
            return standing
        members = self._active(each)
        return _Standing(each, members, standing.states * len(members))

    def _of(self, standing: _Standing, member: int) -> int:
        """Return the state of the protocol's machine in which the player stands for *member*."""
        return standing.states[standing.members.index(member) if standing.members else 0]

    def _active(self, each: int) -> tuple[int, ...]:
        """Return the members of *each* that concern the player: of its own role it sees itself alone."""
        members = self._members.active(each)
        if self._role == self._members.family(each):
            return tuple(one for one in members if one == self._member)
        return members

    def _find_behind(self) -> dict[int, int]:
        """Return each → the state behind it, which is one whatever way led there."""
        found: dict[int, int] = {}
        for each, table in enumerate(self._tables.eaches):
            for after in self._base.bus:
                for event in (table.joined, table.none, table.left):
                    if event in after and event != NO_EVENT:
                        found[each] = after[event]
        return found

    # -- rows -----------------------------------------------------------------------------------------

    def _number(self, standing: _Standing) -> int:
        number = self._numbers.get(standing)
        if number is None:
            number = self._numbers[standing] = len(self._standings)
            self._standings.append(standing)
            self._add_row(standing)
        return number

    def _add_row(self, standing: _Standing) -> None:
        send, receive, bus, due = self._row(standing)
        machine = self.machine
        owes = self._owes(send, receive, due) and not self._is_through(standing)
        machine.send = (*machine.send, send)
        machine.receive = (*machine.receive, receive)
        machine.bus = (*machine.bus, bus)
        machine.due = (*machine.due, due)
        timer, *others = self._timers(standing) or [NO_TIMER]
        machine.timer = (*machine.timer, timer)
        machine.others = (*machine.others, tuple(others))
        machine.scopes = (*machine.scopes, self._certain(standing))
        machine.owes = (*machine.owes, owes)
        machine.final = (*machine.final, not send and not receive)
        machine.begins = (*machine.begins, ())

    def _row(
        self, standing: _Standing
    ) -> tuple[dict[tuple[int, int], Move], dict[tuple[int, int], Move], dict[int, int], tuple[int, ...]]:
        send: dict[tuple[int, int], Move] = {}
        receive: dict[tuple[int, int], Move] = {}
        base, members = self._base, self._members
        bus: dict[int, int] = {}
        due: list[int] = []
        for each, member, state in self._places(standing):
            for (type, address), move in base.send[state].items():
                if move.each == each:
                    send[type, members.address(address, each, member)] = self._copy(move, standing, each, member)
            for (sender, type), move in base.receive[state].items():
                if move.each == each:
                    receive[members.voice(sender, each, member), type] = self._copy(move, standing, each, member)
            for event in base.bus[state]:
                if each != NO_EACH and self._tables.events[event].each == each:
                    bus[members.event(event, member)] = ASK
                    if event in base.due[state]:
                        due.append(members.event(event, member))
        if len(set(standing.states)) > 1:
            self._add_interrupts(standing, send)
        for event in self._common(standing):
            bus[event] = ASK
            if event in base.due[standing.states[0]]:
                due.append(event)
        for each in self._present(standing):
            self._gather(standing, each, bus, due)
        return send, receive, bus, tuple(due)

    def _add_interrupts(self, standing: _Standing, send: dict[tuple[int, int], Move]) -> None:
        """Add what cuts a scope around the `each` short: it may be sent wherever the members stand."""
        first, *others = (self._base.send[state] for state in standing.states)
        for (type, address), move in first.items():
            if move.each == NO_EACH and move.interrupt != NO_EVENT and all((type, address) in one for one in others):
                key = type, self._members.address(address, NO_EACH, -1)
                send[key] = self._copy(move, standing, NO_EACH, -1)

    def _places(self, standing: _Standing) -> list[tuple[int, int, int]]:
        """Return (each, member, state) of every place in which the player stands; (-1, -1, …) outside any `each`."""
        if standing.each != NO_EACH:
            places = [(standing.each, one, state) for one, state in zip(standing.members, standing.states, strict=True)]
            shared = standing.states[0] if len(set(standing.states)) == 1 else None
        else:
            shared = standing.states[0]
            places = [(each, one, shared) for each in self._base.begins[shared] for one in self._active(each)]
        return places if shared is None else [(NO_EACH, -1, shared), *places]

    def _present(self, standing: _Standing) -> tuple[int, ...]:
        return self._base.begins[standing.states[0]] if standing.each == NO_EACH else (standing.each,)

    def _common(self, standing: _Standing) -> list[int]:
        """Return the events that are no member's own, nor about an `each`, and known in all places."""
        about = {event for table in self._tables.eaches for event in (table.joined, table.none, table.late)}
        known = set.intersection(*(set(self._base.bus[state]) for state in standing.states))
        kinds = (EventKind.JOINED, EventKind.LATE)
        events = self._tables.events
        return sorted(
            event for event in known - about if events[event].each == NO_EACH and events[event].kind not in kinds
        )

    def _gather(self, standing: _Standing, each: int, bus: dict[int, int], due: list[int]) -> None:
        """Add what the bus may do with *each* as a whole."""
        table, base = self._tables.eaches[each], self._base
        if not self._members.active(each):
            if table.none in base.bus[standing.states[0]]:
                bus[table.none] = ASK
                due.append(table.none)
            return
        mine = self._active(each)
        are_through = all(table.joined in base.bus[self._of(standing, one)] for one in mine)
        if table.joined != NO_EVENT and (are_through or table.needs):
            bus[table.joined] = ASK
            if mine:  # where it needs some only, the bus has to count (``Gathering.is_due``)
                due.append(table.joined)
        if any(table.late in base.bus[self._of(standing, one)] for one in mine):
            bus[table.late] = ASK
            if table.needs:
                due.append(table.late)

    def _copy(self, move: Move, standing: _Standing, each: int, member: int) -> Move:
        members = self._members
        runs_on = [members.timer(one, member) for one in move.runs_on]
        if member >= 0:
            runs_on += self._timers(standing, without=member)
        return replace(
            move,
            next=ASK,
            interrupt=members.event(move.interrupt, member),
            runs_on=tuple(runs_on),
            counts=members.counters_of(move.counts, member),
            resets=members.counters_of(move.resets, member),
            guards=tuple(members.counter(one, member) for one in move.guards),
            scopes=self._interned({members.scope(one, member) for one in move.scopes}),
            voice=members.voice(self._role, each, member) if each != NO_EACH else self._player,
            member=member,
            then=move.next,
        )

    def _owes(
        self, send: dict[tuple[int, int], Move], receive: dict[tuple[int, int], Move], due: tuple[int, ...]
    ) -> bool:
        some_only = {table.joined for table in self._tables.eaches if table.needs}
        over = (EventKind.END, EventKind.JOINED)
        kinds = (self._tables.events[self._members.events[event][0]].kind for event in due if event not in some_only)
        ends = any(kind in over for kind in kinds)
        return any(move.interrupt == NO_EVENT for move in send.values()) and not receive and not ends

    def _is_through(self, standing: _Standing) -> bool:
        """Return whether the player has nothing to do but what it may leave: the rest of a stream."""
        return any(
            all(
                self._tables.eaches[each].joined in self._base.bus[self._of(standing, one)]
                for one in self._active(each)
            )
            for each in self._present(standing)
            if self._active(each)
        )

    # -- deadlines and scopes -------------------------------------------------------------------------

    def _timers(self, standing: _Standing, *, without: int | None = None) -> list[int]:
        """Return the deadlines that run: one for each member that is waited for, and of each branch of a parallel.

        Args:
            without: A member whose deadlines are left out.
        """
        found: dict[int, None] = {}
        for each, member, state in self._places(standing):
            for timer in (self._base.timer[state], *self._base.others[state]):
                if timer != NO_TIMER and self._tables.timers[timer].each == each and member != without:
                    found[self._members.timer(timer, member)] = None
        return list(found)

    def _certain(self, standing: _Standing) -> tuple[int, ...]:
        scopes = {
            self._members.scope(scope, member)
            for each, member, state in self._places(standing)
            for scope in self._base.scopes[state]
            if self._tables.scopes[scope].each in (NO_EACH, each)
        }
        return self._interned(scopes)

    def _interned(self, scopes: set[int]) -> tuple[int, ...]:
        ordered = tuple(sorted(scopes))
        return self._scopes.setdefault(ordered, ordered)
