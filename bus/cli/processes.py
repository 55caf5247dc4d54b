"""``palaver up``, ``down``, ``status``, ``logs``: the processes of a project."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from bus.cli.exit_codes import ExitCode
from bus.cli.fleet_view import FleetView
from bus.cli.options import BusOption, JsonOption, address_of, connect, here, run
from bus.cli.output import console, print_json, print_table, say, show_seconds
from bus.errors import BrokerUnavailable, FleetError
from bus.fleet.detach import start_detached, stop_fleet, tail, tell_ready
from bus.fleet.file import BROKER, Fleet, load_fleet, override_programs
from bus.fleet.project import Project
from bus.fleet.record import FleetRecord, is_running, read_record
from bus.fleet.supervisor import Supervisor
from bus.sdk.client import Client

FLEETS = ("specs/*.fleet.yaml", "*.fleet.yaml")
_LOOK_EVERY = 0.2  # seconds between two looks at a log that is followed


def up(
    fleet: Annotated[
        Path | None, typer.Argument(metavar="FLEET", help="A fleet file; else the project's only one.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Go on in the background; palaver down ends it.")
    ] = False,
    agent: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PROGRAM", help="Another program for an agent, or for a person.")
    ] = None,
    bus: Annotated[
        str | None, typer.Option("--bus", metavar="ADDRESS", help="Join a broker that runs elsewhere; none is started.")
    ] = None,
    ready_fd: Annotated[int | None, typer.Option("--ready-fd", hidden=True)] = None,
) -> None:
    """Start the broker and every agent of a fleet, restart what dies; Ctrl-C ends all in order.

    Exits with 5 when an agent died too often or could not be launched, with 130 after Ctrl-C.
    """
    project = here()
    path = fleet or _only_fleet(project)
    loaded = load_fleet(path, root=project.root)
    programs = dict(_program(text) for text in agent or [])
    loaded = override_programs(loaded, programs, root=project.root)
    project.prepare()
    if detach:
        _up_detached(project, loaded, path, agent or [], bus)
        return
    view = FleetView(console, [BROKER, *(name for name, _, _ in loaded.processes())])
    view.take_log()
    failures, interrupted = asyncio.run(_supervise(project, loaded, bus, view, ready_fd))
    for name, reason in failures.items():
        say(f"palaver: fleet {loaded.name} failed: {name}: {reason}; see palaver logs {name}")
    if failures:
        raise typer.Exit(ExitCode.FLEET_FAILED)
    if interrupted:
        raise typer.Exit(ExitCode.INTERRUPTED)


def down(as_json: JsonOption = False) -> None:
    """End this project's fleet in order: agents finish their turns, then the broker."""
    name = stop_fleet(here())
    if as_json:
        print_json({"fleet": name})
    else:
        print("no fleet runs here" if name is None else f"fleet {name} has ended")


def status(bus: BusOption = None, as_json: JsonOption = False) -> None:
    """Show the broker, the agents on the bus and this project's processes; exits with 3 without a broker."""
    project = here()
    record = read_record(project) if is_running(project) else None
    address = address_of(bus)
    try:
        facts = run(_status(connect(bus)))
    except BrokerUnavailable:
        if as_json:
            print_json({"address": address, "broker": None, "fleet": _fleet_facts(record)})
        elif record is not None:
            _print_processes(record)
        raise
    if as_json:
        print_json({"address": address, "broker": facts, "fleet": _fleet_facts(record)})
        return
    counts = f"{facts['n_live']} of {facts['n_conversations']} conversations live"
    if facts.get("n_violations"):
        counts += f", {facts['n_violations']} violations let pass"
    console.print(
        f"broker at {address}, up {show_seconds(facts['bus_time'])} in all, {counts}\n", markup=False, soft_wrap=True
    )
    pids = {} if record is None else {process.name: process for process in record.processes}
    agents = sorted((one for one in facts["agents"] if one["roles"]), key=lambda one: (one["name"], one["instance"]))
    several = {one["name"] for one in agents if one["instance"]}
    rows = (
        [
            f"{one['name']}.{one['instance']}" if one["name"] in several else one["name"],
            ", ".join(one["roles"]),
            _pid(pids, one["name"], one["instance"]),
            str(one["open_deliveries"]),
            show_seconds(facts["bus_time"] - one["since"]),
        ]
        for one in agents
    )
    print_table(["agent", "plays", "pid", "open", "registered for"], rows, empty="no agent is registered")
    if record is not None and any(process.state != "registered" for process in record.processes):
        console.print()
        _print_processes(record)


