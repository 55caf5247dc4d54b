"""Artifacts: folders that never change, named by the hash of their manifest, and files written to last.

Every file of an artifact and its size and hash stand in ``manifest.json``, which is written last; then the
folder takes its name. A folder without a manifest, or under a temporary name, does not exist for anybody.
Knows nothing of tensors.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path

from training_service.errors import ArtifactDamaged, DiskFull
from training_service.request import Artifact

MANIFEST = "manifest.json"
FILE_MODE = 0o644
"""Set on purpose: safetensors writes 0600, and an artifact is read by other programs of its owner's group."""

PIECE_BYTES = 1024 * 1024
BYTES_PER_SECOND = 50e6
"""At full speed a checkpoint raised the journal's fdatasync p99 from 1 to 51 ms; so throttled, to 1.5 ms."""

UNTHROTTLED_BYTES = 8 * 1024 * 1024
"""Files below this are written at once: they are gone before they could hurt."""

WORK_PREFIX = ".new-"
"""How the name of a folder begins that is no artifact: not sealed yet, or on its way out."""

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NUMBER_IN_TEXT = re.compile(r"\(os error (\d+)\)")
"""How safetensors and tokenizers, which are written in Rust, say an ``errno``: in an error of their own."""

ADAPTER_TYPE = "application/vnd.palaver.adapter"
MODEL_TYPE = "application/vnd.palaver.model"
CHECKPOINT_TYPE = "application/vnd.palaver.checkpoint"
REHEARSAL_TYPE = "application/vnd.palaver.rehearsal"

REHEARSED_PIECES = 4
"""What is written to find out how fast that goes."""


class SyncedFile:
    """A new file that is written in small synced pieces, throttled, and is on disk when closed."""

    def __init__(self, path: Path, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        os.fchmod(self._descriptor, FILE_MODE)  # whatever the umask says
        self._sleep = sleep
        self.n_bytes = 0
        self._n_unsynced = 0  # of the present piece

    def write(self, data: bytes | memoryview) -> None:
        """Append *data*; returns when all of it is written."""
        view = memoryview(data).cast("B") if not isinstance(data, bytes) else memoryview(data)
        while view:
            n_written = os.write(self._descriptor, view[: PIECE_BYTES - self._n_unsynced])
            view = view[n_written:]
            self.n_bytes += n_written
            self._n_unsynced += n_written
            if self._n_unsynced >= PIECE_BYTES:
                self._end_piece()

    def _end_piece(self) -> None:
        """Sync a piece, whatever number of writes it took, and rest for as long as it may take."""
        if self.n_bytes > UNTHROTTLED_BYTES:
            self.sync()
            self._sleep(self._n_unsynced / BYTES_PER_SECOND)
        self._n_unsynced = 0

    def sync(self) -> None:
        """Return when what was written is on disk."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Sync and close."""
        try:
            os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)


@contextmanager
def synced_file(path: Path) -> Iterator[SyncedFile]:
    """Give a new file that is on disk when the block ends."""
    file = SyncedFile(path)
    try:
        yield file
    finally:
        file.close()


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn a full disk under the block into ``DiskFull``; *what* names the work in its text."""
    try:
        yield
    except Exception as error:
        if (why := why_full(error)) is not None:
            raise DiskFull(f"{what}: {why}; free some room and run the task again") from error
        raise


def why_full(error: Exception) -> str | None:
    """Return what the system says of the full disk that *error* comes from, or None where it comes from none."""
    found = NUMBER_IN_TEXT.search(str(error))
    number = error.errno if isinstance(error, OSError) else int(found[1]) if found is not None else None
    return os.strerror(number) if number in NO_ROOM else None


@contextmanager
def work_in(artifacts: Path) -> Iterator[None]:
    """Keep ``sweep`` away from what is not sealed yet in *artifacts*, which must exist, until the block ends."""
    descriptor = os.open(artifacts, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in *folder* durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, data: object) -> None:
    """Put *data* at *path* as canonical JSON: the old content or the new, never a part, and on disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with disk_errors(str(path)):
        with synced_file(temporary) as file:
            file.write(canonical_json(data))
        temporary.replace(path)
        sync_folder(path.parent)


def canonical_json(data: object) -> bytes:
    """Return the one spelling of *data*: sorted keys, UTF-8, a final newline."""
    return json.dumps(data, sort_keys=True, ensure_ascii=False, indent=1, allow_nan=False).encode() + b"\n"


