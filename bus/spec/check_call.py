"""Checks of ``call`` steps: E-UNKNOWN-PROTOCOL, E-BAD-CALLEE, E-RECURSIVE-CALL, E-CALL-ROLES, E-CALL-OUTCOMES, E-RACE.

What is called is verified by itself, once; here it only has to fit.
"""

from __future__ import annotations

from collections.abc import Callable

from bus.errors import SpecError
from bus.spec.check import BUILT_IN_OUTCOMES
from bus.spec.diagnostic import Diagnostic, Report, Severity, did_you_mean
from bus.spec.linker import Bundle, SpecFile, briefly, calls_of, not_found
from bus.spec.projection import Projections
from bus.spec.protocol import Protocol
from bus.spec.reference import parse_reference
from bus.spec.syntax import Call, Role, Spec
from bus.spec.tables import NO_EVENT, EventKind
from bus.spec.walk import steps
from bus.spec.witness import Names, Ways

# All that a call may have open at once, were every step of every protocol below to run side by side: bounds what
# one message may make the broker open.
MAX_CONVERSATIONS = 256


def check_calls(
    spec: Spec, main: SpecFile, bundle: Bundle, compile_file: Callable[[SpecFile], Protocol], report: Report
) -> dict[str, Protocol]:
    """Report calls of what is not there, not in order, or does not fit.

    Returns:
        What is called, as written → the protocol; without those that have errors.
    """
    found: dict[str, Protocol] = {}
    for step in steps(spec.conversation):
        if not isinstance(step, Call):
            continue
        if not _handles(step, BUILT_IN_OUTCOMES, report):  # whatever it is that is called
            continue
        if step.protocol not in found:
            callee = _callee(step, main, bundle, compile_file, report)
            if callee is None:
                continue
            found[step.protocol] = callee
        _check_roles(step, spec, found[step.protocol], report)
        _check_outcomes(step, found[step.protocol], report)
    n_below = n_conversations(spec, found)
    if n_below > MAX_CONVERSATIONS:
        text = f"its calls may open {n_below} conversations, those of what they call included"
        hint = f"call less: at most {MAX_CONVERSATIONS} are allowed"
        report.error(spec.mark, "E-TOO-MANY-CALLS", text, suggestion=hint)
    return found


def n_conversations(spec: Spec, callees: dict[str, Protocol]) -> int:
    """Return how many conversations *spec* may have open at most, itself included."""
    called = [callees.get(step.protocol) for step in steps(spec.conversation) if isinstance(step, Call)]
    return 1 + sum(n_conversations(one.spec, one.callees) for one in called if one is not None)


def _callee(
    step: Call, main: SpecFile, bundle: Bundle, compile_file: Callable[[SpecFile], Protocol], report: Report
) -> Protocol | None:
    reference, where = parse_reference(step.protocol), f"call: {step.protocol}"
    target = bundle.find(reference)
    if target is None:
        report.add(not_found(step, reference, bundle, "E-UNKNOWN-PROTOCOL", "call"))
        return None
    way = _way_back(target, main, bundle)
    if way:
        text = f"{where}: protocols may not call each other: {' calls '.join((main.name, *way))}"
        report.error(step.mark, "E-RECURSIVE-CALL", text, suggestion="leave out one of these calls")
        return None
    if target.spec is not None and target.spec.library:
        text = f"{where}: {target.source.file} is a library: it has no conversation"
        report.error(step.mark, "E-BAD-CALLEE", text, suggestion="name a protocol")
        return None
    try:
        callee = compile_file(target)
    except SpecError as error:
        errors = [one for one in error.diagnostics if one.severity is Severity.ERROR]
        text = f"{where}: {briefly(target, errors)}"
        report.error(step.mark, "E-BAD-CALLEE", text, suggestion=f"mend it: palaver check {target.source.file}")
        return None
    if callee.has_members:
        text = f"{where}: {callee.name} has roles with many members, and nobody says who they are"
        report.error(step.mark, "E-BAD-CALLEE", text, suggestion="let an agent open it from a handler, and name them")
        return None
    if _ends_at_once(callee):
        text = f"{where}: {callee.name} is over before anybody has said a word"
        report.error(step.mark, "E-BAD-CALLEE", text, suggestion="let it begin with a message")
        return None
    return callee


def _way_back(target: SpecFile, main: SpecFile, bundle: Bundle) -> tuple[str, ...]:
    """Return the names of the protocols by which *target* comes to call *main*, or ()."""
    before: dict[SpecFile, SpecFile | None] = {target: None}
    waiting = [target]
    for file in waiting:
        if file is main:
            way = [file]
            while (previous := before[way[-1]]) is not None:
                way.append(previous)
            return tuple(one.name for one in reversed(way))
        for callee in map(bundle.find, calls_of(file)):
            if callee is not None and callee not in before:
                before[callee] = file
                waiting.append(callee)
    return ()


