"""The typed order and the file that people write it in."""

from pathlib import Path
from uuid import UUID, uuid4

import pytest

from bus.spec.compile import load_protocol
from training_service.errors import DataError, RequestInvalid
from training_service.event import FAILURE_CODES, REFUSAL_CODES, Audit, Metrics, Score, Usage
from training_service.request import (
    MAX_NAME,
    Artifact,
    Dpo,
    EarlyStopping,
    Lora,
    TrainingRequest,
    load_training,
    parse_request,
)

DATASET = {"uri": "file:///data/a.jsonl", "sha256": "0" * 64, "size": 3, "media_type": "application/jsonl"}


def order(**changes: object) -> dict[str, object]:
    return {"task_id": str(uuid4()), "base": "tiny-gemma3", "method": "lora", "dataset": DATASET} | changes


def test_order_has_the_fields_and_defaults_of_the_protocols_message() -> None:
    training = load_protocol("training")
    message = training.TrainRequest.model_fields
    mine = TrainingRequest.model_fields

    assert mine.keys() == message.keys()
    for name in mine:
        assert mine[name].is_required() == message[name].is_required(), name
        if not mine[name].is_required():
            default = mine[name].default
            assert (list(default) if isinstance(default, tuple) else default) == message[name].default, name


@pytest.mark.parametrize(
    ("own", "struct"),
    [
        (Lora.model_fields, "Lora"),
        (Dpo.model_fields, "Dpo"),
        (EarlyStopping.model_fields, "EarlyStopping"),
        (Audit.__dataclass_fields__, "Audit"),
        (Score.__dataclass_fields__, "Score"),
        (Usage.__dataclass_fields__, "Usage"),
    ],
)
def test_parts_have_the_fields_of_the_protocols_structs(own: dict[str, object], struct: str) -> None:
    training = load_protocol("training")

    assert list(own) == list(getattr(training, struct).model_fields)
    assert list(Metrics.__dataclass_fields__) == list(training.Metrics.model_fields)


def test_codes_are_those_that_the_protocol_knows() -> None:
    training = load_protocol("training")

    assert set(training.Refused.model_fields["code"].annotation.__args__) == REFUSAL_CODES
    assert set(training.TrainFailed.model_fields["code"].annotation.__args__) == FAILURE_CODES


def test_task_id_may_be_a_uuid_and_becomes_canonical_text() -> None:
    task_id = uuid4()

    assert parse_request(order(task_id=task_id)).task_id == str(task_id)
    assert parse_request(order(task_id=task_id.hex.upper())).task_id == str(task_id)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"method": "full", "lora": {"rank": 4}}, "expected no 'lora' with method 'full'"),
        ({"batch_rows": 0}, "batch_rows"),
        ({"batch_rows": "4"}, "batch_rows"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": 1.5}, "learning_rate"),
        ({"epochs": 0.0}, "expected at least one step"),
        ({"epoch": 3}, "epoch"),
        ({"task_id": "../../etc"}, "task_id"),
        ({"seed": 2**63}, "expected a seed of 64 bits"),
        ({"lora": {"rank": 0}}, "lora.rank"),
        ({"dataset": {**DATASET, "sha256": "x"}}, "dataset.sha256"),
        ({"adapter": "a@2"}, "adapter"),
        ({"adapter": "x" * (MAX_NAME + 1)}, f"at most {MAX_NAME}"),
        ({"adapter": "a\nb"}, "adapter"),
    ],
)
def test_wrong_order_is_refused_and_the_place_named(changes: dict[str, object], place: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        parse_request(order(**changes), where="orders/a.yaml")

    assert str(caught.value).startswith("orders/a.yaml: ")
    assert place in str(caught.value)


@pytest.mark.parametrize("uri", ["https://example.org/a.jsonl", "relative.jsonl", "file://elsewhere/a.jsonl"])
def test_dataset_that_is_no_file_of_this_machine_is_refused(uri: str) -> None:
    request = parse_request(order(dataset={**DATASET, "uri": uri}))

    with pytest.raises(RequestInvalid, match="expected a file:// uri"):
        _ = request.dataset.path


def test_artifact_path_survives_blanks_and_percent_signs(tmp_path: Path) -> None:
    path = tmp_path / "a b%20c.jsonl"
    path.write_text("{}")

    assert Artifact.from_file(path).path == path


def test_training_file_becomes_an_order_with_its_name_as_adapter(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    data = {"training": "colors", "base": "tiny-gemma3", "method": "lora", "lora": {"rank": 8}, "dataset": "rows.jsonl"}

    request = load_training(data, folder=tmp_path, task_id=str(UUID(int=7)))

    assert request.adapter == "colors"
    assert request.lora == Lora(rank=8)
    assert request.dataset.path == tmp_path / "rows.jsonl"
    assert request.dataset.size == 3


def test_training_file_with_a_missing_dataset_names_its_path(tmp_path: Path) -> None:
    data = {"training": "colors", "base": "tiny-gemma3", "method": "full", "dataset": "nowhere.jsonl"}

    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        load_training(data, folder=tmp_path, task_id=str(UUID(int=7)))


@pytest.mark.parametrize("data", [{}, {"training": 3}, {"training": "a", "dataset": 5}])
def test_training_file_without_its_parts_is_refused(data: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(RequestInvalid, match="expected"):
        load_training(data, folder=tmp_path, task_id=str(UUID(int=7)))
