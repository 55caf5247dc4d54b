"""What changes about the fields of a message type or struct: rows of the table in LANGUAGE.md, "Evolution".

Each change says whether bodies of old senders are still read (OS) and whether old receivers can read the
new bodies (OR). What a sender may leave out counts as left out, whatever the SDK does: the wire is for
other languages too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from bus.spec.change import Change, Level
from bus.spec.syntax import Field, Mark, TypeExpression

_LOWER = ("min", "min_len", "min_items")
_UPPER = ("max", "max_len", "max_items")
# Which values of one type are values of another, beside those of LANGUAGE.md's row "widened".
_WIDER = {("int", "number"), ("enum", "string")}
_ENUM = TypeExpression("enum")


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one message type or struct in one version."""

    owner: str
    mark: Mark
    fields: tuple[Field, ...]
    reserved: tuple[str, ...] = ()

    def get(self, name: str) -> Field | None:
        """Return the field called *name*, or None."""
        return next((field for field in self.fields if field.name == name), None)


def compare_fields(old: Fields, new: Fields) -> Iterator[Change]:
    """Yield what has changed about the fields, in the order of the new version, then what has vanished."""
    renamed = _renamed(old, new)
    for field in (*new.fields, *old.fields):
        where = f"{new.owner}.{field.name}"
        for change in _changes(field, old, new, renamed):
            yield replace(change, subject=where)


def _changes(field: Field, old: Fields, new: Fields, renamed: Mapping[str, str]) -> Iterable[Change]:
    """Return what is to be said about *field*: one of the new version, or of the old one and gone."""
    before, after = old.get(field.name), new.get(field.name)
    if after is not field:
        return () if after is not None or field.name in renamed else (_removed(field, new),)
    if before is not None:
        return _compare(f"{new.owner}.{field.name}", before, field)
    for name, later in renamed.items():
        if later == field.name:
            return (_taken_for(field, name, new),)
    return (_added(field, old, new),)


def _taken_for(field: Field, name: str, new: Fields) -> Change:
    text = f"{new.owner}.{name} is called {field.name!r} now"
    hint = f"keep {name!r}, or add {field.name!r} as an optional field beside it"
    return Change(field.mark, "field-renamed", Level.ERR, text, False, False, suggestion=hint)


def is_required(field: Field) -> bool:
    """Return whether a sender may not leave *field* out."""
    return not field.has_default and not _type(field).optional


def _type(field: Field) -> TypeExpression:
    return _ENUM if field.type is None else field.type


def _show(field: Field) -> str:
    kind = _type(field)
    words = ("optional" if kind.optional else "", f"{kind.container} of" if kind.container else "", kind.name)
    return " ".join(word for word in words if word)


def _added(field: Field, old: Fields, new: Fields) -> Change:
    where = f"{new.owner}.{field.name}"
    if field.name in old.reserved:
        return Change(
            field.mark, "reserved-name-reused", Level.ERR, f"{where} takes a name that was reserved", False, False,
            suggestion="choose another name: old agents may still mean something else by this one",
        )  # fmt: skip
    if is_required(field):
        return Change(
            field.mark, "field-added-required", Level.ERR, f"{where} is new and required: old senders leave it out",
            old_senders=False, suggestion=f"make it 'optional {_show(field)}' or give it a default",
        )  # fmt: skip
    return Change(field.mark, "field-added-optional", Level.INFO, f"{where} is new and may be left out")


def _removed(field: Field, new: Fields) -> Change:
    where = f"{new.owner}.{field.name}"
    reserve = None if field.name in new.reserved else f"put {field.name!r} under 'reserved' of {new.owner}"
    if is_required(field):
        return Change(
            field.mark, "field-removed-required", Level.ERR, f"{where} is gone, and old receivers require it",
            old_receivers=False, suggestion="make it optional first, and remove it with the next major version",
        )  # fmt: skip
    return Change(field.mark, "field-removed-optional", Level.WARN, f"{where} is gone", suggestion=reserve)


def _renamed(old: Fields, new: Fields) -> dict[str, str]:
    """Return old name → new name of the fields that seem to have been renamed only.

    That is where one field of a type vanished and one of the very same type came; a name that went to
    ``reserved`` was given up on purpose.
    """
    gone = [one for one in old.fields if new.get(one.name) is None and one.name not in new.reserved]
    came = [one for one in new.fields if old.get(one.name) is None and one.name not in old.reserved]
    found = {}
    for field in gone:
        alike = [one for one in came if _bare(one) == _bare(field)]
        rivals = [one for one in gone if _bare(one) == _bare(field)]
        if len(alike) == 1 and len(rivals) == 1:
            found[field.name] = alike[0].name
    return found


