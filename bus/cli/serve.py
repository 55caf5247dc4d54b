"""``palaver serve``: the OpenAI API over the training service."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from bus.cli.options import BusOption, address_of
from bus.errors import PalaverError


class NotInstalled(PalaverError):
    """Raised when a command needs packages that are not installed."""

    code = "not-installed"


def serve(
    host: Annotated[
        str, typer.Option(help="Where to listen; another address than loopback needs --keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    keys: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Bearer keys, one a line; every request must have one.")
    ] = None,
    state: Annotated[
        Path, typer.Option(metavar="DIR", help="Where files and jobs are kept; the trainer must be allowed to read it.")
    ] = Path(".palaver/openai"),
    model: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A base model that may be asked for; tiny-gemma3 without.")
    ] = None,
    bus: BusOption = None,
) -> None:
    """Let clients of the OpenAI API train and chat: models, chat completions, files, fine-tuning jobs."""
    for package in ("starlette", "uvicorn", "python_multipart"):
        if importlib.util.find_spec(package) is None:
            raise NotInstalled(f"expected the package {package}, which is not installed: pip install 'palaver[serve]'")
    command = [sys.executable, "-m", "training_service.openai", "--host", host, "--port", str(port)]
    command += ["--state", str(state), "--bus", address_of(bus)]
    command += ["--keys", str(keys)] if keys is not None else []
    for name in model or []:
        command += ["--model", name]
    os.execv(sys.executable, command)
