"""Holds the layer table of docs/design.md: imports go down, never up or sideways, and there are no cycles."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GROUND = {"bus.errors", "bus.clock", "bus.ids", "bus.log", "bus.settings"}

# folder or module → what of ours it may import (itself included); the longest matching name counts
TABLE: dict[str, set[str]] = {
    **{module: set() for module in GROUND},
    "bus.spec": {*GROUND, "bus.spec"},
    "bus.wire": {*GROUND, "bus.spec", "bus.wire"},
    "bus.broker": {*GROUND, "bus.spec", "bus.wire", "bus.broker"},
    "bus.engine": {*GROUND, "bus.spec", "bus.wire", "bus.broker", "bus.engine"},
    "bus.sdk": {*GROUND, "bus.spec", "bus.wire", "bus.broker.conversation", "bus.engine", "bus.sdk"},
    "bus.testing": {*GROUND, "bus.spec", "bus.wire", "bus.broker", "bus.engine", "bus.sdk", "bus.testing"},
    "bus.fleet": {*GROUND, "bus.spec", "bus.wire", "bus.engine", "bus.sdk", "bus.fleet"},
    "bus.cli": {"bus", "training_service.sections", "training_service.request"},
    "bus": {*GROUND, "bus.spec", "bus.sdk"},
    "training_service": {"training_service"},
    "training_service.agent": {"bus", "training_service"},
    "training_service.openai": {"bus", "training_service"},
    "agents": {"bus"},
}
DOORS = {  # module of others → the only modules of ours that may import it
    "zmq": {"bus.engine.zeromq"},
    "msgpack": {"bus.wire.codec"},
    "yaml": {"bus.spec.loader"},
    "sqlite3": {"bus.engine.journal"},
}


def modules() -> Iterator[tuple[str, Path]]:
    for folder in ("bus", "training_service", "agents"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


def imports(name: str) -> set[str]:
    """Return every module that *name* imports, type-only and in-function imports included."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            assert node.module is not None
            assert all(alias.name != "*" for alias in node.names), f"{name}: star import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
    return found


def is_ours(module: str) -> bool:
    return module.split(".")[0] in {"bus", "training_service", "agents"}


def allowed(name: str) -> set[str]:
    return TABLE[max((key for key in TABLE if name == key or name.startswith(key + ".")), key=len)]


def covers(permission: str, module: str) -> bool:
    return module == permission or module.startswith(permission + ".")


@pytest.mark.parametrize("name", MODULES)
def test_module_imports_only_what_its_layer_may(name: str) -> None:
    permitted = allowed(name)

    upwards = {
        module for module in imports(name) if is_ours(module) and not any(covers(one, module) for one in permitted)
    }

    assert not upwards


@pytest.mark.parametrize(("foreign", "doors"), DOORS.items())
def test_foreign_library_has_one_door(foreign: str, doors: set[str]) -> None:
    users = {name for name in MODULES if any(covers(foreign, module) for module in imports(name))}

    assert users == doors


def test_torch_is_loaded_by_the_child_process_only() -> None:
    heavy = ("torch", "transformers", "peft")
    users = {name for name in MODULES if any(covers(one, module) for one in heavy for module in imports(name))}
    reachable, frontier = set(), {"training_service.agent", *(name for name in MODULES if name.startswith("bus"))}
    while frontier:
        name = frontier.pop()
        reachable.add(name)
        frontier |= {module for module in imports(name) if module in MODULES} - reachable

    assert not users & reachable


def test_the_map_of_the_training_service_names_every_module_once() -> None:
    text = ast.get_docstring(ast.parse(MODULES["training_service"].read_text())) or ""
    named = re.findall(r"\w+", " ".join(re.findall(r"(?<=: )[\w, ]+", text.partition("\n\n")[2])))
    there = [name.removeprefix("training_service.") for name in MODULES if name.startswith("training_service.")]

    assert sorted(named) == sorted(there)


def test_there_are_no_import_cycles() -> None:
    graph = {name: {module for module in imports(name) if module in MODULES and module != name} for name in MODULES}
    while True:
        leaves = {name for name, below in graph.items() if not below & graph.keys()}
        if not leaves:
            break
        graph = {name: below for name, below in graph.items() if name not in leaves}

    assert not graph


def test_no_module_is_longer_than_a_sitting() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}

    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_no_function_is_longer_than_sixty_lines() -> None:
    long = {}
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                length = node.end_lineno - node.lineno + 1
                if length > 60:
                    long[f"{name}.{node.name}"] = length

    assert long == {}
