"""Artifacts, the registry, run records and the frames of the pipe: what needs no model."""

import errno
import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from training_service.adapters import Adapter, Provenance, Registry, internal_name
from training_service.artifact import (
    ADAPTER_TYPE,
    BYTES_PER_SECOND,
    PIECE_BYTES,
    UNTHROTTLED_BYTES,
    SyncedFile,
    publish,
    remove,
    verify,
    write_json,
)
from training_service.errors import (
    ArtifactDamaged,
    DataError,
    DiskFull,
    ExactnessBroken,
    NoSuchAdapter,
    NoSuchRun,
    RequestInvalid,
    TrainingError,
)
from training_service.event import (
    Audit,
    Checkpoint,
    Evaluated,
    Failed,
    Metrics,
    Prepared,
    Progress,
    Quote,
    Report,
    Score,
    Suspended,
    Trained,
    Usage,
    Variant,
    refusal,
    report_from_json,
    report_to_json,
)
from training_service.pipe import MAX_BYTES, decode, encode, read_message
from training_service.record import RunRecord, RunState, find_record, load_record, save_record
from training_service.request import Artifact, TrainingRequest

TASK = str(UUID(int=5))
SOME = Artifact(uri="file:///a", sha256="1" * 64, size=1, media_type=ADAPTER_TYPE)


def fill(folder: Path) -> None:
    (folder / "weights").mkdir()
    (folder / "weights" / "a.bin").write_bytes(b"abc")
    (folder / "note.txt").write_text("hello")


def test_same_content_is_one_artifact_named_by_its_manifest(tmp_path: Path) -> None:
    first = publish(tmp_path, ADAPTER_TYPE, fill)
    second = publish(tmp_path, ADAPTER_TYPE, fill)

    assert first == second
    assert first.size == 8
    assert [path.name for path in tmp_path.iterdir()] == [first.sha256]
    assert verify(first) == first.path


def test_failure_while_filling_leaves_nothing(tmp_path: Path) -> None:
    def full_disk(folder: Path) -> None:
        fill(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFull, match="free some room"):
        publish(tmp_path, ADAPTER_TYPE, full_disk)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["change", "add", "delete", "manifest", "all"])
def test_damaged_artifact_is_refused(damage: str, tmp_path: Path) -> None:
    made = publish(tmp_path, ADAPTER_TYPE, fill)
    match damage:
        case "change":
            (made.path / "note.txt").write_text("hellO")
        case "add":
            (made.path / "more").write_text("x")
        case "delete":
            (made.path / "note.txt").unlink()
        case "manifest":
            (made.path / "manifest.json").write_text("{}")
        case "all":
            remove(made)

    with pytest.raises(ArtifactDamaged):
        verify(made)


def test_files_of_an_artifact_are_readable_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        made = publish(tmp_path, ADAPTER_TYPE, fill)
    finally:
        os.umask(old)

    modes = {stat.S_IMODE(path.stat().st_mode) for path in made.path.rglob("*") if path.is_file()}
    assert modes == {0o644}


@pytest.mark.parametrize("n_at_once", [UNTHROTTLED_BYTES + 4 * PIECE_BYTES, PIECE_BYTES // 64])
def test_large_file_is_written_at_the_throttle_however_small_the_writes_are(n_at_once: int, tmp_path: Path) -> None:
    naps: list[float] = []
    file = SyncedFile(tmp_path / "large", sleep=naps.append)
    data = bytes(UNTHROTTLED_BYTES + 4 * PIECE_BYTES)

    for start in range(0, len(data), n_at_once):
        file.write(data[start : start + n_at_once])
    file.close()

    assert (tmp_path / "large").read_bytes() == data
    assert sum(naps) == pytest.approx(4 * PIECE_BYTES / BYTES_PER_SECOND)


def test_json_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})

    assert path.read_text() == '{\n "a": 1\n}\n'
    write_json(path, {"a": 2})
    assert path.read_text() == '{\n "a": 2\n}\n'


def provenance(task_id: str = TASK) -> Provenance:
    return Provenance(task_id, {"seed": 1}, "2" * 64, 1, {"loss": 0.5}, {"torch": "2"})


Register = Callable[..., Adapter]


@pytest.fixture(scope="module")
def register(tmp_path_factory: pytest.TempPathFactory) -> Register:
    """Return what registers an artifact that is really there."""
    artifact = publish(tmp_path_factory.mktemp("artifacts"), ADAPTER_TYPE, fill)

    def add(registry: Registry, name: str, task_id: str = TASK) -> Adapter:
        return registry.register(
            name, kind="adapter", artifact=artifact, base="tiny", base_sha256="3" * 64, provenance=provenance(task_id)
        )

    return add


