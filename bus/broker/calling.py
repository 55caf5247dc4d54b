"""What follows from ``call`` steps, row by row: conversations that open, that are cut short, that answer.

All of it follows from the protocols' tables, so none of it has a row of its own: a replay does it again.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from bus.broker.conversation import Conversation
from bus.broker.entry import BUS, CANCELED, Parent
from bus.broker.state import Alarm, BrokerState
from bus.ids import derive_id, show_id
from bus.spec.mode import Mode
from bus.spec.protocol import Protocol


class Calling:
    """Opens and closes the conversations of ``call`` steps.

    Args:
        end_children: Gives a conversation and, where it has ended, its children, which end with it.
    """

    def __init__(self, state: BrokerState, end_children: Callable[[Conversation], list[Conversation]]) -> None:
        self._state = state
        self._end_children = end_children

    def follow(self, changed: list[Conversation]) -> None:
        """Carry out all that follows from what *changed*, which grows by what changes with it."""
        for conversation in changed:
            for call, child in conversation.calls.take_news():
                if child:
                    changed += self._cut(conversation, child)
                else:
                    changed.append(self._open(conversation, call))
            if conversation.outcome is not None and conversation.parent is not None:
                changed += self._answer(conversation, conversation.parent, conversation.outcome)

    def learn(self, protocol: Protocol) -> None:
        """Keep *protocol* and all that it calls for conversations to come."""
        self._state.protocols[protocol.digest] = protocol
        for callee in protocol.callees.values():
            self.learn(callee)

    def _open(self, caller: Conversation, call: int) -> Conversation:
        """Open what *call* names: its roles belong to those who play ours; nobody is the opener."""
        state, table = self._state, caller.tables.calls[call]
        protocol = caller.protocol.callees[table.protocol]
        child_id = derive_id("call", caller.conversation_id, call, caller.sequence)
        child = Conversation(
            conversation_id=child_id, protocol=protocol, opener=BUS, request_id="", now=state.now,
            default_within=state.settings.within, parent=Parent(caller.conversation_id, BUS, call),
            mode=state.modes.get(protocol.name, Mode.ENFORCE),
        )  # fmt: skip
        for theirs, ours in table.roles:
            mailbox, player = child.mailboxes[protocol.role_index(theirs)], caller.mailboxes[caller.cast.player(ours)]
            mailbox.agent, mailbox.offered = player.player, player.offered
        around = caller.scopes.next_timeout()
        child.cancel_at = inf if table.within is None else state.now + table.within
        child.ends_by = min(caller.ends_by, child.cancel_at, inf if around is None else around[0])
        caller.calls.running[call] = child_id
        caller.children.add(child_id)
        state.conversations[child_id] = child
        if child.cancel_at < inf:
            state.agenda.add(child.cancel_at, Alarm.CALL, child)
        state.note("info", "conversation.opened", conversation_id=show_id(child_id), protocol=protocol.name)
        return child

    def _cut(self, caller: Conversation, child_id: bytes) -> list[Conversation]:
        """Cancel what was called: the caller went on without its outcome."""
        caller.children.discard(child_id)
        child = self._state.find(child_id)
        if child is None or child.outcome is not None:
            return []
        self._bind(caller, child)
        child.close(CANCELED, "the step that called it was cut short", self._state.now)
        return self._end_children(child)

    def _answer(self, child: Conversation, parent: Parent, outcome: str) -> list[Conversation]:
        """Tell the caller how its call ended, where it waits for that."""
        caller = self._state.conversations.get(parent.conversation)
        if parent.role != BUS or caller is None or caller.calls.running.get(parent.position) != child.conversation_id:
            return []
        caller.children.discard(child.conversation_id)
        self._bind(caller, child)
        caller.fire(caller.calls.end(parent.position, outcome), self._state.now)
        return self._end_children(caller)

    def _bind(self, caller: Conversation, child: Conversation) -> None:
        """Whoever played a role that was mapped plays ours from now on, where nobody did yet (14)."""
        assert child.parent is not None
        for theirs, ours in caller.tables.calls[child.parent.position].roles:
            mailbox = caller.mailboxes[caller.cast.player(ours)]
            if mailbox.agent is None and not mailbox.human:
                mailbox.agent = child.mailboxes[child.protocol.role_index(theirs)].agent
