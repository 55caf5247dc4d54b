"""Choosing tokens, and sharing the time with runs: both pure."""

import math
from collections import Counter

import pytest
import torch
from colors import CPU

from training_service.choice import UNLIKELY, Choice, likeliest
from training_service.errors import TrainingError
from training_service.share import Balance

CHANCES = torch.tensor([0.1, 0.5, 0.15, 0.25])


def drawn(n: int = 400, **changes: object) -> Counter[int]:
    fields: dict[str, object] = {"temperature": 1.0, "top_p": 1.0, "seed": 0, "device": CPU}
    choice = Choice(**(fields | changes))  # type: ignore[arg-type]
    return Counter(choice.take(CHANCES.log()).token for _ in range(n))


def test_no_temperature_takes_the_likeliest() -> None:
    assert set(drawn(20, temperature=0.0, top_p=0.1)) == {1}


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    found = drawn(4000)

    assert [found[token] / 4000 for token in range(4)] == pytest.approx(CHANCES.tolist(), abs=0.03)


@pytest.mark.parametrize(
    ("top_p", "left"),
    [(0.0, {1}), (0.3, {1}), (0.5, {1}), (0.51, {1, 3}), (0.75, {1, 3}), (0.8, {1, 2, 3}), (1.0, {0, 1, 2, 3})],
)
def test_top_p_cuts_the_tail_and_never_everything(top_p: float, left: set[int]) -> None:
    assert set(drawn(top_p=top_p)) == left


def test_what_top_p_leaves_keeps_its_chances() -> None:
    assert likeliest(CHANCES, 0.6).tolist() == pytest.approx([0, 0.5, 0, 0.25])


def test_equal_seeds_draw_alike_whatever_others_draw() -> None:
    choice, beside = (Choice(temperature=1.0, top_p=0.9, seed=seed, device=CPU) for seed in (3, 4))
    found = []
    for _ in range(50):
        found.append(choice.take(CHANCES.log()).token)
        beside.take(CHANCES.log())
        torch.rand(1)

    assert Counter(found) == drawn(50, seed=3, top_p=0.9)


def test_log_probabilities_are_the_models_own_and_sorted() -> None:
    choice = Choice(temperature=0.2, top_p=0.1, seed=0, n_top=3, device=CPU)

    chosen = choice.take(CHANCES.log() + 7)

    assert chosen.logprob == pytest.approx(math.log(0.5))
    assert [token for token, _ in chosen.top] == [1, 3, 2]
    assert [value for _, value in chosen.top] == pytest.approx([math.log(one) for one in (0.5, 0.25, 0.15)])


def test_alternatives_are_as_many_as_asked_for_and_as_there_are() -> None:
    taken = {
        n_top: Choice(temperature=0.0, top_p=1.0, seed=0, n_top=n_top, device=CPU).take(CHANCES.log())
        for n_top in (None, 0, 20)
    }

    assert (taken[None].logprob, taken[None].top) == (None, ())
    assert (taken[0].logprob is None, taken[0].top) == (False, ())
    assert len(taken[20].top) == 4


def test_a_token_without_any_chance_is_told_as_very_unlikely() -> None:
    choice = Choice(temperature=0.0, top_p=1.0, seed=0, n_top=2, device=CPU)

    assert choice.take(torch.tensor([0.0, -math.inf])).top == ((0, 0.0), (1, UNLIKELY))


@pytest.mark.parametrize("worst", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_refused(worst: float) -> None:
    choice = Choice(temperature=1.0, top_p=1.0, seed=0, device=CPU)

    with pytest.raises(TrainingError, match="expected logits that are numbers"):
        choice.take(torch.tensor([0.0, worst]))


# -- the time of runs and texts ----------------------------------------------------------------------


def worked(n_turns: int, *, a_slice: float, a_pass: float) -> str:
    """Return who worked, turn by turn."""
    balance, turns = Balance(), ""
    for _ in range(n_turns):
        if balance.is_for_texts:
            balance.wrote(a_pass)
            turns += "t"
        else:
            balance.ran(a_slice)
            turns += "r"
    return turns


def test_texts_get_a_pass_at_once() -> None:
    assert Balance().is_for_texts


@pytest.mark.parametrize(("a_slice", "a_pass"), [(1.0, 0.25), (1.0, 1.0), (0.25, 1.0), (0.3, 0.07), (1.0, 0.001)])
def test_each_gets_about_half_of_the_time(a_slice: float, a_pass: float) -> None:
    turns = worked(20_000, a_slice=a_slice, a_pass=a_pass)

    share = turns.count("t") * a_pass / (turns.count("t") * a_pass + turns.count("r") * a_slice)
    assert share == pytest.approx(0.5, abs=0.06)


def test_nobody_waits_longer_than_the_other_took_and_one_turn() -> None:
    assert "rr" not in worked(1000, a_slice=1.0, a_pass=0.25)
    assert "tttttt" not in worked(1000, a_slice=1.0, a_pass=0.25)
    assert "tt" not in worked(1000, a_slice=0.25, a_pass=1.0)
    assert "rrrrrr" not in worked(1000, a_slice=0.25, a_pass=1.0)


def test_a_slow_slice_gives_the_texts_its_own_time_and_no_more() -> None:
    balance = Balance()
    for _ in range(10):
        balance.ran(1.0)

    balance.wrote(1.0)
    assert balance.is_for_texts
    balance.wrote(0.1)
    assert not balance.is_for_texts


def test_what_was_owed_is_forgotten_when_one_had_nothing_to_do() -> None:
    balance = Balance()
    balance.wrote(60.0)

    balance.clear()

    assert balance.is_for_texts
