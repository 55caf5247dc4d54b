"""One run from its record to its result: load, step, checkpoint, evaluate, publish; one slice at a time.

Knows its bench and its files; not the pipe, nor the other runs.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from training_service.adapters import Provenance, Registry
from training_service.artifact import remove
from training_service.bench import Bench
from training_service.checkpoint import library_versions, restore_checkpoint, write_checkpoint
from training_service.errors import ArtifactDamaged
from training_service.evaluate import Tally, score_rows
from training_service.event import (
    Checkpoint,
    Evaluated,
    Metrics,
    Progress,
    RunEvent,
    Score,
    Started,
    Trained,
    Usage,
    Variant,
)
from training_service.quote import peak_bytes
from training_service.record import RunRecord, RunState, save_record
from training_service.request import Artifact
from training_service.result import publish_result
from training_service.slots import Slots
from training_service.team import ALONE, Team

CHECKPOINTS_KEPT = 2
"""The newest, and one more for a reader that was just told of it."""

CHECKPOINTS_OF_A_RUN, FEWEST_STEPS = 10, 10
"""Where the request does not say: every tenth of the run, but not more often than this many steps."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where runs, artifacts and adapters are kept, and what datasets may lie under."""

    runs: Path
    artifacts: Path
    registry: Registry
    roots: tuple[Path, ...]


