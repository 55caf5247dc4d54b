"""What a run over several ranks will need, reckoned from what one process rehearses of the whole step.

The ranks of one host share its cores, so a step takes as long as in one process; each accelerator brings speed of its
own. Memory is the sum over the ranks of this host.
"""

import os
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import distributed

from training_service.bench import Bench
from training_service.errors import RequestInvalid
from training_service.event import Quote
from training_service.group import layers_of
from training_service.quote import MOMENT_COPIES, Rehearsal, quote_of, trained_bytes
from training_service.ranks import Hosting

RANK_BYTES = 405_000_000
"""What a rank holds before its model: the interpreter and the libraries. Measured, torch 2.13 on the CPU."""

START_SECONDS = 10.0
"""From the launcher's start to the first step, which is mostly imports. Measured: 7 to 17 s on two busy cores."""


def check_ranks(bench: Bench, hosting: Hosting | None, device: torch.device) -> None:
    """See that the order of *bench* can be carried out by several ranks.

    Raises:
        RequestInvalid: It cannot; the text says why.
    """
    request = bench.request
    if hosting is None or not distributed.is_available() or not distributed.is_gloo_available():
        raise RequestInvalid(
            f"expected processes: 1 on this service, got {request.processes}: PyTorch was built without "
            "torch.distributed and gloo here"
        )
    n_devices = torch.cuda.device_count() if device.type == "cuda" else len(os.sched_getaffinity(0))
    hosting.check(request, n_devices=n_devices)
    if request.sharding == "fsdp":
        layers_of(bench.base.model)


def quote_ranks(rehearsal: Rehearsal, bench: Bench, *, held: int, n_hosts: int) -> Quote:
    """Return what the ranks of this host will need.

    Args:
        rehearsal: Of the whole step in one process.
        bench: What it was measured on.
        held: Bytes that this process held before it measured.
        n_hosts: Among which the processes are shared.
    """
    request, n_ranks = bench.request, bench.request.processes
    weights = _bytes(bench.base.model.parameters())
    trained = trained_bytes(bench.steps)
    state = weights + (1 + MOMENT_COPIES) * trained
    activations = max(0, rehearsal.peak_bytes - held - (1 + MOMENT_COPIES) * trained) // n_ranks
    rank = state + activations
    if request.sharding == "fsdp":
        layers = [_bytes(layer.parameters()) for layer in layers_of(bench.base.model)]
        gathered = weights - sum(layers) + 2 * max(layers)  # the next layer is on its way during the present one
        rank = max(weights, state // n_ranks + gathered + activations)  # each loads the whole model first
    step = rehearsal.step / n_ranks if bench.base.device.type == "cuda" else rehearsal.step
    quote = quote_of(replace(rehearsal, peak_bytes=(RANK_BYTES + rank) * (n_ranks // n_hosts), step=step), bench)
    return replace(quote, seconds=quote.seconds + START_SECONDS)


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)
