"""Draw what one role may do as a Mermaid state diagram, from the role's machine."""

from __future__ import annotations

from collections.abc import Iterator

from bus.spec.draw import INDENT
from bus.spec.state_names import Step, deadline_of, is_over, machine_of, steps_of
from bus.spec.syntax import Spec
from bus.spec.tables import Machine, Tables

LEGEND = "!M to x: sends, ?M from y: receives, (…): the bus moves on"


def draw_states(spec: Spec, tables: Tables, role: str) -> str:
    """Return the machine of *role* as the text of a Mermaid ``stateDiagram-v2``.

    States bear the numbers that ``palaver tools --state`` takes, and the deadline that runs in them. A scope is
    a box; what cuts it short leaves the box, wherever the role stands in it. Moves between the same two states
    share an arrow. The same protocol always gives the same text.

    Raises:
        LookupError: The protocol has no such role.
    """
    return _Drawing(spec, tables, machine_of(spec, tables, role)).text()


class _Drawing:
    def __init__(self, spec: Spec, tables: Tables, machine: Machine) -> None:
        self._tables = tables
        self._machine = machine
        self._states = [state for state in range(len(machine.send)) if not is_over(machine, state)]
        self._steps = steps_of(spec, tables, machine)
        self._shared = self._leaving()

    def text(self) -> str:
        lines = ["stateDiagram-v2", f"{INDENT}%% {LEGEND}", *self._boxes(-1, INDENT)]
        lines.append(f"{INDENT}[*] --> s{self._machine.start}")
        labels: dict[tuple[str, str], list[str]] = {}
        for step in self._steps:
            target = f"s{step.target}" if step.target in self._states else "[*]"
            source = f"scope{step.scope}" if (step.scope, step.label) in self._shared else f"s{step.source}"
            told = labels.setdefault((source, target), [])
            if step.label not in told:
                told.append(step.label)
        lines += [f"{INDENT}{source} --> {target}: {'<br/>'.join(told)}" for (source, target), told in labels.items()]
        return "\n".join(lines) + "\n"

    def _leaving(self) -> set[tuple[int, str]]:
        """Return (scope, label) of the moves that every state of the scope has, all to one place outside of it."""
        found: dict[tuple[int, str], list[Step]] = {}
        for step in self._steps:
            if step.scope >= 0:
                found.setdefault((step.scope, step.label), []).append(step)
        return {
            (scope, label)
            for (scope, label), steps in found.items()
            if {step.source for step in steps} == set(self._inside(scope))
            and len({step.target for step in steps}) == 1
            and steps[0].target not in self._inside(scope)
        }

    def _inside(self, scope: int) -> list[int]:
        return [state for state in self._states if scope in self._machine.scopes[state]]

    def _boxes(self, around: int, indent: str) -> Iterator[str]:
        """Yield the declarations of the states whose innermost scope is *around*, then of the scopes in it."""
        for state in self._states:
            scopes = self._machine.scopes[state]
            if (scopes[-1] if scopes else -1) == around:
                deadline = deadline_of(self._tables, self._machine, state)
                yield f'{indent}state "{state}{f" ({deadline})" if deadline else ""}" as s{state}'
        for scope, table in enumerate(self._tables.scopes):
            if table.parent == around and self._inside(scope):
                yield f'{indent}state "{table.name}" as scope{scope} {{'
                yield from self._boxes(scope, indent + INDENT)
                yield f"{indent}}}"
