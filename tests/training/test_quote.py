"""What is quoted is what is done, and nothing is changed by a rehearsal."""

import gc
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from colors import CPU, NewRequest, color_rows, write_rows
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from training_service.artifact import PIECE_BYTES, SyncedFile, WritingPace, rehearse_writing
from training_service.batch import n_computed
from training_service.bench import Bench
from training_service.data import Dataset, Example
from training_service.desk import Desk
from training_service.encodings import MOST_KEPT, MOST_TOKENS, Encodings
from training_service.errors import DataError
from training_service.evaluate import BATCH_ROWS, BATCH_TOKENS, Pace, Tally, parts_of, rehearse_part, score_rows
from training_service.event import Checkpoint, Evaluated, Prepared, Report, Variant
from training_service.memory import free_bytes, held_bytes
from training_service.milestones import Milestones, milestones_of
from training_service.model import Base, hash_tensors
from training_service.quote import MOST_REHEARSED, Rehearsal, quote_of, rehearse, step_seconds
from training_service.rank_quote import RANK_BYTES, START_SECONDS, quote_ranks
from training_service.request import Artifact
from training_service.run import Places
from training_service.slots import Slots

MB = 1024 * 1024
SHAPES: dict[str, dict[str, object]] = {
    "lora": {"lora": {"rank": 4, "dropout": 0.2}},
    "full": {"method": "full", "weight_decay": 0.1, "micro_rows": 2},
}


# -- nothing is changed ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_steps_after_a_rehearsal_are_those_without_one_bit_for_bit(
    shape: str, new_request: NewRequest, slots: Slots, tmp_path: Path, kept_randomness: None
) -> None:
    weights, losses = [], []
    for rehearsed in (False, True):
        request = new_request(evaluation_share=0.25, accept_warnings=True, **SHAPES[shape])
        bench = Bench(request, slots, (tmp_path,), use="run")
        bench.activate()
        first = next(iter(bench.steps.parameters.values()))
        with torch.no_grad():
            first.view(-1)[0] = -0.0  # a step at rate 0 would turn the sign
        if rehearsed:
            rehearse(bench, tmp_path / "artifacts")
        before = hash_tensors(bench.steps.parameters)
        losses.append([step.loss for step in bench.steps])
        weights.append((before, hash_tensors(bench.steps.parameters)))
        bench.close()

    assert weights[0] == weights[1]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_rehearsal_leaves_no_gradient_no_moment_and_no_artifact(
    new_request: NewRequest, slots: Slots, tmp_path: Path
) -> None:
    bench = Bench(new_request(), slots, (tmp_path,), use="quote")
    bench.activate()

    rehearse(bench, tmp_path / "artifacts")

    assert not [name for name in bench.steps.state()[0] if name.startswith("exp_avg")]
    assert all(one.grad is None for one in bench.steps.parameters.values())
    assert list((tmp_path / "artifacts").iterdir()) == []
    bench.close()


@pytest.mark.slow
def test_moments_are_held_within_the_rehearsal(new_request: NewRequest, slots: Slots, tmp_path: Path) -> None:
    bench = Bench(new_request(method="full"), slots, (tmp_path,), use="quote")
    steps = bench.steps

    with steps.rehearsal() as take:
        (moments,) = take.args  # type: ignore[attr-defined]  # of functools.partial
        take(steps.rows_of(0))

    assert len(moments) == len(steps.parameters)
    assert all(one["step"] == 1 and one["exp_avg_sq"].count_nonzero() for one in moments)


@pytest.mark.parametrize(
    ("seconds", "is_warm", "n_taken"),
    [(1.0, False, 2), (1.0, True, 1), (0.3, False, 3), (0.3, True, 2), (0.01, True, 1 + MOST_REHEARSED)],
)
def test_steps_are_rehearsed_until_enough_was_seen(
    seconds: float, is_warm: bool, n_taken: int, new_request: NewRequest, slots: Slots, tmp_path: Path
) -> None:
    steps = Bench(new_request(max_steps=20), slots, (tmp_path,), use="quote").steps
    taken = []

    def take(rows: object) -> float:
        taken.append(rows)
        return seconds

    found = step_seconds(steps, take, is_warm=is_warm)

    assert (len(taken), taken[0]) == (n_taken, steps.largest_rows())
    assert 0 < found < 2 * seconds