def publish(artifacts: Path, media_type: str, fill: Callable[[Path], None]) -> Artifact:
    """Make an artifact out of the files that *fill* puts into an empty folder.

    Every file is synced before the manifest, the manifest before the name. The same content published twice
    is one artifact. When anything fails, nothing is left but what stood before.

    Args:
        artifacts: The folder of all artifacts; made where missing.
        media_type: What the artifact is, one of the ``…_TYPE`` constants.
        fill: Writes plain files, sub-folders allowed, into the folder it is given.

    Raises:
        DiskFull: There is no room.
    """
    artifacts.mkdir(parents=True, exist_ok=True)
    with work_in(artifacts), disk_errors(str(artifacts)):
        work = Path(tempfile.mkdtemp(prefix=WORK_PREFIX, dir=artifacts))
        try:
            fill(work)
            return _seal(artifacts, work, media_type)
        finally:
            shutil.rmtree(work, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class WritingPace:
    """How fast artifacts get onto this disk.

    Attributes:
        sealing: Seconds for each artifact, however small.
        piece: Seconds to write, sync and hash ``PIECE_BYTES``.
    """

    sealing: float
    piece: float

    def seconds(self, n_bytes: int, *, throttled: bool = True) -> float:
        """Return how long an artifact of one file of *n_bytes* takes; *throttled* as ``SyncedFile`` does it."""
        waits = max(0, n_bytes - UNTHROTTLED_BYTES) / BYTES_PER_SECOND if throttled else 0.0
        return self.sealing + n_bytes / PIECE_BYTES * self.piece + waits


def rehearse_writing(artifacts: Path) -> WritingPace:
    """Publish and remove two small artifacts and return how fast that went.

    Raises:
        DiskFull: There is no room.
    """
    took = []
    for n_pieces in (0, REHEARSED_PIECES):

        def fill(folder: Path, n_pieces: int = n_pieces) -> None:
            with synced_file(folder / "pieces") as file:
                for _ in range(n_pieces):
                    file.write(bytes(PIECE_BYTES))
                    file.sync()

        began_at = time.perf_counter()
        artifact = publish(artifacts, REHEARSAL_TYPE, fill)
        took.append(time.perf_counter() - began_at)
        remove(artifact)
    return WritingPace(took[0], max(0.0, took[1] - took[0]) / REHEARSED_PIECES)


def _seal(artifacts: Path, work: Path, media_type: str) -> Artifact:
    files, size = [], 0
    for path in sorted(path for path in work.rglob("*") if path.is_file()):
        os.chmod(path, FILE_MODE)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        n_bytes = path.stat().st_size
        files.append({"path": path.relative_to(work).as_posix(), "sha256": digest, "size": n_bytes})
        size += n_bytes
    for folder in sorted({path.parent for path in work.rglob("*")}):
        sync_folder(folder)
    manifest = canonical_json({"files": files, "media_type": media_type})
    with synced_file(work / MANIFEST) as out:
        out.write(manifest)
    sync_folder(work)
    name = sha256(manifest).hexdigest()
    final = artifacts / name
    if not final.exists():
        os.chmod(work, 0o755)
        try:
            work.rename(final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process made the same one
                raise
        sync_folder(artifacts)
    return Artifact(uri=final.resolve().as_uri(), sha256=name, size=size, media_type=media_type)


def verify(artifact: Artifact) -> Path:
    """Return the folder of *artifact* after every file in it was compared with the manifest.

    Raises:
        ArtifactDamaged: A file is missing, added or changed, or the manifest is another one.
    """
    folder = artifact.path
    try:
        manifest = (folder / MANIFEST).read_bytes()
        if sha256(manifest).hexdigest() != artifact.sha256:
            raise ArtifactDamaged(f"{folder / MANIFEST}: expected sha256 {artifact.sha256}, got another manifest")
        listed = {one["path"]: one for one in json.loads(manifest)["files"]}
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
        if there != listed.keys():
            raise ArtifactDamaged(f"{folder}: expected the files {sorted(listed)}, got {sorted(there)}")
        for name, one in listed.items():
            with (folder / name).open("rb") as file:
                if file_digest(file, "sha256").hexdigest() != one["sha256"]:
                    raise ArtifactDamaged(f"{folder / name}: expected sha256 {one['sha256']}, got another content")
    except OSError as error:
        raise ArtifactDamaged(f"{folder}: expected an artifact, got {error.strerror}: {error.filename}") from error
    return folder


def remove(artifact: Artifact) -> None:
    """Delete *artifact*; its name goes first, so that a half deleted one does not exist."""
    gone = artifact.path.with_name(f"{WORK_PREFIX}{artifact.path.name}")
    shutil.rmtree(gone, ignore_errors=True)  # of one that was cut short
    with suppress(FileNotFoundError):
        artifact.path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
