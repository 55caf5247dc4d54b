"""The registry: which results exist, what a name and a version mean, and where each comes from.

One JSON file for each name, replaced as a whole; the name is metadata and the file's own name its hash, so that
``mlp``, ``../x`` and ``/abs`` harm nothing. Loads no torch: listings and look-ups cost nothing.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from training_service.artifact import write_json
from training_service.errors import ArtifactDamaged, NoSuchAdapter, RequestInvalid
from training_service.request import Artifact, check_adapter_name


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a result comes from: enough to make it again."""

    task_id: str
    request: dict[str, object]
    dataset_sha256: str
    seed: int
    metrics: dict[str, float]
    versions: dict[str, str]
    conversation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """One version of one name. *kind* ``model`` is a full set of weights and needs no base."""

    name: str
    version: int
    kind: Literal["adapter", "model"]
    artifact: Artifact
    base: str
    base_sha256: str
    provenance: Provenance = field(repr=False)

    @property
    def label(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


_FILE: TypeAdapter[tuple[Adapter, ...]] = TypeAdapter(tuple[Adapter, ...])


def internal_name(*parts: str) -> str:
    """Return a name of hex digits that PEFT cannot mistake for a part of a model (TRAINING.md, trap 3)."""
    return "a" + sha256("\0".join(parts).encode()).hexdigest()[:32]


class Registry:
    """All adapters under one folder. Several processes may read and write it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def register(
        self,
        name: str,
        *,
        kind: Literal["adapter", "model"],
        artifact: Artifact,
        base: str,
        base_sha256: str,
        provenance: Provenance,
    ) -> Adapter:
        """Add the next version of *name* and return it; the same artifact of the same task is added once.

        Raises:
            RequestInvalid: *name* may not stand in the registry.
        """
        try:
            check_adapter_name(name)
        except ValueError as error:
            raise RequestInvalid(f"adapter: {error}") from error
        with self._lock():
            versions = self._read(self._path(name))
            for one in versions:
                if one.artifact.sha256 == artifact.sha256 and one.provenance.task_id == provenance.task_id:
                    return one
            version = max((one.version for one in versions), default=0) + 1
            new = Adapter(name, version, kind, artifact, base, base_sha256, provenance)
            data = _FILE.dump_python((*versions, new), mode="json")
            write_json(self._path(name), data)
        return new

    def find(self, reference: str) -> Adapter:
        """Return what *reference* means: ``name`` is its newest version, ``name@3`` the third.

        Raises:
            NoSuchAdapter: There is no such name or version; the text lists what there is.
        """
        name, _, wanted = reference.partition("@")
        versions = self._read(self._path(name))
        if not versions:
            known = ", ".join(repr(one) for one in sorted({adapter.name for adapter in self.all()})) or "none yet"
            raise NoSuchAdapter(f"expected the name of an adapter, got {_short(name)}; there are: {known}")
        for one in reversed(versions):
            if not wanted or str(one.version) == wanted:
                return one
        there = ", ".join(str(one.version) for one in versions)
        raise NoSuchAdapter(f"expected a version of {name!r} ({there}), got {_short(wanted)}")

    def all(self) -> tuple[Adapter, ...]:
        """Return every version of every name, sorted by name and version."""
        if not self._folder.is_dir():
            return ()
        found = [one for path in self._folder.glob("*.json") for one in self._read(path)]
        return tuple(sorted(found, key=lambda one: (one.name, one.version)))

    def _path(self, name: str) -> Path:
        return self._folder / f"{internal_name(name)}.json"

    def _read(self, path: Path) -> tuple[Adapter, ...]:
        try:
            return _FILE.validate_python(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return ()
        except (ValueError, ValidationError) as error:
            raise ArtifactDamaged(f"{path}: expected the versions of an adapter, got: {error}") from error

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")
