"""The child's side of a run over several processes: starts ``torch.distributed.run``, hears its ranks, ends them.

Every rank of this host has a line to here, a Unix socket; rank 0 reports and is asked for checkpoints, the others say
only what went wrong with them. When the line ends so does the rank, so that none outlives this process. The ranks of
one host meet through a file in a folder of their own; only a run over several hosts opens a port.
"""

import errno
import os
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from training_service.errors import ExactnessBroken, Lost, RequestInvalid, TrainingError, error_from_code
from training_service.event import Checkpoint, Json, Progress, RunEvent, Started, Trained, report_from_json
from training_service.pipe import encode, read_message
from training_service.record import RunRecord, load_record
from training_service.request import TrainingRequest

FOLDER, LINK = "palaver-ranks-", "link"
"""How the folder is called where the ranks of one run meet; it goes with them, or ``LEFT_FOR`` after a killed child."""

LEFT_FOR = 3600.0
"""Seconds before a folder that nobody listens in is removed: by then its launcher, which waits for files, is gone."""

POLL = 0.05
"""Seconds that a child with nothing else to do waits for a report before it looks for orders."""

END_LIMIT = 10.0
"""Seconds for the ranks to end by themselves once the run is over or one has failed; then they are killed."""

CHECKPOINT_LIMIT = 900.0
"""Seconds for the ranks to end their step and write a checkpoint; then the run counts as lost."""


