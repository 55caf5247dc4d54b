"""What is kept of a run and decided from it: its history, its owner, when it stops early."""

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training_service.artifact import ADAPTER_TYPE, CHECKPOINT_TYPE, publish, verify
from training_service.errors import RequestInvalid
from training_service.event import Evaluated, Metrics, Score, Variant
from training_service.follow import is_news
from training_service.history import HISTORY, History, read_history, thin
from training_service.owner import hash_key, is_open_to, is_same_owner
from training_service.request import EarlyStopping, parse_request
from training_service.stopping import Verdict, judge, tuned_losses
from training_service.sweep import LOCK, owned, sweep

KEY = "correct horse battery"


def metrics(step: int) -> Metrics:
    return Metrics(step, 1.0 / step, 0.1, None, 0.5)


def written(path: Path, *, until: int, steps: range) -> None:
    history = History(path, until=until)
    for step in steps:
        history.add(metrics(step))
    history.sync()
    history.close()


def test_history_has_one_line_a_step_though_a_run_took_some_twice(tmp_path: Path) -> None:
    written(tmp_path / HISTORY, until=0, steps=range(1, 8))

    written(tmp_path / HISTORY, until=5, steps=range(6, 11))

    assert read_history(tmp_path, points=100) == [metrics(step) for step in range(1, 11)]


def test_a_line_that_was_torn_by_a_crash_is_written_anew(tmp_path: Path) -> None:
    written(tmp_path / HISTORY, until=0, steps=range(1, 5))
    whole = (tmp_path / HISTORY).read_bytes()
    (tmp_path / HISTORY).write_bytes(whole[:-9])

    assert [one.step for one in read_history(tmp_path, points=9)] == [1, 2, 3]
    written(tmp_path / HISTORY, until=4, steps=range(4, 5))
    assert (tmp_path / HISTORY).read_bytes() == whole


def test_a_run_without_steps_has_an_empty_history(tmp_path: Path) -> None:
    assert read_history(tmp_path, points=5) == []


@given(st.integers(0, 300), st.integers(1, 50))
def test_thinning_keeps_the_ends_and_the_order_and_never_more_than_wanted(n_items: int, points: int) -> None:
    kept = thin(range(n_items), points)

    assert len(kept) == min(n_items, points)
    assert kept == sorted(set(kept))
    assert not kept or kept[-1] == n_items - 1
    assert len(kept) < 2 or kept[0] == 0


def test_a_run_is_open_to_those_who_say_its_key_and_one_without_to_all() -> None:
    owner = hash_key(KEY)

    assert is_open_to(owner, KEY)
    assert not is_open_to(owner, KEY + "!")
    assert not is_open_to(owner, None)
    assert is_open_to(None, None)
    assert is_open_to(None, KEY)
    assert not is_same_owner(None, KEY)
    assert not is_same_owner(owner, None)
    assert KEY not in str(owner)


def test_a_key_that_is_refused_is_not_said_again() -> None:
    with pytest.raises(RequestInvalid, match="owner_key") as caught:
        parse_request({"owner_key": "tooshort"})

    assert "tooshort" not in str(caught.value)


RULE = EarlyStopping(patience=2, min_delta=0.1)


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        ([], Verdict(None, False)),
        ([3.0, 2.0, 1.0], Verdict(3, False)),
        ([3.0, 2.0, 2.5], Verdict(2, False)),
        ([3.0, 2.0, 2.5, 2.5], Verdict(2, True)),
        ([3.0, 2.95, 2.91], Verdict(1, True)),  # falls, but never by min_delta below the best
        ([3.0, 3.5, 1.0], Verdict(3, False)),
        ([float("nan"), 2.0], Verdict(2, False)),
        ([2.0, float("nan"), float("inf")], Verdict(1, True)),
    ],
)
def test_steps_end_when_the_held_out_loss_has_not_fallen_for_a_while(losses: list[float], verdict: Verdict) -> None:
    assert judge(list(enumerate(losses, start=1)), RULE) == verdict


def test_without_a_rule_nothing_ends_early_and_nothing_is_best() -> None:
    assert judge([(1, 1.0), (2, 5.0), (3, 5.0), (4, 5.0)], None) == Verdict(None, False)


@given(st.lists(st.floats(0, 5), max_size=12), st.integers(1, 4))
def test_what_was_decided_does_not_change_with_what_came_later(losses: list[float], patience: int) -> None:
    rule = EarlyStopping(patience=patience)
    found = list(enumerate(losses))
    stops = [at for at in range(len(found) + 1) if judge(found[:at], rule).is_over]

    assert stops == list(range(stops[0], len(found) + 1)) if stops else True
    assert len({judge(found[:at], rule).best_step for at in stops}) <= 1


def test_only_the_tuned_model_decides() -> None:
    scores = (Score(Variant.BASE, 1.0, {}), Score(Variant.TUNED, 2.0, {}))

    assert tuned_losses([Evaluated("t", 0, scores[:1]), Evaluated("t", 5, scores)]) == [(5, 2.0)]


def test_what_was_told_is_not_told_again_and_what_is_kept_of_it_is_plain() -> None:
    told: dict[str, object] = {}
    first = [is_news(told, Evaluated("t", step, ())) for step in (0, 5, 5, 3, 10)]

    told = json.loads(json.dumps(told))

    assert first == [True, True, False, False, True]
    assert not is_news(told, Evaluated("t", 10, ()))


def test_sweeping_removes_what_was_never_sealed_and_what_no_record_names(tmp_path: Path) -> None:
    artifacts, runs = tmp_path / "artifacts", tmp_path / "runs"

    def sealed(kind: str, text: str) -> Path:
        def fill(folder: Path) -> None:
            (folder / "file").write_text(text)

        return publish(artifacts, kind, fill).path

    result, orphan = sealed(ADAPTER_TYPE, "a"), sealed(CHECKPOINT_TYPE, "b")
    (artifacts / ".new-abc").mkdir()
    (artifacts / ".new-abc" / "half").write_text("x")
    (artifacts / "half-removed").mkdir()

    assert sweep(artifacts, runs) == 3
    assert list(artifacts.iterdir()) == [result]
    assert not orphan.exists()
    assert sweep(tmp_path / "nothing", runs) == 0


def test_what_a_merge_is_about_to_seal_is_not_swept_away_by_a_new_child(tmp_path: Path) -> None:
    artifacts, runs = tmp_path / "artifacts", tmp_path / "runs"
    swept = []

    def fill(folder: Path) -> None:
        swept.append(sweep(artifacts, runs))
        (folder / "file").write_text("a")

    made = publish(artifacts, ADAPTER_TYPE, fill)

    assert swept == [0]
    assert verify(made)
    (artifacts / ".new-abc").mkdir()
    assert sweep(artifacts, runs) == 1


@pytest.mark.slow
@pytest.mark.integration
def test_a_state_folder_has_one_owner_at_a_time(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom training_service.sweep import owned\n"
        f"with owned(Path({str(tmp_path)!r})): print('mine', flush=True)\n"
    )
    with owned(tmp_path):
        other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        with pytest.raises(BlockingIOError), (tmp_path / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    said, _ = other.communicate(timeout=60)

    assert said == "mine\n"
