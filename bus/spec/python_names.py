"""Names in generated Python: those of a spec, those made from them, and what is imported, none of them twice."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bus.spec.python_text import WIDTH, bracketed

_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def snake(name: str) -> str:
    """Return ``TrainFailed`` as ``train_failed``."""
    return _WORD.sub("_", name).lower()


def pascal(name: str) -> str:
    """Return ``task-runner`` as ``TaskRunner``."""
    return "".join(part[:1].upper() + part[1:] for part in re.split("[-_]", name))


class Names:
    """The names of one module.

    Args:
        declared: Names that the spec gives to classes; they stay as they are.
    """

    def __init__(self, declared: Iterable[str]) -> None:
        self._declared = frozenset(declared)
        self._taken = set(self._declared)
        self._imported: set[tuple[str, str, str]] = set()  # (module, name, name here)

    def new(self, name: str) -> str:
        """Return *name*, with ``_`` behind as often as it is taken, and take it."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def use(self, module: str, name: str, *, hidden: bool = False) -> str:
        """Return the name under which *name* of *module* is imported.

        Args:
            hidden: Something around the place of use is called so; like what the spec calls so, it gets a ``_``.
        """
        local = f"_{name}" if hidden or name in self._declared else name
        self._imported.add((module, name, local))
        self._taken.add(local)
        return local

    def imports(self, own: str) -> list[str]:
        """Return the import statements, sorted as linters want them; those of the package *own* come last."""
        modules = sorted({module for module, _, _ in self._imported})
        standard = [module for module in modules if module.partition(".")[0] != own]
        ours = [module for module in modules if module not in standard]
        lines = [line for module in standard for line in self._statement(module)]
        return [*lines, "", *(line for module in ours for line in self._statement(module))]

    def _statement(self, module: str) -> list[str]:
        pairs = [(name, local) for one, name, local in self._imported if one == module]
        plain = sorted((name for name, local in pairs if name == local), key=_rank)
        aliased = sorted(((name, local) for name, local in pairs if name != local), key=lambda pair: _rank(pair[0]))
        lines = [f"from {module} import {name} as {local}" for name, local in aliased]
        return [*(_imported(module, plain) if plain else []), *lines]


def _imported(module: str, names: list[str]) -> list[str]:
    line = f"from {module} import {', '.join(names)}"
    return [line] if len(line) <= WIDTH else bracketed(f"from {module} import (", names, ")", "")


def _rank(name: str) -> tuple[int, str]:
    """Return the order of imported names: constants, classes, the rest."""
    return 0 if name.isupper() else 1 if name[0].isupper() else 2, name