# -- how often ------------------------------------------------------------------------------------------


@given(
    steps=st.integers(1, 60),
    checkpoint_every=st.integers(1, 20),
    evaluate_every=st.none() | st.integers(1, 20),
    is_evaluated=st.booleans(),
    stops_early=st.booleans(),
)
def test_milestones_are_counted_as_they_come(
    steps: int, checkpoint_every: int, evaluate_every: int | None, is_evaluated: bool, stops_early: bool
) -> None:
    plan = Milestones(steps, checkpoint_every, is_evaluated, evaluate_every, stops_early)
    evaluated = {step for step in range(1, steps + 1) if plan.is_evaluation(step)}
    planned = {step for step in range(steps + 1) if plan.is_checkpoint(step)}

    assert plan.is_evaluation(0) is is_evaluated
    assert plan.n_evaluations == len(evaluated)
    assert plan.most_checkpoints == len(planned | (evaluated if stops_early else set()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"evaluation_share": 0.25},
        {"evaluation_share": 0.25, "evaluate_every": 2, "checkpoint_every": 3},
        {"evaluation_share": 0.25, "evaluate_every": 4, "checkpoint_every": 3, "early_stopping": {"patience": 9}},
        {"evaluation_share": 0.25, "checkpoint_every": 2, "early_stopping": {"patience": 1, "min_delta": 9.0}},
    ],
)
def test_run_makes_the_checkpoints_and_evaluations_of_its_milestones(
    changes: dict[str, object], new_request: NewRequest, slots: Slots, places: Places
) -> None:
    said: list[Report] = []
    desk = Desk(slots, places, device=CPU, report=said.append)
    request = new_request(accept_warnings=True, **changes)
    assert isinstance(desk.prepare(request, None), Prepared)
    desk.runs.start(request.task_id)
    while not desk.is_idle:
        desk.work()

    plan = milestones_of(request, 6, is_evaluated="evaluation_share" in changes)
    n_checkpoints = sum(isinstance(one, Checkpoint) for one in said)
    evaluations = [one for one in said if isinstance(one, Evaluated)]
    n_tuned = sum(one.score(Variant.TUNED) is not None for one in evaluations)
    if request.early_stopping is None:
        assert (n_checkpoints, n_tuned) == (plan.most_checkpoints, plan.n_evaluations)
    assert n_checkpoints <= plan.most_checkpoints
    assert n_tuned <= plan.n_evaluations
    assert len(evaluations) == n_tuned + plan.is_evaluated


# -- held-out rows --------------------------------------------------------------------------------------


def rows_of(lengths: list[int]) -> Dataset:
    return Dataset(tuple(Example((7,) * n, (False,) * (n - 1) + (True,)) for n in lengths), "")


@given(st.lists(st.integers(2, 9000), max_size=80))
def test_batches_of_held_out_rows_are_bounded_and_hold_every_row_once(lengths: list[int]) -> None:
    parts = list(parts_of(rows_of(lengths)))

    assert [len(row.tokens) for part in parts for row in part] == sorted(lengths)
    assert all(len(part) <= BATCH_ROWS for part in parts)
    assert all(len(part) == 1 or n_computed(part) <= BATCH_TOKENS for part in parts)


def test_pace_counts_every_row_twice_and_the_longest_answer_of_each_batch() -> None:
    answers = Dataset((Example((1,) * 10, (False,) * 7 + (True,) * 3), Example((1,) * 6, (False,) * 5 + (True,))), "")
    text = Dataset((Example((1,) * 10, (False,) + (True,) * 9),), "")

    assert Pace(1.0, 100.0).seconds(answers) == 2 * 2 * 10 + 300
    assert Pace(1.0, 100.0).seconds(text) == 10


