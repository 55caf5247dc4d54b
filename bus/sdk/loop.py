"""The event loop of processes that are ours from end to end: uvloop where it is installed, asyncio's own elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run *main* to its end on a loop of its own and return its result; as ``asyncio.run``."""
    try:
        import uvloop  # loaded only where a loop is wanted: `import bus` stays cheap
    except ImportError:
        return asyncio.run(main)
    result: T = uvloop.run(main)
    return result
