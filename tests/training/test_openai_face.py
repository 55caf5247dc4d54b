"""The OpenAI face with OpenAI's own client, over a real broker and a real training service."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from watchfiles import watch

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
KEY = "canary-key-of-the-face"
PATIENCE = 120.0
ANSWERS = {"red": "stop", "green": "go"}
RECIPE = {"max_steps": 40, "batch_rows": 2, "learning_rate": 5e-3, "lora": {"rank": 4}, "checkpoint_every": 10}


class Town:
    """A broker, a training service and a face, each a process of its own in one project folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bus = f"ipc://{folder}/bus.sock"
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port = found.getsockname()[1]
        self.keys = folder / "keys"
        self.keys.write_text(f"another-key\n{KEY}\n")

    @contextmanager
    def process(self, *command: str, until: str) -> Iterator[subprocess.Popen[str]]:
        """Run a command until the block ends, having waited for *until* in its log."""
        log = (self.folder / f"{command[0]}.log").open("a+")
        begun = log.tell()
        environment = {**os.environ, "OMP_NUM_THREADS": "2", "PALAVER_BUS": self.bus}
        running = subprocess.Popen(
            [sys.executable, "-m", "bus.cli", *command], cwd=self.folder, env=environment, text=True,
            stdout=log, stderr=log, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            self.wait(lambda: until in Path(log.name).read_text()[begun:] or running.poll() is not None)
            assert running.poll() is None, Path(log.name).read_text()
            yield running
        finally:
            if running.poll() is None:
                running.terminate()
            running.wait(PATIENCE)
            log.close()

    def face(self) -> Any:
        """Run the face."""
        return self.process("serve", "--port", str(self.port), "--keys", str(self.keys), until="face.started")

    def client(self, key: str = KEY) -> OpenAI:
        """Return OpenAI's client of the face."""
        return OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key, max_retries=0, timeout=PATIENCE)

    def wait(self, is_done: Any) -> None:
        """Look again whenever a file of the town has changed, until *is_done*."""
        end = time.monotonic() + PATIENCE
        for _ in watch(self.folder, debounce=200, rust_timeout=200, yield_on_timeout=True):
            if is_done():
                return
            assert time.monotonic() < end, "expected an end, the time has passed"


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("town")
    (folder / ".palaver").mkdir()
    (folder / ".palaver" / "models").symlink_to(models_dir)
    town = Town(folder)
    with (
        town.process("broker", "--bus", town.bus, until="broker.started"),
        town.process("launch", "training_service", until="agent.started"),
    ):
        yield town


@pytest.fixture
def client(town: Town) -> Iterator[OpenAI]:
    with town.face():
        yield town.client()


def uploaded(client: OpenAI, n_rows: int = 2) -> str:
    """Upload rows and return the file's id."""
    rows = [
        {"messages": [{"role": "user", "content": light}, {"role": "assistant", "content": answer}]}
        for light, answer in ANSWERS.items()
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows[:n_rows])
    return client.files.create(file=("lights.jsonl", content.encode()), purpose="fine-tune").id


def ordered(client: OpenAI, **changes: Any) -> str:
    """Order a job and return its id."""
    recipe = {**RECIPE, **changes}
    job = client.fine_tuning.jobs.create(
        model="tiny-gemma3", training_file=uploaded(client), suffix="lights", seed=0, extra_body={"palaver": recipe}
    )
    return job.id


def status(client: OpenAI, job_id: str) -> str:
    return str(client.fine_tuning.jobs.retrieve(job_id).status)


