"""Starting, watching and ending the processes of a fleet; every decision is ``supervision``'s.

Broker and agents start side by side (agents wait for the broker on their own), which takes half the
time of one after the other. All run in groups of their own; nothing outlives the supervisor, however it ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress

import structlog

from bus.errors import PalaverError
from bus.fleet.file import BROKER, Fleet, FleetAgent
from bus.fleet.log_file import LogFile
from bus.fleet.notify import watch_inbox
from bus.fleet.process import Command, FleetProcess
from bus.fleet.project import Project
from bus.fleet.record import FleetLock, FleetRecord, ProcessRecord, write_record
from bus.fleet.supervision import (
    Effect,
    GivenUp,
    Happening,
    Kill,
    ProcessState,
    Restarting,
    RestartRule,
    Start,
    Supervision,
    Terminate,
)
from bus.sdk.client import Client

log = structlog.get_logger()

READY_WITHIN = 30.0  # registering takes a second or two; a spec or program that hangs is found out by then
POLL = 0.05  # seconds between two looks at who is registered, while somebody is starting
CANNOT_LAUNCH = frozenset({2, 78})  # exit codes of what would end the same way again: usage, EX_CONFIG
TELL_BROKER = 2.0  # seconds for the broker to hear that an agent was given up


class Supervisor:
    """One fleet of one project, from the first start until nothing runs.

    Attributes:
        supervision: The decisions, for looking at.
    """

    def __init__(
        self,
        project: Project,
        fleet: Fleet,
        *,
        address: str,
        with_broker: bool = True,
        show: Callable[[str, str], None],
        on_ready: Callable[[], None] = lambda: None,
        ready_within: float = READY_WITHIN,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            address: Where the broker listens.
            with_broker: Whether the broker is the fleet's own, or runs elsewhere.
            show: Called with (process name, line) for each line that a process prints.
            on_ready: Called once, when everything is registered.
            ready_within: Seconds after which a start that is not complete has failed.
        """
        self._project = project
        self._fleet = fleet
        self._address = address
        self._show = show
        self._on_ready = on_ready
        self._ready_within = ready_within
        self._agents: dict[str, tuple[FleetAgent, int]] = {
            name: (agent, instance) for name, agent, instance in fleet.processes()
        }
        rules = {name: agent.restart for name, (agent, _) in self._agents.items()}
        broker = {BROKER: RestartRule()} if with_broker else {}
        self.supervision = Supervision({**broker, **rules}, broker=BROKER if with_broker else None)
        self._processes: dict[str, FleetProcess] = {}
        self._restarts: dict[str, int] = {}
        self._seen_since: dict[str, float] = {}  # when the broker registered the instance we saw last
        self._happenings: asyncio.Queue[tuple[str, Happening, str]] = asyncio.Queue()
        self._somebody_starts = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_line: dict[str, str] = {}

    async def run(self) -> dict[str, str]:
        """Run the fleet until ``stop`` or a failure has ended it all.

        Returns:
            Why it failed, process → reason; empty after an orderly end.

        Raises:
            FleetError: A fleet already runs in this project.
        """
        loop = asyncio.get_running_loop()
        self._project.prepare()
        with FleetLock(self._project):
            watchers = [asyncio.create_task(self._watch_registrations())]
            if self._fleet.notify:
                watchers.append(asyncio.create_task(watch_inbox(self._address, self._fleet.notify)))
            late = loop.call_later(self._ready_within, self._name_the_late)
            try:
                self._carry_out(self.supervision.start())
                await self._supervise(late)
            finally:
                late.cancel()
                for process in self._processes.values():
                    process.kill()
                await _end([*watchers, *self._tasks])
        return self.supervision.failures

    def stop(self) -> None:
        """End the fleet in order; called a second time, at once. For signal handlers."""
        self._carry_out(self.supervision.stop(self._now()))
        self._happenings.put_nowait(("", Happening.STOP, ""))  # so that the loop looks up

    async def _supervise(self, late: asyncio.TimerHandle) -> None:
        supervision, was_ready = self.supervision, False
        while not supervision.is_over:
            due_at = supervision.next_due()
            timeout = None if due_at is None else max(0.0, due_at - self._now())
            with suppress(TimeoutError):
                name, happening, reason = await asyncio.wait_for(self._happenings.get(), timeout)
                if name:
                    self._carry_out(supervision.handle(name, happening, self._now(), reason))
            self._carry_out(supervision.tick(self._now()))
            self._write_record()
            if not was_ready and supervision.is_ready:
                was_ready = True
                late.cancel()
                log.info("fleet.started", fleet=self._fleet.name, n_processes=len(supervision.processes))
                self._on_ready()
        log.info("fleet.stopped", fleet=self._fleet.name)

    # -- effects --------------------------------------------------------------------------------------

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            process = self._processes.get(effect.name)
            if isinstance(effect, Start):
                self._spawn(self._attend(effect.name))
            elif isinstance(effect, Terminate):
                if process is not None:
                    process.terminate()
            elif isinstance(effect, Kill):
                if process is not None:
                    process.kill()
            elif isinstance(effect, Restarting):
                self._restarts[effect.name] = self._restarts.get(effect.name, 0) + 1
                count = f"{effect.deaths} of {effect.at_most}"
                log.warning("agent.restarted", agent=effect.name, deaths=count, pause=effect.pause)
            elif isinstance(effect, GivenUp):
                log.error("agent.gave_up", agent=effect.name, reason=effect.reason)
                self._spawn(self._tell_broker(effect.name))

    def _spawn(self, coroutine: object) -> None:
        task: asyncio.Task[None] = asyncio.create_task(coroutine)  # type: ignore[arg-type]  # our own coroutines
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attend(self, name: str) -> None:
        """Start the process and stay with it until it has ended."""
        output = LogFile(self._project.logs / f"{name}.log")
        try:
            process = await FleetProcess.start(self._command(name), lambda line: self._take_line(name, output, line))
        except OSError as error:
            output.close()
            self._happen(name, Happening.REFUSED, f"could not be started: {error}")
            return
        self._processes[name] = process
        state = self.supervision.processes[name].state
        if state is ProcessState.STOPPING:  # asked to end while it was being started
            process.terminate()
        elif state is ProcessState.GAVE_UP:
            process.kill()
        log.debug("agent.started", agent=name, pid=process.pid)
        self._somebody_starts.set()
        self._write_record()
        try:
            code = await process.wait()
        finally:
            output.close()
        self._processes.pop(name, None)
        log.debug("agent.exited", agent=name, code=code)
        happening = Happening.REFUSED if code in CANNOT_LAUNCH else Happening.DIED
        last = self._last_line.get(name, "no output").removeprefix("palaver: ")
        self._happen(name, happening, f"could not be launched: {last}")

    def _command(self, name: str) -> Command:
        # -P: a folder called `bus` in somebody's project must not hide ours.
        palaver = [sys.executable, "-P", "-m", "bus.cli"]
        if name == BROKER:
            modes = [word for name, mode in self._fleet.modes.items() for word in ("--mode", f"{name}={mode}")]
            return Command([*palaver, "broker", "--bus", self._address, "--lifeline", *modes], self._project.root)
        agent, instance = self._agents[name]
        arguments = ["launch", str(agent.program), "--name", agent.name, "--instance", str(instance)]
        environment = {**agent.environment, "PALAVER_AGENT_SETTINGS": json.dumps(dict(agent.settings))}
        return Command([*palaver, *arguments, "--bus", self._address, "--lifeline"], self._project.root, environment)

    async def _tell_broker(self, name: str) -> None:
        """Say that an agent will not come back, so that its conversations go on without it (RULES.md 12)."""
        if name == BROKER or name not in self._agents:
            return
        agent = self._agents[name][0].name
        others = [other for other, (one, _) in self._agents.items() if one.name == agent and other != name]
        if any(other in self._processes for other in others):
            return
        with suppress(PalaverError, TimeoutError):
            async with asyncio.timeout(TELL_BROKER), Client(self._address) as client:
                await client.query("gave-up", name=agent)

    # -- what happens ---------------------------------------------------------------------------------

    def _happen(self, name: str, happening: Happening, reason: str = "") -> None:
        self._happenings.put_nowait((name, happening, reason))

    def _name_the_late(self) -> None:
        for process in self.supervision.processes.values():
            if process.state is not ProcessState.REGISTERED:
                reason = f"not registered after {self._ready_within:g} s"
                self._happen(process.name, Happening.LATE, reason)

    async def _watch_registrations(self) -> None:
        """Tell which starting processes the broker knows; looks only while somebody is starting."""
        while True:
            await self._somebody_starts.wait()
            with suppress(PalaverError):
                async with Client(self._address) as client:
                    while self._starting():
                        self._take_status(await client.status())
                        await asyncio.sleep(POLL)
                    self._somebody_starts.clear()
            await asyncio.sleep(POLL)

    def _starting(self) -> list[str]:
        processes = self.supervision.processes.values()
        return [one.name for one in processes if one.state is ProcessState.STARTING and one.name in self._processes]

    def _take_status(self, status: dict[str, object]) -> None:
        starting = self._starting()
        if BROKER in starting:
            self._happen(BROKER, Happening.SEEN)
        agents = status["agents"]
        assert isinstance(agents, list)  # the broker's word: docs/wire.md
        since = {(one["name"], one["instance"]): float(one["since"]) for one in agents}
        for name in starting:
            agent, instance = self._agents.get(name, (None, 0))
            seen = since.get((agent.name, instance)) if agent is not None else None
            # An instance that was killed is listed until its lease ends: only a newer one is the new process.
            if seen is not None and seen != self._seen_since.get(name):
                self._seen_since[name] = seen
                self._happen(name, Happening.SEEN)

    def _take_line(self, name: str, output: LogFile, data: bytes) -> None:
        output.write(data)
        line = data.decode(errors="replace")
        if line.strip():
            self._last_line[name] = line
        self._show(name, line)

    def _write_record(self) -> None:
        processes = tuple(
            ProcessRecord(
                name=one.name,
                agent=self._agents[one.name][0].name if one.name in self._agents else one.name,
                pid=self._processes[one.name].pid if one.name in self._processes else None,
                state=str(one.state),
                restarts=self._restarts.get(one.name, 0),
            )
            for one in self.supervision.processes.values()
        )
        write_record(self._project, FleetRecord(self._fleet.name, os.getpid(), self._address, processes))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel the tasks and wait until they are gone."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
