"""Results on a disk that fills, and in a process that is killed: nothing is half there, and a second try works."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from colors import NewRequest
from file_faults import files_no_larger_than
from shelf_stages import LARGE, add
from talk import Talk

from training_service import shelf
from training_service.adapters import Registry
from training_service.agent import adapters
from training_service.artifact import MODEL_TYPE, publish, verify
from training_service.errors import ArtifactDamaged, DiskFull, Lost
from training_service.event import Failed
from training_service.merge import merge
from training_service.merge_order import MergeOrder
from training_service.model import Base
from training_service.process import child_environment
from training_service.run import Places
from training_service.shelf import export
from training_service.shelf_message import refused_change

FOLDER = Path(__file__).parent


def files_of(folder: Path) -> set[str]:
    """Return the names of all files and folders in *folder*."""
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


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


# -- a full disk --------------------------------------------------------------------------------------


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
    assert verify(adapter.artifact)
    assert registry.set_alias("stable", "colors") == adapter


def test_an_export_for_which_there_is_no_room_is_not_there(tmp_path: Path) -> None:
    adapter, root = add(tmp_path), tmp_path / "root"
    root.mkdir()
    with files_no_larger_than(50_000), pytest.raises(DiskFull):
        export(adapter, "out", [root])

    assert list(root.iterdir()) == []
    assert (export(adapter, "out", [root]) / "a").read_bytes() == LARGE


@pytest.mark.parametrize("what", ["model", "tokenizer"])
def test_what_the_libraries_say_of_a_full_disk_is_understood(what: str, base: Base, tmp_path: Path) -> None:
    """Both are written in Rust and raise no ``OSError``."""
    saved = getattr(base, what)
    with files_no_larger_than(1500), pytest.raises(DiskFull, match="File too large; free some room"):
        publish(tmp_path, MODEL_TYPE, lambda folder: saved.save_pretrained(folder))

    assert files_of(tmp_path) == set()


@pytest.mark.slow
def test_a_full_run_without_room_for_its_model_fails_as_such_and_goes_on_when_there_is(
    talk: Talk, new_request: NewRequest, places: Places
) -> None:
    request = new_request(method="full", adapter="whole", max_steps=1)
    talk.ready(request)
    talk.desk.runs.start(request.task_id)
    with files_no_larger_than(50_000):
        talk.work()
    (failed,) = talk.of(Failed)
    left = files_of(places.artifacts)
    talk.train(request)

    assert isinstance(failed, Failed)
    assert (failed.code, failed.retryable, left) == ("disk-full", True, set())
    assert verify(places.registry.find("whole@1").artifact)


@pytest.fixture
def merging(talk: Talk, new_request: NewRequest, models_dir: Path, tmp_path: Path) -> MergeOrder:
    """The order to merge an adapter that is there."""
    talk.train(new_request(adapter="colors", max_steps=2))
    return MergeOrder("colors@1", "whole", models_dir, tmp_path / "state", (tmp_path,))


@pytest.mark.slow
@pytest.mark.integration
def test_a_merge_for_which_there_is_no_room_registers_nothing(merging: MergeOrder, places: Places) -> None:
    before = files_of(places.artifacts)

    with files_no_larger_than(50_000), pytest.raises(DiskFull, match="free some room"):
        asyncio.run(shelf.merge(merging, environment=child_environment(threads=1, allow_hub=False)))

    assert files_of(places.artifacts) == before
    assert [one.label for one in places.registry.all()] == ["colors@1"]
    assert merge(merging).label == "whole@1"


# -- a process that is killed -------------------------------------------------------------------------


def driven(*command: str) -> list[dict[str, Any]]:
    """Return what a driver has printed."""
    found = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=110, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    return [json.loads(line) for line in found.stdout.splitlines() if line.startswith("{")]


def check_killed(stages: list[dict[str, Any]], *, at_least: int) -> None:
    """See that a process was killed at each stage but the last, where none was left."""
    assert [one["signal"] for one in stages] == [signal.SIGKILL] * (len(stages) - 1) + [None]
    assert len(stages) > at_least
    assert all(one["left"] == [] for one in stages)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "states", "ends"),
    [
        ("register", [[], ["artifact"], ["colors@1", "artifact"]], [["colors@1", "artifact"]]),
        ("export", [["colors@1", "artifact"], ["colors@1", "artifact", "out"]], [["colors@1", "artifact", "out"]]),
        (
            "delete",
            [["colors@1", "artifact"], ["artifact"], []],
            [["artifact"], []],
        ),  # files that nobody lists may stay
    ],
)
def test_who_is_killed_while_the_shelf_changes_leaves_what_was_or_what_comes_after(
    work: str, states: list[list[str]], ends: list[list[str]], tmp_path: Path
) -> None:
    """Killed before each change of a file, until one try is through; a deletion may leave files that nobody lists."""
    folder = tmp_path / "shelf"
    folder.mkdir()

    stages = driven(str(FOLDER / "shelf_stages.py"), work, str(folder))

    check_killed(stages, at_least=5)
    there = [one["there"] for one in stages]
    assert [one for at, one in enumerate(there) if at == 0 or there[at - 1] != one] == states
    assert all(one["again"] in ends for one in stages)


@pytest.mark.slow
@pytest.mark.integration
def test_who_is_killed_in_a_merge_leaves_no_model_or_a_whole_one(merging: MergeOrder) -> None:
    lines = driven(str(FOLDER / "merge_stages.py"), str(merging.state), str(merging.models))

    stages, again = [one for one in lines if "signal" in one], {one["again"] for one in lines if "again" in one}
    check_killed(stages, at_least=15)
    listed = [one["listed"] for one in stages]
    assert [one for at, one in enumerate(listed) if at == 0 or listed[at - 1] != one] == [
        ["colors@1"],
        ["colors@1", "whole@1"],
    ]
    assert all(one["damaged"] == [] for one in stages)
    assert len(again) == 1


@pytest.mark.slow
@pytest.mark.integration
def test_a_merge_whose_process_is_killed_is_one_to_ask_for_again(
    merging: MergeOrder, places: Places, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    environment = child_environment(threads=1, allow_hub=False)
    environment["PYTHONPATH"] = os.pathsep.join((str(tmp_path), environment.get("PYTHONPATH", "")))

    with pytest.raises(Lost, match="killed by signal 9, nothing is registered; merge again") as caught:
        asyncio.run(shelf.merge(merging, environment=environment))

    assert refused_change(adapters, caught.value).code == "busy"
    assert [one.label for one in places.registry.all()] == ["colors@1"]
    assert merge(merging).label == "whole@1"
