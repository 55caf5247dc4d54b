"""The yardstick: the same exchanges over bare pyzmq, unbatched.

Three processes as on the bus: a client's DEALER, a ROUTER in the middle that reads the msgpack envelope
to find the receiver, a worker's DEALER. One ZeroMQ message each, bodies validated by pydantic at both
ends, blocking sockets, nothing else: no order, no acknowledgement, no journal.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgpack
import zmq
from pydantic import BaseModel

CLIENT, WORKER = b"client", b"worker"


class Paper(BaseModel):
    """What the client asks about; the size of a short abstract."""

    title: str
    text: str
    year: int
    tags: list[str]


class Summary(BaseModel):
    """What the worker answers."""

    title: str
    text: str


class Done(BaseModel):
    """Said by the worker when a stream is complete."""

    count: int


PAPER = {"title": "LoRA", "text": "x" * 200, "year": 2021, "tags": ["peft", "llm"]}


def _connect(address: str, name: bytes) -> zmq.Socket[bytes]:
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, name)
    socket.set_hwm(0)
    socket.connect(address)
    socket.send(msgpack.packb(["hello", name, b""]))
    assert socket.recv() == b"welcome"
    return socket


def route(address: str) -> None:
    """Pass messages on to whom their envelope names, until told to stop."""
    socket = zmq.Context.instance().socket(zmq.ROUTER)
    socket.set_hwm(0)
    socket.bind(address)
    while True:
        sender, frame = socket.recv_multipart()
        kind, receiver, _ = msgpack.unpackb(frame)
        if kind == "stop" and not receiver:
            return
        if kind == "hello":
            socket.send_multipart((sender, b"welcome"))
        else:
            socket.send_multipart((receiver, frame))


def work(address: str) -> None:
    """Answer every question; count what is streamed and say when it was enough."""
    socket = _connect(address, WORKER)
    counted = 0
    while True:
        kind, _, body = msgpack.unpackb(socket.recv())
        if kind == "stop":
            return
        paper = Paper.model_validate(msgpack.unpackb(body))
        if kind == "ask":
            answer = Summary(title=paper.title, text=paper.text)
            socket.send(msgpack.packb(["answer", CLIENT, msgpack.packb(answer.model_dump())]))
        else:
            counted += 1
            if kind == "last":
                socket.send(msgpack.packb(["answer", CLIENT, msgpack.packb(Done(count=counted).model_dump())]))
                counted = 0


@contextmanager
def fabric(address: str) -> Iterator[zmq.Socket[bytes]]:
    """Start router and worker as processes and give the client's socket; stop them after."""
    processes = [subprocess.Popen([sys.executable, __file__, part, address]) for part in ("route", "work")]
    socket = _connect(address, CLIENT)
    try:
        yield socket
    finally:
        socket.send(msgpack.packb(["stop", WORKER, b""]))
        socket.send(msgpack.packb(["stop", b"", b""]))
        for process in processes:
            process.wait(timeout=5)
        socket.close(linger=0)


def _ask(socket: zmq.Socket[bytes], kind: str = "ask") -> None:
    paper = Paper(**PAPER)  # type: ignore[arg-type]  # the sample has the right types
    socket.send(msgpack.packb([kind, WORKER, msgpack.packb(paper.model_dump())]))


def _answer(socket: zmq.Socket[bytes]) -> None:
    Summary.model_validate(msgpack.unpackb(msgpack.unpackb(socket.recv())[2]))


def round_trips(socket: zmq.Socket[bytes], n: int) -> list[float]:
    """Return the seconds of *n* questions asked one after another."""
    times = []
    for _ in range(n):
        start = time.perf_counter()
        _ask(socket)
        _answer(socket)
        times.append(time.perf_counter() - start)
    return times


def in_flight(socket: zmq.Socket[bytes], n: int, width: int) -> float:
    """Return answers each second with *width* questions always under way."""
    start = time.perf_counter()
    for _ in range(width):
        _ask(socket)
    for index in range(n):
        _answer(socket)
        if index < n - width:
            _ask(socket)
    return n / (time.perf_counter() - start)


def stream(socket: zmq.Socket[bytes], n: int) -> float:
    """Return messages each second, counted when the worker has handled all *n*."""
    start = time.perf_counter()
    for _ in range(n - 1):
        _ask(socket, "part")
    _ask(socket, "last")
    Done.model_validate(msgpack.unpackb(msgpack.unpackb(socket.recv())[2]))
    return n / (time.perf_counter() - start)


if __name__ == "__main__":
    {"route": route, "work": work}[sys.argv[1]](sys.argv[2])