@dataclass(frozen=True, slots=True)
class Hosting:
    """How ranks are started on this host.

    Attributes:
        arguments: Which folders they use, as on the child's own command line.
        threads: Of all ranks of this host together.
        n_hosts: Hosts of one run; this is the first. Each takes an equal share of the processes.
        rendezvous: ``address:port`` of this host where the others reach it; needed for several hosts.
    """

    arguments: tuple[str, ...]
    threads: int
    n_hosts: int = 1
    rendezvous: str | None = None

    def check(self, request: TrainingRequest, *, n_devices: int) -> None:
        """See that the ranks of *request* can be started here.

        Args:
            request: Of more than one process.
            n_devices: How many ranks this host can hold: its accelerators, or its cores.

        Raises:
            RequestInvalid: They cannot; the text says why.
        """
        if self.n_hosts > 1 and self.rendezvous is None:
            raise RequestInvalid(f"expected a rendezvous (address:port) for {self.n_hosts} hosts, got none: set it")
        n_here, odd = divmod(request.processes, self.n_hosts)
        if odd:
            raise RequestInvalid(
                f"expected processes that {self.n_hosts} hosts share equally, got {request.processes}: take a multiple"
            )
        if n_here > n_devices:
            raise RequestInvalid(
                f"expected at most {n_devices * self.n_hosts} processes (one for each core or accelerator of "
                f"{self.n_hosts} host(s)), got {request.processes}"
            )
        if request.batch_rows < request.processes:
            raise RequestInvalid(
                f"expected at least one row a step for each of {request.processes} processes, got batch_rows "
                f"{request.batch_rows}: take more rows or fewer processes"
            )

    def command(self, n_processes: int, folder: Path) -> list[str]:
        """Return the arguments of ``torch.distributed.run`` that start this host's share of *n_processes*."""
        each = ["--nproc-per-node", str(n_processes // self.n_hosts), "--log-dir", str(folder / "logs")]
        if self.rendezvous is not None:
            address, _, port = self.rendezvous.rpartition(":")
            place = ["--nnodes", str(self.n_hosts), "--node-rank", "0", "--master-addr", address, "--master-port", port]
            return [*each, *place]
        # A file instead of the usual port: that one would listen on every address of the machine.
        return [
            *each, "--nnodes", "1", "--local-addr", "127.0.0.1",
            "--rdzv-backend", "c10d", "--rdzv-conf", "store_type=file", "--rdzv-endpoint", str(folder / "rendezvous"),
        ]  # fmt: skip

    def environment(self, n_processes: int) -> dict[str, str]:
        """Return what the ranks' environment has beside the child's own."""
        threads = max(1, self.threads * self.n_hosts // n_processes)
        own = {"OMP_NUM_THREADS": str(threads), "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR")}
        if self.rendezvous is None:
            own |= {"GLOO_SOCKET_IFNAME": "lo", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        return own


class Ranks:
    """One run over several processes, as the desk sees it; asked like a ``run.Run``, but it works by itself.

    Raises:
        Lost: The ranks cannot be started here now, e.g. because the port for several hosts is taken.
    """

    def __init__(self, record: RunRecord, runs: Path, hosting: Hosting) -> None:
        self._runs = runs
        self._record = record
        self._resumed_from_step = record.checkpoint.metrics.step if record.checkpoint is not None else None
        self._heard: queue.SimpleQueue[Json] = queue.SimpleQueue()
        self._arrived: list[RunEvent] = []
        self._faults: list[TrainingError] = []
        self._answers: list[Checkpoint] = []
        self._gone: list[int] = []  # in the order in which they went
        self._told: set[int] = set()  # which said themselves what went wrong
        self._over = False
        self._n_hosts = hosting.n_hosts
        self._end_by: float | None = None
        self._lines: dict[int, _Line] = {}
        _check_port(hosting.rendezvous)
        _remove_left_folders()
        self._folder = Path(tempfile.mkdtemp(prefix=FOLDER))  # 0700: nobody else's to meet in
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._folder / LINK))
        self._listener.listen(64)
        self._hearing = threading.Thread(target=self._accept, name="ranks", daemon=True)
        self._hearing.start()
        store = [] if hosting.rendezvous is not None else ["--store", str(self._folder / "store")]
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "torch.distributed.run",
                *hosting.command(record.request.processes, self._folder),
                "-m", "training_service.rank", "--task", record.task_id, *hosting.arguments,
                "--link", str(self._folder / LINK), *store,
            ],
            stdin=subprocess.DEVNULL, env={**os.environ, **hosting.environment(record.request.processes)},
        )  # fmt: skip

    @property
    def record(self) -> RunRecord:
        """The run as it stands on disk, with the newest numbers."""
        return replace(load_record(self._runs, self._record.task_id), metrics=self._record.metrics)

    @property
    def step(self) -> int:
        """Steps taken so far."""
        return self._record.metrics.step if self._record.metrics is not None else 0

    @property
    def tokens(self) -> int:
        """Nothing that this process spends."""
        return 0

    @property
    def pids(self) -> Mapping[int, int]:
        """The process ids of the ranks that have come up, by rank."""
        return {rank: line.pid for rank, line in self._lines.items()}

    @property
    def launcher_pid(self) -> int:
        """The process id of ``torch.distributed.run``."""
        return self._process.pid

    @property
    def started(self) -> Started:
        """The report that the ranks are being started."""
        task_id, of_steps = self._record.task_id, self._record.prepared.quote.steps
        return Started(task_id, f"run-{task_id}", of_steps, self._resumed_from_step)

    def advance(self, wait: float = 0.0) -> list[RunEvent]:
        """Return what rank 0 has reported; waits at most *wait* seconds for it.

        Raises:
            TrainingError: A rank has failed; all of them are gone.
        """
        self._hear(wait)
        if not self._arrived:
            self._check_life()
        return self.remaining()

    def remaining(self) -> list[RunEvent]:
        """Return what was reported while the last checkpoint was awaited."""
        reports, self._arrived = self._arrived, []
        return reports

    def checkpoint(self) -> Checkpoint:
        """Have the present state put on disk at the end of the step; blocks until it is there.

        Raises:
            TrainingError: A rank has failed, or the run is over.
        """
        last = load_record(self._runs, self._record.task_id).checkpoint
        if last is not None and last.metrics.step == self.step:
            return last
        self._answers.clear()
        asked, give_up_at = False, time.monotonic() + CHECKPOINT_LIMIT
        while not self._answers:
            if self._over:
                raise RequestInvalid(
                    f"expected a run that is not over, got one that is trained: {self._record.task_id}"
                )
            if not asked and 0 in self._lines:
                self._lines[0].send({"command": "checkpoint", "number": 1})
                asked = True
            self._hear(POLL)
            self._check_life()
            if time.monotonic() > give_up_at:
                raise Lost(f"expected a checkpoint within {CHECKPOINT_LIMIT:.0f} seconds, the ranks do not answer")
        return self._answers[-1]

    def close(self) -> None:
        """End every rank and wait until they are gone; what is not in a checkpoint is lost."""
        if self._over and self._n_hosts > 1:  # the launchers of the other hosts wait for this one
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_LIMIT)
        self._process.kill()  # without its complaint that ranks have failed
        self._process.wait()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._hearing.join()
        for line in self._lines.values():
            line.end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self) -> None:
        with suppress(OSError, TrainingError):
            while True:
                line = _Line(self._listener.accept()[0])
                self._lines[line.rank] = line
                line.hear(self._heard)

    def _hear(self, wait: float) -> None:
        with suppress(queue.Empty):
            self._take(self._heard.get(timeout=wait) if wait else self._heard.get_nowait())
            while True:
                self._take(self._heard.get_nowait())

    def _take(self, message: Json) -> None:
        error, answer, reports = message.get("error"), message.get("answer"), message.get("reports")
        if isinstance(gone := message.get("gone"), int):
            self._gone.append(gone)
        if isinstance(error, dict):
            rank = message["rank"]
            assert isinstance(rank, int)
            self._told.add(rank)
            self._faults.append(error_from_code(str(error["code"]), f"rank {rank}: {error['detail']}"))
        if isinstance(answer, dict):
            found = report_from_json(answer)
            assert isinstance(found, Checkpoint)
            self._answers.append(found)
        for one in reports if isinstance(reports, list) else ():
            report = report_from_json(one)
            assert isinstance(report, RunEvent)
            if isinstance(report, Progress):
                self._record = replace(self._record, metrics=report.metrics)
            self._over = self._over or isinstance(report, Trained)
            self._arrived.append(report)

    def _check_life(self) -> None:
        """See that the ranks work.

        Raises:
            TrainingError: They do not; all of them are gone.
        """
        if self._over:
            return
        if self._faults and self._end_by is None:
            self._end_by = time.monotonic() + END_LIMIT
        ended = self._process.poll()
        if ended is None and (self._end_by is None or time.monotonic() < self._end_by):
            return
        died = [rank for rank in self._gone if rank not in self._told]
        self.close()
        self._hear(0.0)
        if any(isinstance(one, Trained) for one in self._arrived):
            return
        # A rank that lost another says so too; the first that says anything else knows why.
        for fault in self._faults:
            if not isinstance(fault, Lost):
                raise fault
        if died:
            raise Lost(f"rank {died[0]} of {self._record.request.processes} died")
        how = f"signal {-ended}" if ended is not None and ended < 0 else f"exit code {ended}"
        raise self._faults[0] if self._faults else Lost(f"torch.distributed.run ended with {how}; its log says why")


