"""Where the bus is, for a program that was not told."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from bus.errors import BrokerUnavailable

BUS_VARIABLE = "PALAVER_BUS"
_STATE_FOLDER = ".palaver"


def find_bus(environment: Mapping[str, str] = os.environ, folder: Path | None = None) -> str:
    """Return the address of the bus: ``PALAVER_BUS``, else that of the nearest project upwards.

    Args:
        folder: Where to begin; the present folder if left out.

    Raises:
        BrokerUnavailable: Neither is there.
    """
    given = environment.get(BUS_VARIABLE)
    if given:
        return given
    start = (folder or Path()).resolve()
    for parent in (start, *start.parents):
        state_folder = parent / _STATE_FOLDER
        if state_folder.is_dir():
            return _running(state_folder) or f"ipc://{state_folder / 'bus.sock'}"
    raise BrokerUnavailable(
        f"expected a project (a folder with {_STATE_FOLDER}/) in or above {start}: start one with `palaver up`, "
        f"or name a bus with {BUS_VARIABLE}"
    )


def _running(state_folder: Path) -> str | None:
    """Return what the project's broker wrote down about itself, or None."""
    try:
        facts = json.loads((state_folder / "broker.json").read_text(encoding="utf-8"))
        address = facts["address"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return address if isinstance(address, str) else None
