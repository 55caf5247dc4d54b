"""Where a project keeps its state, and where its broker listens.

A project is a folder with ``.palaver/`` in it, found by walking up, as git finds ``.git``.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from bus.errors import FleetError

STATE_FOLDER = ".palaver"
SHIPPED = Path(__file__).parent.parent / "project"  # agents/ and specs/ inside the wheel
CHECKOUT = Path(__file__).parent.parent.parent  # agents/ and specs/ beside bus/
SOCKET_PATH_BYTES = 107  # sockaddr_un.sun_path of Linux without its final NUL (unix(7))


@dataclass(frozen=True, slots=True)
class Project:
    """A folder that palaver works in. Making the value touches no file."""

    root: Path

    @property
    def state_folder(self) -> Path:
        """``.palaver`` inside the root."""
        return self.root / STATE_FOLDER

    @property
    def logs(self) -> Path:
        """The folder of ``NAME.log`` files."""
        return self.state_folder / "logs"

    def prepare(self) -> None:
        """Make the state folder and its logs, readable by their owner alone; loosened rights are tightened.

        Raises:
            FleetError: The folder cannot be made, or belongs to somebody else.
        """
        for folder in (self.state_folder, self.logs):
            make_private(folder)

    def address(self, environment: Mapping[str, str] = os.environ) -> str:
        """Return where this project's broker listens: its own socket, or a short one where that is too long.

        The short path is derived from the root, so that every command finds the same one.
        """
        own = self.state_folder.resolve() / "bus.sock"
        if len(os.fsencode(own)) <= SOCKET_PATH_BYTES:
            return f"ipc://{own}"
        return f"ipc://{runtime_folder(environment) / _digest(own)}.sock"

    def prepare_address(self, environment: Mapping[str, str] = os.environ) -> str:
        """Return ``address()`` after making the folder that it needs.

        A socket outside the state folder is written down in ``.palaver/address``, for people.

        Raises:
            FleetError: The folder of the short path is not private to this user.
        """
        self.prepare()
        address = self.address(environment)
        note = self.state_folder / "address"
        if Path(address.removeprefix("ipc://")).parent == self.state_folder.resolve():
            note.unlink(missing_ok=True)
        else:
            make_private(runtime_folder(environment))
            note.write_text(f"{address}\n", encoding="utf-8")
        return address


def find_project(start: Path) -> Project:
    """Return the project around *start*: the nearest folder upwards with ``.palaver``, else *start*."""
    start = start.resolve()
    for folder in (start, *start.parents):
        if (folder / STATE_FOLDER).is_dir():
            return Project(folder)
    return Project(start)


def find_address(project: Project, given: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """Return the bus to use: *given* (``--bus``), else ``PALAVER_BUS``, else the project's own."""
    return given or environment.get("PALAVER_BUS") or project.address(environment)


def runtime_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder for sockets whose own path is too long for the kernel."""
    runtime = environment.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "palaver"
    return Path(tempfile.gettempdir()) / f"palaver-{os.getuid()}"


def make_private(folder: Path) -> None:
    """Make *folder* so that only its owner may enter; one that exists must be ours.

    Raises:
        FleetError: It cannot be made, is no folder, or belongs to somebody else (a shared temporary
            folder may hold one that another user made in advance).
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise FleetError(f"{folder}: expected a folder that can be made, got: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise FleetError(f"{folder}: expected a folder of yours, got one of user {found.st_uid}: remove or rename it")
    if stat.S_IMODE(found.st_mode) & 0o077:
        folder.chmod(0o700)


def _digest(path: Path) -> str:
    return blake2b(os.fsencode(path), digest_size=8).hexdigest()
