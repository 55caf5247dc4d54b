"""One agent in this process: load its program, run it until it is told to stop."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from bus.errors import PalaverError, ProgramError
from bus.fleet.program import AGENT, Program, locate_program
from bus.sdk.agent import Agent
from bus.settings import Settings


def launch_program(
    text: str,
    *,
    root: Path,
    bus: str,
    name: str | None = None,
    instance: int = 0,
    settings: Mapping[str, object] | None = None,
    numbers: Settings | None = None,
) -> None:
    """Run the agent of a program until SIGTERM or Ctrl-C.

    Args:
        text: The program, as people write it.
        root: The project's folder.
        bus: The broker's address.
        name: The agent's name on the bus, instead of its own.
        instance: Which of several agents of that name.
        settings: What ``agent.settings`` gives; left out, the environment says.
        numbers: The numbers of the bus; left out, the environment says.

    Raises:
        ProgramError: There is no such program, or it cannot be loaded.
        MissingHandler: The agent lacks a handler after which its role must speak.
        BrokerUnavailable: No broker answered.
    """
    agent = load_program(locate_program(text, root))
    agent.run(bus=bus, name=name, instance=instance, settings=settings, numbers=numbers)


def load_program(program: Program) -> Agent:
    """Run the program and return its agent.

    Raises:
        ProgramError: It cannot be imported or has no ``Agent`` called ``agent``.
        PalaverError: The program's own, e.g. a spec that it loads is wrong.
    """
    try:
        if program.module is not None:
            module = importlib.import_module(program.module)
        else:
            module = _load_file(program)
    except PalaverError:
        raise
    except (Exception, SystemExit) as error:
        place = _place(error, program)
        raise ProgramError(f"{place}: the program failed: {type(error).__name__}: {error}") from error
    return _agent_of(module, program)


def _load_file(program: Program) -> ModuleType:
    assert program.file is not None  # a Program has a file or a module
    name = f"palaver_program_{program.file.stem}"
    spec = importlib.util.spec_from_file_location(name, program.file)
    if spec is None or spec.loader is None:
        raise ProgramError(f"expected a Python file, got {program.text!r}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pydantic look their module up here
    spec.loader.exec_module(module)
    return module


def _agent_of(module: ModuleType, program: Program) -> Agent:
    agent: object = getattr(module, AGENT, None)
    if isinstance(agent, Agent):
        return agent
    others = sorted(name for name, value in vars(module).items() if isinstance(value, Agent))
    got = "nothing of that name" if agent is None else f"{type(agent).__name__!r}"
    hint = f": rename {others[0]!r}" if others else ": write agent = Agent(plays=…) at the top level"
    raise ProgramError(f"{program}: expected one Agent object called {AGENT!r}, got {got}{hint}")


def _place(error: BaseException, program: Program) -> str:
    """Return file:line of the innermost frame that is the program's own."""
    place, trace = str(program), error.__traceback__
    while trace is not None:
        if program.file is not None and trace.tb_frame.f_code.co_filename == str(program.file):
            place = f"{program}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
