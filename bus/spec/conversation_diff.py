"""Whether agents of one version can take part in conversations of another: subtyping, role by role.

LANGUAGE.md, "Evolution": old fits new iff from (start, start) for every reachable pair of states
sends(old) ⊆ sends(new), receives(new) ⊆ receives(old), and where new waits for the role to speak, old
speaks. Pairs are searched breadth first, so what is found first has the shortest trace; each pair is
looked at once: O(|old|·|new|).

The two versions number everything differently, so all is compared by name. What is not obvious:

- An interrupt is a send for the role that may raise it and a receive for every other one.
- An END is a receive of its outcome. ``failed`` and ``canceled`` may come at any time (RULES.md 2), so
  everybody knows them, and what an agent does where one of them is due does not matter.
- Any other bus event (a missed deadline, a loop's ``max``, a timeout, a lost or failed role) that old does
  not know leaves it where it is, as in the tables. It fits unless the role would have to speak then:
  nothing told it to.
- An at-most-once message never steps a state (RULES.md 4), and nobody waits for one.
- Only ordinary messages count as speaking: nobody has to raise an interrupt.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TypeAlias

from bus.spec.change import Misfit
from bus.spec.syntax import Delivery, End, Loop, Mark, Scope, Spec
from bus.spec.tables import BusEvent, EventKind
from bus.spec.version import Version
from bus.spec.walk import sends, steps

_ANY_TIME = frozenset({"failed", "canceled"})

_Sent: TypeAlias = tuple[str, tuple[str, ...]]  # (message, receivers)
_Received: TypeAlias = tuple[str, str, bool]  # (sender, message, is the role addressed?)
_Told: TypeAlias = tuple[EventKind, str, str]  # (kind, late or lost role or "", loop, scope or step)
_Pair: TypeAlias = tuple[int, int]  # (state of old, state of new)


@dataclass(frozen=True, slots=True)
class _State:
    """What a role may do and be told in one state, by name; the values are the states that follow.

    Attributes:
        ends: Outcomes with which the bus may end the conversation here.
        speaks: Ordinary messages that the role may send here.
        waits: The conversation does not go on here before the role has spoken.
        fails: The bus ends the conversation here, at once, in a way that everybody must expect at any time.
    """

    sent: dict[_Sent, int]
    received: dict[_Received, int]
    told: dict[_Told, int]
    ends: frozenset[str]
    speaks: tuple[_Sent, ...]
    waits: bool
    fails: bool


@dataclass(slots=True)
class Meeting:
    """What comes of agents of one version in conversations of another, for one role.

    Attributes:
        misfits: Why they do not fit, the one with the shortest trace first, each once.
        sent: Message types that they send there → the shortest trace to the first of them.
        received: Message types that they are sent there → likewise.
    """

    misfits: list[Misfit] = field(default_factory=list)
    sent: dict[str, tuple[str, ...]] = field(default_factory=dict)
    received: dict[str, tuple[str, ...]] = field(default_factory=dict)


def meet(old: Version, new: Version, role: str) -> Meeting:
    """Return what comes of *role*'s agents of *old* in conversations of *new*; both have the role."""
    return _Search(_Names(old, role), _Names(new, role)).run()


