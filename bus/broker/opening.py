"""May a conversation be opened as asked? (RULES.md 14, 17)"""

from __future__ import annotations

from bus.broker.refusal import Refusal
from bus.broker.state import BrokerState
from bus.ids import ID_BYTES
from bus.spec.syntax import Role
from bus.wire.record import Record, fits

_PARENT_SHAPE = ((bytes,), (int,), (int,), (int,))


def check_opening(
    state: BrokerState, digest: str, conversation_id: bytes, opener: int, bindings: dict[object, object],
    parent: Record | None,
) -> Refusal | None:  # fmt: skip
    """Return why OPEN by the role *opener* must be refused, or None."""
    if len(conversation_id) != ID_BYTES:
        return Refusal("malformed", f"expected an id of {ID_BYTES} bytes, got {len(conversation_id)}")
    roles = {role.name for role in state.protocols[digest].roles}
    for role, names in bindings.items():
        if role not in roles or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return Refusal("malformed", f"expected bindings of a role to agent names, got {role!r}: {names!r}")
    opening = state.protocols[digest].roles[opener]
    if opening.many is not None or opening.source is not None:
        text = f"expected a role that is one agent to open the conversation, got {opening.name!r}, which has members"
        return Refusal("not-a-player", text)
    for role in state.protocols[digest].roles:
        refusal = _check_members(role, bindings.get(role.name))
        if refusal is not None:
            return refusal
    return None if parent is None else _check_parent(state, parent)


def bind_members(state: BrokerState, digest: str, bindings: dict[object, object]) -> dict[object, object]:
    """Return *bindings* with every role that has many members bound to all live players, unless they are named (14)."""
    bound = dict(bindings)
    for index, role in enumerate(state.protocols[digest].roles):
        if role.many is not None and role.source is None and role.name not in bound:
            bound[role.name] = list(state.registry.players((digest, index)))
    return bound


def _check_members(role: Role, names: object) -> Refusal | None:
    if role.source is not None:
        text = f"{role.name!r} is filled by enroll while the conversation goes on; bind the role that it is from"
        return None if names is None else Refusal("malformed", text)
    if role.many is None:
        return None
    assert isinstance(names, list)  # bound by ``bind_members``, and checked
    least, most = role.many
    if len(set(names)) != len(names):
        return Refusal("malformed", f"expected each member of {role.name!r} once, got {', '.join(names)}")
    if len(names) < least or (most is not None and len(names) > most):
        wanted = f"{least} to {most}" if most is not None else f"at least {least}"
        text = (
            f"expected {wanted} members of {role.name!r}, got {len(names)}: "
            f"start agents that play it, or name them when you open the conversation"
        )
        return Refusal("members", text)
    return None


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
