"""The files that clients of the OpenAI face have uploaded: kept in a folder each, by an id of ours. Knows no bus."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from training_service.artifact import disk_errors, write_json
from training_service.errors import DiskFull
from training_service.openai_shapes import ApiError, Json, not_found

MOST_BYTES = 512 * 1024 * 1024
"""Of one file, as OpenAI has it."""

FILE_ID = re.compile(r"file-[0-9a-f]{24}")
CONTENT, FACTS = "content.jsonl", "file.json"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One uploaded file; *filename* is what the client called it and no path."""

    file_id: str
    filename: str
    n_bytes: int
    sha256: str
    created_at: int
    purpose: str = "fine-tune"

    def as_object(self) -> Json:
        """Return it as OpenAI's clients read it."""
        return {
            "id": self.file_id, "object": "file", "bytes": self.n_bytes, "created_at": self.created_at,
            "filename": self.filename, "purpose": self.purpose, "status": "processed", "expires_at": None,
        }  # fmt: skip


class FileStore:
    """All files under one folder.

    Args:
        folder: Where they are kept; must lie under a root of the training service, which reads them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    async def add(self, filename: str, chunks: AsyncIterator[bytes]) -> StoredFile:
        """Keep a new file, whole or not at all.

        Raises:
            ApiError: It is too large (413), or the disk is full (507).
        """
        file_id = f"file-{secrets.token_hex(12)}"
        work = Path(tempfile.mkdtemp(prefix=".new-", dir=self._folder))
        try:
            with disk_errors("files"):
                digest, n_bytes = sha256(), 0
                with (work / CONTENT).open("wb") as out:
                    async for piece in chunks:
                        n_bytes += len(piece)
                        if n_bytes > MOST_BYTES:
                            raise ApiError(413, f"expected at most {MOST_BYTES} bytes, got more: split the file")
                        digest.update(piece)
                        out.write(piece)
                    out.flush()
                    os.fsync(out.fileno())
                name = filename[:200] or "upload.jsonl"
                stored = StoredFile(file_id, name, n_bytes, digest.hexdigest(), int(time.time()))
                write_json(work / FACTS, asdict(stored))
                os.chmod(work, 0o755)
                os.rename(work, self._folder / file_id)
        except DiskFull as error:
            raise ApiError(507, str(error)) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return stored

    def find(self, file_id: str) -> StoredFile:
        """Return the facts of a file.

        Raises:
            ApiError: There is none; 404.
        """
        if FILE_ID.fullmatch(file_id):
            path = self._folder / file_id / FACTS
            if path.is_file():
                return StoredFile(**json.loads(path.read_bytes()))
        raise not_found("file", file_id)

    def path(self, file_id: str) -> Path:
        """Return where a file's content lies; raises as ``find`` does."""
        return self._folder / self.find(file_id).file_id / CONTENT

    def all(self) -> list[StoredFile]:
        """Return every file, the newest first."""
        ids = [path.parent.name for path in self._folder.glob(f"file-*/{FACTS}")]
        return sorted((self.find(one) for one in ids), key=lambda one: (-one.created_at, one.file_id))

    def delete(self, file_id: str) -> None:
        """Remove a file; its facts go first, so that a half deleted one does not exist. Raises as ``find`` does."""
        folder = self.path(file_id).parent
        (folder / FACTS).unlink()
        shutil.rmtree(folder, ignore_errors=True)