def test_rehearsed_batch_is_scored_as_any_other(base: Base, dataset: Dataset) -> None:
    pace, tally = rehearse_part(base.model, base, next(parts_of(dataset))), Tally()

    assert list(score_rows(base.model, base, dataset, tally)) == [None]
    assert pace.read > 0
    assert pace.write >= 0
    assert tally.n_answered == 24


# -- writing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[3 * 2**20], [9 * 2**20 + 5], [70_000] * 300, [2**23, 1, 2**21 + 1]])
def test_waits_are_reckoned_as_they_are_kept(sizes: list[int], tmp_path: Path) -> None:
    naps: list[float] = []
    file = SyncedFile(tmp_path / "state", sleep=naps.append)
    for size in sizes:
        file.write(bytes(size))
    file.close()

    assert sum(naps) == pytest.approx(WritingPace(0.0, 0.0).seconds(sum(sizes)), abs=PIECE_BYTES / 50e6)


def test_seconds_of_an_artifact_are_those_of_its_pieces_and_its_seal() -> None:
    pace = WritingPace(sealing=1.0, piece=2.0)

    assert pace.seconds(3 * PIECE_BYTES) == 7.0
    assert pace.seconds(100 * PIECE_BYTES, throttled=False) == 201.0
    assert pace.seconds(100 * PIECE_BYTES) == pytest.approx(201.0 + 92 * PIECE_BYTES / 50e6)


def test_rehearsed_writing_leaves_nothing_behind(tmp_path: Path) -> None:
    pace = rehearse_writing(tmp_path / "artifacts")

    assert list((tmp_path / "artifacts").iterdir()) == []
    assert pace.sealing > 0


# -- the whole ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_quote_is_steps_and_the_rest(new_request: NewRequest, slots: Slots, tmp_path: Path) -> None:
    bench = Bench(new_request(method="full"), slots, (tmp_path,), use="quote")
    rehearsal = Rehearsal(peak_bytes=10**9, step=2.0, rest=5.0)
    ranked = Bench(new_request(method="full", processes=2), slots, (tmp_path,), use="ranks")

    quote, shared = quote_of(rehearsal, bench), quote_ranks(rehearsal, ranked, held=10**9, n_hosts=1)

    trained = sum(4 * one.numel() for one in bench.steps.parameters.values())
    assert (quote.peak_memory_bytes, quote.steps, quote.seconds) == (10**9, 6, 6 * 2.0 + 5.0)
    assert quote.disk_bytes == 10 * trained
    assert shared == replace(
        quote, peak_memory_bytes=2 * (RANK_BYTES + 4 * trained), seconds=quote.seconds + START_SECONDS
    )


# -- memory ---------------------------------------------------------------------------------------------