class _Line:
    """This end of one rank's line."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb")
        hello = read_message(self._file) or {}
        rank, pid = hello.get("rank"), hello.get("pid")
        if not isinstance(rank, int) or not isinstance(pid, int):
            raise ExactnessBroken(f"expected a rank to say who it is, got {hello!r}")
        self.rank, self.pid = rank, pid
        self._thread: threading.Thread | None = None

    def hear(self, heard: "queue.SimpleQueue[Json]") -> None:
        self._thread = threading.Thread(target=self._read, args=(heard,), name=f"rank {self.rank}", daemon=True)
        self._thread.start()

    def send(self, message: Json) -> None:
        with suppress(OSError):  # it has died: the launcher says so in a moment
            self._connection.sendall(encode(message))

    def end(self) -> None:
        """End the line, and so the rank."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
        if self._thread is not None:
            self._thread.join(END_LIMIT)
            if self._thread.is_alive():  # its end of the line is open, so the number is still its own
                with suppress(ProcessLookupError):
                    os.kill(self.pid, 9)
                self._thread.join()
        self._file.close()
        self._connection.close()

    def _read(self, heard: "queue.SimpleQueue[Json]") -> None:
        with suppress(OSError, TrainingError):
            while (message := read_message(self._file)) is not None:
                heard.put(message)
        heard.put({"gone": self.rank})


def _remove_left_folders() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        with suppress(OSError):  # another user's, or gone meanwhile
            if time.time() - folder.stat().st_mtime < LEFT_FOR:
                continue
            with socket.socket(socket.AF_UNIX) as line:
                if line.connect_ex(str(folder / LINK)) in (errno.ECONNREFUSED, errno.ENOENT):
                    shutil.rmtree(folder, ignore_errors=True)


def _check_port(rendezvous: str | None) -> None:
    if rendezvous is None:
        return
    address, _, port = rendezvous.rpartition(":")
    try:
        with socket.create_server((address, int(port))):
            pass
    except (OSError, ValueError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise Lost(f"expected {rendezvous!r} to be a free port of this host for its ranks, got: {why}") from error