def test_versions_count_up_and_the_bare_name_means_the_newest(register: Register, tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    first, second = register(registry, "colors", "t1"), register(registry, "colors", "t2")

    assert (first.label, second.label) == ("colors@1", "colors@2")
    assert registry.find("colors") == second
    assert registry.find("colors@1") == first
    assert Registry(tmp_path).all() == (first, second)


def test_result_of_one_task_is_registered_once(register: Register, tmp_path: Path) -> None:
    registry = Registry(tmp_path)

    assert register(registry, "colors") == register(registry, "colors")
    assert len(registry.all()) == 1


@pytest.mark.parametrize("name", ["mlp", "model", "../x", "/abs", "lora_A", "für Łódź", ".", "a/b"])
def test_name_is_metadata_and_never_a_path(name: str, register: Register, tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    registered = register(Registry(folder), name)

    assert Registry(folder).find(name) == registered
    assert {path.parent for path in tmp_path.rglob("*") if path.is_file()} == {folder}
    assert internal_name(name).isalnum()


@pytest.mark.parametrize("name", ["", " ", "a@1", "a\0b", "x" * 10_000])
def test_name_that_cannot_be_shown_is_refused(name: str, register: Register, tmp_path: Path) -> None:
    with pytest.raises(RequestInvalid):
        register(Registry(tmp_path), name)

    assert Registry(tmp_path).all() == ()


@pytest.mark.parametrize(("reference", "said"), [("nothing", "colors"), ("colors@9", "1"), ("x" * 10_000, "colors")])
def test_unknown_adapter_is_refused_with_what_there_is(
    reference: str, said: str, register: Register, tmp_path: Path
) -> None:
    register(Registry(tmp_path), "colors")

    with pytest.raises(NoSuchAdapter, match=said) as caught:
        Registry(tmp_path).find(reference)

    assert len(str(caught.value)) < 300


def new_record(state: RunState = RunState.PREPARED) -> RunRecord:
    dataset = Artifact(uri="file:///d", sha256="4" * 64, size=1, media_type="application/jsonl")
    request = TrainingRequest(task_id=TASK, base="tiny", method="lora", dataset=dataset)
    found = Audit(1, 2, 1, 0, 0, 0, 0, False, False, True, "x", (), ("one",))
    return RunRecord(request, state, Prepared(TASK, found, Quote(1, 2, 3, 4.0, "cpu")), "3" * 64)


def test_record_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    metrics = Metrics(3, 0.25, 1e-3, 100.0)
    failed = Failed(TASK, "nan-loss", "expected a number", SOME, retryable=False)
    record = new_record(RunState.RUNNING).moved(
        RunState.FAILED, checkpoint=Checkpoint(TASK, SOME, metrics), metrics=metrics, ended=failed
    )
    save_record(tmp_path, record)

    assert load_record(tmp_path, TASK) == record
    assert record.summary().step == 3


@pytest.mark.parametrize("over", [RunState.TRAINED, RunState.CANCELED])
def test_run_that_is_over_does_not_move(over: RunState) -> None:
    with pytest.raises(ExactnessBroken, match="expected one of: none"):
        new_record(over).moved(RunState.RUNNING)


@pytest.mark.parametrize("task_id", ["../../etc/passwd", "", "/abs"])
def test_task_id_that_is_no_uuid_touches_no_file(task_id: str, tmp_path: Path) -> None:
    with pytest.raises(NoSuchRun):
        find_record(tmp_path, task_id)


def test_broken_record_is_refused_by_its_path(tmp_path: Path) -> None:
    save_record(tmp_path, new_record())
    (tmp_path / TASK / "run.json").write_text("{")

    with pytest.raises(ArtifactDamaged, match=r"run\.json"):
        find_record(tmp_path, TASK)


@pytest.mark.parametrize(
    "report",
    [
        new_record().prepared,
        Progress(TASK, Metrics(1, 2.5, 1e-3, None), 10, 3.5, 4),
        Checkpoint(TASK, SOME, Metrics(1, 2.5, 1e-3)),
        Evaluated(TASK, 3, (Score(Variant.TUNED, 0.5, {"exact_match": 1.0}),)),
        refusal(TASK, DataError("no row"), new_record().prepared.audit),
        Suspended(TASK, "priority", SOME),
        Trained(TASK, SOME, "a@1", Metrics(1, 2.5, 1e-3), Usage(1, 2.0, 3, 4.0)),
        Failed(TASK, "lost", "ü", None, retryable=True),
    ],
)
def test_report_crosses_the_pipe_unchanged(report: Report) -> None:
    file = io.BytesIO(encode({"reports": [report_to_json(report)]}))

    message = read_message(file)

    assert message is not None
    reports = message["reports"]
    assert isinstance(reports, list)
    assert report_from_json(reports[0]) == report
    assert read_message(file) is None


@pytest.mark.parametrize("data", [b"[1]", b"{", b"\xff"])
def test_frame_that_holds_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(TrainingError, match="expected"):
        decode(data)


def test_frame_above_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(TrainingError, match="at most"):
        read_message(io.BytesIO((MAX_BYTES + 1).to_bytes(4, "big")))


def test_frame_that_breaks_off_is_the_end() -> None:
    assert read_message(io.BytesIO(encode({"a": 1})[:-1])) is None


def test_unknown_report_is_refused() -> None:
    with pytest.raises(RequestInvalid, match="expected a report"):
        report_from_json({"kind": "Surprise"})
