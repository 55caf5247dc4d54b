"""May a conversation be opened as asked? (RULES.md 14, 17)"""

from __future__ import annotations

from bus.broker.refusal import Refusal
from bus.broker.state import BrokerState
from bus.ids import ID_BYTES
from bus.wire.record import Record, fits

_PARENT_SHAPE = ((bytes,), (int,), (int,), (int,))


def check_opening(
    state: BrokerState, digest: str, conversation_id: bytes, bindings: dict[object, object], parent: Record | None
) -> Refusal | None:
    """Return why OPEN must be refused, or None."""
    if len(conversation_id) != ID_BYTES:
        return Refusal("malformed", f"expected an id of {ID_BYTES} bytes, got {len(conversation_id)}")
    roles = {role.name for role in state.protocols[digest].roles}
    for role, names in bindings.items():
        if role not in roles or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return Refusal("malformed", f"expected bindings of a role to agent names, got {role!r}: {names!r}")
    return None if parent is None else _check_parent(state, parent)


def _check_parent(state: BrokerState, parent: Record) -> Refusal | None:
    if not fits(parent, _PARENT_SHAPE):
        return Refusal("malformed", "expected a parent of [conversation, role, fence, position]")
    conversation_id, role, fence, _ = parent
    caller = state.conversations.get(conversation_id)
    if caller is None or caller.outcome is not None or not 0 <= role < len(caller.mailboxes):
        return Refusal("ended", "the conversation that calls is over")
    if caller.mailboxes[role].fence != fence:
        return Refusal("lease-lost", "the turn that calls belongs to another lease")
    return None
