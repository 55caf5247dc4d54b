"""Logging as a launched agent has it."""

from collections.abc import Iterator

import pytest
import structlog

from bus.log import configure_logging


@pytest.fixture(autouse=True)
def plain_log() -> Iterator[None]:
    configure_logging("warning")
    yield
    structlog.reset_defaults()