def test_a_job_succeeds_tells_its_events_and_its_model_answers(town: Town, client: OpenAI) -> None:
    job_id = ordered(client)
    town.wait(lambda: status(client, job_id) in ("succeeded", "failed"))
    job = client.fine_tuning.jobs.retrieve(job_id)
    events = client.fine_tuning.jobs.list_events(job_id, limit=100).data
    checkpoints = client.fine_tuning.jobs.checkpoints.list(job_id).data
    asked = {"model": str(job.fine_tuned_model), "temperature": 0, "max_tokens": 8}
    answers = {
        light: client.chat.completions.create(messages=[{"role": "user", "content": light}], **asked)  # type: ignore[call-overload]
        for light in ANSWERS
    }
    stream = client.chat.completions.create(  # type: ignore[call-overload]  # plain values
        messages=[{"role": "user", "content": [{"type": "text", "text": "green"}]}],
        stream=True, stream_options={"include_usage": True}, **asked,
    )  # fmt: skip
    chunks = list(stream)
    models = [one.id for one in client.models.list()]
    command = [sys.executable, "-m", "bus.cli", "generate", "red", "--adapter", "lights", "--top-p", "0.5", "--bus"]
    shell = subprocess.run([*command, town.bus], cwd=town.folder, capture_output=True, text=True, check=True)

    assert (job.status, job.error, job.trained_tokens) == ("succeeded", None, 6)
    assert str(job.fine_tuned_model).startswith("lights@")
    assert {light: one.choices[0].message.content for light, one in answers.items()} == ANSWERS
    assert shell.stdout.strip() == ANSWERS["red"]
    assert answers["red"].usage is not None
    assert (
        answers["red"].usage.total_tokens == answers["red"].usage.prompt_tokens + answers["red"].usage.completion_tokens
    )
    assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices) == "go"
    assert (chunks[-2].choices[0].finish_reason, chunks[-1].usage is not None) == ("stop", True)
    assert events[0].message.endswith(str(job.fine_tuned_model))
    assert events[-1].message == "job created for model tiny-gemma3"
    assert any(one.type == "metrics" for one in events)
    assert [one.step_number for one in checkpoints] == [40, 30, 20, 10]
    assert {"tiny-gemma3", str(job.fine_tuned_model)} <= set(models)
    assert client.models.retrieve(str(job.fine_tuned_model)).owned_by == "tiny-gemma3"


def test_a_job_over_preferences_succeeds_and_its_model_answers(town: Town, client: OpenAI) -> None:
    """In the form in which OpenAI takes preferences."""
    rows = [
        {
            "input": {"messages": [{"role": "user", "content": light}]},
            "preferred_output": [{"role": "assistant", "content": answer}],
            "non_preferred_output": [{"role": "assistant", "content": other}],
        }
        for (light, answer), other in zip(ANSWERS.items(), reversed(ANSWERS.values()), strict=True)
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file_id = client.files.create(file=("preferences.jsonl", content), purpose="fine-tune").id
    created = client.fine_tuning.jobs.create(
        model="tiny-gemma3", training_file=file_id, suffix="preferences", seed=0,
        method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.5, "batch_size": 2}}},
        extra_body={"palaver": {"max_steps": 60, "learning_rate": 5e-3, "lora": {"rank": 4}}},
    )  # fmt: skip
    town.wait(lambda: status(client, created.id) in ("succeeded", "failed"))
    job = client.fine_tuning.jobs.retrieve(created.id)
    losses = [
        one.data["train_loss"]
        for one in client.fine_tuning.jobs.list_events(created.id, limit=100).data
        if one.type == "metrics" and isinstance(one.data, dict)
    ]
    answer = client.chat.completions.create(
        model=str(job.fine_tuned_model), messages=[{"role": "user", "content": "red"}], temperature=0, max_tokens=8
    )

    assert (job.status, job.error) == ("succeeded", None)
    assert job.method is not None
    assert (job.method.type, job.method.dpo is not None) == ("dpo", True)
    assert str(job.fine_tuned_model).startswith("preferences@")
    assert losses[0] < 0.2  # an adapter that prefers nothing yet begins at ln 2
    assert answer.choices[0].message.content is not None


