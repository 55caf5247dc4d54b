"""The registry: which results exist, what a name, a version and an alias mean, and where each comes from.

One JSON file for each name and one for each alias, replaced as a whole; the name is metadata and the file's own name
its hash, so that ``mlp``, ``../x`` and ``/abs`` harm nothing. Loads no torch: listings and look-ups cost nothing.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from training_service.artifact import MANIFEST, remove, sync_folder, write_json
from training_service.errors import ArtifactDamaged, InUse, NoSuchAdapter, RequestInvalid
from training_service.request import Artifact, check_adapter_name


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a result comes from: enough to make it again.

    Attributes:
        request: The order as plain JSON, without the owner's key.
        merged_from: The adapter that was folded into its base, ``name@version``.
    """

    task_id: str
    request: dict[str, object]
    dataset_sha256: str
    seed: int
    metrics: dict[str, float]
    versions: dict[str, str]
    conversation_id: str | None = None
    merged_from: str | None = None


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


@dataclass(frozen=True, slots=True)
class Alias:
    """A second name that means one version."""

    alias: str
    name: str
    version: int


@dataclass(frozen=True, slots=True)
class _Versions:
    """What a name's file holds. *next_version* only rises: a number is never given to a second result."""

    next_version: int
    versions: tuple[Adapter, ...]


_FILE = TypeAdapter(_Versions)
_ALIAS = TypeAdapter(Alias)
ALIASES = "aliases"
"""The folder of aliases inside the registry's."""


