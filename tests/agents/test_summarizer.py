"""The summarizer: which sentences a digest keeps, and how another model is asked instead."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import ModuleType
from typing import ClassVar

import pytest

FINDINGS = [
    "The journal keeps every commit on disk. It was a sunny day in the park.",
    "Every commit goes to disk through the journal. A crash loses no commit that the journal has.",
    "The journal keeps every commit on disk. Somebody ate a sandwich near the pond.",
]


@pytest.fixture
def summarizer(program: Callable[[str], ModuleType]) -> ModuleType:
    return program("summarizer")


def test_a_summary_is_made_of_sentences_of_the_findings_in_their_order(summarizer: ModuleType) -> None:
    summary = summarizer.summarize(FINDINGS, 3)

    everything = " ".join(FINDINGS)
    places = [everything.index(sentence) for sentence in summarizer.split_sentences(summary)]
    assert len(places) == 3
    assert places == sorted(places)


def test_a_summary_repeats_no_sentence(summarizer: ModuleType) -> None:
    assert summarizer.summarize(FINDINGS, 5).count("keeps every commit") == 1


def test_a_summary_begins_with_what_the_findings_speak_of_most(summarizer: ModuleType) -> None:
    assert "journal" in summarizer.summarize(FINDINGS, 1)


def test_a_summary_is_the_same_each_time(summarizer: ModuleType) -> None:
    assert len({summarizer.summarize(FINDINGS, 2) for _ in range(5)}) == 1


def test_fragments_are_no_sentences(summarizer: ModuleType) -> None:
    assert summarizer.split_sentences("Yes. See below: the lease is renewed by a thread") == [
        "See below: the lease is renewed by a thread."
    ]


class Endpoint(BaseHTTPRequestHandler):
    """A stand-in for somebody else's model server."""

    seen: ClassVar[list[tuple[str, str | None, dict[str, object]]]] = []
    status = 200

    def do_POST(self) -> None:
        """Note the request and answer."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.seen.append((self.path, self.headers["authorization"], body))
        answer = json.dumps({"choices": [{"message": {"content": " A model's words. "}}]}).encode()
        self.send_response(self.status)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *arguments: object) -> None:
        """Stay silent."""


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Endpoint, "seen", [])
    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_configured_endpoint_is_asked_with_the_key_of_the_environment(
    summarizer: ModuleType, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary")

    answer = summarizer.ask_model(FINDINGS, {"endpoint": endpoint, "model": "m"})

    ((path, authorization, body),) = Endpoint.seen
    assert answer == "A model's words."
    assert (path, authorization, body["model"]) == ("/v1/chat/completions", "Bearer canary", "m")
    assert FINDINGS[1] in body["messages"][0]["content"]


def test_a_failing_endpoint_fails_the_handler(
    summarizer: ModuleType, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Endpoint, "status", 503)

    with pytest.raises(OSError, match="503"):
        summarizer.ask_model(FINDINGS, {"endpoint": endpoint})