def group(folder: Path, facts: dict[str, object], stat: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, value in {**facts, "memory.stat": stat}.items():
        (folder / name).write_text(f"{value}\n")
    return folder


@pytest.mark.parametrize("inner", ["memory.max", "memory.limit_in_bytes", None])
def test_free_memory_is_what_the_narrowest_control_group_leaves(inner: str | None, tmp_path: Path) -> None:
    # MB: the outer group leaves 300, of which 100 are files that can be dropped; the inner one 150, or has no limit.
    outer = group(tmp_path, {"memory.max": 900 * MB, "memory.current": 700 * MB}, f"anon 1\ninactive_file {100 * MB}")
    if inner == "memory.max":
        facts: dict[str, object] = {inner: 250 * MB, "memory.current": 100 * MB}
    elif inner is not None:
        facts = {inner: 250 * MB, "memory.usage_in_bytes": 200 * MB}
    else:
        facts = {"memory.max": "max", "memory.current": 100 * MB}
    folder = group(outer / "inner", facts, "inactive_file 0\ntotal_inactive_file " + str(100 * MB))

    free = free_bytes(CPU, cgroup=folder)

    assert free is not None
    assert free - held_bytes(CPU) == pytest.approx((300 if inner is None else 150) * MB, abs=40 * MB)


# -- rows that were read --------------------------------------------------------------------------------


def test_run_begins_with_the_rows_of_its_quote(new_request: NewRequest, slots: Slots, tmp_path: Path) -> None:
    request = new_request(evaluation_share=0.25)
    quoted = Bench(request, slots, (tmp_path,), use="quote")
    told = quoted.variants()
    quoted.close()

    run = Bench(request, slots, (tmp_path,), use="run")

    assert all(one is other for one, other in zip(quoted.dataset.rows, run.dataset.rows, strict=True))
    assert all(run.variants()[name].examples is rows.examples for name, rows in told.items())


def test_rows_are_read_anew_where_file_or_order_is_another(
    new_request: NewRequest, slots: Slots, tmp_path: Path, data_file: Path
) -> None:
    def rows(**changes: object) -> Dataset:
        bench = Bench(new_request(**changes), slots, (tmp_path,), use="quote")
        bench.close()
        return bench.dataset

    first, again, everything = rows(), rows(), rows(train_on="all")
    longest = max(len(one.tokens) for one in first.examples)
    cut = rows(max_tokens=longest - 1)
    write_rows(data_file, color_rows(seed=1))
    changed = rows(dataset=Artifact.from_file(data_file).model_dump())

    assert again is first
    assert max(len(one.tokens) for one in cut.examples) == longest - 1
    assert everything.examples != first.examples
    assert changed.rows != first.rows


def test_rows_are_encoded_anew_where_the_tokenizer_is_another(
    new_request: NewRequest, slots: Slots, tmp_path: Path, tiny: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    template = other / "chat_template.jinja"
    template.write_text("Listen. " + template.read_text())

    first, second = (
        Bench(new_request(method="full", base=str(base)), slots, (tmp_path,), use="quote") for base in (tiny, other)
    )

    assert first.base.sha256 == second.base.sha256
    assert first.dataset.examples != second.dataset.examples


def test_file_that_changed_is_refused_though_its_rows_are_kept(
    new_request: NewRequest, slots: Slots, tmp_path: Path, data_file: Path
) -> None:
    request = new_request()
    Bench(request, slots, (tmp_path,), use="quote").close()
    write_rows(data_file, color_rows(seed=1))

    with pytest.raises(DataError, match="the file was changed since"):
        Bench(request, slots, (tmp_path,), use="run")


def test_the_newest_datasets_are_kept_up_to_a_number_and_a_size() -> None:
    encodings = Encodings()
    for number in range(MOST_KEPT + 1):
        encodings.get(number, lambda: (rows_of([3]),))
        encodings.get(1, lambda: (rows_of([3]),))
    kept = [number for number in range(MOST_KEPT + 1) if number in encodings]
    encodings.get("large", lambda: (rows_of([MOST_TOKENS]),))
    encodings.get("too large", lambda: (rows_of([MOST_TOKENS, 2]),))

    assert kept == list(range(1, MOST_KEPT + 1))
    assert not any(key in encodings for key in (*kept, "large", "too large"))


def n_models() -> int:
    return sum(issubclass(type(one), PreTrainedModel) for one in gc.get_objects())


@pytest.mark.slow
def test_weights_of_a_quote_and_of_a_run_are_given_back_at_once(
    new_request: NewRequest, slots: Slots, places: Places
) -> None:
    """What waits for a collection would be held beside the next run's weights, and is in nobody's quote."""
    desk, request = Desk(slots, places, device=CPU, report=lambda _: None), new_request(method="full")
    gc.collect()
    gc.disable()
    try:
        before = n_models()
        assert isinstance(desk.prepare(request, None), Prepared)
        quoted = n_models()
        desk.runs.start(request.task_id)
        while not desk.is_idle:
            desk.work()
        trained = n_models()
    finally:
        gc.enable()

    assert (quoted, trained) == (before, before)
