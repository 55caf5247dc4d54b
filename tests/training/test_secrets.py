"""What must stay secret stays so: the hub's token and an owner's key, in every file, log, error and command line."""

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from colors import NewRequest

from training_service.errors import NoSuchBase
from training_service.event import GenerateRequest, Prepared, Progress, Refused, RunEvent, Trained
from training_service.request import TrainingRequest
from training_service.shelf import Shelf
from training_service.worker import Worker

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(300)]
TOKEN = "hf_canary0of0the0hub"
KEY = "canary of the owner"
GATED = "somebody/gated-model"
CHAT = ({"role": "user", "content": "What color has the sky?"},)
LIMIT = 200.0


class Hub(BaseHTTPRequestHandler):
    """A hub that lets nobody in, and says the token that it was shown."""

    shown: list[str]

    def do_GET(self) -> None:
        token = self.headers.get("authorization", "none")
        self.shown.append(token)
        body = f'{{"error": "{token} may not read this model"}}'.encode()
        self.send_response(401)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("x-error-message", f"{token} may not read this model")
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        """Write nothing: what is on standard error belongs to the service."""


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    """A hub on the loopback address, for as long as nobody closes it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), type("GatedHub", (Hub,), {"shown": []})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def close(hub: ThreadingHTTPServer) -> None:
    """Let nothing answer any more where *hub* did."""
    hub.shutdown()
    hub.server_close()


def descendants(pid: int) -> list[int]:
    """Return every process under *pid*."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    below = [int(one) for text in lists for one in text.read_text().split()]
    return below + [found for one in below for found in descendants(one)]


def told(folder: Path, secret: str) -> list[Path]:
    """Return the files under *folder* that hold *secret*, in their names too."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if secret in path.name or secret.encode() in path.read_bytes()]


def command_lines(pid: int) -> list[bytes]:
    """Return the command lines of *pid* and of every process under it."""
    return [Path(f"/proc/{one}/cmdline").read_bytes() for one in (pid, *descendants(pid))]


async def carry_out(worker: Worker, request: TrainingRequest) -> tuple[RunEvent, list[bytes]]:
    """Return how a run ended, and the command lines of the child and all under it in the run's midst."""
    prepared = await worker.prepare(request)
    assert isinstance(prepared, Prepared), prepared
    lines: list[bytes] = []
    report: RunEvent
    async for report in worker.run(request.task_id):
        if isinstance(report, Progress) and not lines and worker.child_pid is not None:
            lines = command_lines(worker.child_pid)
    return report, lines


@pytest.fixture
def shelf(
    models_dir: Path, tmp_path: Path, hub: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> tuple[Worker, Shelf]:
    """A service that may ask the hub, and has a token for it."""
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN_PATH", "HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
    state = tmp_path / "state"
    worker = Worker(models_dir=models_dir, state_dir=state, roots=(tmp_path,), allow_hub=True, threads=2)
    return worker, Shelf(worker, models_dir=models_dir, state_dir=state, roots=(tmp_path,), allow_hub=True)


def test_the_hubs_token_and_the_owners_key_are_told_to_nobody_else(
    shelf: tuple[Worker, Shelf], hub: ThreadingHTTPServer, tmp_path: Path, new_request: NewRequest,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    worker, results = shelf

    async def work() -> tuple[list[str], list[RunEvent], list[bytes], bytes]:
        await worker.start()
        try:
            gated = await worker.prepare(new_request("gated", base=GATED, owner_key=KEY))
            with pytest.raises(NoSuchBase) as caught:
                await anext(worker.generate(GenerateRequest("g", GATED, CHAT)))
            close(hub)
            nowhere = await worker.prepare(new_request("nowhere", base=GATED, owner_key=KEY))
            one = new_request("one", adapter="colors", max_steps=3, owner_key=KEY, tensorboard=True)
            two = new_request("two", method="full", processes=2, max_steps=60, owner_key=KEY)
            ends, lines = [], []
            for request in (one, two):
                end, lines = await carry_out(worker, request)
                ends.append(end)
            await results.merge("colors", "whole")
            await results.export("colors", "out")
            other = await worker.prepare(new_request("one", max_steps=3, owner_key=KEY + KEY))
            environment = await asyncio.to_thread(Path(f"/proc/{worker.child_pid}/environ").read_bytes)
        finally:
            await worker.stop()
        refusals = [one for one in (gated, nowhere, other) if isinstance(one, Refused)]
        assert [one.code for one in refusals] == ["no-such-base", "no-such-base", "bad-request"]
        return [*(one.detail for one in refusals), str(caught.value)], ends, lines, environment

    details, ends, lines, environment = asyncio.run(asyncio.wait_for(work(), LIMIT))
    logged = "".join(capfd.readouterr())

    assert set(hub.RequestHandlerClass.shown) == {f"Bearer {TOKEN}"}  # the child has it, and shows it to the hub
    assert f"HF_TOKEN={TOKEN}".encode() in environment.split(b"\0")
    assert "hub said 401" in details[0]
    assert "hub does not answer" in details[1]
    assert [type(one) for one in ends] == [Trained, Trained]
    assert len(lines) == 4  # the child, the launcher and two ranks
    assert "task.accepted" in logged
    for secret in (TOKEN, KEY):
        assert not [line for line in lines if secret.encode() in line]
        assert not [text for text in (*details, logged) if secret in text]
        assert told(tmp_path, secret) == []
