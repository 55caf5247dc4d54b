"""Texts of several adapters on one base, side by side and one after another, in one run.

    python bench/texts.py [--json] [--rounds N]

The service is a process of its own with two threads; what is measured is what its client waits for.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from training import Figures, carry_out, make_base, order, service, show, write_data  # puts the project on the path

from training_service.event import Generated, GenerateRequest
from training_service.worker import Worker

N_TEXTS, N_ADAPTERS, N_TOKENS = 8, 4, 64
WANTED = {"together_ratio": 0.5}
"""Seconds of all texts together to those of one after another, at most."""


async def write(worker: Worker, base: Path, number: int) -> tuple[int, float]:
    """Write one text; return its tokens and the seconds to its first piece."""
    chat = ({"role": "user", "content": f"File digest {number}: the disk of the mail server is full."},)
    request = GenerateRequest(str(number), str(base), chat, f"a{number % N_ADAPTERS}", N_TOKENS, 2.0, number)
    began_at, first = time.perf_counter(), 0.0
    async for said in worker.generate(request):
        first = first or time.perf_counter() - began_at
        if isinstance(said, Generated):
            return said.n_tokens, first
    raise RuntimeError("expected an end of the text")


async def measure(folder: Path, n_rounds: int) -> Figures:
    """Train the adapters for a step each, then write their texts both ways, in turns."""
    base, data = make_base(folder / "models", {}), write_data(folder / "rows.jsonl", 40)
    alone, together, firsts, n_tokens = [], [], [], 0
    async with service(folder) as worker:
        for number in range(N_ADAPTERS):
            await carry_out(worker, order(base, data, max_steps=1, adapter=f"a{number}", seed=number))
        for number in range(N_ADAPTERS):  # loads what is loaded once
            await write(worker, base, number)
        for _ in range(n_rounds):
            began_at = time.perf_counter()
            one_by_one = [await write(worker, base, number) for number in range(N_TEXTS)]
            alone.append(time.perf_counter() - began_at)
            began_at = time.perf_counter()
            at_once = await asyncio.gather(*(write(worker, base, number) for number in range(N_TEXTS)))
            together.append(time.perf_counter() - began_at)
            n_tokens = sum(count for count, _ in one_by_one)
            firsts.append(statistics.median(first for _, first in at_once))
    return {
        "texts": N_TEXTS,
        "adapters": N_ADAPTERS,
        "tokens": n_tokens,
        "alone_s": statistics.median(alone),
        "together_s": statistics.median(together),
        "together_ratio": statistics.median(one / other for one, other in zip(together, alone, strict=True)),
        "alone_tokens_per_second": n_tokens / statistics.median(alone),
        "together_tokens_per_second": n_tokens / statistics.median(together),
        "together_first_piece_s": statistics.median(firsts),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure texts side by side and one after another.")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--rounds", type=int, default=5, help="how often both ways are taken in turns")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(Path(folder), arguments.rounds))
    show(found, WANTED, as_json=arguments.json)


if __name__ == "__main__":
    main()
