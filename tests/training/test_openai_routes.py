"""What the OpenAI face answers without a bus: limits, keys, files, shapes and what is kept of jobs."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from bus import Client
from training_service import openai_files, openai_routes
from training_service.openai import Face, kept_name, read_keys
from training_service.openai_files import FileStore
from training_service.openai_jobs import OVER, STATUS_AFTER, Job, JobStore, Status, after, ended, event_of, new_job
from training_service.openai_routes import MOST_JSON_BYTES, new_app
from training_service.openai_shapes import ChatRequest, JobRequest, Said, listing, logprobs_of, read_shape

CHAT = {"model": "tiny-gemma3", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def face(tmp_path: Path) -> Iterator[TestClient]:
    """A face of which nothing asks the bus."""
    app = new_app()
    app.state.backend = Face(Client(f"ipc://{tmp_path}/nowhere.sock"), tmp_path, ("tiny-gemma3",))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def error_of(answer: Any) -> tuple[int, str, str]:
    body = answer.json()["error"]
    return answer.status_code, body["type"], body["message"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "oracle", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": None}]}, "content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "text alone"),
        ({"max_tokens": 10**12}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"seed": 2**70}, "seed"),
        ({"n": 2}, "n:"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_p": "most"}, "top_p"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "expected logprobs: true beside it"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"model": ""}, "model"),
    ],
)
def test_a_chat_that_cannot_be_is_refused_by_its_field(face: TestClient, changes: dict[str, object], said: str) -> None:
    status, kind, message = error_of(face.post("/v1/chat/completions", json=CHAT | changes))

    assert (status, kind) == (400, "invalid_request_error")
    assert said in message


@pytest.mark.parametrize("text", ["", "{", "[1]", "nul", '{"temperature": NaN}', "[" * 100_000, b"\xff\xfe\x00\xd8"])
def test_what_is_no_json_object_is_refused(face: TestClient, text: str | bytes) -> None:
    assert error_of(face.post("/v1/chat/completions", content=text))[:2] == (400, "invalid_request_error")


def test_a_temperature_that_is_no_number_is_refused(face: TestClient) -> None:
    text = '{"model": "tiny-gemma3", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}'

    status, _, message = error_of(face.post("/v1/chat/completions", content=text))

    assert (status, "temperature" in message) == (400, True)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/fine_tuning/jobs"])
def test_ten_megabytes_of_json_are_too_much_also_where_no_length_is_told(face: TestClient, path: str) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(10):
            yield b"x" * MOST_JSON_BYTES

    assert error_of(face.post(path, content=pieces()))[0] == 413


def test_unknown_routes_methods_and_ids_are_answered_in_the_same_form(face: TestClient) -> None:
    assert error_of(face.get("/v1/engines"))[0] == 404
    assert error_of(face.delete("/v1/chat/completions"))[0] == 405
    for path in ("/v1/files/../../etc/passwd", "/v1/files/file-1", "/v1/fine_tuning/jobs/x", "/v1/files/%00/content"):
        assert error_of(face.get(path))[0] == 404, path
    for path in ("/v1/fine_tuning/jobs/x/cancel", "/v1/fine_tuning/jobs/ftjob-000000000000000000000000/pause"):
        assert error_of(face.post(path))[0] == 404, path
    assert error_of(face.get("/v1/files?limit=0"))[0] == 400
    assert error_of(face.get("/v1/files?limit=many"))[0] == 400


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({"content-type": "multipart/form-data; boundary=x"}, b"--x\r\nbroken"),
        ({"content-type": "multipart/form-data"}, b"no boundary"),
        ({"content-type": "application/json"}, b"{}"),
        ({}, b""),
    ],
)
def test_a_broken_form_is_refused(face: TestClient, headers: dict[str, str], content: bytes) -> None:
    assert error_of(face.post("/v1/files", headers=headers, content=content))[0] == 400


def test_a_form_with_another_purpose_keeps_nothing(face: TestClient, tmp_path: Path) -> None:
    answer = face.post("/v1/files", files={"file": ("a.jsonl", b"{}\n")}, data={"purpose": "assistants"})

    assert error_of(answer)[0] == 400
    assert list((tmp_path / "files").iterdir()) == []


def test_a_file_that_is_too_large_keeps_nothing(
    face: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (openai_files, openai_routes):
        monkeypatch.setattr(module, "MOST_BYTES", 1000)

    answers = [
        face.post("/v1/files", files={"file": ("a.jsonl", b"x" * n_bytes)}, data={"purpose": "fine-tune"})
        for n_bytes in (1001, 200_000)
    ]

    assert [error_of(one)[0] for one in answers] == [413, 413]
    assert list((tmp_path / "files").iterdir()) == []


@pytest.mark.parametrize("filename", ["../x", "/abs", "für Łódź", "x" * 2_000, "a\nb"])
def test_a_files_name_is_metadata_and_never_a_path(filename: str, face: TestClient, tmp_path: Path) -> None:
    answer = face.post("/v1/files", files={"file": (filename, b"{}\n")}, data={"purpose": "fine-tune"})

    file_id = answer.json()["id"]
    assert sorted(path.name for path in (tmp_path / "files" / file_id).iterdir()) == ["content.jsonl", "file.json"]
    assert [one.file_id for one in FileStore(tmp_path / "files").all()] == [file_id]


def test_with_keys_every_request_must_bear_one(tmp_path: Path) -> None:
    app = new_app(keys=["first key", "second"])
    app.state.backend = Face(Client(f"ipc://{tmp_path}/nowhere.sock"), tmp_path, ())
    with TestClient(app) as client:
        statuses = {
            given: client.get("/v1/files", headers={"authorization": given} if given else {}).status_code
            for given in ("", "Bearer", "Bearer second", "Bearer seconds", "second", "Bearer first key")
        }

    assert [given for given, status in statuses.items() if status == 200] == [
        "Bearer second",
        "second",
        "Bearer first key",
    ]
    assert set(statuses.values()) == {200, 401}


def test_another_address_than_loopback_needs_keys(tmp_path: Path) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.write_text("\n \n")
    full.write_text("\none\n two \n")

    assert read_keys(None, "127.0.0.1") == []
    assert read_keys(full, "0.0.0.0") == ["one", "two"]
    for path, host in ((None, "0.0.0.0"), (empty, "127.0.0.1")):
        with pytest.raises(SystemExit, match="expected --keys"):
            read_keys(path, host)


def test_a_faces_name_stays_with_its_folder(tmp_path: Path) -> None:
    assert kept_name(tmp_path / "a") == kept_name(tmp_path / "a") != kept_name(tmp_path / "b")


# -- jobs ---------------------------------------------------------------------------------------------


def a_job(**fields: object) -> Job:
    request = JobRequest(model="tiny-gemma3", training_file="file-1", **fields)  # type: ignore[arg-type]  # its own
    return new_job(request, now=1000.0)


def test_hyperparameters_become_the_fields_of_an_order() -> None:
    chosen = {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 2.0, "beta": 0.2}
    job = a_job(
        method={"type": "dpo", "dpo": {"hyperparameters": chosen}}, suffix="mine", seed=7, palaver={"max_steps": 5}
    )

    assert job.order == {
        "method": "lora", "epochs": 3.0, "batch_rows": 8, "learning_rate": 4e-4, "objective": "dpo",
        "dpo": {"beta": 0.2}, "adapter": "mine", "seed": 7, "max_steps": 5,
    }  # fmt: skip
    assert job.as_object()["method"]["type"] == "dpo"


@pytest.mark.parametrize(("name", "status"), STATUS_AFTER.items())
def test_a_message_moves_a_job_and_one_that_is_over_stays(name: str, status: Status) -> None:
    fields = {"adapter": "a@1", "code": "nan-loss", "detail": "no number", "position": 0}

    moved = after(a_job(), name, fields, now=2000.0)

    assert moved.status is status
    assert (moved.finished_at is not None) == (status in OVER)
    if status in OVER:
        assert after(moved, "Started", {}, now=3000.0) == moved
        assert ended(moved, "failed", "late", now=3000.0) == moved


@pytest.mark.parametrize(
    ("outcome", "status"), [("declined", Status.CANCELLED), ("canceled", Status.CANCELLED), ("failed", Status.FAILED)]
)
def test_a_conversation_that_ends_ends_its_job(outcome: str, status: Status) -> None:
    job = ended(a_job(), outcome, "", now=2000.0)

    assert job.status is status
    assert (job.error is not None) == (status is Status.FAILED)


def test_jobs_and_events_are_there_after_a_restart_and_told_once(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    job = store.keep(a_job())
    started = event_of("Started", {}, count=1, now=5.0)
    for _ in range(2):
        store.tell(job.job_id, started)
    store.keep(replace(job, status=Status.RUNNING, said=("Pause",)))
    with (tmp_path / f"{job.job_id}.events.jsonl").open("a") as out:
        out.write('{"key": "torn')

    again = JobStore(tmp_path)

    assert again.find(job.job_id).said == ("Pause",)
    assert [one.key for one in again.events(job.job_id)] == ["started-1"]


def test_a_page_begins_behind_the_one_that_was_named() -> None:
    items = [{"id": str(number)} for number in range(5)]

    page = listing(items, limit=2, after="1")

    assert [one["id"] for one in page["data"]] == ["2", "3"]
    assert (page["has_more"], page["first_id"], page["last_id"]) == (True, "2", "3")
    assert not listing(items, limit=2, after="3")["has_more"]


def test_tokens_are_shown_with_their_bytes_but_for_parts_of_characters() -> None:
    told = {"token": " é", "logprob": -0.5, "top": [{"token": "\ufffd", "logprob": -0.25}]}

    shown = logprobs_of([Said(" é", [told]), Said("")])

    other = {"token": "\ufffd", "logprob": -0.25, "bytes": None}
    entry = {"token": " é", "logprob": -0.5, "bytes": [32, 195, 169], "top_logprobs": [other]}
    assert shown == {"content": [entry], "refusal": None}


@pytest.mark.parametrize(
    ("fields", "n_top"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 4}, 4),
        ({"logprobs": False, "top_logprobs": 0}, None),
    ],
)
def test_alternatives_are_asked_for_as_openai_does(fields: dict[str, object], n_top: int | None) -> None:
    assert read_shape(ChatRequest, CHAT | fields).n_top() == n_top
