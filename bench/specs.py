"""How long it takes to read a protocol, to check it, to refuse a bad one, and to step the monitor.

    python bench/specs.py [--json] [--rounds N] [--hostile]

Every figure is processor time, the best of the rounds: a busy machine tells little of itself. ``--hostile``
adds the texts of ``tests/spec/hostile_texts.py``, which take a minute.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# This file is beside others that are called as packages are: see bus.py here.
sys.path[:] = [
    str(ROOT),
    *(folder for folder in sys.path if Path(folder).resolve() != HERE),
    str(ROOT / "tests" / "spec"),
]

from hostile_texts import FAULTY, LARGE, LIMITED  # noqa: E402

from bus.broker import conversation as monitor  # noqa: E402
from bus.broker.conversation import Conversation  # noqa: E402
from bus.engine.server import spare_the_collector  # noqa: E402
from bus.spec.bundle import SpecText  # noqa: E402
from bus.spec.compile import Compiler, check_text, load_protocol  # noqa: E402
from bus.spec.diagnostic import Report  # noqa: E402
from bus.spec.loader import parse_document  # noqa: E402
from bus.spec.mode import Mode  # noqa: E402
from bus.spec.parse import parse_spec  # noqa: E402

N_MESSAGES = 20_000
BATCH = 128  # messages after which a reader says what it has settled: docs/design.md
TOO_LONG = 1_000.0  # milliseconds after which one round must do


def texts() -> dict[str, str]:
    """Return the corpus and the shipped specs, by name."""
    data = ROOT / "tests" / "spec" / "data"
    lines = (data / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    found = {}
    for number, line in enumerate(lines, 1):
        entry = json.loads(line)
        found[f"{number} {entry['source'].partition('resources/')[2] or entry['name']}"] = entry["yaml"]
    for folder in (ROOT / "specs", data):
        found |= {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.protocol.yaml"))}
    return found


def best(rounds: int, run: Callable[[], object]) -> float:
    """Return the shortest time of *run* in milliseconds."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        times.append((time.process_time() - start) * 1e3)
        if times[-1] > TOO_LONG:
            break
    return min(times)


def check(text: str) -> None:
    """Check what *text* says; called with what was parsed it would find it checked."""
    compiler = Compiler((SpecText("", text),))
    start = time.process_time()
    compiler.examine(compiler.first)
    CHECKED.append((time.process_time() - start) * 1e3)


CHECKED: list[float] = []


def measure_specs(rounds: int) -> dict[str, dict[str, object]]:
    """Return how long parsing and checking take over all specs."""
    parsing, checking = {}, {}
    for name, text in texts().items():
        parsing[name] = best(rounds, lambda text=text: parse_spec(parse_document(text), text, Report()))  # type: ignore[misc]
        CHECKED.clear()
        for _ in range(rounds):
            check(text)
        checking[name] = min(CHECKED)
    return {"parse_ms": spread(parsing), "check_ms": spread(checking)}


def spread(times: dict[str, float]) -> dict[str, object]:
    """Return median, 95th percentile and worst, with its name."""
    ordered = sorted(times.values())
    worst = max(times, key=times.__getitem__)
    return {
        "n": len(times),
        "median": round(statistics.median(ordered), 3),
        "p95": round(ordered[int(len(ordered) * 0.95)], 3),
        "worst": round(times[worst], 3),
        "which": worst,
    }


def measure_monitor(rounds: int) -> dict[str, object]:
    """Return microseconds for each message: look-up, step, transcript and mailbox, without bodies, sockets, journal.

    The garbage collector is set as in the broker's process.
    """
    spare_the_collector()
    return {
        "compiled": not str(monitor.__file__).endswith(".py"),
        "stream_us": round(min(one_stream() for _ in range(rounds)), 3),
        "exchange_us": round(min(one_exchange() for _ in range(rounds)), 3),
    }


