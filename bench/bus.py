"""The bus beside raw ZeroMQ, in one run: ratios hold on a noisy machine, single figures do not.

    python bench/bus.py [--json] [--quick] [--rounds N]

Client, broker and worker are separate processes that use the public SDK; the yardstick is ``raw.py``.
Each figure is the median over the rounds; both sides run in every round, one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import raw

HERE = Path(__file__).resolve().parent
# This file is called as the package is: a script's folder on the path would hide the package from itself.
sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != HERE]

from bus import Client, load_protocol  # noqa: E402
from bus.sdk.loop import run  # noqa: E402

WIDTH = 64
RATIOS = (  # (name, ours, yardstick)
    ("request/reply p50", "rtt_p50_us", "raw_rtt_p50_us"),
    ("64 in flight", "inflight_per_s", "raw_inflight_per_s"),
    ("stream", "stream_per_s", "raw_stream_per_s"),
    ("durable stream", "durable_stream_per_s", "raw_stream_per_s"),
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is exchanged in one round."""

    n_round_trips: int
    n_in_flight: int
    n_stream: int
    rounds: int


FULL = Size(n_round_trips=2000, n_in_flight=20_000, n_stream=100_000, rounds=5)
QUICK = Size(n_round_trips=600, n_in_flight=6_000, n_stream=30_000, rounds=3)


@contextmanager
def fleet(folder: Path) -> Iterator[str]:
    """Start a broker and the worker as processes; give the address and stop them after."""
    address = f"ipc://{folder}/bus.sock"
    environment = {**os.environ, "PALAVER_BUS": address, "PALAVER_SPECS": str(HERE)}
    command = [sys.executable, "-m", "bus.cli"]
    (folder / ".palaver").mkdir(mode=0o700)
    commands = (
        [*command, "broker", "--bus", address, "--log", "warning"],
        [*command, "launch", str(HERE / "worker.py"), "--log", "warning"],
    )
    processes = [subprocess.Popen(one, env=environment, cwd=folder) for one in commands]
    try:
        yield address
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=10)


async def round_trips(client: Client, protocol_name: str, n: int) -> list[float]:
    """Return the seconds of *n* questions asked one after another in one conversation."""
    protocol = load_protocol(protocol_name)
    times = []
    async with client.open(protocol, request_id=fresh()) as conversation:
        for _ in range(n + 100):
            start = time.perf_counter()
            await conversation.request(protocol.Ask(**raw.PAPER))
            times.append(time.perf_counter() - start)
        await conversation.send(protocol.Stop())
    return times[100:]


async def in_flight(client: Client, n: int) -> float:
    """Return answers each second over 64 conversations on one connection."""
    protocol = load_protocol("exchange")
    todo = iter(range(n))

    async def lane() -> None:
        async with client.open(protocol, request_id=fresh()) as conversation:
            for _ in todo:
                await conversation.request(protocol.Ask(**raw.PAPER))
            await conversation.send(protocol.Stop())

    start = time.perf_counter()
    await asyncio.gather(*[lane() for _ in range(WIDTH)])
    return n / (time.perf_counter() - start)


async def stream(client: Client, protocol_name: str, n: int) -> float:
    """Return messages each second, counted when the worker has handled all *n*."""
    protocol = load_protocol(protocol_name)
    async with client.open(protocol, request_id=fresh()) as conversation:
        start = time.perf_counter()
        for _ in range(n):
            await conversation.send(protocol.Part(**raw.PAPER))
        done = await conversation.request(protocol.Last(count=n))
        rate = n / (time.perf_counter() - start)
    if done.count != n:
        raise SystemExit(f"{protocol_name}: expected {n} messages handled, got {done.count}")
    return rate


def fresh() -> str:
    """Return a request id that was never used."""
    return os.urandom(8).hex()


def time_fdatasync(folder: Path, n: int = 200) -> float:
    """Return the median seconds that this disk takes for one fdatasync of 4 KiB appended."""
    times = []
    with open(folder / "probe", "wb", buffering=0) as file:
        for _ in range(n):
            file.write(b"x" * 4096)
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def percentile(times: list[float], share: float) -> float:
    """Return the value below which *share* of the times lie, in microseconds."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e6


async def one_round(client: Client, yardstick: raw.zmq.Socket[bytes], size: Size) -> dict[str, float]:
    """Measure everything once, ours and the yardstick's."""
    raw_times = raw.round_trips(yardstick, size.n_round_trips)
    times = await round_trips(client, "exchange", size.n_round_trips)
    durable_times = await round_trips(client, "exchange-durable", size.n_round_trips // 2)
    return {
        "raw_rtt_p50_us": percentile(raw_times, 0.5),
        "raw_inflight_per_s": raw.in_flight(yardstick, size.n_in_flight, WIDTH),
        "raw_stream_per_s": raw.stream(yardstick, size.n_stream),
        "rtt_p50_us": percentile(times, 0.5),
        "rtt_p99_us": percentile(times, 0.99),
        "durable_rtt_p50_us": percentile(durable_times, 0.5),
        "inflight_per_s": await in_flight(client, size.n_in_flight),
        "stream_per_s": await stream(client, "stream", size.n_stream),
        "durable_stream_per_s": await stream(client, "stream-durable", size.n_stream),
    }


async def measure(folder: Path, size: Size) -> dict[str, float]:
    """Run all rounds and return the median of each figure."""
    with fleet(folder) as address, raw.fabric(f"ipc://{folder}/raw.sock") as yardstick:
        async with Client(bus=address, name="bench") as client:
            rounds = [await one_round(client, yardstick, size) for _ in range(size.rounds)]
    figures = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    figures["fdatasync_p50_us"] = time_fdatasync(folder) * 1e6
    return figures


def is_compiled() -> bool:
    """Return whether the broker is compiled code."""
    spec = find_spec("bus.broker.broker")
    return spec is not None and not str(spec.origin).endswith(".py")


def show(figures: dict[str, float]) -> None:
    """Print the figures and the ratios for people."""
    for key, value in figures.items():
        print(f"{key:24}{value:12,.0f}")
    print()
    for name, ours, yardstick in RATIOS:
        print(f"{name:24}{figures[ours] / figures[yardstick]:12.2f} × raw")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--quick", action="store_true", help="less of everything; ends within a minute")
    parser.add_argument("--rounds", type=int, help="how many rounds the median is taken over")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    if arguments.rounds:
        size = Size(size.n_round_trips, size.n_in_flight, size.n_stream, arguments.rounds)
    os.environ["PALAVER_SPECS"] = str(HERE)
    if not is_compiled():
        print("the bus runs from its sources, at about half its speed: `make compile` first", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="palaver-bench-") as folder:
        figures = run(measure(Path(folder), size))
    if arguments.json:
        print(json.dumps({key: round(value, 1) for key, value in figures.items()}))
    else:
        show(figures)


if __name__ == "__main__":
    main()
