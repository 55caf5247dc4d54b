"""What every test begins with."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog


@pytest.fixture(autouse=True)
def logging_is_not_handed_on() -> Iterator[None]:
    """Undo what a command run in this process set up: its log would go to a stream that is closed by then."""
    yield
    structlog.reset_defaults()


def pytest_sessionstart() -> None:
    """Refuse to test compiled modules that are older than their sources."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    package = Path(__file__).parent.parent / "bus"
    for compiled in package.rglob(f"*{suffix}"):
        source = compiled.with_name(compiled.name.removesuffix(suffix) + ".py")
        if not source.exists() or source.stat().st_mtime > compiled.stat().st_mtime:
            pytest.exit(f"{source} is newer than what was compiled from it: `make compile`, or `make pure`", 4)
