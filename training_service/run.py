"""One run from its record to its result: load, step, checkpoint, evaluate, publish; one slice at a time.

Knows its bench and its files; not the pipe, nor the other runs.
"""

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from training_service.adapters import Registry
from training_service.artifact import remove
from training_service.aside import Aside
from training_service.bench import Bench
from training_service.checkpoint import restore_checkpoint, write_checkpoint
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
from training_service.history import HISTORY, History
from training_service.milestones import milestones_of
from training_service.record import RunRecord, RunState, record_path, save_record
from training_service.request import Artifact
from training_service.result import describe, kind_of, provenance_of, publish_result
from training_service.scalars import EventFiles
from training_service.slots import Slots
from training_service.stopping import Verdict, judge, tuned_losses
from training_service.team import ALONE, Team
from training_service.usage import Meter

CHECKPOINTS_KEPT = 2
"""The newest, and one more for a reader that was just told of it."""

UNTUNED = (Variant.BASE, Variant.SYSTEM_PROMPT)
"""What is evaluated before the first step and stays as it is."""


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
        self._bench = bench = Bench(record.request, slots, places.roots, use="run", team=team)
        self._history: History | None = None
        self._events: EventFiles | None = None
        self._aside: Aside[Artifact] | None = None  # what is being written
        self._checkpointing: Aside[Artifact] | None = None  # the same, where it is a checkpoint
        self._slices: Generator[list[RunEvent]] | None = None
        try:
            self._resumed_from_step = self._restore()
            self._rows = bench.variants()
            self._keep(state=RunState.RUNNING, ended=None)
            folder = record_path(places.runs, record.task_id).parent
            self._history = History(folder / HISTORY, until=self.step)
            if record.request.tensorboard:
                self._events = EventFiles(folder, step=self.step)
        except BaseException:
            self.close()
            raise
        self._kept: list[Artifact] = [record.checkpoint.artifact] if record.checkpoint else []
        self._meter = Meter(bench.base.device, seconds=record.seconds, peak_bytes=record.peak_memory_bytes)
        self._began_at, self._first_step = time.monotonic(), self.step
        self._milestones = milestones_of(bench.request, bench.steps.plan.steps, is_evaluated=bool(self._rows))
        self._steps = iter(bench.steps)
        self._slices = self._work()

    def _restore(self) -> int | None:
        bench, last = self._bench, self.record.checkpoint
        if bench.base.sha256 != self.record.base_sha256:
            raise ArtifactDamaged(f"expected the base {bench.base.name!r} that was quoted, it has changed; order anew")
        if last is None:
            self._forget_after(0)
            return None
        self._load(last)
        self._forget_after(self.step)
        return self.step

    def _load(self, checkpoint: Checkpoint) -> None:
        bench = self._bench
        restore_checkpoint(
            checkpoint.artifact, bench.steps, base_sha256=bench.base.sha256, dataset_sha256=bench.dataset.sha256
        )

    def _forget_after(self, step: int) -> None:
        """Let the record say nothing of steps that will be taken again."""
        record = self.record
        best = record.best if record.best is not None and record.best.metrics.step <= step else None
        self.record = replace(
            record,
            metrics=record.checkpoint.metrics if record.checkpoint is not None else None,
            evaluations=tuple(one for one in record.evaluations if one.step <= step),
            best=best,
        )

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
        assert self._slices is not None  # from the beginning to the end
        self._bench.activate()
        with self._meter.slice():
            return next(self._slices)

    def checkpoint(self) -> Checkpoint:
        """Put the present state on disk; where it is there already, say so again.

        Raises:
            DiskFull: There is no room. Earlier checkpoints stand.
        """
        if (last := self._last_checkpoint()) is not None:
            return last
        if self._checkpointing is not None:
            return self._keep_checkpoint(self._checkpointing.result())
        self.rest(None)
        return self._keep_checkpoint(self._checkpoint_work()())

    def _last_checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint of the present step, if it was taken."""
        last = self.record.checkpoint
        return last if last is not None and last.metrics.step == self.step else None

    def _checkpoint_work(self) -> Callable[[], Artifact]:
        """Return what puts the present state on disk; the run may take no step until that is done."""
        assert self._history is not None  # until it is closed
        self._history.sync()
        if self._events is not None:
            self._events.flush()
        bench = self._bench
        return partial(
            write_checkpoint,
            self._places.artifacts,
            bench.steps,
            task_id=self.record.task_id,
            base_sha256=bench.base.sha256,
            dataset_sha256=bench.dataset.sha256,
            seconds=self._meter.seconds,
            metrics=self._metrics(),
        )

    def _metrics(self) -> Metrics:
        return self.record.metrics or Metrics(0, 0.0, self._bench.steps.plan.rate(0))

    def _keep_checkpoint(self, artifact: Artifact) -> Checkpoint:
        report = Checkpoint(self.record.task_id, artifact, self._metrics())
        self._keep(checkpoint=report)
        self._kept.append(artifact)
        self._remove_old()
        return report

    def _take_checkpoint(self) -> Generator[list[RunEvent], None, Checkpoint]:
        """Do as ``checkpoint``, beside the steps of others."""
        if self._last_checkpoint() is None and self._works_beside:
            self._checkpointing = Aside(self._checkpoint_work())
            try:
                yield from self._await(self._checkpointing)
                return self.checkpoint()
            finally:
                self._checkpointing = None
        return self.checkpoint()

    @property
    def _works_beside(self) -> bool:
        """Whether there may be others to make room for; what ranks write needs every rank."""
        return self._bench.steps.team.size == 1

    def _await(self, aside: Aside[Artifact]) -> Generator[list[RunEvent], None, None]:
        """Give empty slices until *aside* is done, and count its seconds as the run's."""
        self._aside = aside
        while self.is_resting:
            yield []
        self._aside = None
        self._meter.seconds += aside.seconds

    @property
    def is_resting(self) -> bool:
        """Whether its files are being written, so that a slice would be empty."""
        return self._aside is not None and not self._aside.is_done

    def rest(self, seconds: float | None) -> None:
        """Wait until it does not rest any more, at most *seconds*."""
        if self._aside is not None:
            self._aside.wait(seconds)

    def _remove_old(self) -> None:
        best = self.record.best
        for old in self._kept[:-CHECKPOINTS_KEPT]:
            if best is None or old != best.artifact:
                remove(old)
        pinned = [best.artifact] if best is not None and best.artifact in self._kept[:-CHECKPOINTS_KEPT] else []
        self._kept = pinned + self._kept[-CHECKPOINTS_KEPT:]

    def close(self) -> None:
        """Give the memory back; nothing may be asked of the run afterwards."""
        self.rest(None)
        if self._slices is not None:
            self._slices.close()  # it holds this run: together they would keep the weights until they are collected
        if self._history is not None:
            self._history.close()
        if self._events is not None:
            self._events.close()
        self._bench.close()

    def _keep(self, **changes: object) -> None:
        """Change the record, on disk too."""
        state = changes.pop("state", self.record.state)
        assert isinstance(state, RunState)
        moved = self.record.moved(state, **changes)
        save_record(self._places.runs, moved)
        self.record = moved

    def _work(self) -> Generator[list[RunEvent]]:
        while True:
            if self._owes_evaluation():
                yield from self._evaluate()
            verdict = self._verdict()
            if verdict.best_step == self.step and self.step:
                yield [self._keep_best((yield from self._take_checkpoint()))]
            elif self._milestones.is_checkpoint(self.step) and self._last_checkpoint() is None:
                yield [(yield from self._take_checkpoint())]
            if verdict.is_over or self.step >= self._bench.steps.plan.steps:
                break
            yield [self._take_step()]
        yield [(yield from self._finish())]

    def _verdict(self) -> Verdict:
        return judge(tuned_losses(self.record.evaluations), self.record.request.early_stopping)

    def _take_step(self) -> Progress:
        metrics = next(self._steps)
        # On disk with the next checkpoint: a file for each step would cost more than the step.
        meter = self._meter
        self.record = replace(self.record, metrics=metrics, seconds=meter.seconds, peak_memory_bytes=meter.peak_bytes)
        assert self._history is not None  # until it is closed
        self._history.add(metrics)
        if self._events is not None:
            self._events.add_step(metrics)
        of_steps = self._bench.steps.plan.steps
        return Progress(self.record.task_id, metrics, of_steps, self._seconds_left(), self._resumed_from_step)

    def _seconds_left(self) -> float:
        done = self.step - self._first_step
        return (time.monotonic() - self._began_at) / done * (self._bench.steps.plan.steps - self.step)

    def _keep_best(self, report: Checkpoint) -> Checkpoint:
        if self.record.best != report:
            self._keep(best=report)
            self._remove_old()
        return report

    def _owes_evaluation(self) -> bool:
        is_done = any(one.step == self.step for one in self.record.evaluations)
        return not is_done and self._milestones.is_evaluation(self.step)

    def _evaluate(self) -> Iterator[list[RunEvent]]:
        """Score the held-out rows; those who learn nothing are scored before the first step alone."""
        scores = [score for one in self.record.evaluations[:1] for score in one.scores]
        for variant in UNTUNED if self.step == 0 else (Variant.TUNED,):
            if variant not in self._rows:
                continue
            tally, bench = Tally(), self._bench
            with bench.whole():
                scoring = score_rows(bench.base.model, bench.base, self._rows[variant], tally)
                while True:
                    if variant is not Variant.TUNED and bench.slot is not None:
                        bench.slot.host.activate(None)
                    if next(scoring, self) is self:
                        break
                    yield []
            scores.append(Score(variant, tally.loss, tally.metrics()))
        report = Evaluated(self.record.task_id, self.step, tuple(scores))
        self._keep(evaluations=(*self.record.evaluations, report))
        if self._events is not None:
            self._events.add_scores(self.step, scores)
        yield [report]

    def _published_scores(self, step: int) -> dict[str, float]:
        """Return what the tuned model reached on the held-out rows at *step*."""
        for one in self.record.evaluations:
            score = one.score(Variant.TUNED)
            if one.step == step and score is not None:
                return score.metrics | {"evaluation_loss": score.loss}
        return {}

    def _finish(self) -> Generator[list[RunEvent], None, Trained]:
        bench, record = self._bench, self.record
        metrics = record.metrics or Metrics(self.step, 0.0, 0.0)
        if record.best is not None and record.best.metrics.step != self.step:
            metrics = record.best.metrics
            bench.steps.team.recall(record.best.artifact)
            self._load(record.best)
        figures = {"loss": metrics.loss, "step": float(metrics.step)} | self._published_scores(metrics.step)
        artifact = yield from self._publish(describe(bench, record, figures, step=metrics.step))
        adapter = self._places.registry.register(
            record.request.adapter or f"run-{record.task_id[:8]}",
            kind=kind_of(bench),
            artifact=artifact,
            base=record.request.base,
            base_sha256=bench.base.sha256,
            provenance=provenance_of(bench, record, figures),
        )
        quote = record.prepared.quote
        meter = self._meter
        peak = bench.steps.team.peak(lambda: meter.peak_bytes)
        used = Usage(peak, meter.seconds, quote.peak_memory_bytes, quote.seconds)
        trained = Trained(record.task_id, artifact, adapter.label, metrics, used)
        assert self._history is not None  # until it is closed
        self._history.sync()
        self._keep(state=RunState.TRAINED, ended=trained, seconds=meter.seconds, peak_memory_bytes=meter.peak_bytes)
        return trained

    def _publish(self, card: str) -> Generator[list[RunEvent], None, Artifact]:
        """Put the result on disk, beside the steps of others."""
        with self._bench.whole():
            work = publish_result(self._places.artifacts, self._bench, card=card)
            if not self._works_beside:
                return work()
            aside = Aside(work)
            yield from self._await(aside)
            return aside.result()