def _bare(field: Field) -> Field:
    """Return *field* with only what counts when it gets another name."""
    mark = Mark("", 0, 0)
    return replace(field, name="", mark=mark, doc="", deprecated=False, has_example=False, example=None)


def _compare(where: str, old: Field, new: Field) -> Iterator[Change]:
    mark = new.mark
    wider, narrower = _widths(_type(old), _type(new))
    if wider and narrower:
        text = f"{where}: its type was {_show(old)!r} and is {_show(new)!r}"
        yield Change(mark, "type-changed", Level.ERR, text, False, False, suggestion="add a field with another name")
        return
    if wider:
        text = f"{where}: its type was {_show(old)!r}; old receivers cannot read all of {_show(new)!r}"
        yield Change(mark, "type-widened", Level.ERR, text, old_receivers=False)
    elif narrower:
        text = f"{where}: its type was {_show(old)!r}; not all of that is {_show(new)!r}"
        yield Change(mark, "type-narrowed", Level.ERR, text, old_senders=False)
    elif is_required(old) != is_required(new):
        if is_required(new):
            text = f"{where} has no default any more: old senders may leave it out"
            yield Change(mark, "type-narrowed", Level.ERR, text, old_senders=False)
        else:
            text = f"{where} has a default now, so it may be left out: old receivers require it"
            yield Change(mark, "type-widened", Level.ERR, text, old_receivers=False)
    if old.enum and new.enum:
        yield from _compare_enums(where, old, new)
    yield from _compare_constraints(where, old, new)
    if not is_required(old) and not is_required(new) and old.default != new.default:
        text = f"{where}: its default was {old.default!r} and is {new.default!r}"
        yield Change(mark, "default-changed", Level.WARN, text)


def _widths(old: TypeExpression, new: TypeExpression) -> tuple[bool, bool]:
    """Return whether the new type has values that the old one lacks, and the other way round."""
    if new == old:
        return False, False
    if new == TypeExpression("any", None, new.optional) and (new.optional or not old.optional):
        return True, False
    if old == TypeExpression("any", None, old.optional) and (old.optional or not new.optional):
        return False, True
    if new.container != old.container:
        return True, True
    wider = (old.name, new.name) in _WIDER
    narrower = (new.name, old.name) in _WIDER
    if new.name != old.name and not wider and not narrower:
        return True, True
    return wider or (new.optional and not old.optional), narrower or (old.optional and not new.optional)


def _compare_enums(where: str, old: Field, new: Field) -> Iterator[Change]:
    for word in old.enum:
        if word not in new.enum:
            text = f"{where}: {word!r} is no value any more"
            yield Change(new.mark, "enum-value-removed", Level.ERR, text, old_senders=False)
    for word in new.enum:
        if word not in old.enum:
            level = Level.INFO if old.open else Level.WARN
            knows = "" if old.open else "; old receivers refuse it"
            text = f"{where}: {word!r} is a new value{knows}"
            yield Change(new.mark, "enum-value-added", level, text, old_receivers=old.open)
    if old.open and not new.open:
        yield Change(new.mark, "enum-closed", Level.WARN, f"{where}: readers refuse unknown values now")
    elif new.open and not old.open:
        yield Change(new.mark, "enum-opened", Level.INFO, f"{where}: readers take unknown values now")


def _compare_constraints(where: str, old: Field, new: Field) -> Iterator[Change]:
    for name in (*_LOWER, *_UPPER):
        before, after = getattr(old, name), getattr(new, name)
        if before == after:
            continue
        said = f"{where}: {name} was {_said(before)} and is {_said(after)}"
        is_upper = name in _UPPER
        tighter = before is None or (after is not None and (after < before if is_upper else after > before))
        yield _tightened(new.mark, said) if tighter else _loosened(new.mark, said)
    if old.pattern != new.pattern:
        said = f"{where}: pattern was {_said(old.pattern)} and is {_said(new.pattern)}"
        if old.pattern is None:
            yield _tightened(new.mark, said)
        elif new.pattern is None:
            yield _loosened(new.mark, said)
        else:  # which of two patterns allows more is not looked into
            yield Change(new.mark, "constraint-tightened", Level.ERR, said, False, False)


def _tightened(mark: Mark, said: str) -> Change:
    return Change(mark, "constraint-tightened", Level.ERR, f"{said}: old senders may go beyond", old_senders=False)


def _loosened(mark: Mark, said: str) -> Change:
    return Change(mark, "constraint-loosened", Level.WARN, f"{said}: old receivers refuse more", old_receivers=False)


def _said(value: object) -> str:
    if value is None:
        return "not set"
    return repr(value) if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
