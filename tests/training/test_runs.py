"""Runs on one desk: priorities, owners, evaluations side by side, early stopping, and what survives a resume."""

import json
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
import torch

from training_service.adapters import internal_name
from training_service.aside import Aside
from training_service.desk import Desk
from training_service.errors import RequestInvalid
from training_service.event import (
    Canceled,
    Checkpoint,
    Evaluated,
    Lineup,
    Prepared,
    Progress,
    Queued,
    Refused,
    Report,
    Started,
    Suspended,
    Trained,
    Variant,
)
from training_service.history import read_history
from training_service.record import RunRecord, load_record
from training_service.request import Artifact, TrainingRequest
from training_service.run import Places
from training_service.slots import Slots

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
NewRequest = Callable[..., TrainingRequest]
KEY = "correct horse battery"


class Talk:
    """A desk and what it said."""

    def __init__(self, slots: Slots, places: Places, *, most_runs: int = 8) -> None:
        self.said: list[Report] = []
        self.places = places
        self.desk = Desk(slots, places, device=CPU, report=self.said.append, most_runs=most_runs)

    def begin(self, *requests: TrainingRequest) -> None:
        for request in requests:
            prepared = self.desk.prepare(request, None)
            assert isinstance(prepared, Prepared), prepared
            self.desk.runs.start(request.task_id)

    def work(self, until: Callable[[], bool] = lambda: False) -> None:
        for _ in range(2000):
            if self.desk.is_idle or until():
                return
            self.desk.work()
        raise AssertionError(f"expected an end, got {self.said[-3:]}")

    def of(self, kind: type[Report], request: TrainingRequest) -> list[Report]:
        return [one for one in self.said if isinstance(one, kind) and getattr(one, "task_id", "") == request.task_id]

    def trained(self, request: TrainingRequest) -> Trained:
        (found,) = self.of(Trained, request)
        assert isinstance(found, Trained)
        return found

    def record(self, request: TrainingRequest) -> RunRecord:
        return load_record(self.places.runs, request.task_id)


@pytest.fixture
def talk(slots: Slots, places: Places) -> Talk:
    return Talk(slots, places)


@pytest.fixture
def narrow(slots: Slots, places: Places) -> Talk:
    """A desk with one place."""
    return Talk(slots, places, most_runs=1)


@pytest.fixture
def held_out(new_request: NewRequest) -> dict[str, object]:
    return new_request().dataset.model_dump()


def test_run_of_higher_priority_takes_the_place_and_both_end_as_if_alone(
    new_request: NewRequest, narrow: Talk, slots: Slots, tiny: Path
) -> None:
    order = {"lora": {"rank": 4, "dropout": 0.2}, "max_steps": 5}
    alone, low = new_request("alone", **order), new_request("low", priority=2, **order)
    narrow.begin(alone)
    narrow.work()
    narrow.begin(low)
    narrow.work(until=lambda: len(narrow.of(Progress, low)) == 2)
    urgent = new_request("urgent", priority=9, seed=1)
    narrow.begin(urgent)
    narrow.work(until=lambda: bool(narrow.of(Progress, urgent)))
    held = slots.shared(str(tiny)).users.copy()
    narrow.work()

    (suspended,) = narrow.of(Suspended, low)
    assert isinstance(suspended, Suspended)
    assert suspended.reason == "priority"
    assert held == {internal_name("run", urgent.task_id)}
    assert [one.resumed_from_step for one in narrow.of(Started, low) if isinstance(one, Started)] == [None, 2]
    ends = [one.task_id for one in narrow.said if isinstance(one, Trained)]
    assert ends == [alone.task_id, urgent.task_id, low.task_id]
    assert narrow.trained(low).artifact.sha256 == narrow.trained(alone).artifact.sha256
    assert len(read_history(narrow.places.runs / low.task_id, points=99)) == 5


def test_a_run_whose_files_are_being_written_keeps_nobody_waiting(new_request: NewRequest, talk: Talk) -> None:
    order = {"lora": {"rank": 4, "dropout": 0.2}, "max_steps": 6}
    alone, writing = new_request("alone", **order), new_request("writing", checkpoint_every=2, **order)
    talk.begin(alone)
    talk.work()
    beside = new_request("beside", seed=3, max_steps=20, checkpoint_every=50)
    talk.begin(writing, beside)
    free = Event()
    other = Aside(free.wait)  # files are written one after the other: this one is not done until it may be
    talk.work(until=lambda: len(talk.of(Progress, beside)) == 20)
    steps = [one.metrics.step for one in talk.of(Progress, writing) if isinstance(one, Progress)]

    assert steps == [1, 2]
    assert talk.of(Checkpoint, writing) == []
    free.set()
    talk.work()
    assert other.result()
    assert [one.metrics.step for one in talk.of(Checkpoint, writing) if isinstance(one, Checkpoint)] == [2, 4, 6]
    assert talk.trained(writing).artifact.sha256 == talk.trained(alone).artifact.sha256


