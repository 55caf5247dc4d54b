"""The cast of one conversation: who takes part, and what the tables say where a role has many members.

Most conversations have one player a role and step the protocol's own tables. Where a role has many members
everything goes through a ``Gathering``; the conversation asks here and need not know which it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bus.broker.delivery import Delivery
from bus.broker.mailbox import Mailbox
from bus.spec.automaton import are_beside
from bus.spec.gathering import Gathering
from bus.spec.members import Members
from bus.spec.protocol import Player, Protocol
from bus.spec.tables import NO_EACH, BusEvent, EventKind, Move, Tables

_MOST_SAID = 1024  # messages of a role that its unhandled deliveries have yet to follow


class Cast:
    """Who plays in one conversation.

    Args:
        protocol: What they play.
        members: Role → the agents that are its members, for every role that has many.

    Attributes:
        players: The roles, or every member of those that have many.
        tables: Machines by player.
        gathering: The players' tables where a role has many members, else None.
    """

    __slots__ = ("_protocol", "gathering", "players", "tables")

    def __init__(self, protocol: Protocol, members: Mapping[str, Sequence[str]]) -> None:
        self._protocol = protocol
        self.gathering: Gathering | None = None
        self.players: tuple[Player, ...] = protocol.players
        self.tables: Tables = protocol.tables
        if protocol.has_members:
            self.gathering = Gathering(Members(protocol, members))
            self.players = self.gathering.members.players
            self.tables = self.gathering.tables

    def player(self, role: int) -> int:
        """Return the player of *role*."""
        return role if self.gathering is None else self.gathering.members.player(role)

    def agent(self, player: int) -> str | None:
        """Return the agent that is *player* from the beginning: members are bound at opening (14)."""
        return None if self.gathering is None else self.gathering.members.agent(player)

    def speaker(self, voice: int) -> str:
        """Return the name of the player behind *voice*."""
        player = voice if self.gathering is None else self.gathering.members.voices[voice][0]
        return self.players[player].name

    # -- steps ----------------------------------------------------------------------------------------

    def after(self, mailbox: Mailbox, state: int, move: Move) -> int:
        """Return where the player stands once it has made *move* in *state*."""
        if move.next >= 0 or self.gathering is None:
            return move.next
        return self.gathering.after(mailbox.role, state, move)

    def after_event(self, mailbox: Mailbox, event: int, cut: Sequence[int]) -> int | None:
        """Return where the player stands once *event* has happened to it; None where it is not moved.

        Args:
            cut: The members that a LATE event cuts off.
        """
        state = mailbox.machine.bus[mailbox.at].get(event)
        if state is None or state >= 0 or self.gathering is None:
            return state
        if self.tables.events[event].kind is EventKind.LATE:
            each = self.gathering.each_of(event)
            return self.gathering.after_late(mailbox.role, mailbox.at, each, cut)
        return self.gathering.after_event(mailbox.role, mailbox.at, event)

    def carry_over(self, mailbox: Mailbox, type: int, address: int, turn: int) -> None:
        """Let what is not handled yet follow a message that the role has sent: begun again, a turn goes on from there.

        It is noted and caught up with when a delivery is handed out (``state_of``): a step must not cost more
        where much is unhandled.

        Args:
            turn: Position of the delivery whose turn sent it, 0 outside a turn.
        """
        mailbox.said.append((turn, mailbox.last_position, type, address))
        if len(mailbox.said) >= _MOST_SAID or mailbox.history is not None:
            self._catch_up(mailbox)

    def state_of(self, mailbox: Mailbox, delivery: Delivery) -> int:
        """Return the state from which a handler of *delivery* goes on, what its role has said since included."""
        if delivery.n_followed < len(mailbox.said):
            state = delivery.state_after
            for turn, last, type, address in mailbox.said[delivery.n_followed :]:
                if turn <= delivery.position <= last:
                    move = mailbox.machine.send[state].get((type, address))
                    if move is not None:
                        state = self.after(mailbox, state, move)
            delivery.state_after = state
            delivery.n_followed = len(mailbox.said)
        return delivery.state_after

    def _catch_up(self, mailbox: Mailbox) -> None:
        for delivery in (*mailbox.leased, *mailbox.queued):
            self.state_of(mailbox, delivery)
            delivery.n_followed = 0
        mailbox.said.clear()

    def carry_over_event(self, mailbox: Mailbox, event: int) -> None:
        """Let what is not handled yet follow an interrupt that the player itself has raised: it knows of it."""
        if self.member_of(event) < 0:
            mailbox.before.clear()
        # What befell another member before, and the player has not read yet, it does not know by this.
        heard = mailbox.before[-1][0] + 1 if mailbox.before else 0
        self._catch_up(mailbox)
        for delivery in (*mailbox.leased, *mailbox.queued):
            if delivery.epoch >= heard:
                delivery.epoch = mailbox.epoch
            state = mailbox.machine.bus[delivery.state_after].get(event, mailbox.at)
            if state < 0 and self.gathering is not None:
                state = self.gathering.after_event(mailbox.role, delivery.state_after, event)
            delivery.state_after = state

    def overtake(self, mailbox: Mailbox, event: int, cut: Sequence[int], *, is_raiser: bool) -> None:
        """Note that what was said before *event* counts no more: to all, or to the members that it befalls alone.

        Args:
            cut: The members that a LATE event cuts off.
            is_raiser: The player has interrupted by it, and goes on from there.
        """
        is_late = self.tables.events[event].kind is EventKind.LATE
        members = tuple(cut) if is_late else (self.member_of(event),)
        if -1 in members or self.players[mailbox.role].member in members:
            mailbox.overtaken_at = mailbox.epoch
        elif not is_raiser:
            for member in members:
                mailbox.overtaken[member] = mailbox.epoch

    def overtaken_at(self, mailbox: Mailbox, address: int) -> int:
        """Return the epoch of the last bus event behind which what was said before to *address* counts no more."""
        if not mailbox.overtaken or self.gathering is None:
            return mailbox.overtaken_at
        return max(mailbox.overtaken_at, mailbox.overtaken.get(self.gathering.members.meant(address), 0))

    def is_known_to_all(self, event: int, mailboxes: Sequence[Mailbox]) -> bool:
        """Return whether every player whom *event* concerns stands where it knows it."""
        if self.gathering is None:
            return all(event in mailbox.machine.bus[mailbox.at] for mailbox in mailboxes)
        concerns = self.gathering.members.is_concerned
        return all(event in mailbox.machine.bus[mailbox.at] for mailbox in mailboxes if concerns(mailbox.role, event))

    def is_due(self, event: int, mailboxes: Sequence[Mailbox]) -> bool:
        """Return whether *event*, which is in somebody's *due*, may fire: all know it, and enough are through."""
        kind = self.tables.events[event].kind
        if self.gathering is None or kind not in (EventKind.JOINED, EventKind.LATE):
            return self.is_known_to_all(event, mailboxes)
        if kind is EventKind.JOINED and not self.is_known_to_all(event, mailboxes):
            return False
        return self.gathering.is_due(event, [mailbox.at for mailbox in mailboxes])

    def running_on(self, mailbox: Mailbox, event: int) -> tuple[int, ...]:
        """Return the player's deadlines that *event* leaves running: those of other branches and other members."""
        if not mailbox.waits:
            return ()
        member, timers = self.member_of(event), self.tables.timers
        mine = [timers[timer] for timer in mailbox.waits]
        struck = next((one for one in mine if one.event == event), None)
        regions = () if struck is None else struck.regions
        return tuple(
            timer
            for timer in mailbox.waits
            if are_beside(timers[timer].regions, regions) or (member >= 0 and self._member_of_timer(timer) != member)
        )

    def _member_of_timer(self, timer: int) -> int:
        return -1 if self.gathering is None else self.gathering.members.timers[timer][1]

    # -- members --------------------------------------------------------------------------------------

    def member_of(self, event: int) -> int:
        """Return the member that alone *event* befalls, or -1."""
        return -1 if self.gathering is None else self.gathering.members.events[event][1]

    def cut(self, event: int, mailboxes: Sequence[Mailbox]) -> tuple[int, ...]:
        """Return the members that *event* cuts off, or leaves behind."""
        kind = self.tables.events[event].kind
        if self.gathering is None or kind not in (EventKind.JOINED, EventKind.LATE):
            return ()
        states = [mailbox.at for mailbox in mailboxes]
        each = self.gathering.each_of(event)
        if kind is EventKind.LATE:
            return self.gathering.to_cut(each, states)
        if event == self.tables.eaches[each].none:
            return ()
        through = self.gathering.through(each, states)
        return tuple(one for one in self.gathering.members.active(each) if one not in through)

    def scopes_of(self, event: int, cut: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Return (scope, member or -1) of everything that *event* closes."""
        found = self.tables.events[event]
        if self.gathering is None or found.kind not in (EventKind.JOINED, EventKind.LATE):
            return ((found.scope, self.member_of(event)),) if found.discards else ()
        scope = self.tables.eaches[self.gathering.each_of(event)].scope
        return tuple((self.gathering.members.scope(scope, one), one) for one in cut)

    def is_about(self, mailbox: Mailbox, delivery: Delivery, member: int) -> bool:
        """Return whether *delivery* is about *member*; always where that is -1."""
        if member < 0 or self.gathering is None:
            return True
        mine = self.players[mailbox.role].member
        if mine >= 0 or delivery.sender < 0:
            return mine == member
        player, about = self.gathering.members.voices[delivery.sender]
        return member == (about if about >= 0 else self.players[player].member)

    def concerns(self, mailbox: Mailbox, member: int, event: int) -> bool:
        """Return whether what happens to *member* in the `each` of *event* is the player's business."""
        one = self.players[mailbox.role]
        if self.gathering is None or member < 0 or one.member < 0:
            return True
        each = self.tables.events[event].each
        if each == NO_EACH:  # JOINED and LATE stand around the block
            each = self.gathering.each_of(event)
        return one.role != self.gathering.members.family(each) or one.member == member

    def count(self, passed: Move | BusEvent, counters: list[int], member: int) -> None:
        """Count *passed*, done by or about *member*; who is enrolled by it is a member from now on."""
        for counter in passed.resets:
            counters[counter] = 0
        for counter in passed.counts:
            role = self.tables.counters[counter].enrolls
            if role < 0 or self.gathering is None:
                counters[counter] += 1
            else:
                self.gathering.members.enroll(role, member)
                counters[counter] = len(self.gathering.members.enrolled[role])

    def cut_counts(self, number: int, counters: list[int], cut: Sequence[int]) -> None:
        """Count the LATE event *number* for each of the members that it cuts off."""
        if self.gathering is None:
            return
        members, event = self.gathering.members, self._protocol.tables.events[number]
        for one in cut:
            for counter in event.resets:
                counters[members.counter(counter, one)] = 0
            for counter in event.counts:
                role = self.tables.counters[counter].enrolls
                if role < 0:
                    counters[members.counter(counter, one)] += 1
                else:
                    members.enroll(role, one)
                    counters[counter] = len(members.enrolled[role])

    # -- what is told ---------------------------------------------------------------------------------

    def facts(self, number: int, member: int, cut: Sequence[int]) -> dict[str, object]:
        """Return what a notice of the event says beside its name."""
        event, roles = self.tables.events[number], self._protocol.roles
        facts: dict[str, object] = {
            "role": roles[self.players[event.role].role].name if event.role >= 0 else None,
            "scope": self.tables.scopes[event.scope].name if event.scope >= 0 else None,
        }
        if self.gathering is not None:
            members = self.gathering.members
            each = event.each
            if event.kind in (EventKind.JOINED, EventKind.LATE):
                each = self.gathering.each_of(number)
                facts["cut"] = [self._name(each, one) for one in cut]
            if member >= 0:
                facts["member"] = self._name(each, member)
            facts["enrolled"] = {roles[role].name: list(found) for role, found in members.enrolled.items()}
        return facts

    def show_state(self, player: int, state: int) -> object:
        """Return *state* of *player* as it travels: a number, or see ``Gathering.show_state``."""
        return state if self.gathering is None else self.gathering.show_state(player, state)

    def as_facts(self) -> dict[str, object]:
        """Return who takes part, as a NOTICE tells it to whom it concerns."""
        assert self.gathering is not None  # else there is nothing to tell
        members, roles = self.gathering.members, self._protocol.roles
        return {
            "members": {roles[role].name: list(names) for role, names in members.names.items()},
            "enrolled": {roles[role].name: list(found) for role, found in members.enrolled.items()},
        }

    def _name(self, each: int, member: int) -> str:
        assert self.gathering is not None  # only its events are about members
        return self.gathering.members.names[self.gathering.members.family(each)][member]
