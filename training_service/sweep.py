"""What a killed child has left: work that was never sealed, and what passes and no record knows. Loads no torch.

One child owns a state folder at a time; what it finds there when it starts belongs to nobody else, but for what a
merge is about to seal.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from training_service.artifact import CHECKPOINT_TYPE, MANIFEST, REHEARSAL_TYPE, WORK_PREFIX
from training_service.record import RunRecord, all_records
from training_service.request import Artifact

LOCK = ".child.lock"
PASSING = (CHECKPOINT_TYPE, REHEARSAL_TYPE)
"""Artifacts that are there for a time only: results stay."""


@contextmanager
def owned(state: Path) -> Iterator[None]:
    """Own the state folder for as long as the block runs; waits until the child before has ended.

    A child whose service was killed finishes its slice first: only then may another read what it writes.
    """
    state.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(state / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sweep(artifacts: Path, runs: Path) -> int:
    """Remove unsealed work, and checkpoints and rehearsals that no record names, and return how many there were.

    Results and adapters stay whoever names them. While a merge writes beside it, everything stays until another time.
    """
    if not artifacts.is_dir():
        return 0
    descriptor = os.open(artifacts, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # against ``work_in``
        return _sweep(artifacts, runs)
    except BlockingIOError:
        return 0
    finally:
        os.close(descriptor)


def _sweep(artifacts: Path, runs: Path) -> int:
    known = {artifact.sha256 for record in all_records(runs) for artifact in _named(record)}
    n_removed = 0
    for folder in artifacts.iterdir():
        if folder.name.startswith(WORK_PREFIX) or (folder.name not in known and _is_passing(folder)):
            with suppress(FileNotFoundError):
                (folder / MANIFEST).unlink()  # first, so that a half removed one does not exist
            shutil.rmtree(folder, ignore_errors=True)
            n_removed += 1
    return n_removed


def _named(record: RunRecord) -> Iterator[Artifact]:
    for checkpoint in (record.checkpoint, record.best):
        if checkpoint is not None:
            yield checkpoint.artifact
    last = getattr(record.ended, "last_checkpoint", None)
    if last is not None:
        yield last


def _is_passing(folder: Path) -> bool:
    """Return whether *folder* is there for a time only, or what is left of an artifact whose manifest is gone."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("media_type") in PASSING