def test_a_run_is_paused_while_its_files_are_being_written(new_request: NewRequest, talk: Talk) -> None:
    run = new_request("paused", checkpoint_every=2)
    talk.begin(run)
    free = Event()
    other = Aside(free.wait)
    talk.work(until=lambda: len(talk.of(Progress, run)) == 2)
    talk.desk.work()  # it begins to write
    free.set()
    paused = talk.desk.runs.pause(run.task_id, by_owner=False)

    assert other.result()
    assert talk.desk.is_idle
    kept = talk.record(run).checkpoint
    assert kept is not None
    assert (kept.metrics.step, kept.artifact) == (2, paused.checkpoint)
    sealed = [path.name for path in talk.places.artifacts.iterdir()]
    assert sealed == [paused.checkpoint.sha256]


def test_the_lineup_tells_who_is_placed_and_how_many_are_before_each_that_waits(
    new_request: NewRequest, narrow: Talk
) -> None:
    first, second, third = (new_request(name, max_steps=1) for name in ("a", "b", "c"))
    narrow.begin(first, second, third)
    narrow.desk.work()

    lineup = [one for one in narrow.said if isinstance(one, Lineup)][-1]
    assert lineup == Lineup((first.task_id,), {second.task_id: 0, third.task_id: 1})
    assert narrow.desk.runs.start(third.task_id) == [Queued(third.task_id, 1)]
    narrow.work()
    assert [one for one in narrow.said if isinstance(one, Lineup)][-1] == Lineup()