def internal_name(*parts: str) -> str:
    """Return a name of hex digits that PEFT cannot mistake for a part of a model (TRAINING.md, trap 3)."""
    return "a" + sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:32]


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
            RequestInvalid: *name* may not stand in the registry, or is an alias.
            ArtifactDamaged: The artifact is not there: another version with the same content was deleted meanwhile.
        """
        with self._lock():
            self.check_name(name)
            if not (artifact.path / MANIFEST).is_file():
                raise ArtifactDamaged(f"{artifact.path}: expected an artifact, it was deleted meanwhile; run it again")
            known = self._read(self._path(name))
            for one in known.versions:
                if one.artifact.sha256 == artifact.sha256 and one.provenance.task_id == provenance.task_id:
                    return one
            new = Adapter(name, known.next_version, kind, artifact, base, base_sha256, provenance)
            self._write(name, _Versions(new.version + 1, (*known.versions, new)))
        return new

    def check_name(self, name: str) -> None:
        """See that a result may be registered as *name*.

        Raises:
            RequestInvalid: *name* may not stand in the registry, or is an alias, which would mean two things then.
        """
        _check_name("adapter", name)
        if (alias := self._alias(name)) is not None:
            means = f"{alias.name}@{alias.version}"
            raise RequestInvalid(
                f"adapter: expected a name that is no alias, got {_short(name)}, which means {means}: "
                "take another name, or drop the alias"
            )

    def find(self, reference: str) -> Adapter:
        """Return what *reference* means: ``name`` is its newest version, ``name@3`` the third; or an alias.

        Raises:
            NoSuchAdapter: There is no such name, version or alias; the text lists what there is.
        """
        name, _, wanted = reference.partition("@")
        known = self._read(self._path(name))
        if not known.next_version > 1 and not wanted and (alias := self._alias(name)) is not None:
            return self.find(f"{alias.name}@{alias.version}")
        if not known.versions:
            names = {adapter.name for adapter in self.all()} | {one.alias for one in self.aliases()}
            listed = ", ".join(repr(one) for one in sorted(names)) or "none yet"
            raise NoSuchAdapter(f"expected the name of an adapter, got {_short(name)}; there are: {listed}")
        for one in reversed(known.versions):
            if not wanted or str(one.version) == wanted:
                return one
        there = ", ".join(str(one.version) for one in known.versions)
        raise NoSuchAdapter(f"expected a version of {name!r} ({there}), got {_short(wanted)}")

    def all(self) -> tuple[Adapter, ...]:
        """Return every version of every name, sorted by name and version."""
        if not self._folder.is_dir():
            return ()
        found = [one for path in self._folder.glob("*.json") for one in self._read(path).versions]
        return tuple(sorted(found, key=lambda one: (one.name, one.version)))

    def aliases(self) -> tuple[Alias, ...]:
        """Return every alias, sorted."""
        paths = (self._folder / ALIASES).glob("*.json")
        return tuple(sorted((one for one in map(_read_alias, paths) if one), key=lambda one: one.alias))

    def set_alias(self, alias: str, reference: str) -> Adapter:
        """Let *alias* mean the version that *reference* means now, and return that.

        Raises:
            RequestInvalid: *alias* may not stand in the registry, or is a name in it.
            NoSuchAdapter: *reference* means nothing.
        """
        _check_name("alias", alias)
        with self._lock():
            adapter = self.find(reference)
            if self._read(self._path(alias)).next_version > 1:
                raise RequestInvalid(f"alias: expected a word that is no adapter's name, got {_short(alias)}")
            path = self._alias_path(alias)
            path.parent.mkdir(exist_ok=True)
            write_json(path, _ALIAS.dump_python(Alias(alias, adapter.name, adapter.version), mode="json"))
        return adapter

    def drop_alias(self, alias: str) -> None:
        """Let *alias* mean nothing; the version stays.

        Raises:
            NoSuchAdapter: There is no such alias.
        """
        with self._lock():
            if self._alias(alias) is None:
                listed = ", ".join(repr(one.alias) for one in self.aliases()) or "none yet"
                raise NoSuchAdapter(f"expected an alias, got {_short(alias)}; there are: {listed}")
            self._alias_path(alias).unlink()
            sync_folder(self._folder / ALIASES)

    def delete(self, reference: str, *, may_go: Callable[[Adapter], None]) -> Adapter:
        """Take a version out of the registry and return it; its artifact goes with the last version that has it.

        The entry goes before the files do: what is cut short leaves files that nobody lists, never an entry
        without files.

        Args:
            reference: ``name@version``: what means the newest today is not deleted tomorrow.
            may_go: Raises ``InUse`` where something else needs the version.

        Raises:
            RequestInvalid: *reference* names no version.
            NoSuchAdapter: There is none of that name and version.
            InUse: An alias means it, or *may_go* says so.
        """
        name, _, wanted = reference.partition("@")
        if not wanted:
            raise RequestInvalid(f"expected name@version, got {_short(reference)}: say which version is to go")
        with self._lock():
            adapter = self.find(reference)
            aliases = [one.alias for one in self.aliases() if (one.name, one.version) == (name, adapter.version)]
            if aliases:
                raise InUse(
                    f"expected a version without an alias, got {adapter.label}, which {aliases} mean: drop them"
                )
            may_go(adapter)
            known = self._read(self._path(name))
            self._write(name, _Versions(known.next_version, tuple(one for one in known.versions if one != adapter)))
            if all(one.artifact.sha256 != adapter.artifact.sha256 for one in self.all()):
                remove(adapter.artifact)
        return adapter

    def _path(self, name: str) -> Path:
        return self._folder / f"{internal_name(name)}.json"

    def _alias_path(self, alias: str) -> Path:
        return self._folder / ALIASES / f"{internal_name(alias)}.json"

    def _alias(self, alias: str) -> Alias | None:
        return _read_alias(self._alias_path(alias))

    def _read(self, path: Path) -> _Versions:
        try:
            return _FILE.validate_python(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return _Versions(1, ())
        except (ValueError, ValidationError) as error:
            raise ArtifactDamaged(f"{path}: expected the versions of an adapter, got: {error}") from error

    def _write(self, name: str, versions: _Versions) -> None:
        write_json(self._path(name), _FILE.dump_python(versions, mode="json"))

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _read_alias(path: Path) -> Alias | None:
    try:
        return _ALIAS.validate_python(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, ValidationError) as error:
        raise ArtifactDamaged(f"{path}: expected an alias, got: {error}") from error


def _check_name(what: str, name: str) -> None:
    try:
        check_adapter_name(name)
    except ValueError as error:
        raise RequestInvalid(f"{what}: {error}") from error


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")