class _Names:
    """One role's machine in one version, said in names."""

    def __init__(self, version: Version, role: str) -> None:
        self.spec = version.spec
        self.role = role
        self._version = version
        self._tables = version.tables
        self._roles = version.roles
        self._messages = version.messages
        self._index = self._roles.index(role)
        self._machine = self._tables.machines[self._index]
        self.start = self._machine.start
        self._raised: dict[int, tuple[int, int, int]] = {}  # INTERRUPT event → (sender, type, address)
        self._addresses: dict[tuple[str, str], int] = {}  # (sender, message) → address, one that has the role if any
        for machine in self._tables.machines:
            for moves in machine.send:
                for (type, address), move in moves.items():
                    if move.interrupt >= 0:
                        self._raised[move.interrupt] = machine.role, type, address
                    key = self._roles[machine.role], self._messages[type]
                    if self._index in self._tables.addresses[address]:
                        self._addresses[key] = address
                    else:
                        self._addresses.setdefault(key, address)
        self._states: dict[int, _State] = {}

    def state(self, number: int) -> _State:
        """Return what the role may do in the state called *number*."""
        if number not in self._states:
            self._states[number] = self._name(number)
        return self._states[number]

    def _name(self, number: int) -> _State:
        machine = self._machine
        sent: dict[_Sent, int] = {}
        speaks = []
        for (type, address), move in machine.send[number].items():
            label = self._messages[type], self._receivers(address)
            is_lossy = self._version.delivery(type) is Delivery.AT_MOST_ONCE
            sent[label] = number if is_lossy else move.next
            if move.interrupt < 0 and not is_lossy:
                speaks.append(label)
        received: dict[_Received, int] = {}
        for (sender, type), move in machine.receive[number].items():
            is_lossy = self._version.delivery(type) is Delivery.AT_MOST_ONCE
            received[self._roles[sender], self._messages[type], True] = number if is_lossy else move.next
        told: dict[_Told, int] = {}
        ends: set[str] = set()
        for event, after in machine.bus[number].items():
            fact = self._tables.events[event]
            if fact.kind is EventKind.END:
                ends.add(fact.outcome or "")
            elif fact.kind is EventKind.INTERRUPT:
                sender, type, address = self._raised[event]
                if sender != self._index:
                    addressed = self._index in self._tables.addresses[address]
                    received.setdefault((self._roles[sender], self._messages[type], addressed), after)
            else:
                told[self._told(fact)] = after
        fails = bool(ends) and ends <= _ANY_TIME and not speaks and not machine.receive[number]
        waits = bool(speaks) and not ends
        return _State(sent, received, told, frozenset(ends), tuple(sorted(speaks)), waits, fails)

    def _told(self, event: BusEvent) -> _Told:
        return event.kind, self._roles[event.role] if event.role >= 0 else "", event.step

    def _receivers(self, address: int) -> tuple[str, ...]:
        return tuple(sorted(self._roles[role] for role in self._tables.addresses[address]))

    # -- words ----------------------------------------------------------------------------------------

    def say_sent(self, label: _Sent) -> str:
        """Return ``role -> b: M``."""
        return f"{self.role} -> {', '.join(label[1])}: {label[0]}"

    def say_received(self, label: _Received) -> str:
        """Return ``a -> role: M``, with every receiver."""
        sender, message, _ = label
        return f"{sender} -> {', '.join(self._receivers(self._addresses[sender, message]))}: {message}"

    def place(self, sender: str, message: str) -> Mark:
        """Return where *sender* sends *message*."""
        found = (one.mark for one in sends(self.spec.conversation) if (one.sender, one.message) == (sender, message))
        return next(found, self.spec.mark)


