"""A client of yaml-language-server over stdio: what an editor asks of it, for tests.

The server is an npm package; ``find_server`` installs the pinned version once into a folder that is kept.
"""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

PACKAGE, VERSION = "yaml-language-server", "1.19.2"
_PATIENCE = 60.0  # for one answer; the first one loads the server
_SETTINGS = {"yaml": {"validate": True, "hover": True, "completion": True, "schemaStore": {"enable": False}}}


class NoServer(Exception):
    """Raised when the server cannot be had here; the text says why."""


def find_server(folder: Path) -> Path:
    """Return the server's main file below *folder*, installed there by npm where it is not yet.

    Raises:
        NoServer: There is no node or npm, or npm could not install it.
    """
    program = folder / "node_modules" / PACKAGE / "bin" / PACKAGE
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise NoServer("node and npm are not installed")
    if program.is_file():
        return program
    command = ["npm", "install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", f"{PACKAGE}@{VERSION}"]
    (folder / "package.json").write_text('{"private": true}', encoding="utf-8")
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        raise NoServer(f"npm did not install {PACKAGE}@{VERSION} within 5 minutes") from None
    if done.returncode != 0:
        raise NoServer(f"npm could not install {PACKAGE}@{VERSION}: {done.stderr.strip()[-300:]}")
    return program


class LanguageServer:
    """One running server with the files below *root* as its workspace; a context manager.

    A ``|`` in a text that is asked about is where the cursor stands.
    """

    def __init__(self, program: Path, root: Path) -> None:
        self._root = root
        self._n_files = self._n_requests = 0
        self._inbox: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._found: dict[str, list[dict[str, Any]]] = {}
        self._process = subprocess.Popen(
            ["node", str(program), "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> LanguageServer:
        completion = {"completionItem": {"snippetSupport": True, "documentationFormat": ["markdown"]}}
        capabilities = {
            "textDocument": {"completion": completion, "hover": {"contentFormat": ["markdown"]}},
            "workspace": {"configuration": True},
        }
        self._ask("initialize", {"processId": None, "rootUri": self._root.as_uri(), "capabilities": capabilities})
        self._tell("initialized", {})
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._ask("shutdown", None)
            self._tell("exit", None)
            self._process.wait(timeout=10)
        finally:
            self._process.kill()
            self._process.wait()
            self._listener.join()
            for stream in (self._process.stdin, self._process.stdout):
                assert stream is not None  # both were asked for
                stream.close()

    def problems(self, text: str, suffix: str = "protocol.yaml") -> list[tuple[int, str]]:
        """Return (line as people count, message) of each error in a file with this *text*."""
        uri = self._open(text, suffix)
        while uri not in self._found:
            self._take()
        return [(one["range"]["start"]["line"] + 1, one["message"]) for one in self._found[uri]]

    def completions(self, text: str, suffix: str = "protocol.yaml") -> dict[str, str]:
        """Return what may be typed at the cursor: label → what is inserted."""
        answer = self._at_cursor("textDocument/completion", text, suffix)
        items = answer["items"] if isinstance(answer, dict) else answer
        return {one["label"]: one.get("insertText", "") for one in items}

    def hover(self, text: str, suffix: str = "protocol.yaml") -> str:
        """Return what is shown of the word at the cursor, without its escapes."""
        answer = self._at_cursor("textDocument/hover", text, suffix)
        return str(answer["contents"]["value"]).replace("\\", "") if answer else ""

    def _at_cursor(self, method: str, text: str, suffix: str) -> Any:
        before, _, after = text.partition("|")
        uri = self._open(before + after, suffix)
        position = {"line": before.count("\n"), "character": len(before.rpartition("\n")[2])}
        return self._ask(method, {"textDocument": {"uri": uri}, "position": position})

    def _open(self, text: str, suffix: str) -> str:
        self._n_files += 1
        uri = (self._root / f"file{self._n_files}.{suffix}").as_uri()
        document = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
        self._tell("textDocument/didOpen", {"textDocument": document})
        return uri

    # -- JSON-RPC -------------------------------------------------------------------------------------

    def _ask(self, method: str, params: object) -> Any:
        self._n_requests += 1
        number = self._n_requests
        self._send({"id": number, "method": method, "params": params})
        while True:
            message = self._take()
            if message.get("id") == number and "method" not in message:
                assert "error" not in message, message
                return message["result"]

    def _tell(self, method: str, params: object) -> None:
        self._send({"method": method, "params": params})

    def _send(self, message: dict[str, object]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self._process.stdin is not None
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self._process.stdin.flush()

    def _take(self) -> dict[str, Any]:
        """Return the next message; answer what the server asks, and keep the errors that it publishes."""
        message = self._inbox.get(timeout=_PATIENCE)
        assert message is not None, "the language server has ended"
        if message.get("method") == "textDocument/publishDiagnostics":
            self._found[message["params"]["uri"]] = message["params"]["diagnostics"]
        elif "method" in message and "id" in message:
            items = message["params"].get("items", []) if message["method"] == "workspace/configuration" else None
            result = None if items is None else [_SETTINGS.get(one.get("section"), {}) for one in items]
            self._send({"id": message["id"], "result": result})
        return message

    def _listen(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        while True:
            n_bytes = 0
            while line := stream.readline().strip():
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    n_bytes = int(value)
            if not n_bytes:
                self._inbox.put(None)
                return
            self._inbox.put(json.loads(stream.read(n_bytes)))
