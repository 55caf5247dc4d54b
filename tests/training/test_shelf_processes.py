"""The registry under several processes at once: nothing is lost, and no entry is without its files."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from colors import NewRequest
from shelf_stages import SOURCE, add
from talk import Talk

from training_service import shelf
from training_service.adapters import Registry
from training_service.artifact import verify
from training_service.errors import ArtifactDamaged, InUse, RequestInvalid
from training_service.event import Failed, Refused
from training_service.merge_order import MergeOrder
from training_service.run import Places
from training_service.worker import Worker

N_PROCESSES, N_ROUNDS = 4, 25
FOLDER = Path(__file__).parent

CHANGE = """
import sys
from dataclasses import replace
from pathlib import Path
from uuid import UUID

tests, folder, me, rounds = sys.argv[1:]
sys.path.insert(0, tests)
from shelf_stages import SOURCE, add
from training_service.adapters import Registry

registry = Registry(Path(folder) / "adapters")
artifact = registry.find("colors@1").artifact
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(rounds)):
    source = replace(SOURCE, task_id=str(UUID(int=int(me) * 1000 + number)))
    for name in ("shared", f"own {me}"):
        registry.register(name, kind="adapter", artifact=artifact, base="b", base_sha256="3" * 64, provenance=source)
    registry.set_alias(f"alias {me}", f"own {me}")
    registry.set_alias("everybody's", "shared")
    registry.set_alias(f"passing {me}", "shared")
    registry.drop_alias(f"passing {me}")
    if number % 2:
        registry.delete(f"own {me}@{number}", may_go=lambda _: None)
"""

COME_AND_GO = """
import sys
from pathlib import Path

tests, folder, me, rounds = sys.argv[1:]
sys.path.insert(0, tests)
from shelf_stages import add
from training_service.adapters import Registry
from training_service.artifact import verify
from training_service.errors import ArtifactDamaged

registry = Registry(Path(folder) / "adapters")
print("ready", flush=True)
sys.stdin.readline()
n_refused = 0
for number in range(int(rounds)):
    try:
        mine = add(Path(folder), f"colors {me}")
    except ArtifactDamaged:  # the last other version with this content went while it was published
        n_refused += 1
        continue
    verify(mine.artifact)
    registry.delete(mine.label, may_go=lambda _: None)
print(n_refused)
"""


def at_once(program: str, folder: Path) -> list[str]:
    """Run *program* in several processes that begin together; return what they said."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", program, str(FOLDER), str(folder)]
    processes = [subprocess.Popen([*command, str(me), str(N_ROUNDS)], text=True, **pipes) for me in range(N_PROCESSES)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0] * N_PROCESSES, [error for _, error in said]
    return [out for out, _ in said]


@pytest.mark.slow
@pytest.mark.integration
def test_processes_that_register_name_and_delete_at_once_lose_nothing(tmp_path: Path) -> None:
    add(tmp_path)

    at_once(CHANGE, tmp_path)

    registry = Registry(tmp_path / "adapters")
    listed, n_all = registry.all(), N_PROCESSES * N_ROUNDS
    versions: dict[str, list[int]] = {}
    for one in listed:
        versions.setdefault(one.name, []).append(one.version)
    kept = [one for one in range(1, N_ROUNDS + 1) if one % 2 == 0 or one == N_ROUNDS]
    own = {f"own {me}": kept for me in range(N_PROCESSES)}
    assert versions == {"colors": [1], "shared": list(range(1, n_all + 1)), **own}
    assert len({one.provenance.task_id for one in listed if one.name == "shared"}) == n_all
    assert {one.alias: f"{one.name}@{one.version}" for one in registry.aliases()} == {
        "everybody's": f"shared@{n_all}",
        **{f"alias {me}": f"own {me}@{N_ROUNDS}" for me in range(N_PROCESSES)},
    }
    assert all(verify(one.artifact) for one in listed)