class _Search:
    """The search over pairs of states."""

    def __init__(self, old: _Names, new: _Names) -> None:
        self._old = old
        self._new = new
        self._before: dict[_Pair, tuple[_Pair, str] | None] = {}
        self._waiting: deque[_Pair] = deque()
        self._found = Meeting()
        self._seen: set[object] = set()  # what was found wrong already

    def run(self) -> Meeting:
        start = (self._old.start, self._new.start)
        self._before[start] = None
        self._waiting.append(start)
        while self._waiting:
            self._look_at(self._waiting.popleft())
        return self._found

    def _look_at(self, pair: _Pair) -> None:
        old, new = self._old.state(pair[0]), self._new.state(pair[1])
        if new.fails:
            return
        self._send_all(pair, old, new)
        for received in sorted(new.received):
            self._receive(pair, old, new, received)
        for outcome in sorted(new.ends - old.ends - _ANY_TIME):
            step = f"the bus: {outcome}.end"
            reason = f"is not ready for the conversation to end as {outcome!r} here"
            self._wrong("order-end", reason, pair, step, _place_of_end(self._new.spec, outcome), None)
        for told, after in new.told.items():
            self._tell(pair, old, new, told, after)
        if new.waits and not old.speaks:
            words = " or ".join(self._new.say_sent(label) for label in new.speaks)
            message = new.speaks[0][0]
            mark = self._new.place(self._new.role, message)
            self._wrong("order-silent", f"does not send {words}, which is waited for", pair, None, mark, message)

    def _send_all(self, pair: _Pair, old: _State, new: _State) -> None:
        wrong = [label for label in sorted(old.sent) if label not in new.sent]
        if len(wrong) > 1 and not any(label in new.sent for label in old.speaks):
            words = ", ".join(message for message, _ in wrong)
            self._send_wrong(pair, wrong[0], f"may speak ({words}), and it is not its turn here")
            self._seen.update(("order-sends", self._old.say_sent(label)) for label in wrong)
        else:
            for label in wrong:
                self._send_wrong(pair, label, f"may send {self._old.say_sent(label)}, which is not allowed here")
        for label in sorted(old.sent):
            if label in new.sent:
                step = self._old.say_sent(label)
                if label[0] not in self._found.sent:
                    self._found.sent[label[0]] = (*self._trace(pair), step)
                self._go(pair, (old.sent[label], new.sent[label]), step)

    def _send_wrong(self, pair: _Pair, label: _Sent, reason: str) -> None:
        mark = self._old.place(self._old.role, label[0])
        self._wrong("order-sends", reason, pair, self._old.say_sent(label), mark, label[0])

    def _receive(self, pair: _Pair, old: _State, new: _State, label: _Received) -> None:
        step = self._new.say_received(label)
        if label not in old.received:
            mark = self._new.place(label[0], label[1])
            self._wrong("order-receives", f"cannot take {step} here", pair, step, mark, label[1])
            return
        if label[2] and label[1] not in self._found.received:
            self._found.received[label[1]] = (*self._trace(pair), step)
        self._go(pair, (old.received[label], new.received[label]), step)

    def _tell(self, pair: _Pair, old: _State, new: _State, told: _Told, after: int) -> None:
        """Follow a bus event that ends nothing."""
        kind, _, place = told
        step = f"the bus: {place}.{kind}"
        known = _same_event(told, old.told, new.told)
        if known is not None:
            self._go(pair, (old.told[known], after), step)
            return
        behind = self._new.state(after)
        if after != pair[1] and behind.waits:
            words = " or ".join(self._new.say_sent(label) for label in behind.speaks)
            reason = f"does not know {step}, after which it must send {words}"
            mark = _place_of_step(self._new.spec, place)
            self._wrong("order-silent", reason, pair, step, mark, behind.speaks[0][0])
            return
        self._go(pair, (pair[0], after), step)

    def _go(self, pair: _Pair, following: _Pair, step: str) -> None:
        if following not in self._before:
            self._before[following] = (pair, step)
            self._waiting.append(following)

    def _wrong(self, rule: str, reason: str, pair: _Pair, step: str | None, mark: Mark, message: str | None) -> None:
        about = (rule, step or reason)
        if about not in self._seen:
            self._seen.add(about)
            trace = self._trace(pair) if step is None else (*self._trace(pair), step)
            self._found.misfits.append(Misfit(rule, reason, trace, mark, message))

    def _trace(self, pair: _Pair) -> tuple[str, ...]:
        path = []
        came = self._before[pair]
        while came is not None:
            pair, step = came
            path.append(step)
            came = self._before[pair]
        return tuple(reversed(path))


def _same_event(told: _Told, known: dict[_Told, int], beside: dict[_Told, int]) -> _Told | None:
    """Return the event of *known* that is *told*; where only the place has another name, the only one of its kind.

    Args:
        beside: The events among which *told* stands.
    """
    if told in known:
        return told
    alike = [one for one in known if one[:2] == told[:2] and one not in beside]
    rivals = [one for one in beside if one[:2] == told[:2] and one not in known]
    return alike[0] if len(alike) == 1 and len(rivals) == 1 else None


def _place_of_end(spec: Spec, outcome: str) -> Mark:
    found = (step.mark for step in steps(spec.conversation) if isinstance(step, End) and step.outcome == outcome)
    return next(found, spec.mark)


def _place_of_step(spec: Spec, name: str) -> Mark:
    found = (step.mark for step in steps(spec.conversation) if isinstance(step, Loop | Scope) and step.name == name)
    return next(found, spec.mark)