def opened(name: str) -> Conversation:
    """Return a conversation of a protocol beside this file."""
    protocol = load_protocol(HERE / f"{name}.protocol.yaml")
    return Conversation(
        conversation_id=b"c", protocol=protocol, opener=0, request_id="r", now=0.0, default_within=300.0,
        mode=Mode.ENFORCE,
    )  # fmt: skip


def steps(conversation: Conversation, said: list[tuple[int, int, int, bytes]]) -> float:
    """Send *said*, (sender, type, address, message id), one after the other; return microseconds for each.

    Between the batches, outside the time, the receivers take what has come, as they do in life: else the collector
    would go through ever longer mailboxes.
    """
    mailboxes, find, admit = conversation.mailboxes, conversation.find_move, conversation.admit
    passed = 0.0
    for first in range(0, len(said), BATCH):
        start = time.process_time()
        for sender, kind, address, message_id in said[first : first + BATCH]:
            mailbox = mailboxes[sender]
            mailbox.queued.clear()  # who speaks has handled what it answers
            move = find(mailbox, kind, address)
            assert move is not None
            admit(mailbox, move, kind, address, message_id, b"", None, 0.0)
        passed += time.process_time() - start
        for mailbox in mailboxes:
            mailbox.queued.clear()
    return passed * 1e6 / len(said)


def one_stream() -> float:
    """Return the time of a message of a long stream."""
    conversation = opened("stream")
    part = conversation.protocol.message_index("Part")
    address = conversation.tables.addresses.index((conversation.protocol.role_index("worker"),))
    return steps(conversation, [(0, part, address, number.to_bytes(8, "big")) for number in range(N_MESSAGES)])


def one_exchange() -> float:
    """Return the time of a message of questions and answers: each of them changes the states of both roles."""
    conversation = opened("exchange")
    protocol, addresses = conversation.protocol, conversation.tables.addresses
    client, worker = protocol.role_index("client"), protocol.role_index("worker")
    pair = [
        (client, protocol.message_index("Ask"), addresses.index((worker,))),
        (worker, protocol.message_index("Answer"), addresses.index((client,))),
    ]
    said = [(*pair[number % 2], number.to_bytes(8, "big")) for number in range(N_MESSAGES)]
    return steps(conversation, said)


def measure_hostile(rounds: int) -> list[dict[str, object]]:
    """Return for each text that nobody means well with how long it took, and how long it may take."""
    rows: list[dict[str, object]] = []
    for kind, table in (("limited", LIMITED), ("faulty", FAULTY), ("large", LARGE)):
        for name, text in table.items():
            kib = len(text.encode("utf-8", "surrogatepass")) / 1024
            took = best(rounds, lambda text=text: check_text(text))  # type: ignore[misc]  # bound at once
            found = check_text(text)[1] if took < TOO_LONG else []
            rows.append({
                "kind": kind, "name": name, "kib": round(kib, 1), "ms": round(took, 1),
                "may_take_ms": None if kind == "large" else 50.0 if kind == "limited" else round(max(5.0, 5 * kib), 1),
                "rule": found[0].rule if found else None,
            })  # fmt: skip
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--hostile", action="store_true", help="bad input, too")
    options = parser.parse_args()
    found: dict[str, object] = {**measure_specs(options.rounds), "monitor": measure_monitor(options.rounds)}
    if options.hostile:
        found["hostile"] = measure_hostile(min(options.rounds, 3))
    if options.json:
        print(json.dumps(found))
        return
    for name in ("parse_ms", "check_ms", "monitor"):
        figures = found[name]
        assert isinstance(figures, dict)
        print(f"{name:10}", "  ".join(f"{key} {value}" for key, value in figures.items()))
    rows = found.get("hostile", [])
    assert isinstance(rows, list)
    for row in rows:
        allowed = row["may_take_ms"]
        late = "" if allowed is None or row["ms"] <= allowed else "  LATE"
        print(f"{row['kind']:8} {row['name']:40} {row['kib']:7} KiB {row['ms']:9} ms of {allowed}{late}")


if __name__ == "__main__":
    main()