class Run:
    """One run on its bench; ``record`` is what stands on disk, and says ``running`` from now on.

    Raises:
        TrainingError: The base, the data or the last checkpoint cannot be used any more.
    """

    def __init__(self, record: RunRecord, slots: Slots, places: Places, *, team: Team = ALONE) -> None:
        self.record = record
        self._places = places
        self._bench = Bench(record.request, slots, places.roots, use="run", team=team)
        try:
            self._resumed_from_step = self._restore()
            self._keep(state=RunState.RUNNING, ended=None)
        except BaseException:
            self._bench.close()
            raise
        self._kept: list[Artifact] = [record.checkpoint.artifact] if record.checkpoint else []
        self._seconds = record.seconds
        self._began_at, self._first_step = time.monotonic(), self.step
        self._scores: dict[str, float] = {}
        self._slices = self._work()

    def _restore(self) -> int | None:
        bench, last = self._bench, self.record.checkpoint
        if bench.base.sha256 != self.record.base_sha256:
            raise ArtifactDamaged(f"expected the base {bench.base.name!r} that was quoted, it has changed; order anew")
        if last is None:
            return None
        facts = restore_checkpoint(
            last.artifact, bench.steps, base_sha256=bench.base.sha256, dataset_sha256=bench.dataset.sha256
        )
        return facts.step

    @property
    def standing(self) -> str:
        """What every rank must agree on, see ``Bench``."""
        return self._bench.standing

    @property
    def is_over(self) -> bool:
        """Whether ``Trained`` was given."""
        return self.record.state is RunState.TRAINED

    @property
    def step(self) -> int:
        """Steps taken so far."""
        return self._bench.steps.step

    @property
    def tokens(self) -> int:
        """Tokens that went through the steps so far."""
        return self._bench.steps.tokens

    @property
    def started(self) -> Started:
        """The report that the run is on its slot."""
        task_id = self.record.task_id
        return Started(task_id, f"run-{task_id}", self._bench.steps.plan.steps, self._resumed_from_step)

    def advance(self) -> list[RunEvent]:
        """Do the next slice: a step, or a batch of held-out rows. The last slice ends with ``Trained``.

        Raises:
            TrainingError: The run cannot go on; its last checkpoint stands.
        """
        self._bench.activate()
        began_at = time.monotonic()
        try:
            return next(self._slices)
        finally:
            self._seconds += time.monotonic() - began_at

    def checkpoint(self) -> Checkpoint:
        """Put the present state on disk; where it is there already, say so again.

        Raises:
            DiskFull: There is no room. Earlier checkpoints stand.
        """
        last, bench = self.record.checkpoint, self._bench
        metrics = self.record.metrics or Metrics(0, 0.0, bench.steps.plan.rate(0))
        if last is not None and last.metrics.step == self.step:
            return last
        artifact = write_checkpoint(
            self._places.artifacts,
            bench.steps,
            task_id=self.record.task_id,
            base_sha256=bench.base.sha256,
            dataset_sha256=bench.dataset.sha256,
            seconds=self._seconds,
            metrics=metrics,
        )
        report = Checkpoint(self.record.task_id, artifact, metrics)
        self._keep(checkpoint=report)
        self._kept.append(artifact)
        for old in self._kept[:-CHECKPOINTS_KEPT]:
            remove(old)
        self._kept = self._kept[-CHECKPOINTS_KEPT:]
        return report

    def close(self) -> None:
        """Give the memory back; nothing may be asked of the run afterwards."""
        self._bench.close()

    def _keep(self, **changes: object) -> None:
        """Change the record, on disk too."""
        state = changes.pop("state", self.record.state)
        assert isinstance(state, RunState)
        moved = self.record.moved(state, **changes)
        save_record(self._places.runs, moved)
        self.record = moved

    def _work(self) -> Iterator[list[RunEvent]]:
        bench, task_id = self._bench, self.record.task_id
        every = bench.request.checkpoint_every or max(
            FEWEST_STEPS, math.ceil(bench.steps.plan.steps / CHECKPOINTS_OF_A_RUN)
        )
        if self.step == 0:
            yield from self._evaluate()
        of_steps = bench.steps.plan.steps
        for metrics in bench.steps:
            # On disk with the next checkpoint: a file for each step would cost more than the step.
            self.record = replace(self.record, metrics=metrics, seconds=self._seconds)
            reports: list[RunEvent] = [
                Progress(task_id, metrics, of_steps, self._seconds_left(), self._resumed_from_step)
            ]
            if metrics.step % every == 0:
                reports.append(self.checkpoint())
            yield reports
        yield from self._evaluate()
        yield [self._finish()]

    def _seconds_left(self) -> float:
        done = self.step - self._first_step
        return (time.monotonic() - self._began_at) / done * (self._bench.steps.plan.steps - self.step)

    def _evaluate(self) -> Iterator[list[RunEvent]]:
        bench = self._bench
        if bench.evaluation is None:
            return
        tally = Tally()
        with bench.whole():
            for _ in score_rows(bench.base.model, bench.base, bench.evaluation, tally):
                yield []
        variant = Variant.TUNED if self.step else Variant.BASE
        yield [Evaluated(self.record.task_id, self.step, (Score(variant, tally.loss, tally.metrics()),))]
        self._scores = tally.metrics() | {"evaluation_loss": tally.loss}

    def _finish(self) -> Trained:
        bench, record = self._bench, self.record
        metrics = record.metrics or Metrics(self.step, 0.0, 0.0)
        with bench.whole():
            artifact = publish_result(self._places.artifacts, bench)
        adapter = self._places.registry.register(
            record.request.adapter or f"run-{record.task_id[:8]}",
            kind="model" if bench.slot is None else "adapter",
            artifact=artifact,
            base=record.request.base,
            base_sha256=bench.base.sha256,
            provenance=Provenance(
                task_id=record.task_id,
                request=record.request.model_dump(mode="json"),
                dataset_sha256=bench.dataset.sha256,
                seed=record.request.seed,
                metrics={"loss": metrics.loss, "step": float(metrics.step)} | self._scores,
                versions=library_versions(),
                conversation_id=record.conversation_id,
            ),
        )
        quote = record.prepared.quote
        peak = bench.steps.team.peak(lambda: peak_bytes(bench.base.device))
        used = Usage(peak, self._seconds, quote.peak_memory_bytes, quote.seconds)
        trained = Trained(record.task_id, artifact, adapter.label, metrics, used)
        self._keep(state=RunState.TRAINED, ended=trained, seconds=self._seconds)
        return trained