@pytest.mark.slow
@pytest.mark.integration
def test_equal_content_that_some_publish_while_others_delete_it_is_whole_or_not_there(tmp_path: Path) -> None:
    """Each process verifies what it has registered; what was refused was not registered."""
    said = at_once(COME_AND_GO, tmp_path)

    assert sum(int(one) for one in said) < N_PROCESSES * N_ROUNDS
    assert Registry(tmp_path / "adapters").all() == ()
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_a_result_whose_files_were_deleted_meanwhile_is_not_registered(tmp_path: Path) -> None:
    registry, first = Registry(tmp_path / "adapters"), add(tmp_path)
    registry.delete(first.label, may_go=lambda _: None)

    with pytest.raises(ArtifactDamaged, match="deleted meanwhile"):
        registry.register(
            "colors", kind="adapter", artifact=first.artifact, base="b", base_sha256="3" * 64, provenance=SOURCE
        )

    assert registry.all() == ()
    assert add(tmp_path).label == "colors@2"


# -- a name that is an alias --------------------------------------------------------------------------


def test_an_alias_is_no_name_for_another_result(tmp_path: Path) -> None:
    """It would mean two things: neither may take the other's place."""
    registry, first = Registry(tmp_path / "adapters"), add(tmp_path)
    registry.set_alias("stable", "colors")

    with pytest.raises(RequestInvalid, match="expected a name that is no alias, got 'stable', which means colors@1"):
        add(tmp_path, "stable")

    assert registry.all() == (first,)
    registry.drop_alias("stable")
    assert add(tmp_path, "stable").label == "stable@1"


def test_an_order_that_names_an_alias_is_refused_before_anything_is_trained_or_merged(
    talk: Talk, new_request: NewRequest, places: Places, models_dir: Path
) -> None:
    state = places.runs.parent
    add(state)
    places.registry.set_alias("stable", "colors")

    refused = talk.desk.prepare(new_request(adapter="stable"), None)
    with pytest.raises(RequestInvalid, match="no alias"):
        asyncio.run(shelf.merge(MergeOrder("colors", "stable", models_dir, state, ()), environment={}))

    assert isinstance(refused, Refused)
    assert refused.code == "bad-request"
    assert "drop the alias" in refused.detail
    assert not places.runs.exists()


@pytest.mark.slow
def test_the_name_that_a_run_will_give_its_result_is_not_made_an_alias(
    talk: Talk, new_request: NewRequest, places: Places, models_dir: Path
) -> None:
    state = places.runs.parent
    add(state, "others")
    worker = Worker(models_dir=models_dir, state_dir=state)
    results = shelf.Shelf(worker, models_dir=models_dir, state_dir=state, roots=(), allow_hub=False)
    request = new_request(adapter="colors", max_steps=1)
    talk.ready(request)

    with pytest.raises(InUse, match=f"run {request.task_id} will have it"):
        results.set_alias("colors", "others")
    talk.train(request)

    assert places.registry.aliases() == ()
    assert talk.trained(request).adapter == "colors@1"
    assert results.set_alias("stable", "colors").label == "colors@1"


@pytest.mark.slow
def test_a_run_whose_name_became_an_alias_all_the_same_ends_well_once_that_is_dropped(
    talk: Talk, new_request: NewRequest, places: Places
) -> None:
    add(places.runs.parent, "others")
    request = new_request(adapter="stable", max_steps=2, checkpoint_every=1)
    talk.ready(request)
    places.registry.set_alias("stable", "others")
    talk.desk.runs.start(request.task_id)
    talk.work()
    (failed,) = talk.of(Failed)
    means = places.registry.find("stable").label
    places.registry.drop_alias("stable")
    talk.train(request)

    assert isinstance(failed, Failed)
    assert "drop the alias" in failed.detail
    assert failed.last_checkpoint is not None
    assert means == "others@1"
    assert talk.trained(request).adapter == "stable@1"
