"""Options that several commands share, and what they mean."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import typer

from bus.errors import BrokerUnavailable
from bus.fleet.project import Project, find_address, find_project
from bus.fleet.record import is_running
from bus.sdk.client import Client

T = TypeVar("T")

BusOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--bus", metavar="ADDRESS", help="The broker's address; else PALAVER_BUS, else this project's own."),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
TimeoutOption: TypeAlias = Annotated[
    float | None, typer.Option("--timeout", metavar="SECONDS", help="Give up waiting after this long.")
]

OwnerKeyOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--owner-key",
        metavar="KEY",
        envvar="PALAVER_OWNER_KEY",
        show_envvar=False,
        help="Whose the run is: only who says the key sees and steers it. Else PALAVER_OWNER_KEY.",
    ),
]


def here() -> Project:
    """Return the project around the working directory."""
    return find_project(Path.cwd())


def address_of(bus: str | None) -> str:
    """Return the address that ``--bus`` and the surroundings mean."""
    return find_address(here(), bus)


def connect(bus: str | None, *, name: str | None = None) -> Client:
    """Return a client of the bus that ``--bus`` and the surroundings mean.

    Raises:
        BrokerUnavailable: There is not even a socket and nothing is starting: no use waiting.
    """
    project = here()
    address = find_address(project, bus)
    path = address.removeprefix("ipc://")
    if path != address and not Path(path).exists() and not is_running(project):
        raise BrokerUnavailable(
            f"no broker listens at {address}: start one with `palaver up`, or name another with --bus or PALAVER_BUS"
        )
    return Client(address, name=name)


def run(main: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
    """Run *main* on a loop of its own.

    Raises:
        TimeoutError: It was not done after *timeout* seconds.
    """

    async def limited() -> T:
        async with asyncio.timeout(timeout):
            return await main

    return asyncio.run(limited())
