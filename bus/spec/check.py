"""Static checks that need the tree only (LANGUAGE.md, "Static checks"): one function for each kind of rule.

``check_names`` may run on a spec that was read in part; the others want one whose names resolve.
What needs the global automaton or the projections is another module's, and joins in ``compile``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from bus.spec.diagnostic import DUPLICATE, Report, did_you_mean, listed
from bus.spec.parse import BUILT_IN_TYPES
from bus.spec.syntax import (
    Call,
    Choice,
    Each,
    End,
    Enroll,
    Field,
    Mark,
    Scope,
    Send,
    Spec,
)
from bus.spec.walk import messages_of, sends, steps

BUILT_IN_OUTCOMES = ("failed", "canceled")  # RULES.md 2


def check_names(spec: Spec, report: Report) -> None:
    """Report names that mean nothing: E-UNKNOWN-*, E-SELF-MESSAGE, E-RESERVED-FIELD, double meanings."""
    roles = {role.name for role in spec.roles}
    messages = {message.name for message in spec.messages}
    outcomes = {name for name, _ in spec.outcomes} | set(BUILT_IN_OUTCOMES)
    for role in spec.roles:
        if role.source is not None:
            _known(role.mark, role.source, roles, "ROLE", f"roles.{role.name}.from", "a role", report)
    for step in steps(spec.conversation):
        match step:
            case Send():
                _check_send(step, roles, messages, report)
            case Choice():
                _known(step.mark, step.decider, roles, "ROLE", "choice", "a role", report)
            case Scope():
                for message in messages_of(step.interrupts):
                    _check_send(message, roles, messages, report)
                for interrupt in step.interrupts:
                    for role_name in filter(None, (interrupt.lost, interrupt.failed)):
                        _known(interrupt.mark, role_name, roles, "ROLE", "interrupts", "a role", report)
            case Each() | Enroll():
                where = type(step).__name__.lower()
                _known(step.mark, step.role, roles, "ROLE", where, "a role", report)
            case Call():
                for _, ours in step.roles:
                    _known(step.mark, ours, roles, "ROLE", "call.as", "a role", report)
            case End():
                _known(step.mark, step.outcome, outcomes, "OUTCOME", "end", "an outcome", report)
    _check_types(spec, report)


def _known(mark: Mark, name: str, names: Collection[str], what: str, where: str, expected: str, report: Report) -> None:
    if name not in names:
        report.error(
            mark,
            f"E-UNKNOWN-{what}",
            f"{where}: expected {expected}, got {name!r}",
            suggestion=did_you_mean(name, names) or f"known here: {listed(names)}",
        )


def _check_send(send: Send, roles: set[str], messages: set[str], report: Report) -> None:
    where = f"{send.sender} -> {', '.join(send.receivers)}: {send.message}"
    for role in (send.sender, *send.receivers):
        _known(send.mark, role, roles, "ROLE", where, "a role", report)
    _known(send.mark, send.message, messages, "MESSAGE", where, "a message type", report)
    if send.sender in send.receivers:
        report.error(
            send.mark,
            "E-SELF-MESSAGE",
            f"{where}: a role may not send to itself",
            role=send.sender,
            suggestion="name another receiver",
        )


def _check_types(spec: Spec, report: Report) -> None:
    structs = {struct.name for struct in spec.types}
    for message in spec.messages:
        if message.name in structs:
            text = f"messages.{message.name}: a type has this name too"
            report.error(message.mark, DUPLICATE, text, suggestion="rename one of them")
        _check_fields(message.fields, f"messages.{message.name}", structs, message.reserved, report)
    for struct in spec.types:
        _check_fields(struct.fields, f"types.{struct.name}", structs, (), report)


def _check_fields(
    fields: tuple[Field, ...], where: str, structs: set[str], reserved: tuple[str, ...], report: Report
) -> None:
    names = {field.name for field in fields}
    for field in fields:
        place = f"{where}.fields.{field.name}"
        if field.type is not None and field.type.name not in structs and field.type.name not in BUILT_IN_TYPES:
            known = structs | set(BUILT_IN_TYPES)
            _known(field.mark, field.type.name, known, "TYPE", place, "a type", report)
        if field.name in reserved:
            report.error(
                field.mark,
                "E-RESERVED-FIELD",
                f"{place}: the name is reserved: it once meant something else",
                suggestion="choose a new name",
            )
        elif field.name.endswith("_") and field.name.rstrip("_") in names:
            report.error(
                field.mark,
                "E-RESERVED-FIELD",
                f"{place}: names with '_' behind are kept for fields that Python has a word for",
                suggestion="choose a name that differs in a letter",
            )


def check_uses(spec: Spec, report: Report) -> None:
    """Report roles that take no part: E-UNUSED-ROLE."""
    used_roles: set[str] = set()
    for step in steps(spec.conversation):
        match step:
            case Choice():
                used_roles.add(step.decider)
            case Each() | Enroll():
                used_roles.add(step.role)
            case Call():
                used_roles.update(ours for _, ours in step.roles)
    used_roles.update(role for send in sends(spec.conversation) for role in (send.sender, *send.receivers))
    used_roles.update(role.source for role in spec.roles if role.source is not None)
    for role in spec.roles:
        if role.name not in used_roles:
            text = f"roles.{role.name}: the role takes no part in the conversation"
            report.error(role.mark, "E-UNUSED-ROLE", text, role=role.name, suggestion="remove it or let it speak")


def check_unused(spec: Spec, falls_off: bool, report: Report) -> None:
    """Warn of what is declared and never used: W-UNUSED-MESSAGE, -TYPE and -OUTCOME.

    Args:
        falls_off: The conversation can fall off its end, which is the outcome ``done``.
    """
    ended = {step.outcome for step in steps(spec.conversation) if isinstance(step, End)} | set(BUILT_IN_OUTCOMES)
    used_messages = {send.message for send in sends(spec.conversation)}
    for message in spec.messages:
        if message.name not in used_messages:
            text = f"messages.{message.name}: nobody sends this message"
            report.warn(message.mark, "W-UNUSED-MESSAGE", text, suggestion="remove it or send it")
    used_types = _used_types(spec)
    for struct in spec.types:
        if struct.name not in used_types:
            text = f"types.{struct.name}: no field has this type"
            report.warn(struct.mark, "W-UNUSED-TYPE", text, suggestion="remove it or use it")
    if falls_off:
        ended.add("done")
    for name, _ in spec.outcomes:
        if name not in ended:
            text = f"outcomes.{name}: no step ends the conversation so"
            report.warn(spec.mark, "W-UNUSED-OUTCOME", text, suggestion=f"remove it or write 'end: {name}'")


def _used_types(spec: Spec) -> set[str]:
    by_name = {struct.name: struct for struct in spec.types}
    used: set[str] = set()

    def use(fields: Iterable[Field]) -> None:
        for field in fields:
            if field.type is not None and field.type.name in by_name and field.type.name not in used:
                used.add(field.type.name)
                use(by_name[field.type.name].fields)

    for message in spec.messages:
        use(message.fields)
    return used
