"""Loads the shipped programs as a launch does: by path, never by the name of a package."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def program(request: pytest.FixtureRequest) -> Callable[[str], ModuleType]:
    """Return a function that loads ``agents/NAME.py`` afresh, so that no test sees another's settings."""

    def load(name: str) -> ModuleType:
        path = ROOT / "agents" / f"{name}.py"
        module_name = f"program_{name}"
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # dataclasses look their module up
        request.addfinalizer(lambda: sys.modules.pop(module_name, None))
        spec.loader.exec_module(module)
        return module

    return load
