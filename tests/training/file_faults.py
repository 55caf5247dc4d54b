"""A disk that is full, and a process that is killed before it changes a file, for the training tests; no torch."""

import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "shutil.rmtree")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@contextmanager
def files_no_larger_than(n_bytes: int) -> Iterator[None]:
    """Have the kernel refuse to write more into a file, as it does where a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def kill_before(at: int, folder: Path) -> None:
    """Let this process kill itself before its *at*-th change of a file under *folder*; it cannot be taken back."""
    n_changes = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal n_changes
        is_change = event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING)
        if is_change and str(folder) in str(arguments[:2]):
            n_changes += 1
            if n_changes == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def in_a_copy(work: Callable[[], None]) -> int | None:
    """Do *work* in a forked copy of this process, of one thread; return by which signal it was killed, or None."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            work()
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status <= 0, f"expected the copy to end well or be killed, it ended with {status}"
    return -status or None


def stages(folder: Path, work: Callable[[], object]) -> Iterator[int | None]:
    """Do *work* in a copy of this process that is killed before its first change under *folder*, then the second …

    Gives by which signal the copy ended; None, for a copy that was not killed, is the last. After each the folder is
    put back as it was.
    """
    kept = folder.with_name(f"{folder.name}-kept")
    shutil.copytree(folder, kept)

    def work_until(at: int) -> None:
        kill_before(at, folder)
        work()

    for at in count(1):
        ended = in_a_copy(lambda at=at: work_until(at))  # type: ignore[misc]  # its default binds the number
        yield ended
        if ended is None:
            return
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
