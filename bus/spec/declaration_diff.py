"""What changes about the declarations of a protocol: messages, types, keys, roles, deadlines, limits.

Knows nothing of order, which is ``conversation_diff``'s. Deadlines, limits and windows are warnings at
most: they say how long and how much, not what an agent must be able to do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from bus.settings import Settings
from bus.spec.change import Change, Level
from bus.spec.field_diff import Fields, compare_fields
from bus.spec.syntax import Choice, Delivery, Loop, Mark, MessageDeclaration, Role, Scope, Send, Spec
from bus.spec.version import Version
from bus.spec.walk import steps

_STRENGTH = (Delivery.AT_MOST_ONCE, Delivery.AT_LEAST_ONCE, Delivery.DURABLE)


@dataclass(slots=True)
class DeclarationDiff:
    """All changes of declarations, and which of them concern a message type or a role.

    Attributes:
        of_message: Message type → the changes of it, of the types that it holds and of the keys among its fields.
        of_role: Role → the changes of its declaration.
    """

    changes: list[Change] = field(default_factory=list)
    of_message: dict[str, list[Change]] = field(default_factory=dict)
    of_role: dict[str, list[Change]] = field(default_factory=dict)


def compare_declarations(old: Version, new: Version) -> DeclarationDiff:
    """Return what has changed about the declarations from *old* to *new*."""
    found = DeclarationDiff()
    if old.spec.protocol != new.spec.protocol:
        text = f"the protocol was called {old.spec.protocol!r} and is called {new.spec.protocol!r}"
        found.changes.append(Change(new.spec.mark, "protocol-renamed", Level.ERR, text, False, False))
    of_struct = _compare_structs(old.spec, new.spec)
    found.changes += [change for changes in of_struct.values() for change in changes]
    _compare_messages(old.spec, new.spec, of_struct, found)
    _compare_keys(old.spec, new.spec, found)
    _compare_roles(old.spec, new.spec, found)
    found.changes += _compare_deadlines(old, new)
    found.changes += _compare_limits(old, new)
    return found


# -- messages -------------------------------------------------------------------------------------------


def _compare_structs(old: Spec, new: Spec) -> dict[str, list[Change]]:
    before = {struct.name: struct for struct in old.types}
    found = {}
    for struct in new.types:
        if struct.name in before:
            earlier = before[struct.name]
            fields = Fields(struct.name, struct.mark, struct.fields)
            found[struct.name] = [*compare_fields(Fields(struct.name, earlier.mark, earlier.fields), fields)]
    return found


def _compare_messages(old: Spec, new: Spec, of_struct: Mapping[str, list[Change]], found: DeclarationDiff) -> None:
    before = {one.name: one for one in old.messages}
    after = {one.name: one for one in new.messages}
    for name, message in after.items():
        if name not in before:
            found.changes.append(Change(message.mark, "message-added", Level.INFO, f"{name} is a new message type"))
            continue
        found_here = _compare_message(before[name], message, old, new)
        changes = [one if one.subject else replace(one, subject=name) for one in found_here]
        found.changes += changes
        held = _structs_in(before[name], old) | _structs_in(message, new)
        found.of_message[name] = changes + [one for struct in sorted(held) for one in of_struct.get(struct, ())]
    for name, message in before.items():
        if name not in after:
            found.changes.append(_message_removed(message))


def _message_removed(message: MessageDeclaration) -> Change:
    if message.deprecated:
        text = f"{message.name}, which was deprecated, is gone"
        return Change(message.mark, "message-removed", Level.WARN, text, old_senders=False)
    return Change(
        message.mark, "message-removed", Level.ERR, f"{message.name} is gone", old_senders=False,
        suggestion="mark it 'deprecated' first, and remove it with the next major version",
    )  # fmt: skip


def _compare_message(old: MessageDeclaration, new: MessageDeclaration, spec: Spec, later: Spec) -> Iterator[Change]:
    name, mark = new.name, new.mark
    before, after = Delivery(old.delivery or spec.delivery), Delivery(new.delivery or later.delivery)
    if before is not after:
        text = f"{name}: its delivery was {before} and is {after}"
        if _STRENGTH.index(after) < _STRENGTH.index(before):
            # Who sends or reads it may count on what the old class promised.
            yield Change(mark, "delivery-weakened", Level.ERR, text, False, False)
        else:
            yield Change(mark, "delivery-strengthened", Level.INFO, text)
    yield from _compare_limit(mark, "window", f"{name}: its window", old.window, new.window)
    for rule in new.rules:
        if rule not in old.rules:
            text = f"{name}: the rule {rule!r} is new: old senders may break it"
            yield Change(mark, "rule-added", Level.ERR, text, old_senders=False)
    for rule in old.rules:
        if rule not in new.rules:
            yield Change(mark, "rule-removed", Level.WARN, f"{name}: the rule {rule!r} is gone")
    fields = Fields(name, old.mark, old.fields, old.reserved)
    yield from compare_fields(fields, Fields(name, mark, new.fields, new.reserved))


def _structs_in(message: MessageDeclaration, spec: Spec) -> set[str]:
    """Return the names of all types of *spec* that *message* holds, however deep."""
    by_name = {struct.name: struct for struct in spec.types}
    found: set[str] = set()
    waiting = list(message.fields)
    while waiting:
        one = waiting.pop()
        if one.type is not None and one.type.name in by_name and one.type.name not in found:
            found.add(one.type.name)
            waiting += by_name[one.type.name].fields
    return found


def _compare_keys(old: Spec, new: Spec, found: DeclarationDiff) -> None:
    for key in new.keys:
        if key not in old.keys:
            text = f"{key!r} is a key now: old senders may change its value during a conversation"
            change = Change(new.mark, "key-added", Level.ERR, text, old_senders=False, subject=key)
            found.changes.append(change)
            for message in new.messages:
                if any(one.name == key for one in message.fields):
                    found.of_message.setdefault(message.name, []).append(change)
    for key in old.keys:
        if key not in new.keys:
            found.changes.append(Change(old.mark, "key-removed", Level.WARN, f"{key!r} is no key any more"))


# -- roles ----------------------------------------------------------------------------------------------


def _compare_roles(old: Spec, new: Spec, found: DeclarationDiff) -> None:
    before = {role.name: role for role in old.roles}
    after = {role.name: role for role in new.roles}
    for name, role in after.items():
        if name not in before:
            found.changes.append(Change(role.mark, "role-added", Level.ERR, f"{name} is a new role", role=name))
            continue
        changes = [*_compare_role(before[name], role)]
        found.changes += changes
        found.of_role[name] = changes
    for name, role in before.items():
        if name not in after:
            found.changes.append(
                Change(role.mark, "role-removed", Level.ERR, f"{name} is no role any more", False, False, role=name)
            )


def _compare_role(old: Role, new: Role) -> Iterator[Change]:
    name = new.name
    if (old.human, old.source) != (new.human, new.source):
        text = f"{name} was {_kind(old)} and is {_kind(new)}"
        yield Change(new.mark, "role-changed", Level.ERR, text, False, False, role=name)
        return
    (least, most), (later_least, later_most) = _many(old), _many(new)
    if later_least > least or later_most < most or (old.pool and not new.pool):
        text = f"{name} was {_count(old)} and is {_count(new)}"
        yield Change(new.mark, "cardinality-narrowed", Level.ERR, text, False, False, role=name)
    elif (least, most, old.pool) != (later_least, later_most, new.pool):
        text = f"{name} was {_count(old)} and is {_count(new)}"
        yield Change(new.mark, "cardinality-widened", Level.WARN, text, role=name)


def _many(role: Role) -> tuple[int, float]:
    if role.many is None:
        return 1, 1
    least, most = role.many
    return least, math.inf if most is None else most


def _kind(role: Role) -> str:
    kind = "a person" if role.human else "an agent"
    return f"{kind} from {role.source}" if role.source else kind


def _count(role: Role) -> str:
    if role.many is None:
        return "a pool" if role.pool else "one"
    least, most = role.many
    return f"{least}..{'*' if most is None else most}"


# -- time and numbers -----------------------------------------------------------------------------------


def _compare_deadlines(old: Version, new: Version) -> Iterator[Change]:
    before, after = _deadlines(old), _deadlines(new)
    present = _places(new.spec)
    for what, seconds in before.items():
        place = present.get(what[:2])
        if place is None:
            continue  # the step itself is gone, which is a matter of order
        later = after.get(what, math.inf)
        text = f"the deadline of {what[0]}" + (f" for {what[1]}" if what[1] else "")
        if later > seconds and later == math.inf:
            yield Change(place, "deadline-removed", Level.WARN, f"{text} was {seconds:g} s and is gone")
        elif later < seconds:
            yield Change(place, "deadline-shortened", Level.WARN, f"{text} was {seconds:g} s and is {later:g} s")
        elif later > seconds:
            yield Change(place, "deadline-lengthened", Level.INFO, f"{text} was {seconds:g} s and is {later:g} s")
    known = _places(old.spec)
    for what, seconds in after.items():
        if what not in before and what[:2] in known:
            text = f"the deadline of {what[0]}" + (f" for {what[1]}" if what[1] else "")
            yield Change(present[what[:2]], "deadline-added", Level.INFO, f"{text} is new: {seconds:g} s")


def _deadlines(version: Version) -> dict[tuple[str, str, int], float]:
    """Return (step or scope, role or "", which of several) → seconds, for every deadline that ever runs."""
    tables = version.tables
    found: dict[tuple[str, str, int], float] = {}

    def add(step: str, role: str, seconds: float) -> None:
        number = sum(1 for one in found if one[:2] == (step, role))
        found[step, role, number] = seconds

    for timer in tables.timers:
        within = Settings().within if timer.within is None else timer.within
        if within != math.inf:
            add(timer.step, version.roles[timer.role], within)
    for scope in tables.scopes:
        for seconds, _ in scope.timeouts:
            add(scope.name, "", seconds)
    return found


def _places(spec: Spec) -> dict[tuple[str, str], Mark]:
    """Return (step, role) → where it is written, named as the deadlines of ``Tables`` are."""
    found: dict[tuple[str, str], Mark] = {}
    for step in steps(spec.conversation):
        match step:
            case Send():
                found.setdefault((step.message, step.sender), step.mark)
            case Choice():
                found.setdefault((f"choice {step.decider}", step.decider), step.mark)
            case Loop() | Scope():
                found.setdefault((step.name, ""), step.mark)
            case _:
                pass
    return found


def _compare_limits(old: Version, new: Version) -> Iterator[Change]:
    before = {counter.name: counter.limit for counter in old.tables.counters}
    after = {counter.name: counter.limit for counter in new.tables.counters}
    known = {name for name, _ in _places(old.spec)}
    for (name, _), mark in _places(new.spec).items():
        if name in known and before.get(name) != after.get(name):
            yield from _compare_limit(mark, "max", f"the max of {name}", before.pop(name, None), after.pop(name, None))


def _compare_limit(mark: Mark, what: str, said: str, old: int | None, new: int | None) -> Iterable[Change]:
    if old == new:
        return ()
    text = f"{said} was {'not set' if old is None else old} and is {'not set' if new is None else new}"
    if new is not None and (old is None or new < old):
        return (Change(mark, f"{what}-lowered", Level.WARN, text),)
    return (Change(mark, f"{what}-raised", Level.INFO, text),)
