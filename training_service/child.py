"""The warm child process: ``python -m training_service.warm_start --fd N --models DIR --state DIR``.

Holds the models and runs the steps. One thread reads orders from the pipe, the main thread does everything else;
standard output and error are logs. When the pipe ends, so does the process: what ran resumes from its checkpoints.
"""

import argparse
import logging
import os
import queue
import signal
import socket
import sys
import threading
import warnings
from pathlib import Path
from typing import BinaryIO

import structlog
import torch
import transformers

from training_service.adapters import Registry
from training_service.checkpoint import set_threads
from training_service.desk import Desk
from training_service.errors import RequestInvalid, TrainingError
from training_service.event import Json, Report, generate_from_json, report_to_json
from training_service.fault import typed
from training_service.model import pick_device
from training_service.pipe import encode, read_message
from training_service.ranks import Hosting
from training_service.request import parse_request
from training_service.run import Places
from training_service.slots import Slots
from training_service.sweep import owned, sweep

log = structlog.get_logger()

END_GRACE = 20.0
"""Seconds that the last slice may take once the parent is gone; then the process ends in the middle of it."""


class Child:
    """The child's end of the pipe over its desk."""

    def __init__(
        self, out: BinaryIO, slots: Slots, places: Places, *, device: torch.device, hosting: Hosting | None = None
    ) -> None:
        self._out = out
        self._desk = Desk(slots, places, device=device, report=self._tell, hosting=hosting)

    def serve(self, orders: "queue.SimpleQueue[Json | None]") -> None:
        """Carry out *orders*, and work between them, until None comes."""
        while True:
            try:
                order = orders.get(block=self._desk.is_idle)
            except queue.Empty:
                self._desk.work()
                continue
            if order is None:
                self._desk.close()
                return
            self._carry_out(order)

    def _carry_out(self, order: Json) -> None:
        number = order.get("number")
        try:
            reports = self._answer(order)
        except Exception as error:  # the border of the process: the peer gets it, the child lives on
            fault = typed(error)
            if type(fault) is TrainingError:
                log.warning("task.refused", command=order.get("command"), detail=str(fault), exc_info=error)
            if number is not None:
                self._send({"number": number, "reports": [], "error": {"code": fault.code, "detail": str(fault)}})
            return
        if number is not None:
            self._send({"number": number, "reports": [report_to_json(one) for one in reports]})

    def _answer(self, order: Json) -> list[Report]:
        desk, task_id = self._desk, str(order.get("task_id"))
        match order.get("command"):
            case "prepare":
                body, conversation = order.get("request"), order.get("conversation_id")
                if not isinstance(body, dict):
                    raise RequestInvalid(f"expected a request, got {type(body).__name__}")
                return [desk.prepare(parse_request(body), str(conversation) if conversation else None)]
            case "start":
                return desk.runs.start(task_id)
            case "attach":
                return desk.runs.attach(task_id)
            case "resume":
                return desk.runs.resume(task_id)
            case "pause":
                return [desk.runs.pause(task_id, by_owner=order.get("by") == "owner")]
            case "cancel":
                return [desk.runs.cancel(task_id)]
            case "give-up":
                return desk.runs.give_up(task_id, str(order.get("why")))
            case "generate":
                desk.generate(generate_from_json(order.get("request")))
                return []
            case "delete-adapter":
                desk.delete_adapter(str(order.get("adapter")))
                return []
            case "cancel-generate":
                desk.cancel_generate(str(order.get("request_id")))
                return []
            case unknown:
                raise RequestInvalid(f"expected an order of the pipe, got {unknown!r}")

    def _tell(self, report: Report) -> None:
        self._send({"reports": [report_to_json(report)]})

    def _send(self, message: Json) -> None:
        try:
            self._out.write(encode(message))
            self._out.flush()
        except (BrokenPipeError, ConnectionError):  # the reader's end says the same in a moment
            log.debug("child.died", detail="the service is gone")


def read_orders(file: BinaryIO, orders: "queue.SimpleQueue[Json | None]") -> None:
    """Put every order on the queue, None at the end; and see to it that the process then ends."""
    try:
        while (order := read_message(file)) is not None:
            orders.put(order)
    except (OSError, TrainingError) as error:
        log.warning("child.died", detail=str(error))
    orders.put(None)
    threading.Event().wait(END_GRACE)
    os._exit(1)


def configure_logging() -> None:
    """Write JSON lines to standard error; the service's own set-up is not loaded here."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )


def folders(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return the part of the command line that the ranks of a run have in common with the child."""
    found = ["--models", str(arguments.models), "--state", str(arguments.state)]
    for root in arguments.root:
        found += ["--root", str(root)]
    return (*found, *(["--hub"] if arguments.hub else []))


def main() -> None:
    """Run the child until its pipe ends."""
    parser = argparse.ArgumentParser(description="The training service's warm child; started by the service itself.")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--root", type=Path, action="append", default=[])
    parser.add_argument("--hub", action="store_true")
    parser.add_argument("--hosts", type=int, default=1)
    parser.add_argument("--rendezvous")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the service's to handle
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    configure_logging()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    set_threads()
    device = pick_device()
    roots = (*arguments.root, arguments.state)
    places = Places(
        arguments.state / "runs", arguments.state / "artifacts", Registry(arguments.state / "adapters"), roots
    )
    slots = Slots(models_dir=arguments.models, allow_hub=arguments.hub, roots=roots, device=device)
    pipe = socket.socket(fileno=arguments.fd)
    orders: queue.SimpleQueue[Json | None] = queue.SimpleQueue()
    reader = threading.Thread(target=read_orders, args=(pipe.makefile("rb"), orders), name="orders", daemon=True)
    reader.start()
    hosting = Hosting(folders(arguments), torch.get_num_threads(), arguments.hosts, arguments.rendezvous)
    with owned(arguments.state):
        sweep(places.artifacts, places.runs)
        Child(pipe.makefile("wb"), slots, places, device=device, hosting=hosting).serve(orders)
