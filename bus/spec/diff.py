"""Two versions of a protocol: what has changed, what it means for each role, which version it asks for.

The same function tells the broker at HELLO whether an agent of one version may play in a conversation
of another (RULES.md 15). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from bus.spec.change import Bump, Change, Level, Misfit, RoleVerdict
from bus.spec.conversation_diff import meet
from bus.spec.declaration_diff import DeclarationDiff, compare_declarations
from bus.spec.digest import NOT_MEANT, canonical
from bus.spec.syntax import Spec
from bus.spec.version import Version

# Why a message does not fit that is declared otherwise, from the side of whoever sends or reads it.
_REASONS = {
    "field-added-required": "it leaves out {}, which is required there",
    "field-removed-required": "it requires {}, which is not there",
    "field-renamed": "{} has another name there",
    "reserved-name-reused": "{} means something else there",
    "type-changed": "{} is of another type there",
    "type-widened": "{} may hold more there",
    "type-narrowed": "{} may hold less there",
    "constraint-tightened": "{} has tighter limits there",
    "constraint-loosened": "{} has looser limits there",
    "enum-value-removed": "{} has fewer values there",
    "enum-value-added": "{} has more values there",
    "rule-added": "{} has a rule there that it does not know",
    "key-added": "{} is a key there",
    "delivery-weakened": "{} is delivered less surely there",
    "cardinality-narrowed": "fewer may play {} there",
    "role-changed": "{} is of another kind there",
}
_LENIENT = frozenset({"draft", "beta"})  # nobody was promised anything yet


@dataclass(frozen=True, slots=True)
class Diff:
    """What two versions differ in.

    Attributes:
        changes: The most serious first; those of one level in the order of the files.
        verdicts: One for each role, those of the new version first.
        required: Which number of the version must go up because of the changes.
        made: Which one did.
    """

    changes: tuple[Change, ...]
    verdicts: tuple[RoleVerdict, ...]
    required: Bump
    made: Bump

    def as_json(self) -> dict[str, object]:
        """Return the diff as plain values, for programs."""
        return {
            "findings": [change.as_json() for change in self.changes],
            "roles": [verdict.as_json() for verdict in self.verdicts],
            "required_bump": str(self.required),
            "made_bump": str(self.made),
        }


def diff(old: Version, new: Version) -> Diff:
    """Return what has changed from *old* to *new*; LANGUAGE.md, "Evolution", is its law."""
    there, back = compare_declarations(old, new), compare_declarations(new, old)
    names = dict.fromkeys((*new.roles, *old.roles))
    verdicts = []
    changes = list(there.changes)
    for role in names:
        misfits, returning = _misfits(old, new, role, there), _misfits(new, old, role, back)
        verdicts.append(RoleVerdict(role, next(iter(misfits), None), next(iter(returning), None)))
        changes += _order_changes(misfits, old, new, role)
    if not changes and _meaning(old.spec) != _meaning(new.spec):
        text = "something else has changed, of which no rule of compatibility speaks"
        changes.append(Change(new.spec.mark, "other", Level.INFO, text))
    required, made = _required(old, new, changes, verdicts), _made(old.spec.version, new.spec.version)
    changes += _version_changes(old, new, changes, required, made)
    if old.spec.status in _LENIENT:
        changes = [replace(one, level=Level.WARN) if one.level is Level.ERR else one for one in changes]
    levels = tuple(Level)
    ordered = sorted(dict.fromkeys(changes), key=lambda one: levels.index(one.level))
    return Diff(tuple(ordered), tuple(verdicts), required, made)


def find_misfits(old: Version, new: Version, role: str) -> tuple[Misfit, ...]:
    """Return why agents that play *role* of *old* do not fit conversations of *new*; () where they do."""
    return tuple(_misfits(old, new, role, compare_declarations(old, new)))


def _misfits(old: Version, new: Version, role: str, found: DeclarationDiff) -> list[Misfit]:
    """Return all misfits of one role, the one with the shortest trace first."""
    if role not in old.roles:
        return []  # there is nobody who could not fit
    if role not in new.roles:
        mark = old.spec.roles[old.roles.index(role)].mark
        return [Misfit("order-role", f"plays {role}, which is no role of {new.label}", (), mark)]
    meeting = meet(old, new, role)
    misfits = [*meeting.misfits]
    for change in found.of_role.get(role, ()):
        if not (change.old_senders and change.old_receivers):
            misfits.append(Misfit(change.rule, _REASONS[change.rule].format(role), (), change.mark))
    for messages, sends in ((meeting.sent, True), (meeting.received, False)):
        for message, trace in messages.items():
            for change in found.of_message.get(message, ()):
                if not (change.old_senders if sends else change.old_receivers):
                    what = f"its {message} may be refused" if sends else f"cannot read every {message}"
                    reason = f"{what}: {_REASONS[change.rule].format(change.subject)}"
                    misfits.append(Misfit(change.rule, reason, trace, change.mark, message))
    if old.spec.protocol != new.spec.protocol:
        misfits.append(Misfit("protocol-renamed", f"plays {old.label}, not {new.label}", (), new.spec.mark))
    return sorted(misfits, key=lambda one: len(one.trace))


def _order_changes(misfits: Iterable[Misfit], old: Version, new: Version, role: str) -> Iterator[Change]:
    """Yield the misfits of old agents that no declaration tells of already."""
    deprecated = {one.name for one in old.spec.messages if one.deprecated}
    present = {one.name for one in new.spec.messages}
    for misfit in misfits:
        if not misfit.is_order or misfit.rule == "order-role":
            continue
        was_announced = misfit.rule == "order-sends" and misfit.message in deprecated - present
        yield Change(
            misfit.mark, misfit.rule, Level.WARN if was_announced else Level.ERR,
            f"{role} of {old.spec.version} {misfit.reason}",
            old_senders=misfit.rule not in ("order-sends", "order-silent"),
            old_receivers=misfit.rule not in ("order-receives", "order-end"),
            role=role, trace=misfit.trace,
        )  # fmt: skip


# -- versions -------------------------------------------------------------------------------------------


def _required(old: Version, new: Version, changes: list[Change], verdicts: list[RoleVerdict]) -> Bump:
    if not changes:
        return Bump.NONE if _meaning(old.spec, words=True) == _meaning(new.spec, words=True) else Bump.PATCH
    breaks = any(one.level is Level.ERR for one in changes) or any(one.old_in_new for one in verdicts)
    return Bump.MAJOR if breaks and old.spec.status not in _LENIENT else Bump.MINOR


def _made(old: str, new: str) -> Bump:
    before, after = _numbers(old), _numbers(new)
    if after <= before:
        return Bump.NONE
    place = next(index for index, (one, other) in enumerate(zip(before, after, strict=True)) if one != other)
    return (Bump.MAJOR, Bump.MINOR, Bump.PATCH)[place]


def _version_changes(old: Version, new: Version, changes: list[Change], required: Bump, made: Bump) -> Iterator[Change]:
    """Yield what is wrong about the version itself; no more serious than the changes that ask for it."""
    mark = new.spec.mark
    if _numbers(new.spec.version) < _numbers(old.spec.version):
        yield Change(
            mark, "version-lowered", Level.ERR, f"the version was {old.spec.version} and is {new.spec.version}"
        )
        return
    bumps = tuple(Bump)
    if bumps.index(made) >= bumps.index(required):
        return
    worst = next((level for level in Level if any(one.level is level for one in changes)), Level.INFO)
    level = Level.WARN if worst is Level.INFO and required is not Bump.PATCH else worst
    text = (
        f"the changes ask for a {required} version, and the version went from {old.spec.version} to {new.spec.version}"
    )
    yield Change(
        mark, "version-bump", level, text, suggestion=f"set the version to {_next(old.spec.version, required)}"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split("."))


def _next(version: str, bump: Bump) -> str:
    major, minor, patch = _numbers(version)
    if bump is Bump.MAJOR:
        return f"{major + 1}.0.0"
    return f"{major}.{minor + 1}.0" if bump is Bump.MINOR else f"{major}.{minor}.{patch + 1}"


def _meaning(spec: Spec, *, words: bool = False) -> object:
    """Return what *spec* says apart from its version; with *words*, its docs, examples and status too."""
    kept = replace(spec, version="")
    return canonical(kept, left_out=frozenset({"mark", "source"})) if words else canonical(kept, left_out=NOT_MEANT)
