"""The fleet file: which programs are launched together, as values (DESIGN.md, "The fleet file").

Knows the form of the file. Whether a program exists is asked of ``program``; nothing is launched here.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from bus.errors import FleetError, ProgramError
from bus.fleet.program import Program, locate_program
from bus.fleet.supervision import RestartRule
from bus.spec.diagnostic import Report, did_you_mean
from bus.spec.loader import load_document
from bus.spec.mode import Mode
from bus.spec.node import MapNode, Node, Reader, ScalarNode, plain
from bus.spec.parse import PROTOCOL_NAME
from bus.spec.syntax import Mark

FORM = "E-FLEET"
NO_PROGRAM = "E-NO-PROGRAM"
BROKER = "broker"  # the name under which the fleet runs its broker
MAX_INSTANCES = 64
DEFAULT_RULE = RestartRule()

_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_AGENT_KEYS = ("program", "instances", "settings", "environment", "human", "restart")


@dataclass(frozen=True, slots=True)
class FleetAgent:
    """One agent of a fleet.

    Attributes:
        program: What it is launched from; None for a person, who has no process.
        settings: What ``agent.settings`` gives the program.
        environment: Variables on top of the supervisor's own.
        human: Whether a person plays its role, with or without a program in between.
    """

    mark: Mark
    name: str
    program: Program | None = None
    instances: int = 1
    settings: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    human: bool = False
    restart: RestartRule = DEFAULT_RULE


@dataclass(frozen=True, slots=True)
class Fleet:
    """The agents that are launched together.

    Attributes:
        modes: Protocol name → how strictly the broker holds it to its order; all others are enforced.
        notify: Command and arguments to run when something new waits in a person's inbox; empty: none.
    """

    name: str
    agents: tuple[FleetAgent, ...]
    notify: tuple[str, ...] = ()
    modes: Mapping[str, Mode] = field(default_factory=dict)

    def processes(self) -> Iterator[tuple[str, FleetAgent, int]]:
        """Yield (process name, agent, instance) of everything that is launched."""
        for agent in self.agents:
            if agent.program is None:
                continue
            for instance in range(agent.instances):
                yield (agent.name if agent.instances == 1 else f"{agent.name}.{instance}", agent, instance)


def load_fleet(path: Path, *, root: Path) -> Fleet:
    """Return the fleet that the file at *path* describes.

    Args:
        root: The project's folder; programs are looked for in it.

    Raises:
        SpecError: The file cannot be read or is wrong, or a program does not exist; all findings are told.
    """
    report = Report()
    fleet = _FleetReader(Reader(report, FORM), root).fleet(load_document(path))
    report.raise_errors()
    return fleet


def override_programs(fleet: Fleet, programs: Mapping[str, str], *, root: Path) -> Fleet:
    """Return *fleet* with other programs for some of its agents; a person gives way to the program.

    Raises:
        FleetError: The fleet has no agent of that name.
        ProgramError: The program does not exist.
    """
    names = [agent.name for agent in fleet.agents]
    for name in programs:
        if name not in names:
            hint = did_you_mean(name, names)
            raise FleetError(
                f"expected an agent of fleet {fleet.name} ({', '.join(names)}), got {name!r}"
                + (f"; {hint}" if hint else "")
            )
    return replace(
        fleet,
        agents=tuple(
            replace(agent, program=locate_program(programs[agent.name], root), human=False)
            if agent.name in programs
            else agent
            for agent in fleet.agents
        ),
    )


class _FleetReader:
    """Node → Fleet; every mistake becomes a diagnostic and reading goes on."""

    def __init__(self, read: Reader, root: Path) -> None:
        self._read = read
        self._root = root

    def fleet(self, document: Node) -> Fleet:
        read = self._read
        top = read.fields(document, "the file", ("fleet", "agents", "restart", "notify", "modes"), ("fleet", "agents"))
        name = self._name(top["fleet"], "fleet") if "fleet" in top else ""
        rule = self._restart(top["restart"], "restart", DEFAULT_RULE) if "restart" in top else DEFAULT_RULE
        agents: tuple[FleetAgent, ...] = ()
        if "agents" in top:
            entries = read.entries(top["agents"], "agents")
            if isinstance(top["agents"], MapNode) and not entries:
                read.wrong(top["agents"], "agents", "at least one agent")
            agents = tuple(self._agent(entry.mark, entry.key, entry.value, rule) for entry in entries)
        notify = self._command(top["notify"]) if "notify" in top else ()
        return Fleet(name, agents, notify, self._modes(top["modes"]) if "modes" in top else {})

    def _agent(self, mark: Mark, name: str, node: Node, rule: RestartRule) -> FleetAgent:
        read, where = self._read, f"agents.{name[:60]}"
        if not _NAME.fullmatch(name) or name == BROKER:
            taken = f"{BROKER!r} is the broker's own name" if name == BROKER else "lower-case letters, digits and '-'"
            read.report.error(mark, FORM, f"{where}: expected a name for an agent ({taken}), got {name[:60]!r}")
        if isinstance(node, ScalarNode) and isinstance(node.value, str):
            read.wrong(node, where, "a map", suggestion=f"write {{program: {node.value}}}")
            return FleetAgent(mark, name)
        keys = read.fields(node, where, _AGENT_KEYS)
        human = bool(read.boolean(keys["human"], f"{where}.human")) if "human" in keys else False
        if isinstance(node, MapNode) and "program" not in keys and not human:
            read.report.error(node.mark, FORM, f"{where}: expected 'program', or 'human: true' where a person plays it")
        instances = 1
        if "instances" in keys:
            instances = read.integer(keys["instances"], f"{where}.instances", least=1, most=MAX_INSTANCES) or 1
        settings = keys.get("settings")
        if settings is not None:
            read.entries(settings, f"{where}.settings")
        return FleetAgent(
            mark=mark,
            name=name,
            program=self._program(keys["program"], f"{where}.program") if "program" in keys else None,
            instances=instances,
            settings={entry.key: plain(entry.value) for entry in settings.entries}
            if isinstance(settings, MapNode)
            else {},
            environment=self._environment(keys["environment"], f"{where}.environment") if "environment" in keys else {},
            human=human,
            restart=self._restart(keys["restart"], f"{where}.restart", rule) if "restart" in keys else rule,
        )

    def _name(self, node: Node, where: str) -> str:
        return self._read.matching(node, where, _NAME, "a name (lower-case letters, digits and '-')") or ""

    def _program(self, node: Node, where: str) -> Program | None:
        text = self._read.text(node, where, "a path or a module name")
        if text is None:
            return None
        try:
            return locate_program(text, self._root)
        except ProgramError as error:
            self._read.report.error(node.mark, NO_PROGRAM, f"{where}: {error}")
            return None

    def _environment(self, node: Node, where: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for entry in self._read.entries(node, where):
            if not _VARIABLE.fullmatch(entry.key):
                self._read.report.error(
                    entry.mark,
                    FORM,
                    f"{where}: expected the name of an environment variable, got {entry.key[:60]!r}",
                )
            value = self._read.text(entry.value, f"{where}.{entry.key[:60]}")
            if value is not None:
                found[entry.key] = value
        return found

    def _restart(self, node: Node, where: str, default: RestartRule) -> RestartRule:
        keys = self._read.fields(node, where, ("at_most", "within"))
        at_most: int | None = default.at_most
        within: float | None = default.within
        if "at_most" in keys:
            at_most = self._read.integer(keys["at_most"], f"{where}.at_most", most=1000)
        if "within" in keys:
            within = self._read.duration(keys["within"], f"{where}.within")
            if within is not None and (within <= 0 or math.isinf(within)):
                self._read.wrong(keys["within"], f"{where}.within", "a duration above zero, not forever")
        return RestartRule(
            default.at_most if at_most is None else at_most, default.within if within is None else within
        )

    def _modes(self, node: Node) -> dict[str, Mode]:
        found: dict[str, Mode] = {}
        for entry in self._read.entries(node, "modes"):
            where = f"modes.{entry.key[:60]}"
            if not PROTOCOL_NAME.fullmatch(entry.key):
                text = f"modes: expected the name of a protocol, got {entry.key[:60]!r}"
                self._read.report.error(entry.mark, FORM, text)
            mode = self._read.text(entry.value, where, f"one of {', '.join(Mode)}")
            if mode in list(Mode):
                found[entry.key] = Mode(mode)
            elif mode is not None:
                self._read.wrong(entry.value, where, f"one of {', '.join(Mode)}")
        return found

    def _command(self, node: Node) -> tuple[str, ...]:
        text = self._read.text(node, "notify", "a command")
        try:
            words = tuple(shlex.split(text or ""))
        except ValueError:
            words = ()
        if text is not None and not words:
            self._read.wrong(node, "notify", "a command with balanced quotes")
        return words
