"""Runs a broker process of its own over a real socket, for as long as a test needs it."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from speaker import PATIENCE

_PROGRAM = """
import sys
from pathlib import Path
from bus.engine.server import serve
from bus.log import configure_logging
from bus.settings import Settings
configure_logging("info")
sys.exit(serve(sys.argv[1], Path(sys.argv[2]), Settings()))
"""


class BrokerProcess:
    """One broker process on a state folder; its log lines go to a file beside it."""

    def __init__(self, folder: Path, *, address: str | None = None, max_file_bytes: int | None = None) -> None:
        self.folder = folder
        self.address = address or f"ipc://{folder / 'bus.sock'}"
        self.log = folder.parent / f"{folder.name}.log"

        def limit() -> None:
            if max_file_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))

        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, self.address, str(folder)],
                stderr=log,
                preexec_fn=limit,
            )

    def wait_ready(self) -> None:
        """Wait until it has written down that it serves."""
        end = time.monotonic() + PATIENCE
        while self.presence() is None or self.presence().get("pid") != self.process.pid:  # type: ignore[union-attr]  # checked
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            os.sched_yield()

    def presence(self) -> dict[str, object] | None:
        """Return what broker.json says, or None."""
        try:
            facts: dict[str, object] = json.loads((self.folder / "broker.json").read_text())
        except FileNotFoundError:
            return None
        return facts

    def wait(self) -> int:
        """Wait until the process has ended and return its exit code."""
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """Kill it as a power cut would, unless it has ended."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.wait()
