"""May a conversation be opened as asked? (RULES.md 14, 15, 17)"""

from __future__ import annotations

from bus.broker.refusal import Refusal
from bus.broker.registry import Session
from bus.broker.state import BrokerState
from bus.broker.versions import Names
from bus.ids import ID_BYTES
from bus.spec.syntax import Role
from bus.wire.record import Record, fits

_PARENT_SHAPE = ((bytes,), (int,), (int,), (int,))


def check_opening(
    state: BrokerState,
    digest: str,
    role: int,
    conversation_id: bytes,
    bindings: dict[object, object],
    parent: Record | None,
) -> Refusal | None:
    """Return why OPEN under the version *digest* ("" where its number is unknown) must be refused, or None."""
    if not digest or not 0 <= role < len(state.protocols[digest].roles):
        return Refusal("unknown-protocol", "expected a protocol number of WELCOME, and a role of that protocol")
    if len(conversation_id) != ID_BYTES:
        return Refusal("malformed", f"expected an id of {ID_BYTES} bytes, got {len(conversation_id)}")
    roles = state.protocols[digest].roles
    known = [one.name for one in roles]
    names: dict[str, list[str]] = {}
    for bound, agents in bindings.items():
        if bound not in known or not isinstance(agents, list) or not all(isinstance(agent, str) for agent in agents):
            return Refusal("malformed", f"expected bindings of a role to agent names, got {bound!r}: {agents!r}")
        names[str(bound)] = agents
    if roles[role].many is not None or roles[role].source is not None:
        text = f"expected a role that is one agent to open the conversation, got {known[role]!r}, which has members"
        return Refusal("not-a-player", text)
    for one in roles:
        refusal = _check_members(one, names.get(one.name))
        if refusal is not None:
            return refusal
    if state.versions.blocked(digest, known[role], names):
        return no_common_version(state, digest, known[role], names)
    return None if parent is None else _check_parent(state, parent)


def bind_members(state: BrokerState, digest: str, bindings: dict[object, object]) -> dict[object, object]:
    """Return *bindings* with every role that has many members bound to all live players, unless they are named (14)."""
    bound = dict(bindings)
    for index, role in enumerate(state.protocols[digest].roles if digest else ()):
        if role.many is not None and role.source is None and role.name not in bound:
            live = state.registry.sessions()
            players = (one.name for one in live if state.versions.may_play(one, digest, index))
            bound[role.name] = list(dict.fromkeys(players))
    return bound


def _check_members(role: Role, names: list[str] | None) -> Refusal | None:
    if role.source is not None:
        text = f"{role.name!r} is filled by enroll while the conversation goes on; bind the role that it is from"
        return None if names is None else Refusal("malformed", text)
    if role.many is None:
        return None
    assert names is not None  # bound by ``bind_members``
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


def no_common_version(state: BrokerState, digest: str, role: str, names: Names) -> Refusal:
    """Return the refusal of a conversation that would have no version which all can play (15)."""
    return Refusal("no-common-version", state.versions.explain(digest, role, names=names)[0])


def find_pin(
    state: BrokerState, session: Session, digest: str, role: str, *, conversation_id: bytes, names: Names
) -> str | Refusal:
    """Return the digest of the version that a conversation would follow, opened by *role* of *digest* (15).

    One that is open already keeps the version that it began with.
    """
    if digest not in session.protocols or role not in [one.name for one in state.protocols[digest].roles]:
        return Refusal("unknown-protocol", f"expected a protocol that this session named, and a role of it: {role!r}")
    existing = state.find(conversation_id)
    if existing is None or existing.protocol.identity != state.protocols[digest].identity:
        chosen = state.versions.choose(digest, role, names=names)
        return no_common_version(state, digest, role, names) if chosen is None else chosen
    misfits = state.versions.misfits(digest, existing.digest, role)
    if misfits:
        own, pinned = state.protocols[digest], existing.protocol
        text = f"the conversation follows {pinned.name} {pinned.version}, in which {role} of {own.version} "
        return Refusal("no-common-version", text + misfits[0].reason)
    return existing.digest


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
