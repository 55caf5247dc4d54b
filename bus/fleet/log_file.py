"""What processes print: kept in size-bounded files, shown to people line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

LOG_BYTES = 5 << 20  # of one file
LOG_FILES = 3  # NAME.log, NAME.log.1, NAME.log.2
LINE_BYTES = 64 << 10  # a longer line is cut into pieces of this

_LEVELS = {"debug": "dim", "info": "", "warning": "yellow", "error": "bold red", "critical": "bold red"}
_NOT_FACTS = ("event", "level", "timestamp", "exception")


class LogFile:
    """A file that grows to ``LOG_BYTES`` and then makes room; the oldest part goes."""

    def __init__(self, path: Path, *, limit_bytes: int = LOG_BYTES) -> None:
        self._path = path
        self._limit_bytes = limit_bytes
        self._file = path.open("ab")

    def write(self, line: bytes) -> None:
        """Append one line; the line end is added. Written through at once."""
        if self._file.tell() + len(line) >= self._limit_bytes and self._file.tell():
            self._rotate()
        self._file.write(line + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; nothing may be written afterwards."""
        self._file.close()

    def _rotate(self) -> None:
        self._file.close()
        for number in range(LOG_FILES - 2, -1, -1):
            older = self._path.with_name(f"{self._path.name}.{number}") if number else self._path
            if older.exists():
                older.replace(self._path.with_name(f"{self._path.name}.{number + 1}"))
        self._file = self._path.open("ab")


class LineSplitter:
    """Cuts a stream of chunks into lines of bounded length."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the lines that *chunk* completes, without their ends."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
        while len(self._rest) > LINE_BYTES:
            yield self._rest[:LINE_BYTES]
            self._rest = self._rest[LINE_BYTES:]

    def finish(self) -> Iterator[bytes]:
        """Yield what is left at the end of the stream."""
        if self._rest:
            yield self._rest
            self._rest = b""


def read_log_line(line: str, *, name: str = "") -> tuple[str, str]:
    """Return (text, rich style) of a line for people: our JSON log lines become ``event key=value``.

    Args:
        name: Whose line it is; a fact that only repeats it is left out.
    """
    try:
        facts = json.loads(line)
    except ValueError:
        return line, ""
    if not isinstance(facts, dict) or "event" not in facts:
        return line, ""
    shown = " ".join(
        f"{key}={_value(value)}" for key, value in facts.items() if key not in _NOT_FACTS and value != name
    )
    text = f"{facts['event']}  {shown}".rstrip()
    if facts.get("exception"):
        text += f"\n{facts['exception']}"
    return text, _LEVELS.get(str(facts.get("level")), "")


def _value(value: object) -> str:
    return value if isinstance(value, str) and value and " " not in value else json.dumps(value, ensure_ascii=False)
