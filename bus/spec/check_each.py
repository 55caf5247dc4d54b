"""Checks of roles with many members: where they may speak, and who may be enrolled. E-MEMBERS, E-EACH, E-ENROLL.

The written policies (docs/specs.md): an `each` stands neither in another one nor in a `parallel`; a role with many
members is spoken to as a whole outside an `each`, and speaks inside one only.
"""

from __future__ import annotations

from dataclasses import dataclass

from bus.spec.diagnostic import Report
from bus.spec.syntax import Block, Call, Choice, Each, Enroll, Mark, Parallel, Role, Scope, Send, Spec
from bus.spec.walk import blocks


def check_members(spec: Spec, report: Report) -> None:
    """Report what is said by or to members in the wrong place. The names in *spec* resolve."""
    for role in spec.roles:
        _check_role(spec, role, report)
    if not report.has_errors and any(role.many is not None or role.source is not None for role in spec.roles):
        _Members(spec, report).block(spec.conversation, None, False)


def _check_role(spec: Spec, role: Role, report: Report) -> None:
    try:
        root = spec.root_of(role.name)
    except LookupError:
        text = f"roles.{role.name}.from: a role cannot be from itself"
        report.error(role.mark, "E-MEMBERS", text, role=role.name, suggestion="name the role whose members it takes")
        return
    if role.source is not None and root.many is None:
        text = f"roles.{role.name}.from: expected a role with many members, got {root.name!r}"
        report.error(role.mark, "E-MEMBERS", text, role=role.name, suggestion=f"give {root.name!r} 'many: 1..*'")
    if (role.many is not None or role.source is not None) and (role.pool or role.human):
        what = "pool" if role.pool else "human"
        text = f"roles.{role.name}: a role with many members cannot be '{what}' too"
        report.error(role.mark, "E-MEMBERS", text, role=role.name, suggestion=f"remove '{what}'")


@dataclass(slots=True)
class _Members:
    """Goes through the steps, knowing the `each` around them."""

    spec: Spec
    report: Report

    def block(self, block: Block, each: Each | None, beside: bool) -> None:
        """Check the steps of *block*.

        Args:
            each: The `each` around them, if there is one.
            beside: They stand in a `parallel`.
        """
        for step in block:
            match step:
                case Send():
                    self._send(step, each)
                case Choice() if self._is_many(step.decider):
                    self._speaks(step.mark, step.decider, f"choice {step.decider}", each)
                case Scope():
                    for interrupt in step.interrupts:
                        if interrupt.message is not None:
                            self._send(interrupt.message, each)
                case Enroll():
                    self._enroll(step, each)
                case Each():
                    self._each(step, each, beside)
                case Call() if each is not None:
                    text = f"call: {step.protocol}: expected it outside 'each: {each.role}': it is one for all members"
                    hint = "let the members open it from their handlers, or move it behind the 'each'"
                    self.report.error(step.mark, "E-EACH", text, suggestion=hint)
            inside = step if isinstance(step, Each) else each
            for inner in blocks(step):
                self.block(inner, inside, beside or isinstance(step, Parallel))

    def _is_many(self, name: str) -> bool:
        return self.spec.root_of(name).many is not None

    def _line(self, name: str) -> list[str]:
        """Return *name* and the roles that it is from."""
        role, line = self.spec.role(name), [name]
        while role is not None and role.source is not None:
            line.append(role.source)
            role = self.spec.role(role.source)
        return line

    def _send(self, send: Send, each: Each | None) -> None:
        where = f"{send.sender} -> {', '.join(send.receivers)}: {send.message}"
        if self._is_many(send.sender):
            self._speaks(send.mark, send.sender, where, each)
        for role in send.receivers:
            if self._is_many(role) and (each is not None or role != self.spec.root_of(role).name):
                self._speaks(send.mark, role, where, each)

    def _speaks(self, mark: Mark, role: str, where: str, each: Each | None) -> None:
        if each is not None and role in self._line(each.role):
            return
        if each is not None and self.spec.root_of(role) != self.spec.root_of(each.role):
            text = f"{where}: inside 'each: {each.role}' it is not said which member of {role!r} is meant"
        else:
            text = f"{where}: expected an 'each: {role}' around it, which says which member is meant"
        self.report.error(mark, "E-MEMBERS", text, role=role, suggestion=f"put the step into 'each: {role}'")

    def _each(self, step: Each, around: Each | None, beside: bool) -> None:
        if not self._is_many(step.role):
            text = f"each {step.role}: expected a role with many members, or one that is from such a role"
            hint = f"give {step.role!r} 'many: 1..*', or leave the 'each' out"
            self.report.error(step.mark, "E-EACH", text, role=step.role, suggestion=hint)
        if around is not None or beside:
            what = f"the 'each: {around.role}' around it" if around is not None else "the 'parallel' around it"
            text = f"each {step.role}: expected it outside {what}: members are gone through at one place at a time"
            self.report.error(step.mark, "E-EACH", text, role=step.role, suggestion="put one behind the other")

    def _enroll(self, step: Enroll, each: Each | None) -> None:
        role = self.spec.role(step.role)
        if role is None:
            return
        if role.source is None:
            text = f"enroll {step.role}: expected a role that is 'from' another, got one that is bound when all begins"
            self.report.error(step.mark, "E-ENROLL", text, role=step.role, suggestion="declare it with 'from'")
        elif each is None or role.source not in self._line(each.role):
            got = "outside any 'each'" if each is None else f"in 'each: {each.role}'"
            text = (
                f"enroll {step.role}: expected it in an 'each: {role.source}', whose member it enrolls; it stands {got}"
            )
            self.report.error(step.mark, "E-ENROLL", text, role=step.role, suggestion="move it there")
