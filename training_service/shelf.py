"""What may be done with results beside making them: second names, merged copies, copies elsewhere.

Loads no torch; a merge is a process of its own (``merge``), and a deletion goes through the child, which knows what
is being written with which adapter.
"""

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from training_service.adapters import Adapter, Registry
from training_service.artifact import PIECE_BYTES, disk_errors, sync_folder, synced_file, verify
from training_service.errors import Lost, RequestInvalid, TrainingError, error_from_code
from training_service.merge_order import MergeOrder, adapter_from_json, order_to_json
from training_service.process import child_environment
from training_service.reference import check_unclaimed
from training_service.worker import Worker


def export(adapter: Adapter, folder: str, roots: Sequence[Path]) -> Path:
    """Copy the files of *adapter* into the new *folder* and return it; whole or not at all.

    Args:
        folder: An absolute path, or one below the first of *roots*.
        roots: What the folder must lie under, links followed.

    Raises:
        RequestInvalid: The folder is there already, or lies elsewhere.
        ArtifactDamaged: The artifact is not whole.
        DiskFull: There is no room.
    """
    given = Path(folder)
    target = given if given.is_absolute() else roots[0] / given
    parent = target.parent.resolve()
    if target.name in ("", ".", "..") or not any(parent.is_relative_to(root.resolve()) for root in roots):
        under = ", ".join(str(root) for root in roots)
        raise RequestInvalid(f"folder: expected one under {under}, got {folder!r}")
    if not parent.is_dir():
        raise RequestInvalid(f"folder: expected one inside a folder that exists, got {folder!r}: make {parent} first")
    target = parent / target.name
    if target.is_symlink() or target.exists():
        raise RequestInvalid(f"folder: expected a new one, got {folder!r}, which exists: name another")
    source = verify(adapter.artifact)
    with disk_errors(str(target)):
        work = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
        try:
            _copy(source, work)
            os.chmod(work, 0o755)
            work.rename(target)
            sync_folder(parent)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return target


def _copy(source: Path, work: Path) -> None:
    """Copy file by file: ``shutil.copytree`` hides a full disk in an error of its own."""
    for path in sorted(source.rglob("*")):
        new = work / path.relative_to(source)
        if path.is_dir():
            new.mkdir()
            continue
        with path.open("rb") as old, synced_file(new) as out:
            while piece := old.read(PIECE_BYTES):
                out.write(piece)


class Shelf:
    """Everything that a worker has registered, for whoever asks; nothing here waits for a step.

    Args:
        worker: Whose results these are.
    """

    def __init__(
        self, worker: Worker, *, models_dir: Path, state_dir: Path, roots: tuple[Path, ...], allow_hub: bool
    ) -> None:
        self._worker = worker
        self._models_dir = models_dir
        self._state_dir = state_dir
        self._roots = roots
        self._allow_hub = allow_hub
        self.registry = worker.adapters

    def set_alias(self, alias: str, reference: str) -> Adapter:
        """Let *alias* mean the version that *reference* means now, and return that.

        Raises:
            TrainingError: Its code says why: bad-request, no-such-adapter, in-use. Nothing has changed.
        """
        check_unclaimed(alias, self._worker.runs_folder)
        return self.registry.set_alias(alias, reference)

    async def delete(self, reference: str) -> Adapter:
        """Remove one version, ``name@version``, for good, and return what it was.

        Raises:
            TrainingError: Its code says why: in-use, no-such-adapter, bad-request. Nothing has changed.
        """
        adapter = self.registry.find(reference)
        await self._worker.delete_adapter(reference)
        return adapter

    async def export(self, reference: str, folder: str) -> tuple[Adapter, Path]:
        """Copy what *reference* means into a new *folder* under a root; see ``export``."""
        adapter = self.registry.find(reference)
        return adapter, await asyncio.to_thread(export, adapter, folder, self._roots)

    async def merge(self, reference: str, name: str) -> Adapter:
        """Fold an adapter into a copy of its base, register the model as *name*, and return it.

        Raises:
            TrainingError: Its code says why: no-such-adapter, no-such-base, bad-request, disk-full, lost, internal.
        """
        order = MergeOrder(reference, name, self._models_dir, self._state_dir, self._roots, self._allow_hub)
        return await merge(order, environment=child_environment(threads=None, allow_hub=self._allow_hub))


async def merge(order: MergeOrder, *, environment: Mapping[str, str]) -> Adapter:
    """Have *order* carried out in a process of its own and return the model that it registered.

    Raises:
        TrainingError: Its code says why: no-such-adapter, no-such-base, bad-request, disk-full, lost, internal.
    """
    registry = Registry(order.state / "adapters")
    registry.check_name(order.name)
    if registry.find(order.adapter).kind != "adapter":  # found out before torch is loaded
        raise RequestInvalid(f"expected an adapter, got {order.adapter!r}, which is a model: there is nothing to merge")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "training_service.merge",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=dict(environment),
    )  # fmt: skip
    try:
        out, _ = await process.communicate(order_to_json(order).encode())
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode is not None and process.returncode < 0:
        signal = -process.returncode
        raise Lost(f"the merging process was killed by signal {signal}, nothing is registered; merge again")
    if process.returncode:
        raise TrainingError(f"expected the merging process to answer, it ended with {process.returncode}: see the log")
    answer = json.loads(out)
    if "error" in answer:
        raise error_from_code(answer["error"]["code"], answer["error"]["detail"])
    return adapter_from_json(answer["adapter"])
