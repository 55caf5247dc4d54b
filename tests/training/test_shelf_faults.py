"""Results on a disk that fills, and in a process that is killed: nothing is half there, and a second try works."""

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from training_service.adapters import Adapter, Provenance, Registry
from training_service.artifact import CHECKPOINT_TYPE, MANIFEST, publish, verify
from training_service.errors import ArtifactDamaged, DiskFull
from training_service.shelf import export

SOURCE = Provenance("5b0c1f0e-4b7c-4a55-9d0f-0f6f3a6a3a11", {}, "2" * 64, 0, {"loss": 0.5}, {"torch": "2"})
LARGE = b"x" * 100_000


def add(folder: Path) -> Adapter:
    """Publish a file and register it as ``colors``."""
    artifact = publish(folder / "artifacts", CHECKPOINT_TYPE, _fill)
    return Registry(folder / "adapters").register(
        "colors", kind="adapter", artifact=artifact, base="tiny", base_sha256="3" * 64, provenance=SOURCE
    )


def _fill(work: Path) -> None:
    (work / "a").write_bytes(LARGE)


@contextmanager
def files_no_larger_than(n_bytes: int) -> Iterator[None]:
    """Have the kernel refuse to write more into a file, as it does where a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("n_bytes", [50, 50_000])
def test_a_result_for_which_there_is_no_room_is_not_there(n_bytes: int, tmp_path: Path) -> None:
    with files_no_larger_than(n_bytes), pytest.raises(DiskFull, match="free some room"):
        add(tmp_path)

    assert list((tmp_path / "artifacts").iterdir()) == []
    assert add(tmp_path).label == "colors@1"


def test_a_registry_without_room_stays_as_it_was(tmp_path: Path) -> None:
    registry, adapter = Registry(tmp_path / "adapters"), add(tmp_path)
    with files_no_larger_than(10), pytest.raises(DiskFull):
        registry.set_alias("stable", "colors")
    with files_no_larger_than(10), pytest.raises(DiskFull):
        registry.delete("colors@1", may_go=lambda _: None)

    assert (registry.all(), registry.aliases()) == ((adapter,), ())
    assert registry.set_alias("stable", "colors") == adapter


def test_an_export_for_which_there_is_no_room_is_not_there(tmp_path: Path) -> None:
    adapter, root = add(tmp_path), tmp_path / "root"
    root.mkdir()
    with files_no_larger_than(50_000), pytest.raises(DiskFull):
        export(adapter, "out", [root])

    assert list(root.iterdir()) == []
    assert (export(adapter, "out", [root]) / "a").read_bytes() == LARGE


@pytest.mark.parametrize("content", ["", "{", "[]", '{"next_version": 1}', "\0" * 40])
def test_a_damaged_registry_file_is_refused_by_its_path(content: str, tmp_path: Path) -> None:
    add(tmp_path)
    (path,) = (tmp_path / "adapters").glob("*.json")
    path.write_text(content)

    with pytest.raises(ArtifactDamaged, match=path.name):
        Registry(tmp_path / "adapters").find("colors")
    with pytest.raises(ArtifactDamaged, match=path.name):
        add(tmp_path)
    assert path.read_text() == content


@pytest.mark.slow
def test_who_is_killed_while_a_result_is_registered_leaves_none_or_a_whole_one(tmp_path: Path) -> None:
    """Killed at each call by which files change, until one try is through."""
    for at in count(1):
        folder = tmp_path / str(at)
        folder.mkdir()
        command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(folder), str(at)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert all(verify(one.artifact) for one in Registry(folder / "adapters").all())
        named = [one for one in (folder / "artifacts").glob("[!.]*") if not (one / MANIFEST).is_file()]
        assert named == []
        assert add(folder).label == "colors@1"
        assert len(Registry(folder / "adapters").all()) == 1
    assert at > 5


KILLED = """
import os, signal, sys
from pathlib import Path

tests, folder, at = sys.argv[1:]
sys.path.insert(0, tests)
from test_shelf_faults import add

calls = 0

def counted(event, arguments):
    global calls
    if event in ("open", "os.rename", "os.remove", "os.mkdir") and folder in str(arguments):
        calls += 1
        if calls == int(at):
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(counted)
add(Path(folder))
"""