def test_owners_key_is_written_nowhere_and_compared_apart(
    new_request: NewRequest, talk: Talk, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    request = new_request(owner_key=KEY, max_steps=1, adapter="colors")
    talk.begin(request)
    again = talk.desk.prepare(request, None)
    others = [
        talk.desk.prepare(new_request(owner_key=key, max_steps=1, adapter="colors"), None) for key in (None, KEY * 2)
    ]
    talk.work()

    assert isinstance(again, Prepared)
    assert all(isinstance(one, Refused) and one.code == "bad-request" for one in others)
    assert talk.record(request).owner_sha256 is not None
    assert KEY not in repr(request)
    assert KEY not in "".join(capfd.readouterr())
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_owner_pauses_beside_the_conversation_and_only_resuming_wakes_the_run(
    new_request: NewRequest, talk: Talk
) -> None:
    request, alone = new_request(), new_request("alone")
    talk.begin(alone)
    talk.work()
    talk.begin(request)
    talk.work(until=lambda: len(talk.of(Progress, request)) == 3)
    talk.desk.runs.pause(request.task_id, by_owner=True)
    (suspended,) = talk.of(Suspended, request)
    attached = talk.desk.runs.attach(request.task_id)
    idle = talk.desk.is_idle
    talk.desk.runs.resume(request.task_id)
    talk.work()

    assert attached == [Queued(request.task_id, 0), suspended]
    assert idle
    assert talk.trained(request).artifact.sha256 == talk.trained(alone).artifact.sha256


def test_a_run_that_waits_may_be_paused_before_it_began(new_request: NewRequest, narrow: Talk) -> None:
    first, second = new_request("a", max_steps=2), new_request("b", max_steps=2)
    narrow.begin(first, second)
    narrow.desk.work()
    paused = narrow.desk.runs.pause(second.task_id, by_owner=False)
    narrow.work()
    before = narrow.of(Trained, second)
    narrow.desk.runs.resume(second.task_id)
    narrow.work()

    assert paused.checkpoint.path.is_dir()
    assert not before
    assert narrow.trained(second).artifact.sha256 == narrow.trained(first).artifact.sha256


def test_what_nobody_accepted_and_what_is_over_cannot_be_resumed(new_request: NewRequest, talk: Talk) -> None:
    quoted, canceled = new_request("quoted"), new_request("canceled")
    talk.desk.prepare(quoted, None)
    talk.begin(canceled)
    talk.desk.runs.cancel(canceled.task_id)

    with pytest.raises(RequestInvalid, match="nobody has taken"):
        talk.desk.runs.resume(quoted.task_id)
    with pytest.raises(RequestInvalid, match="canceled"):
        talk.desk.runs.resume(canceled.task_id)
    with pytest.raises(RequestInvalid, match="prepared"):
        talk.desk.runs.pause(quoted.task_id, by_owner=True)
    assert len(talk.of(Canceled, canceled)) == 1


def test_base_prompted_base_and_tuned_model_are_evaluated_side_by_side(
    new_request: NewRequest, talk: Talk, held_out: dict[str, object], slots: Slots, tiny: Path
) -> None:
    request = new_request(max_steps=30, evaluation=held_out, evaluate_every=20, adapter="colors", accept_warnings=True)
    talk.begin(request)
    talk.work()

    found = [one for one in talk.of(Evaluated, request) if isinstance(one, Evaluated)]
    assert [(one.step, [score.variant for score in one.scores]) for one in found] == [
        (0, [Variant.BASE, Variant.SYSTEM_PROMPT]),
        (20, list(Variant)),
        (30, list(Variant)),
    ]
    assert found[0].scores == found[1].scores[:2] == found[2].scores[:2]
    losses = {score.variant: score.loss for score in found[2].scores}
    assert losses[Variant.TUNED] < 0.5 * losses[Variant.BASE]
    assert losses[Variant.SYSTEM_PROMPT] != losses[Variant.BASE]
    provenance = talk.places.registry.find("colors").provenance
    assert provenance.metrics["evaluation_loss"] == losses[Variant.TUNED]


def resumed_after(talk: Talk, request: TrainingRequest, *, n_steps: int, again: Callable[[], Slots]) -> Talk:
    """Begin *request*, forget the desk after *n_steps* as a crash would, and finish on another."""
    talk.begin(request)
    talk.work(until=lambda: len(talk.of(Progress, request)) == n_steps)
    other = Talk(again(), talk.places)
    other.desk.runs.start(request.task_id)
    other.work()
    return other


@pytest.fixture
def misleading(tmp_path: Path) -> dict[str, object]:
    """Held-out rows with other answers: how to answer can be learned for them, but what to answer cannot."""
    answers = {"apple": "white", "grass": "blue", "sky": "green", "snow": "red"}
    path = tmp_path / "misleading.jsonl"
    rows = [{"prompt": f"What color has the {thing}?", "completion": color} for thing, color in answers.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Artifact.from_file(path).model_dump()


def test_run_ends_early_with_the_best_weights_and_a_resumed_one_decides_the_same(
    new_request: NewRequest, talk: Talk, misleading: dict[str, object], models_dir: Path, tmp_path: Path, tiny: Path
) -> None:
    order = {
        "max_steps": 40, "evaluation": misleading, "evaluate_every": 2, "checkpoint_every": 5,
        "early_stopping": {"patience": 3}, "seed": 2,
    }  # fmt: skip
    whole, broken = new_request("whole", **order), new_request("broken", **order)
    talk.begin(whole)
    talk.work()
    expected = talk.trained(whole)
    evaluations = talk.record(whole).evaluations
    stopped_at = evaluations[-1].step

    def again() -> Slots:
        return Slots(models_dir=models_dir, allow_hub=False, roots=(tmp_path, tiny), device=CPU)

    other = resumed_after(talk, broken, n_steps=stopped_at - 1, again=again)

    assert stopped_at < 40
    assert expected.metrics.step == stopped_at - 6
    best = min(evaluations[1:], key=lambda one: one.score(Variant.TUNED).loss)  # type: ignore[union-attr]  # all have one
    assert expected.metrics.step == best.step
    assert other.trained(broken).artifact.sha256 == expected.artifact.sha256
    assert other.trained(broken).metrics.step == expected.metrics.step
    assert [one.scores for one in other.record(broken).evaluations] == [one.scores for one in evaluations]
    untuned = [one for one in other.of(Evaluated, broken) if isinstance(one, Evaluated) and one.step == 0]
    assert len(untuned) == 1  # told again, and not scored again: it is the record's
    assert len(read_history(talk.places.runs / broken.task_id, points=99)) == stopped_at


def test_what_a_run_used_stands_beside_what_was_quoted(new_request: NewRequest, talk: Talk) -> None:
    request = new_request()
    talk.begin(request)
    talk.work()

    used, quote = talk.trained(request).used, talk.record(request).prepared.quote
    assert (used.quoted_seconds, used.quoted_peak_memory_bytes) == (quote.seconds, quote.peak_memory_bytes)
    assert used.seconds > 0
    assert 100e6 < used.peak_memory_bytes < 20e9


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own generated code
def test_event_files_hold_each_step_and_evaluation_and_no_pickle(
    new_request: NewRequest, talk: Talk, held_out: dict[str, object]
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    request = new_request(tensorboard=True, evaluation=held_out, max_steps=4, accept_warnings=True)
    talk.begin(request)
    talk.work(until=lambda: len(talk.of(Progress, request)) == 2)
    talk.desk.runs.pause(request.task_id, by_owner=True)
    talk.desk.runs.resume(request.task_id)
    talk.work()

    events = accumulator.EventAccumulator(str(talk.places.runs / request.task_id / "tensorboard"))
    events.Reload()
    steps = read_history(talk.places.runs / request.task_id, points=99)
    assert [one.step for one in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert [one.value for one in events.Scalars("train/loss")] == pytest.approx([one.loss for one in steps])
    assert [one.step for one in events.Scalars("evaluation/loss/base")] == [0, 4]
    assert [one.step for one in events.Scalars("evaluation/loss/tuned")] == [4]


def test_event_files_are_refused_at_the_quote_where_they_cannot_be_written(
    new_request: NewRequest, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training_service import scalars

    monkeypatch.setattr(scalars.importlib.util, "find_spec", lambda name: None)

    answer = talk.desk.prepare(new_request(tensorboard=True), None)

    assert isinstance(answer, Refused)
    assert answer.code == "bad-request"
    assert "palaver[plot]" in answer.detail
