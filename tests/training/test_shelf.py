"""What may be done with results: second names, deletion, copies."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
import torch
from colors import NewRequest
from talk import Talk

from training_service.adapters import Adapter, Provenance, Registry
from training_service.artifact import CHECKPOINT_TYPE, publish
from training_service.errors import (
    ArtifactDamaged,
    InUse,
    NoSuchAdapter,
    RequestInvalid,
)
from training_service.event import Audit, GenerateRequest, Prepared, Quote
from training_service.merge_order import MergeOrder, adapter_from_json, adapter_to_json, order_from_json, order_to_json
from training_service.record import RunRecord, RunState, save_record
from training_service.reference import check_unused
from training_service.run import Places
from training_service.shelf import export
from training_service.tiny import make_tiny_gemma

CPU = torch.device("cpu")
TASK = str(UUID(int=9))


def nothing_needs(_: Adapter) -> None:
    """Let everything go."""


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "adapters")


@pytest.fixture
def prepared_record(new_request: NewRequest) -> RunRecord:
    found = Audit(1, 2, 1, 0, 0, 0, 0, False, False, True, "x", (), ())
    request = new_request()
    return RunRecord(request, RunState.PREPARED, Prepared(request.task_id, found, Quote(1, 2, 3, 4.0, "cpu")), "3" * 64)


def stored(registry: Registry, tmp_path: Path, name: str, text: str = "weights", task: int = 1) -> Adapter:
    """Register a small artifact that is really there."""
    artifact = publish(tmp_path / "artifacts", CHECKPOINT_TYPE, lambda folder: _write(folder / "a.txt", text))
    source = Provenance(str(UUID(int=task)), {"method": "lora"}, "2" * 64, 0, {"loss": 0.5}, {"torch": "2"})
    return registry.register(
        name, kind="adapter", artifact=artifact, base="tiny", base_sha256="3" * 64, provenance=source
    )


def _write(path: Path, text: str) -> None:
    path.write_text(text)


# -- aliases ------------------------------------------------------------------------------------------


def test_an_alias_means_one_version_until_it_is_set_anew(registry: Registry, tmp_path: Path) -> None:
    first, second = (stored(registry, tmp_path, "colors", task=task) for task in (1, 2))

    registry.set_alias("stable", "colors@1")
    assert registry.find("stable") == first
    registry.set_alias("stable", "colors")
    assert registry.find("stable") == second
    assert [(one.alias, one.version) for one in registry.aliases()] == [("stable", 2)]


@pytest.mark.parametrize("alias", ["colors", "", "a@1", "a\nb", "x" * 10_000])
def test_an_alias_that_is_a_name_or_no_word_is_refused(alias: str, registry: Registry, tmp_path: Path) -> None:
    stored(registry, tmp_path, "colors")

    with pytest.raises(RequestInvalid, match="expected"):
        registry.set_alias(alias, "colors")

    assert registry.aliases() == ()


@pytest.mark.parametrize("alias", ["../x", "/abs", "mlp", "für Łódź"])
def test_an_alias_is_metadata_and_never_a_path(alias: str, registry: Registry, tmp_path: Path) -> None:
    stored(registry, tmp_path, "colors")
    registry.set_alias(alias, "colors")

    assert registry.find(alias).label == "colors@1"
    written = {path.parent for path in tmp_path.rglob("*.json") if "artifacts" not in path.parts}
    assert written == {tmp_path / "adapters", tmp_path / "adapters" / "aliases"}


def test_a_dropped_alias_means_nothing_and_the_version_stays(registry: Registry, tmp_path: Path) -> None:
    adapter = stored(registry, tmp_path, "colors")
    registry.set_alias("stable", "colors")

    registry.drop_alias("stable")

    with pytest.raises(NoSuchAdapter, match="colors"):
        registry.find("stable")
    with pytest.raises(NoSuchAdapter, match="expected an alias"):
        registry.drop_alias("stable")
    assert registry.find("colors") == adapter


def test_a_damaged_alias_is_refused_by_its_path(registry: Registry, tmp_path: Path) -> None:
    stored(registry, tmp_path, "colors")
    registry.set_alias("stable", "colors")
    (path,) = (tmp_path / "adapters" / "aliases").glob("*.json")
    path.write_text("{")

    with pytest.raises(ArtifactDamaged, match=path.name):
        registry.find("stable")


# -- deletion -----------------------------------------------------------------------------------------


def test_a_deleted_versions_number_is_never_given_again(registry: Registry, tmp_path: Path) -> None:
    stored(registry, tmp_path, "colors", task=1)
    gone = stored(registry, tmp_path, "colors", "others", task=2)

    assert registry.delete("colors@2", may_go=nothing_needs) == gone
    assert stored(registry, tmp_path, "colors", "third", task=3).label == "colors@3"


def test_an_artifact_goes_with_the_last_version_that_has_it(registry: Registry, tmp_path: Path) -> None:
    stored(registry, tmp_path, "colors", task=1)
    folder = stored(registry, tmp_path, "other", task=2).artifact.path

    registry.delete("colors@1", may_go=nothing_needs)
    stayed = folder.is_dir()
    registry.delete("other@1", may_go=nothing_needs)

    assert stayed
    assert registry.all() == ()
    assert list(folder.parent.iterdir()) == []


def test_what_is_not_named_by_its_version_is_not_deleted(registry: Registry, tmp_path: Path) -> None:
    stored(registry, tmp_path, "colors")

    with pytest.raises(RequestInvalid, match="expected name@version"):
        registry.delete("colors", may_go=nothing_needs)
    with pytest.raises(NoSuchAdapter):
        registry.delete("colors@7", may_go=nothing_needs)

    assert len(registry.all()) == 1


def test_a_version_that_an_alias_means_stays(registry: Registry, tmp_path: Path) -> None:
    stored(registry, tmp_path, "colors")
    registry.set_alias("stable", "colors@1")

    with pytest.raises(InUse, match="stable"):
        registry.delete("colors@1", may_go=nothing_needs)

    assert registry.find("colors@1")


@pytest.mark.parametrize(
    ("state", "stays"), [(RunState.PREPARED, True), (RunState.PAUSED, True), (RunState.TRAINED, False)]
)
def test_a_model_that_a_run_begins_from_stays_until_the_run_is_over(
    state: RunState, stays: bool, registry: Registry, tmp_path: Path, prepared_record: RunRecord
) -> None:
    adapter = stored(registry, tmp_path, "colors")
    order = prepared_record.request.model_copy(update={"base": str(adapter.artifact.path)})
    save_record(tmp_path / "runs", replace(prepared_record, request=order, state=state))

    if stays:
        with pytest.raises(InUse, match="begins from it"):
            check_unused(adapter, tmp_path / "runs")
    else:
        check_unused(adapter, tmp_path / "runs")


@pytest.mark.slow
@pytest.mark.parametrize("at", range(1, 10))
def test_who_is_killed_while_the_registry_changes_leaves_it_whole(at: int, registry: Registry, tmp_path: Path) -> None:
    """Killed at each call by which files change, a second try finds what was before or what comes after."""
    stored(registry, tmp_path, "colors")
    registry.set_alias("newest", "colors")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "adapters"), "colors", str(at)]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)

    again = Registry(tmp_path / "adapters")

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [one.label for one in again.all()] in (["colors@1"], [])
    assert all(one.artifact.path.is_dir() for one in again.all())
    assert all(again.find(one.alias) for one in again.aliases())
    for one in again.aliases():
        again.drop_alias(one.alias)
    for one in again.all():
        again.delete(one.label, may_go=nothing_needs)
    assert stored(again, tmp_path, "colors", task=2).label == "colors@2"


KILLED = """
import os, signal, sys
from pathlib import Path
from training_service.adapters import Registry

