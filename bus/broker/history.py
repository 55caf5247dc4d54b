"""What journal rows do to the broker's state; the same code decides live and replays after a restart.

A row is what was decided, not what was asked: replaying all rows in order, each at the bus time at
which it was journaled, rebuilds every conversation. Bus events that follow from a message by the
protocol's tables (`end`, `max`, interrupts, calls and their outcomes) follow again and are not journaled on their own.
"""

from __future__ import annotations

from collections.abc import Callable

from bus.broker.aside import pass_aside
from bus.broker.calling import Calling
from bus.broker.conversation import Conversation
from bus.broker.entry import BUS, CANCELED, FAILED, Parent
from bus.broker.mailbox import Mailbox
from bus.broker.state import Alarm, BrokerState
from bus.ids import show_id
from bus.spec.compile import compile_protocol
from bus.spec.mode import Mode
from bus.spec.protocol import Protocol
from bus.spec.tables import Move
from bus.wire.record import Record

_TURN_OVER = "the turn that called it is over"


class History:
    """Applies rows. Every method below takes the row's fields after its name, and returns what it changed."""

    def __init__(self, state: BrokerState) -> None:
        self._state = state
        self._calling = Calling(state, self._with_children)
        self._apply: dict[str, Callable[..., list[Conversation]]] = {
            "protocol": self._protocol,
            "played": self._played,
            "open": self._open,
            "message": self._message,
            "commit": self._commit,
            "handled": self._handled,
            "lease": self._lease,
            "overtaken": self._overtaken,
            "event": self._event,
            "retry": self._retry,
            "close": self._close,
            "dead": self._dead,
            "requeue": self._requeue,
            "drop": self._drop,
            "aside": self._aside,
            "violated": self._violated,
            "clock": list,
        }

    def apply(self, row: Record) -> list[Conversation]:
        """Carry out *row* at the state's present instant; return the conversations to serve."""
        changed = self._apply[row[0]](*row[1:])
        self._calling.follow(changed)
        for conversation in changed:
            if conversation.outcome is not None:
                self._note_end(conversation)
        return changed

    def admit(
        self, conversation: Conversation, mailbox: Mailbox, agent: str, move: Move, message_id: bytes, type: int,
        address: int, trace: str | None, body: bytes,
    ) -> list[Conversation]:  # fmt: skip
        """Carry out a "message" row whose names were looked up already; return the conversations to serve."""
        mailbox.agent = agent
        conversation.admit(mailbox, move, type, address, message_id, body, trace, self._state.now)
        if conversation.outcome is None and not conversation.calls.news:
            return [conversation]
        changed = self._with_children(conversation)
        self._calling.follow(changed)
        for one in changed:
            if one.outcome is not None:
                self._note_end(one)
        return changed

    def add_protocol(self, source: str) -> Protocol:
        """Compile *source* and keep it for conversations to come.

        Raises:
            SpecError: *source* is no protocol.
        """
        protocol = compile_protocol(source)
        self._calling.learn(protocol)
        return protocol

    # -- rows -----------------------------------------------------------------------------------------

    def _protocol(self, source: str) -> list[Conversation]:
        protocol = self.add_protocol(source)
        self._state.journaled_protocols.add(protocol.digest)
        return []

    def _played(self, digest: str) -> list[Conversation]:
        self._state.journaled_plays.add(digest)
        return []

    def _open(
        self, conversation_id: bytes, digest: str, role: int, agent: str, request_id: str,
        bindings: dict[str, list[str]], parent: list[object] | None,
    ) -> list[Conversation]:  # fmt: skip
        state = self._state
        protocol = state.protocols[digest]
        conversation = Conversation(
            conversation_id=conversation_id, protocol=protocol, opener=role, request_id=request_id, now=state.now,
            default_within=state.settings.within, parent=Parent(*parent) if parent else None,  # type: ignore[arg-type]  # checked at OPEN
            members=bindings, mode=state.modes.get(protocol.name, Mode.ENFORCE),
        )  # fmt: skip
        conversation.mailboxes[conversation.opener].agent = agent
        for name, agents in bindings.items():
            if protocol.roles[protocol.role_index(name)].many is None:
                player = conversation.cast.player(protocol.role_index(name))
                conversation.mailboxes[player].offered = tuple(agents)
        state.conversations[conversation_id] = conversation
        if conversation.parent is not None:
            state.conversations[conversation.parent.conversation].children.add(conversation_id)
        state.note("info", "conversation.opened", conversation_id=show_id(conversation_id), protocol=protocol.name)
        return [conversation]

    def _message(
        self, conversation_id: bytes, role: int, agent: str, message_id: bytes, type: int, address: int,
        trace: str | None, body: bytes,
    ) -> list[Conversation]:  # fmt: skip
        conversation = self._state.conversations[conversation_id]
        mailbox = conversation.mailboxes[role]
        move = mailbox.machine.send[mailbox.at][type, address]
        return self.admit(conversation, mailbox, agent, move, message_id, type, address, trace, body)

    def _commit(
        self, conversation_id: bytes, role: int, agent: str, fence: int, position: int, commit: int, settles: bool,
        sends: list[Record], saved: bytes | None,
    ) -> list[Conversation]:  # fmt: skip
        conversation = self._state.conversations[conversation_id]
        mailbox = conversation.mailboxes[role]
        self._bind(mailbox, agent, fence)
        changed = [conversation]
        turn = mailbox.oldest()
        if turn is None or turn.position != position:  # turns follow one another: those before it are over
            changed = self._settle(conversation, mailbox, position - 1)
            turn = mailbox.oldest() if mailbox.is_oldest(position) else None  # None: what a caller's handler read again
        if turn is not None:
            mailbox.commits = commit + 1
            turn.attempt = 1  # each commit begins the count again (10)
        if saved is not None:
            mailbox.saved = saved
        for message_id, type, address, trace, body, *aside in sends:
            if aside:
                pass_aside(
                    conversation, mailbox, type=type, address=address, message_id=message_id, body=body, trace=trace
                )
                continue
            move = conversation.find_move(mailbox, type, address)
            if move is None:  # an earlier send of this very turn made the bus move on: superseded
                break
            conversation.admit(mailbox, move, type, address, message_id, body, trace, self._state.now, position)
        if settles:
            if mailbox.human:
                mailbox.answered = (position, agent)
            return changed + self._settle(conversation, mailbox, position)[1:]
        return changed + self._with_children(conversation)[1:]

    def _handled(self, conversation_id: bytes, role: int, agent: str, fence: int, position: int) -> list[Conversation]:
        conversation = self._state.conversations[conversation_id]
        mailbox = conversation.mailboxes[role]
        self._bind(mailbox, agent, fence)
        return self._settle(conversation, mailbox, position)

    def _lease(self, conversation_id: bytes, role: int, agent: str, instance: int) -> list[Conversation]:
        """Remember who works on the role, so that a restart does not give its work to another (18)."""
        self._state.conversations[conversation_id].mailboxes[role].keeper = (agent, instance)
        return []

    def _overtaken(self, conversation_id: bytes, role: int) -> list[Conversation]:
        conversation = self._state.conversations[conversation_id]
        conversation.take_away_turn(conversation.mailboxes[role])
        return [conversation]

    def _event(self, conversation_id: bytes, event: int) -> list[Conversation]:
        conversation = self._state.conversations[conversation_id]
        conversation.fire(event, self._state.now)
        return self._with_children(conversation)

    def _retry(self, conversation_id: bytes, role: int) -> list[Conversation]:
        """A deadline passed with a `retry` left: the message being answered is delivered again (19)."""
        conversation = self._state.conversations[conversation_id]
        conversation.retry(conversation.mailboxes[role], self._state.now)
        return [conversation]

    def _close(self, conversation_id: bytes, outcome: str, reason: str) -> list[Conversation]:
        conversation = self._state.conversations[conversation_id]
        conversation.close(outcome, reason, self._state.now)
        return self._with_children(conversation)

    def _dead(self, conversation_id: bytes, role: int, code: str, detail: str) -> list[Conversation]:
        conversation = self._state.conversations[conversation_id]
        mailbox = conversation.mailboxes[role]
        conversation.end_lease(mailbox)
        delivery = mailbox.bury(code, detail)
        state = self._state
        state.note(
            "error", "delivery.dead", conversation_id=show_id(conversation_id), code=code, detail=detail,
            role=conversation.players[role].name, position=delivery.position,
        )  # fmt: skip
        if conversation.outcome is not None:
            return self._settle(conversation, mailbox, delivery.position)
        for scope in reversed(mailbox.machine.scopes[mailbox.at]):
            for failed, event in conversation.tables.scopes[scope].failed:
                if failed == role:
                    conversation.fire(event, state.now)
                    return self._with_children(conversation)
        if mailbox.timer < 0:
            who = conversation.players[role].name
            conversation.close(FAILED, f"{who} could not handle its message: {code}: {detail}", state.now)
        return self._with_children(conversation)

    def _requeue(
        self, conversation_id: bytes, role: int, message_id: bytes | None = None, body: bytes = b""
    ) -> list[Conversation]:
        """Queue a dead letter again; one with a new id and body was edited (11)."""
        conversation = self._state.conversations[conversation_id]
        delivery = conversation.mailboxes[role].queued[0]
        delivery.move("requeue")
        if message_id is not None:
            delivery.message_id, delivery.body = message_id, body
        delivery.attempt = 1
        delivery.reason = None
        conversation.touched[conversation.mailboxes[role]] = None
        return [conversation]

    def _drop(self, conversation_id: bytes, role: int) -> list[Conversation]:
        conversation = self._state.conversations[conversation_id]
        mailbox = conversation.mailboxes[role]
        return self._settle(conversation, mailbox, mailbox.queued[0].position)

    def _aside(
        self, conversation_id: bytes, role: int, agent: str, message_id: bytes, type: int, address: int,
        trace: str | None, body: bytes,
    ) -> list[Conversation]:  # fmt: skip
        conversation = self._state.conversations[conversation_id]
        mailbox = conversation.mailboxes[role]
        mailbox.agent = agent
        pass_aside(conversation, mailbox, type=type, address=address, message_id=message_id, body=body, trace=trace)
        return [conversation]

    def _violated(self, conversation_id: bytes) -> list[Conversation]:
        conversation = self._state.conversations[conversation_id]
        conversation.watch.n_violations += 1
        return [conversation]

    # -- parts ----------------------------------------------------------------------------------------

    def _bind(self, mailbox: Mailbox, agent: str, fence: int) -> None:
        mailbox.agent = agent
        mailbox.involved = True
        mailbox.commit_fence = fence
        if mailbox.session is None and fence > mailbox.fence:
            mailbox.fence = fence

    def _settle(self, conversation: Conversation, mailbox: Mailbox, position: int) -> list[Conversation]:
        n_leased = mailbox.settle_through(position)
        conversation.settled.append((mailbox, n_leased))
        conversation.touched[mailbox] = None
        changed = [conversation]
        if not conversation.children:
            return changed
        for child in self._children(conversation):
            assert child.parent is not None
            if child.parent.role == mailbox.role and child.parent.position <= position:
                changed += self._let_go(conversation, child)
        return changed + self._with_children(conversation)[1:]

    def _with_children(self, conversation: Conversation) -> list[Conversation]:
        """Return the conversation and, where it has ended, its children, which end with it (2)."""
        changed = [conversation]
        if conversation.outcome is not None:
            for child in self._children(conversation):
                changed += self._let_go(conversation, child)
        return changed

    def _children(self, conversation: Conversation) -> list[Conversation]:
        if not conversation.children:
            return []
        found = (self._state.find(child) for child in conversation.children)
        return [child for child in found if child is not None]

    def _let_go(self, parent: Conversation, child: Conversation) -> list[Conversation]:
        """The calling turn is over: a child still running is canceled, its messages need not be read again (17)."""
        parent.children.discard(child.conversation_id)
        changed = [child]
        if child.outcome is None:
            reason = "the conversation that called it is over" if child.opener == BUS else _TURN_OVER
            child.close(CANCELED, reason, self._state.now)
            changed += self._with_children(child)[1:]
        if child.opener != BUS:
            child.is_retained = False
            child.mailboxes[child.opener].history = None
            child.touched[child.mailboxes[child.opener]] = None
        return changed

    def _note_end(self, conversation: Conversation) -> None:
        if conversation.is_end_noted:
            return
        conversation.is_end_noted = True
        state = self._state
        state.agenda.add(state.now + state.settings.lost_after, Alarm.RETIRE, conversation)
        state.note(
            "info", "conversation.ended", conversation_id=show_id(conversation.conversation_id),
            protocol=conversation.protocol.name, outcome=conversation.outcome, reason=conversation.reason,
            messages=conversation.sequence, seconds=round(state.now - conversation.opened_at, 3),
        )  # fmt: skip