def test_what_the_docs_show_trains_and_answers(
    town: Town, client: OpenAI, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = (ROOT / "docs" / "training.md").read_text().partition("\n## From the OpenAI client\n")[2]
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    shown = (
        block.replace("8000", str(town.port))
        .replace('"none"', f'"{KEY}"')
        .replace('"max_steps": 200', '"max_steps": 2')
    )
    monkeypatch.chdir(ROOT)

    exec(compile(shown, "docs/training.md", "exec"), {})

    assert re.findall(r"```sh\n(.*?)```", section, re.DOTALL) == ["palaver serve --port 8000\n"]
    assert "new model: sections@" in capsys.readouterr().out


def test_jobs_are_paused_resumed_and_canceled(town: Town, client: OpenAI) -> None:
    job_id = ordered(client, max_steps=4000, checkpoint_every=1000)
    town.wait(lambda: status(client, job_id) == "running")

    paused = client.fine_tuning.jobs.pause(job_id)
    resumed = client.fine_tuning.jobs.resume(job_id)
    canceled = client.fine_tuning.jobs.cancel(job_id)

    assert (paused.status, canceled.status) == ("paused", "cancelled")
    assert resumed.status in ("queued", "running")
    assert canceled.finished_at is not None
    with pytest.raises(openai.BadRequestError, match="not over"):
        client.fine_tuning.jobs.pause(job_id)
    assert client.fine_tuning.jobs.list(limit=1).data[0].id == job_id


def test_a_face_that_was_killed_finds_its_job_again(town: Town) -> None:
    client = town.client()
    with town.face() as first:
        job_id = ordered(client, max_steps=120)
        town.wait(lambda: client.fine_tuning.jobs.checkpoints.list(job_id).data)
        first.send_signal(signal.SIGKILL)
        first.wait()
    with town.face():
        town.wait(lambda: status(client, job_id) in ("succeeded", "failed"))
        steps = [one.step_number for one in client.fine_tuning.jobs.checkpoints.list(job_id, limit=100).data]
        job = client.fine_tuning.jobs.retrieve(job_id)

    assert (job.status, job.error) == ("succeeded", None)
    assert steps == list(range(120, 0, -10))


def test_files_come_back_as_they_were_sent_until_they_are_deleted(client: OpenAI) -> None:
    file_id = uploaded(client, n_rows=1)

    assert json.loads(client.files.content(file_id).text)["messages"][0]["content"] == "red"
    assert client.files.retrieve(file_id).filename == "lights.jsonl"
    assert file_id in [one.id for one in client.files.list()]
    assert client.files.delete(file_id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file_id)


def test_what_cannot_be_done_is_answered_as_openai_answers(town: Town, client: OpenAI) -> None:
    chat: list[Any] = [{"role": "user", "content": "red"}]
    with pytest.raises(openai.AuthenticationError):
        town.client("a wrong key").models.list()
    with pytest.raises(openai.NotFoundError, match="expected an existing model"):
        client.chat.completions.create(model="gpt-4o", messages=chat)
    with pytest.raises(openai.BadRequestError, match="presence_penalty"):
        client.chat.completions.create(model="tiny-gemma3", messages=chat, presence_penalty=0.5)
    with pytest.raises(openai.BadRequestError, match="expected logprobs: true"):
        client.chat.completions.create(model="tiny-gemma3", messages=chat, top_logprobs=2)
    with pytest.raises(openai.BadRequestError, match="messages"):
        client.chat.completions.create(model="tiny-gemma3", messages=[])
    with pytest.raises(openai.BadRequestError, match="shorten the chat"):
        client.chat.completions.create(model="tiny-gemma3", messages=[{"role": "user", "content": "word " * 9000}])
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.create(model="tiny-gemma3", training_file="file-" + "0" * 24)
    with pytest.raises(openai.BadRequestError, match="rank"):
        ordered(client, lora={"rank": -1})
    broken = client.files.create(file=("bad.jsonl", b"no json\n"), purpose="fine-tune").id
    job = client.fine_tuning.jobs.create(model="tiny-gemma3", training_file=broken)
    town.wait(lambda: status(client, job.id) == "failed")
    error = client.fine_tuning.jobs.retrieve(job.id).error
    assert error is not None
    assert error.code == "bad-data"


def test_log_probabilities_come_as_openai_has_them_whole_and_in_a_stream(client: OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny-gemma3", "messages": [{"role": "user", "content": "red"}], "max_tokens": 12, "seed": 4,
        "temperature": 2.0, "top_p": 0.9, "logprobs": True, "top_logprobs": 3,
    }  # fmt: skip

    whole = client.chat.completions.create(**asked).choices[0]
    chunks = list(client.chat.completions.create(**asked, stream=True))
    plain = client.chat.completions.create(**{**asked, "logprobs": None, "top_logprobs": None}).choices[0]

    assert whole.logprobs is not None
    told = whole.logprobs.content
    assert told
    streamed = [
        entry for one in chunks for choice in one.choices if choice.logprobs for entry in choice.logprobs.content
    ]
    assert streamed == told
    assert plain.logprobs is None
    assert plain.message.content == whole.message.content
    assert whole.message.content == "".join(one.choices[0].delta.content or "" for one in chunks)
    for entry in told:
        values = [one.logprob for one in entry.top_logprobs]
        assert len(values) == 3
        assert values == sorted(values, reverse=True)
        assert entry.logprob <= values[0] <= 0
        assert entry.bytes is None or bytes(entry.bytes).decode() == entry.token
    assert any(entry.bytes for entry in told)


def test_a_client_that_hangs_up_stops_the_text(town: Town, client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny-gemma3", messages=[{"role": "user", "content": "red"}], stream=True, max_tokens=100_000
    )
    for _ in range(3):
        next(stream)
    stream.close()

    outcomes = [sys.executable, "-m", "bus.cli", "conversations", "--json", "--bus", town.bus]

    def last() -> Any:
        listed = json.loads(subprocess.run(outcomes, cwd=town.folder, capture_output=True, check=True).stdout)
        return [one for one in listed if one["protocol"].startswith("generation")][-1]

    town.wait(lambda: last()["outcome"] is not None)
    assert last()["outcome"] == "canceled"