def logs(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="An agent, broker or fleet; else all.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines to begin with.")] = 50,
) -> None:
    """Show what the processes of this project printed."""
    project = here()
    known = {path.stem: path for path in sorted(project.logs.glob("*.log"))}
    if name is not None and name not in known:
        raise FleetError(f"expected the name of a process with a log ({', '.join(known) or 'none yet'}), got {name!r}")
    chosen = known if name is None else {name: known[name]}
    view = FleetView(console, list(chosen))
    for one, path in chosen.items():
        for line in tail(path, lines):
            view.show(one, line)
    if follow:
        _follow(chosen, view)


async def _supervise(
    project: Project, fleet: Fleet, bus: str | None, view: FleetView, ready_fd: int | None
) -> tuple[dict[str, str], bool]:
    """Run the fleet; return why it failed, and whether Ctrl-C ended it."""
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    interrupted = False

    def on_ready() -> None:
        n_agents = sum(1 for _ in fleet.processes())
        view.say(f"{fleet.name}: {n_agents} agents registered after {loop.time() - began_at:.1f} s", "green")
        for agent in fleet.agents:
            if agent.human and agent.program is None:
                view.say(f"{agent.name} is a person: palaver inbox, palaver answer")
        if ready_fd is not None:
            tell_ready(ready_fd)

    def stop(number: int) -> None:
        nonlocal interrupted
        interrupted = interrupted or number == signal.SIGINT
        view.say("stopping; once more ends it at once")
        supervisor.stop()

    supervisor = Supervisor(
        project,
        fleet,
        address=bus or project.prepare_address(),
        with_broker=bus is None,
        show=view.show,
        on_ready=on_ready,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    return await supervisor.run(), interrupted


def _up_detached(project: Project, fleet: Fleet, path: Path, programs: list[str], bus: str | None) -> None:
    if is_running(project):
        raise FleetError(f"{project.root}: a fleet already runs here: palaver status, palaver down")
    options = [word for program in programs for word in ("--agent", program)]
    if bus is not None:
        options += ["--bus", bus]
    command = [sys.executable, "-P", "-m", "bus.cli", "up", str(path.resolve()), *options]
    code = start_detached(project, command)
    if code is not None:
        for line in tail(project.logs / "fleet.log", 20):
            say(line)
        raise typer.Exit(code if code > 0 else ExitCode.FLEET_FAILED)
    print(f"fleet {fleet.name} is up: palaver status, palaver logs -f, palaver down")


def _only_fleet(project: Project) -> Path:
    found = [path for pattern in FLEETS for path in sorted(project.root.glob(pattern))]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(str(path.relative_to(project.root)) for path in found) or "none"
    raise typer.BadParameter(f"expected one fleet file in {project.root}, got {listed}: name it", param_hint="FLEET")


def _program(text: str) -> tuple[str, str]:
    name, separator, program = text.partition("=")
    if not separator or not name or not program:
        raise typer.BadParameter(f"expected NAME=PROGRAM, got {text!r}", param_hint="--agent")
    return name, program


async def _status(client: Client) -> dict[str, Any]:
    async with client:
        return await client.status()


def _pid(processes: dict[str, Any], name: str, instance: int) -> str:
    process = processes.get(f"{name}.{instance}") or (processes.get(name) if not instance else None)
    return str(process.pid) if process is not None and process.pid is not None else "–"


def _fleet_facts(record: FleetRecord | None) -> dict[str, object] | None:
    if record is None:
        return None
    processes = [
        {"name": one.name, "pid": one.pid, "state": one.state, "restarts": one.restarts} for one in record.processes
    ]
    return {"name": record.fleet, "pid": record.pid, "processes": processes}


def _print_processes(record: FleetRecord) -> None:
    rows = (
        [one.name, one.state, "–" if one.pid is None else str(one.pid), str(one.restarts)] for one in record.processes
    )
    print_table(["process", "state", "pid", "restarts"], rows, empty="no processes")


def _follow(paths: dict[str, Path], view: FleetView) -> None:
    """Show what is appended, through rotations, until Ctrl-C."""
    files = {name: path.open("rb") for name, path in paths.items()}
    for file in files.values():
        file.seek(0, 2)
    rests = dict.fromkeys(files, b"")
    while True:
        for name, path in paths.items():
            data = files[name].read()
            *complete, rests[name] = (rests[name] + data).split(b"\n")
            for line in complete:
                view.show(name, line.decode(errors="replace"))
            if not data and path.exists() and path.stat().st_ino != _inode(files[name].fileno()):
                files[name].close()
                files[name] = path.open("rb")
        time.sleep(_LOOK_EVERY)


def _inode(descriptor: int) -> int:
    return os.fstat(descriptor).st_ino