def _ends_at_once(protocol: Protocol) -> bool:
    """Return whether the bus would end the conversation as it opens it: a loop around the call would never rest."""
    events = protocol.tables.events
    known = [set(machine.due[machine.start]) for machine in protocol.tables.machines]
    return any(events[event].kind is EventKind.END for event in set.intersection(*known))


def _check_roles(step: Call, spec: Spec, callee: Protocol, report: Report) -> None:
    """E-CALL-ROLES: who plays our role must be able to play theirs."""
    ours = {role.name: role for role in spec.roles}
    theirs = {role.name: role for role in callee.roles}
    taken: dict[str, str] = {}
    for name, mine in step.roles:
        place = f"call.as.{name}"
        if name not in theirs:
            text = f"{place}: expected a role of {callee.name} ({', '.join(theirs)}), got {name!r}"
            hint = did_you_mean(name, theirs) or "name one of these, or leave it out"
            report.error(step.mark, "E-CALL-ROLES", text, role=mine, suggestion=hint)
            continue
        if mine in taken:
            text = f"{place}: {mine!r} is {taken[mine]!r} already: one player cannot be both"
            report.error(step.mark, "E-CALL-ROLES", text, role=mine, suggestion="map another role, or leave it out")
        taken.setdefault(mine, name)
        problem = _misfit(ours[mine], theirs[name], callee.name)
        if problem:
            hint = "leave the role out: it then finds its player as ever"
            report.error(step.mark, "E-CALL-ROLES", f"{place}: {problem}", role=mine, suggestion=hint)


def _misfit(mine: Role, theirs: Role, protocol: str) -> str | None:
    """Return why who plays *mine* cannot play *theirs*, or None."""
    for role, whose in ((mine, "here"), (theirs, f"in {protocol}")):
        if role.many is not None or role.source is not None:
            return f"{role.name!r} {whose} is a set of agents, of which none can be meant"
    if mine.human != theirs.human:
        person, agent = (mine, theirs) if mine.human else (theirs, mine)
        return f"{person.name!r} is a person, {agent.name!r} an agent"
    return None


def _check_outcomes(step: Call, callee: Protocol, report: Report) -> None:
    """E-CALL-OUTCOMES: every way in which the callee can end leads on, and no other is named."""
    _handles(step, callee.outcomes, report)
    for branch in step.outcomes:
        if branch.name not in callee.outcomes:
            text = f"call: {callee.name} never ends as {branch.name!r}, but as {', '.join(callee.outcomes)}"
            hint = did_you_mean(branch.name, callee.outcomes) or "remove it"
            report.error(branch.mark, "E-CALL-OUTCOMES", text, suggestion=hint)


def _handles(step: Call, outcomes: tuple[str, ...], report: Report) -> bool:
    """Return whether *step* says what follows each of *outcomes*; tell where not."""
    handled = {branch.name for branch in step.outcomes}
    missing = [outcome for outcome in outcomes if outcome not in handled]
    if missing:
        text = f"call: {step.protocol}: nothing is said for when it ends as {' or '.join(map(repr, missing))}"
        hint = f"add '{', '.join(f'{one}: []' for one in missing)}' to its outcomes, or steps instead of []"
        report.error(step.mark, "E-CALL-OUTCOMES", text, suggestion=hint)
    return not missing


def check_call_points(spec: Spec, found: Projections, report: Report) -> None:
    """E-RACE: where a call may begin nobody else may speak, or neither would know who was first."""
    graph, names, told = found.graph, Names(spec, found.graph), set()
    if not graph.calls:
        return
    for point, edges in found.points.items():
        begun = sorted({graph.events[edge.event].call for edge in edges if edge.event != NO_EVENT} - {-1})
        for call in begun:
            site = graph.called[call]
            for edge in edges:
                exchange = edge.exchange
                if exchange is None or edge.event != NO_EVENT or exchange.beside(site) or (call, exchange.mark) in told:
                    continue
                told.add((call, exchange.mark))
                who, sent = names.role(exchange.sender), names.exchange(exchange)
                text = f"the call of {graph.calls[call].name} and {sent!r} may both come next: nobody says which"
                trace = Ways(names, found).to((point,))
                hint = f"let {who!r} say by a message that the call comes now"
                report.add(Diagnostic(site.mark, "E-RACE", text, role=who, trace=trace, suggestion=hint))