folder, name, at = sys.argv[1:]
calls = 0

def counted(event, arguments):
    global calls
    if event in ("open", "os.rename", "os.remove", "os.chmod", "os.mkdir") and folder in str(arguments):
        calls += 1
        if calls == int(at):
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(counted)
registry = Registry(Path(folder))
registry.set_alias("other", name)
registry.drop_alias("other")
registry.drop_alias("newest")
registry.delete(f"{name}@1", may_go=lambda adapter: None)
"""


# -- copies -------------------------------------------------------------------------------------------


def test_an_export_is_the_artifact_in_a_new_folder(registry: Registry, tmp_path: Path) -> None:
    adapter = stored(registry, tmp_path, "colors")

    folder = export(adapter, "out", [tmp_path])

    assert folder == tmp_path / "out"
    assert {path.name for path in folder.iterdir()} == {path.name for path in adapter.artifact.path.iterdir()}
    assert (folder / "a.txt").read_text() == "weights"


@pytest.mark.parametrize("folder", ["../elsewhere", "/elsewhere/x", "link/x", ".", "..", "", "taken", "no/where"])
def test_an_export_elsewhere_or_over_something_is_refused(folder: str, registry: Registry, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    (root / "taken").mkdir(parents=True)
    (root / "link").symlink_to(outside)
    adapter = stored(registry, tmp_path, "colors")

    with pytest.raises(RequestInvalid, match="folder: expected"):
        export(adapter, folder, [root])

    assert sorted(path.name for path in tmp_path.rglob("*") if path.name.startswith(".new-")) == []
    assert list(outside.iterdir()) == []


def test_a_damaged_artifact_is_not_exported(registry: Registry, tmp_path: Path) -> None:
    adapter = stored(registry, tmp_path, "colors")
    (adapter.artifact.path / "a.txt").write_text("weighty")

    with pytest.raises(ArtifactDamaged, match=r"a\.txt"):
        export(adapter, "out", [tmp_path])

    assert not (tmp_path / "out").exists()


# -- in use -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_equal_runs_make_equal_artifacts(talk: Talk, new_request: NewRequest, places: Places) -> None:
    for name in ("one", "two"):
        talk.train(new_request(name, adapter=name, max_steps=2))

    one, two = (places.registry.find(name).artifact for name in ("one", "two"))
    assert one == two


@pytest.mark.slow
def test_a_version_that_a_text_is_written_with_stays_until_the_text_is_done(
    talk: Talk, new_request: NewRequest, places: Places, tiny: Path
) -> None:
    talk.train(new_request(adapter="colors", max_steps=1))
    folder = places.registry.find("colors").artifact.path
    ask = GenerateRequest("t", str(tiny), ({"role": "user", "content": "What?"},), adapter="colors", max_tokens=64)
    talk.desk.generate(ask)

    with pytest.raises(InUse, match="a text is being written"):
        talk.desk.delete_adapter("colors@1")
    assert folder.is_dir()
    talk.desk.cancel_generate("t")
    talk.desk.delete_adapter("colors@1")

    assert not folder.exists()
    with pytest.raises(NoSuchAdapter):
        talk.desk.generate(ask)


@pytest.mark.slow
def test_an_adapter_of_another_base_is_refused(
    talk: Talk, new_request: NewRequest, models_dir: Path, tmp_path: Path
) -> None:
    talk.train(new_request(adapter="colors", max_steps=1))
    other = make_tiny_gemma(models_dir, seed=5, corpus=["other words"], hidden=32, layers=1, heads=2, vocabulary=300)
    ask = GenerateRequest("t", str(other), ({"role": "user", "content": "What?"},), adapter="colors")

    with pytest.raises(RequestInvalid, match="expected an adapter of base"):
        talk.desk.generate(ask)


# -- orders ------------------------------------------------------------------------------------------


def test_orders_and_answers_cross_to_the_merging_process_unchanged(registry: Registry, tmp_path: Path) -> None:
    order = MergeOrder("colors@1", "whole", tmp_path, tmp_path / "state", (tmp_path,), allow_hub=True)
    adapter = stored(registry, tmp_path, "colors")

    assert order_from_json(order_to_json(order)) == order
    assert adapter_from_json(json.loads(json.dumps(adapter_to_json(adapter)))) == adapter
    with pytest.raises(RequestInvalid):
        order_from_json("{}")
