"""Names of adapters as bad input: through the order, the registry and the OpenAI face; typed, or harmless."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from colors import NewRequest
from peft import PeftModel
from starlette.testclient import TestClient
from talk import Talk
from transformers import AutoModelForCausalLM

from bus import Client
from training_service.adapters import Registry
from training_service.errors import NoSuchAdapter, RequestInvalid
from training_service.event import Generated, GenerateRequest, Refused
from training_service.openai import Face
from training_service.openai_routes import new_app
from training_service.request import MAX_NAME, parse_request
from training_service.result import ADAPTER_WEIGHTS
from training_service.run import Places
from training_service.tensors import read_tensors

PARTS_OF_A_MODEL = ("mlp", "self_attn", "layers", "model", "weight", "lora_A", "lora_B", "default", "base_layer")
HARMLESS = (
    *PARTS_OF_A_MODEL,
    "../x",
    "../../x",
    "/abs",
    ".",
    "..",
    "a/b",
    "a\\b",
    "für Łódź 🦊",
    "-rf",
    "x" * MAX_NAME,
)
REFUSED = ("", " ", "a@1", "@", "a\0b", "a\nb", "\x1b[2J", "a\u202eb", "\ud800", "x" * (MAX_NAME + 1), "x" * 10_000)


def written(folder: Path) -> set[Path]:
    """Return every file below *folder*."""
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT asks transformers for an attribute under its old name
@pytest.mark.parametrize("name", HARMLESS)
def test_a_run_whose_adapter_has_an_odd_name_harms_neither_files_nor_the_run_beside_it(
    name: str, talk: Talk, new_request: NewRequest, places: Places, tiny: Path, tmp_path: Path
) -> None:
    alone = talk.train(new_request("alone", adapter="victim", max_steps=2, lora={"rank": 2}))
    before = written(tmp_path)
    beside = new_request("beside", adapter="victim", max_steps=2, lora={"rank": 2})
    odd = new_request("odd", adapter=name, max_steps=2, lora={"rank": 3})
    for request in (beside, odd):
        talk.ready(request)
        talk.desk.runs.start(request.task_id)
    talk.work()
    chat = ({"role": "user", "content": "What color has the sky?"},)
    talk.desk.generate(GenerateRequest("g", str(tiny), chat, adapter=name, max_tokens=2))
    talk.work()

    found = places.registry.find(name)
    assert talk.trained(beside).artifact == alone.artifact
    assert talk.trained(odd).adapter == found.label == f"{name}@1"
    assert isinstance(talk.said[-1], Generated)
    assert talk.said[-1].adapter == found.label
    assert all(places.runs.parent in path.parents for path in written(tmp_path) - before)
    assert not any(name in path.name for path in written(places.runs.parent) - before if len(name) > 8)
    own = read_tensors(found.artifact.path / ADAPTER_WEIGHTS)
    plain = AutoModelForCausalLM.from_pretrained(tiny, dtype="float32")
    loaded = PeftModel.from_pretrained(plain, found.artifact.path).state_dict()
    assert len(own) == sum("lora_" in key for key in loaded)
    assert all((loaded[key.replace(".weight", ".default.weight")] == own[key]).all() for key in own)


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_cannot_be_shown_is_refused_by_the_order(name: str, new_request: NewRequest) -> None:
    body = new_request().model_dump() | {"adapter": name}

    with pytest.raises(RequestInvalid, match=r"^request: adapter: ") as caught:
        parse_request(body)

    assert len(str(caught.value)) < 3 * MAX_NAME
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_cannot_be_shown_is_refused_by_the_registry(name: str, tmp_path: Path) -> None:
    registry = Registry(tmp_path)

    with pytest.raises(RequestInvalid, match="expected"):
        registry.check_name(name)
    with pytest.raises(NoSuchAdapter) as caught:
        registry.find(name)

    assert len(str(caught.value)) < 300
    assert written(tmp_path) == set()


@pytest.mark.parametrize("name", ["nobody", *REFUSED])
def test_a_text_or_a_deletion_of_a_name_that_is_not_there_is_refused(name: str, talk: Talk, tiny: Path) -> None:
    chat = ({"role": "user", "content": "What color has the sky?"},)
    if name:
        with pytest.raises(NoSuchAdapter):
            talk.desk.generate(GenerateRequest("g", str(tiny), chat, adapter=name))
    with pytest.raises((NoSuchAdapter, RequestInvalid)):
        talk.desk.delete_adapter(name)

    assert talk.desk.is_idle


@pytest.mark.parametrize(
    "name", ["../x", "/etc", "/proc/self", "..", "\0", "/a\0b", "x" * 250, "x" * 10_000, "/" + "x/" * 9999]
)
def test_a_base_is_no_way_out_of_the_folders_either(name: str, talk: Talk, new_request: NewRequest) -> None:
    answer = talk.desk.prepare(new_request(base=name), None)

    assert isinstance(answer, Refused)
    assert answer.code == "no-such-base"
    assert len(answer.detail) < 1000


# -- the face -------------------------------------------------------------------------------------------


@pytest.fixture
def face(tmp_path: Path) -> Iterator[TestClient]:
    """A face of which nothing reaches a bus."""
    app = new_app()
    app.state.backend = Face(Client(f"ipc://{tmp_path}/nowhere.sock"), tmp_path / "face", ("tiny-gemma3",))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def ordered(face: TestClient, suffix: str) -> tuple[int, dict[str, object]]:
    """Order a job whose model's name is to have *suffix*."""
    rows = ("rows.jsonl", b'{"text": "a"}\n')
    file_id = face.post("/v1/files", files={"file": rows}, data={"purpose": "fine-tune"}).json()["id"]
    body = json.dumps({"model": "tiny-gemma3", "training_file": file_id, "suffix": suffix})
    answer = face.post("/v1/fine_tuning/jobs", content=body, headers={"content-type": "application/json"})
    return answer.status_code, answer.json()


@pytest.mark.parametrize("suffix", [*REFUSED, "x" * 65])
def test_a_suffix_that_cannot_be_shown_is_refused_by_the_face(suffix: str, face: TestClient) -> None:
    status, answer = ordered(face, suffix)

    assert status == 400
    assert answer["error"]["param"] == "suffix"  # type: ignore[index]  # an error as OpenAI writes it
    assert face.get("/v1/fine_tuning/jobs").json()["data"] == []


@pytest.mark.parametrize("suffix", [name for name in HARMLESS if len(name) <= 64])
def test_a_suffix_is_metadata_and_never_a_path(suffix: str, face: TestClient, tmp_path: Path) -> None:
    status, answer = ordered(face, suffix)

    assert (status, answer["object"]) == (200, "fine_tuning.job")
    assert all(tmp_path / "face" in path.parents for path in written(tmp_path))
