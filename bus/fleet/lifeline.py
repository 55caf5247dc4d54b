"""A supervised process ends with its supervisor, however that one died.

The supervisor holds the writing end of a pipe that is the standard input of what it starts. When the
supervisor is gone, for whatever reason, the kernel closes the pipe and the reader sees the end of
file: no polling, no race with a fast exit, and the same on every POSIX system (``PR_SET_PDEATHSIG``
is Linux alone, and follows the thread that forked).
"""

from __future__ import annotations

import os
import signal
import threading

LIFELINE_GRACE = 10.0  # for an orderly end; then the whole process group is killed


def hold_lifeline(descriptor: int) -> None:
    """End this process in order once the pipe *descriptor* is closed by the other side.

    The process must be the leader of its own group: what it started itself ends with it.
    """
    threading.Thread(target=_watch, args=(descriptor,), name="lifeline", daemon=True).start()


def _watch(descriptor: int) -> None:
    try:
        while os.read(descriptor, 64):
            pass
    except OSError:
        pass  # closed under us: as good as the end of file
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(LIFELINE_GRACE)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
