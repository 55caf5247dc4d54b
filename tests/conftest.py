"""What every test begins with."""

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def logging_is_not_handed_on() -> Iterator[None]:
    """Undo what a command run in this process set up: its log would go to a stream that is closed by then."""
    yield
    structlog.reset_defaults()
