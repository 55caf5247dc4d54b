"""One rank of a run over several processes: started by ``torch.distributed.run``, never by hand on the service's host.

``python -m torch.distributed.run … -m training_service.rank --task ID --models DIR --state DIR …``

Rank 0 carries out the ordinary run (``run.Run``): it reports over its link to the service's child, writes checkpoints
and the result. The others hold the same bench and follow its cues. A rank whose link ends is gone at once, so that
none outlives the child.
"""

import argparse
import os
import queue
import signal
import socket
import sys
import threading
import warnings
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import structlog
import torch
import transformers
from torch import distributed

from training_service.adapters import Registry
from training_service.bench import Bench
from training_service.checkpoint import restore_checkpoint, set_threads
from training_service.child import configure_logging
from training_service.errors import ExactnessBroken, Lost, TrainingError
from training_service.event import Json, report_to_json
from training_service.fault import typed
from training_service.group import Group
from training_service.memory import peak_bytes
from training_service.pipe import encode, read_message
from training_service.record import RunRecord, load_record
from training_service.request import Artifact
from training_service.run import Places, Run
from training_service.slots import Slots

log = structlog.get_logger()

PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others; one that is gone is noticed at once by its closed connection."""


class Link:
    """A rank's line to the service's child; without one (on another host) what is sent goes nowhere."""

    def __init__(self, path: Path | None, rank: int) -> None:
        self._out: BinaryIO | None = None
        self._is_over = False
        self.orders: queue.SimpleQueue[Json] = queue.SimpleQueue()
        if path is None:
            return
        line = socket.socket(socket.AF_UNIX)
        line.connect(str(path))
        self._out = line.makefile("wb")
        threading.Thread(target=self._read, args=(line.makefile("rb"),), name="orders", daemon=True).start()
        self.send({"rank": rank, "pid": os.getpid()})

    def send(self, message: Json) -> None:
        """Send *message*; a child that is gone is no concern: the reader ends the process."""
        if self._out is not None:
            with suppress(OSError):
                self._out.write(encode(message))
                self._out.flush()

    def over(self) -> None:
        """Let the line end without ending the process."""
        self._is_over = True

    def _read(self, file: BinaryIO) -> None:
        with suppress(OSError, TrainingError):
            while (order := read_message(file)) is not None:
                self.orders.put(order)
        if not self._is_over:
            os._exit(1)


def lead(record: RunRecord, slots: Slots, places: Places, group: Group, link: Link) -> None:
    """Carry the run out as rank 0, to its end."""
    run = Run(record, slots, places, team=group)
    group.agree(run.standing)
    while not run.is_over:
        with suppress(queue.Empty):
            order = link.orders.get_nowait()
            link.send({"answer": report_to_json(run.checkpoint()), "number": order["number"]})
        reports = run.advance()
        if reports:
            link.send({"reports": [report_to_json(one) for one in reports]})
        else:
            group.cue("wait")  # so that no rank runs out of patience in a long evaluation
    link.over()
    group.cue("end")


def follow(record: RunRecord, slots: Slots, places: Places, group: Group) -> None:
    """Do what rank 0 gives the cue for, until it says that the run is over."""
    bench = Bench(record.request, slots, places.roots, use="run", team=group)
    facts = {"base_sha256": bench.base.sha256, "dataset_sha256": bench.dataset.sha256}
    if record.checkpoint is not None:
        restore_checkpoint(record.checkpoint.artifact, bench.steps, **facts)
    group.agree(bench.standing)
    steps, taking = bench.steps, iter(bench.steps)
    while (cue := group.await_cue())["do"] != "end":
        match cue["do"]:
            case "step":
                next(taking)
            case "gather":
                group.whole(steps.tensor(str(cue["name"])))
            case "randomness":
                group.everyones(steps.randomness)
            case "model":
                group.give_model()
            case "recall":
                restore_checkpoint(Artifact.model_validate_json(str(cue["artifact"])), steps, **facts)
            case "peak":
                group.peak(lambda: peak_bytes(bench.base.device))
            case "wait":
                pass
            case unknown:
                raise ExactnessBroken(f"expected a cue of rank 0, got {unknown!r}")


def fault_of(error: Exception) -> TrainingError:
    """Return *error* as one of ours: a connection between ranks that broke is ``lost``."""
    broken = isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
    if broken and "not enough memory" not in str(error):
        return Lost("the connection to another rank broke")
    return typed(error)


def parse_arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description="One rank of a run over several processes; see docs/training.md.")
    parser.add_argument("--task", required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--root", type=Path, action="append", default=[])
    parser.add_argument("--hub", action="store_true")
    parser.add_argument("--link", type=Path, help="the socket of the service's child; its own host only")
    parser.add_argument("--store", type=Path, help="the file where the ranks of one host meet")
    return parser.parse_args()


def work(arguments: argparse.Namespace, link: Link, *, rank: int) -> None:
    """Join the others and take part in the run."""
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    meeting = "env://" if arguments.store is None else arguments.store.as_uri()
    distributed.init_process_group(
        "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl",
        init_method=meeting,
        rank=rank,
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=PATIENCE,
    )
    roots = (*arguments.root, arguments.state)
    state = arguments.state
    places = Places(state / "runs", state / "artifacts", Registry(state / "adapters"), roots)
    slots = Slots(models_dir=arguments.models, allow_hub=arguments.hub, roots=roots, device=device)
    record = load_record(places.runs, arguments.task)
    group = Group(device=device, sharding=record.request.sharding)
    if rank == 0:
        lead(record, slots, places, group, link)
    else:
        follow(record, slots, places, group)
        link.over()
    distributed.barrier()
    distributed.destroy_process_group()
    sys.stderr.flush()
    os._exit(0)  # the end of an interpreter that has loaded so much takes seconds


def main() -> None:
    """Take part in one run, and end with it."""
    arguments = parse_arguments()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the service's to handle
    warnings.simplefilter("ignore")
    configure_logging()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    set_threads()
    rank = int(os.environ["RANK"])
    link = Link(arguments.link, rank)
    try:
        work(arguments, link, rank=rank)
    except Exception as error:  # the border of the process: the child gets it
        fault = fault_of(error)
        unexpected = error if type(fault) is TrainingError else None
        log.warning("run.failed", task_id=arguments.task, rank=rank, detail=str(fault), exc_info=unexpected)
        link.send({"error": {"code": fault.code, "detail": str(fault)}, "rank": rank})
        sys.stderr.flush()
        os._exit(1)  # not through the other ranks' connections, which may wait for ever


if __name__ == "__main__":
    main()
