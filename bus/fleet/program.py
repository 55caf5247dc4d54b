"""Finding the program that an agent is launched from. Nothing of it is run; ``launch`` does that.

A program is a Python file, given by its path, or an importable module; it has one ``Agent`` called
``agent``. Files never become importable by name: a package called ``agents`` would hide other people's.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from bus.errors import ProgramError
from bus.fleet.project import CHECKOUT, SHIPPED

AGENT = "agent"  # the name of the Agent in its program, and of the module in a package


@dataclass(frozen=True, slots=True)
class Program:
    """A program that exists. Exactly one of *file* and *module* is given.

    Attributes:
        text: As people wrote it.
    """

    text: str
    file: Path | None = None
    module: str | None = None

    def __str__(self) -> str:
        return self.text


def locate_program(text: str, root: Path) -> Program:
    """Return the program that *text* names, without running any of it.

    A path is looked for in *root*, then among the agents that palaver ships. A name without slash
    and ``.py`` is a module; of a package the module ``agent`` in it is the program.

    Raises:
        ProgramError: There is none; the text says where it was looked for.
    """
    if "/" in text or text.endswith(".py"):
        tried = [root / text, SHIPPED / text, CHECKOUT / text]
        for file in tried:
            if file.is_file():
                return Program(text, file=file.resolve())
        raise ProgramError(f"expected a program, got {text!r}, which does not exist (looked for {tried[0]})")
    if not all(part.isidentifier() for part in text.split(".")):
        raise ProgramError(f"expected the path of a Python file or a module name, got {text!r}")
    _make_importable(root)
    try:
        module = _module_name(text)
    except ImportError:
        module = None
    if module is None:
        hint = f"; did you mean {text + '.py'!r}?" if (root / f"{text}.py").is_file() else ""
        raise ProgramError(
            f"expected a program, got {text!r}, which is neither a file, nor a module, "
            f"nor a package with a module 'agent'{hint}"
        )
    return Program(text, module=module)


def _module_name(text: str) -> str | None:
    """Return the module to import, or None where there is none. Only a dotted name's parents are run."""
    found = importlib.util.find_spec(text)
    if found is None:
        return None
    if found.submodule_search_locations is None:
        return text
    inner = f"{text}.{AGENT}"
    return inner if importlib.util.find_spec(inner) is not None else None


def _make_importable(root: Path) -> None:
    """Let modules of the project be imported; last, so that it hides nothing."""
    if str(root) not in sys.path:
        sys.path.append(str(root))
