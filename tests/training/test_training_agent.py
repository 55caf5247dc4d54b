"""What the training service says on the bus: every report has its message, every error its word."""

from uuid import UUID

import pytest

from training_service.agent import (
    TEXT_REFUSALS,
    agent,
    generation,
    training,
)
from training_service.errors import BY_CODE
from training_service.event import (
    Audit,
    Canceled,
    Checkpoint,
    Evaluated,
    Failed,
    Metrics,
    Paused,
    Prepared,
    Progress,
    Queued,
    Quote,
    RunEvent,
    Score,
    Started,
    Suspended,
    Trained,
    Usage,
    Variant,
)
from training_service.message import quote_message, run_message
from training_service.request import Artifact, parse_request

TASK = UUID(int=7)
ID = str(TASK)
ARTIFACT = Artifact(uri="file:///runs/a", sha256="0" * 64, size=3, media_type="application/json")
METRICS = Metrics(step=5, loss=0.5, learning_rate=0.1, tokens_per_second=9.0)


def test_the_service_has_a_handler_wherever_its_roles_must_speak() -> None:
    agent.check()


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (Queued(ID, 2), "Queued"),
        (Started(ID, "run", 10, resumed_from_step=4), "Started"),
        (Progress(ID, METRICS, 10, 1.5, 4), "Progress"),
        (Checkpoint(ID, ARTIFACT, METRICS), "Checkpoint"),
        (Evaluated(ID, 0, (Score(Variant.BASE, 2.5, {"exact_match": 0.25}),)), "Evaluated"),
        (Suspended(ID, "owner", ARTIFACT), "Suspended"),
        (Canceled(ID, None), "Canceled"),
        (Trained(ID, ARTIFACT, "sections@1", METRICS, Usage(1, 3.0, 2, 4.0)), "Trained"),
        (Failed(ID, "lost", "the child died", ARTIFACT, True), "TrainFailed"),
        (Failed(ID, "nan-loss", "no number", None, False), "TrainFailed"),
    ],
)
def test_each_report_of_a_run_becomes_its_message(event: RunEvent, name: str) -> None:
    message = run_message(training, TASK, event)

    assert message is not None
    assert type(message).__name__ == name
    plain = training.messages[training.type_of[type(message)]].to_plain(message)
    assert plain["task_id"] == ID


def test_what_answers_the_clients_own_message_is_told_by_its_handler_alone() -> None:
    assert run_message(training, TASK, Paused(ID, ARTIFACT)) is None


def test_a_quote_carries_the_whole_audit() -> None:
    audit = Audit(4, 100, 20, 0, 1, 0, 0, False, False, True, "<user>[answer]", (), ("one row was cut",))

    message = quote_message(training, TASK, Prepared(ID, audit, Quote(1024, 2048, 30, 2.5, "cpu")))

    plain = training.messages[training.type_of[type(message)]].to_plain(message)
    assert plain["audit"]["warnings"] == ["one row was cut"]
    assert (plain["audit"]["trained_tokens"], plain["steps"], plain["device"]) == (20, 30, "cpu")


def test_an_order_of_the_bus_is_an_order_of_the_service() -> None:
    dataset = training.Artifact(**ARTIFACT.model_dump())
    message = training.TrainRequest(
        task_id=TASK, base="tiny-gemma3", method="lora", lora=training.Lora(rank=8), dataset=dataset, max_steps=3
    )

    request = parse_request(message.model_dump(by_alias=True))

    assert (request.task_id, request.max_steps, request.dataset) == (ID, 3, ARTIFACT)
    assert request.lora is not None
    assert request.lora.rank == 8


def test_the_words_for_refusals_are_those_of_the_protocol() -> None:
    (refused,) = [one for one in generation.spec.messages if one.name == "Refused"]
    (code,) = [one for one in refused.fields if one.name == "code"]

    assert set(TEXT_REFUSALS) == set(code.enum)


def test_every_way_that_a_run_may_fail_has_its_word() -> None:
    (failed,) = [one for one in training.spec.messages if one.name == "TrainFailed"]
    (code,) = [one for one in failed.fields if one.name == "code"]

    assert {"out-of-memory", "nan-loss", "disk-full", "lost", "internal", "bad-data"} == set(code.enum)
    assert set(code.enum) <= set(BY_CODE)
