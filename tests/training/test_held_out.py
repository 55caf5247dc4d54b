"""Held-out rows: which they are, and what each variant of the model is asked."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training_service.audit import show_example
from training_service.bench import Bench
from training_service.data import Dataset, Encoder, Example, hold_out, load_dataset, load_ordered
from training_service.errors import DataError, RequestInvalid
from training_service.event import Variant
from training_service.model import Base
from training_service.request import TrainingRequest
from training_service.row import Row, parse_row
from training_service.run import Places
from training_service.slots import Slots
from training_service.variant import MOST_EXAMPLES, build_prompt, variants_of, with_system, without_system

SYSTEM = {"role": "system", "content": "Be short."}
ASKED = {"role": "user", "content": "One?"}
SAID = {"role": "assistant", "content": "Two."}
THINGS = ["apple", "grass", "sky", "snow", "coal", "sand", "blood", "gold", "lemon", "rust", "milk", "moss"]
COLORS = [{"prompt": f"What color has {thing}?", "completion": thing[::-1]} for thing in THINGS]

NewRequest = Callable[..., TrainingRequest]


def dataset_of(*rows: int) -> Dataset:
    """Return rows that are told apart by one token."""
    return Dataset(tuple(Example((0, row), (False, True)) for row in rows), "")


def row_of(**facts: object) -> Row:
    return parse_row(json.dumps(facts).encode(), 1, "x:1")


def given_and_trained(example: Example, base: Base) -> tuple[str, list[int]]:
    """Return the text before the first target, and all targets."""
    targets = [token for token, on in zip(example.tokens, example.trained, strict=True) if on]
    return base.tokenizer.decode(list(example.tokens[: example.trained.index(True)])), targets


@pytest.mark.slow
@given(
    rows=st.lists(st.integers(0, 30), min_size=2, max_size=60).filter(lambda rows: len(set(rows)) > 1),
    share=st.floats(0.01, 0.5),
    seed=st.integers(0, 5),
)
def test_equal_rows_stay_on_one_side_and_none_is_lost(rows: list[int], share: float, seed: int) -> None:
    trained, held_out = hold_out(dataset_of(*rows), share, seed=seed)

    sides = [{example.tokens[1] for example in side.examples} for side in (trained, held_out)]
    assert not sides[0] & sides[1]
    assert all(sides)
    assert len(sides[1]) == min(max(1, round(share * len(set(rows)))), len(set(rows)) - 1)
    assert Counter(trained.examples + held_out.examples) == Counter(dataset_of(*rows).examples)


def test_which_rows_are_held_out_follows_from_the_seed() -> None:
    dataset = dataset_of(*range(100))

    assert hold_out(dataset, 0.1, seed=1) == hold_out(dataset, 0.1, seed=1)
    assert hold_out(dataset, 0.1, seed=1) != hold_out(dataset, 0.1, seed=2)


def test_rows_that_train_nothing_are_not_held_out() -> None:
    masked = Example((0, 99), (False, False))
    dataset = Dataset((masked, *dataset_of(1, 2).examples, masked), "")

    for seed in range(4):
        assert masked not in hold_out(dataset, 0.5, seed=seed)[1].examples


def test_nothing_can_be_held_out_of_equal_rows() -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl: expected at least two different rows to hold some out, got 1"):
        hold_out(dataset_of(1, 1, 1), 0.2, seed=0, where="rows.jsonl")


def test_pairs_and_rows_are_held_out_with_their_examples() -> None:
    examples = dataset_of(1, 2, 3).examples
    rejected = tuple(Example((0, 10 * row), (False, True)) for row in (1, 2, 3))
    rows = tuple(Row(line, text="") for line in (1, 2, 3))

    for side in hold_out(Dataset(examples, "", rejected, rows), 0.34, seed=0):
        assert [pair.chosen.tokens[1] * 10 for pair in side.pairs] == [one.tokens[1] for one in side.rejected]
        assert [row.line for row in side.rows] == [example.tokens[1] for example in side.examples]


def test_share_of_an_order_is_held_out_and_both_sides_name_the_whole_file(
    new_request: NewRequest, encoder: Encoder, data_file: Path
) -> None:
    request = new_request(evaluation_share=0.25)

    dataset, evaluation = load_ordered(request, encoder, (data_file.parent,))

    assert evaluation is not None
    assert len(dataset.examples) + len(evaluation.examples) == 24
    assert not set(dataset.keys) & set(evaluation.keys)
    assert dataset.sha256 == evaluation.sha256 == request.dataset.sha256


def test_preferences_are_not_trained_on_all_tokens(new_request: NewRequest, encoder: Encoder, data_file: Path) -> None:
    request = new_request(objective="dpo", train_on="all")

    with pytest.raises(RequestInvalid, match="expected train_on: assistant with objective: dpo"):
        load_ordered(request, encoder, (data_file.parent,))


def test_row_without_system_learns_the_same_turns() -> None:
    row = row_of(messages=[SYSTEM, ASKED, SAID, SYSTEM, ASKED, SAID])

    bare = without_system(row)

    assert [turn["role"] for turn in bare.messages] == ["user", "assistant", "user", "assistant"]
    assert bare.trained == (1, 3)


def test_row_that_is_asked_by_a_system_turn_alone_keeps_it() -> None:
    row = row_of(messages=[SYSTEM, SAID])

    assert without_system(row) == row
    assert with_system(row, "Be long.").messages == ({"role": "system", "content": "Be long."}, SAID)


def test_row_with_system_has_that_prompt_alone() -> None:
    row = with_system(row_of(messages=[SYSTEM, ASKED, SAID]), "Be long.")

    assert row.messages == ({"role": "system", "content": "Be long."}, ASKED, SAID)
    assert row.trained == (2,)


def test_prompt_goes_into_the_first_user_turn_where_a_template_has_no_system() -> None:
    row = with_system(row_of(messages=[ASKED, SAID]), "Be long.", in_user_turn=True)

    assert row.messages == ({"role": "user", "content": "Be long.\n\nOne?"}, SAID)
    assert row.trained == (1,)


def test_prompt_stands_before_plain_text_and_is_not_learned() -> None:
    row = with_system(row_of(text="One two."), "Be long.")

    assert row.text == "Be long.\n\nOne two."
    assert row.text[row.begun :] == "One two."


def test_both_answers_of_a_preference_get_the_prompt() -> None:
    row = with_system(row_of(prompt="One?", chosen="Two.", rejected="No."), "Be long.")

    assert row.rejected is not None
    assert row.messages[:2] == row.rejected.messages[:2] == ({"role": "system", "content": "Be long."}, ASKED)
    assert without_system(row) == row_of(prompt="One?", chosen="Two.", rejected="No.")


def load(tmp_path: Path, encoder: Encoder, rows: list[dict[str, object]], name: str = "rows.jsonl") -> Dataset:
    objective = "dpo" if "chosen" in rows[0] else "sft"
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_dataset(path, encoder, objective=objective)


def variants(
    evaluation: Dataset, training: Dataset, encoder: Encoder, base: Base, prompt: str | None = None
) -> dict[Variant, Dataset]:
    return variants_of(evaluation, training, encoder, system_prompt=prompt, longest=base.max_tokens)


@pytest.mark.parametrize(
    "row",
    [{"messages": [ASKED, SAID]}, {"text": "One two."}, {"prompt": "One?", "chosen": "Two.", "rejected": "No."}],
    ids=["chat", "text", "preference"],
)
@pytest.mark.parametrize("train_on", ["assistant", "all"])
def test_prompt_of_the_order_stands_before_the_same_targets(
    row: dict[str, object], train_on: str, base: Base, tmp_path: Path
) -> None:
    encoder = Encoder(base.tokenizer, stop_ids=base.stop_ids, max_tokens=100, train_on=train_on)
    dataset = load(tmp_path, encoder, [row])

    found = variants(dataset, dataset, encoder, base, "Be long.")

    told, bare = (found[name].examples[0] for name in (Variant.SYSTEM_PROMPT, Variant.BASE))
    assert found[Variant.BASE].examples == dataset.examples
    assert found[Variant.TUNED] == dataset
    assert given_and_trained(told, base)[1][-3:] == given_and_trained(bare, base)[1][-3:]
    assert told.n_trained == bare.n_trained
    assert "Be long." in base.tokenizer.decode(list(told.tokens))
    shown = show_example(told, base.tokenizer)
    assert "Be long." not in "".join(part.partition("·")[0] for part in shown.split("▌")[1:])
    assert len(found[Variant.SYSTEM_PROMPT].pairs) == len(dataset.pairs)


def test_rows_own_system_turns_are_the_prompt_where_the_order_has_none(
    base: Base, encoder: Encoder, tmp_path: Path
) -> None:
    dataset = load(tmp_path, encoder, [{"messages": [SYSTEM, ASKED, SAID]}])

    found = variants(dataset, dataset, encoder, base)

    assert found[Variant.SYSTEM_PROMPT].examples == dataset.examples
    assert "Be short." not in given_and_trained(found[Variant.BASE].examples[0], base)[0]


def test_prompt_is_built_of_training_rows_where_nobody_gave_one(base: Base, encoder: Encoder, tmp_path: Path) -> None:
    training = load(tmp_path, encoder, COLORS, "train.jsonl")
    evaluation = load(tmp_path, encoder, [{"messages": [ASKED, SAID]}])

    found = variants(evaluation, training, encoder, base)

    given, targets = given_and_trained(found[Variant.SYSTEM_PROMPT].examples[0], base)
    assert given.startswith("<bos><start_of_turn>user\nAnswer as in these examples.\n\nUser: What color has ")
    assert 2 <= given.count("\nAssistant: ") <= MOST_EXAMPLES
    assert targets == given_and_trained(found[Variant.BASE].examples[0], base)[1]


@pytest.mark.parametrize("max_tokens", [40, 400, 2000])
def test_built_prompt_takes_a_quarter_of_a_row_at_most(max_tokens: int, base: Base, tmp_path: Path) -> None:
    encoder = Encoder(base.tokenizer, stop_ids=base.stop_ids, max_tokens=max_tokens)
    rows = load(tmp_path, encoder, COLORS).rows

    prompt = build_prompt(rows, encoder)

    assert prompt == build_prompt(rows, encoder)
    assert prompt is None or len(encoder.tokens_of([prompt])[0]) <= max_tokens // 4
    assert (prompt is None) == (max_tokens == 40)


def test_built_prompt_shows_text_as_it_is_and_no_row_that_answers_without_words(encoder: Encoder) -> None:
    call = {"function": {"name": "weather"}}
    silent = row_of(messages=[ASKED, {"role": "assistant", "tool_calls": [call]}])

    assert build_prompt([row_of(text="One two."), silent], encoder) == "Answer as in these examples.\n\nOne two."
    assert build_prompt([silent], encoder) is None


def test_there_is_no_prompted_variant_where_no_prompt_fits(base: Base, tmp_path: Path) -> None:
    encoder = Encoder(base.tokenizer, stop_ids=base.stop_ids, max_tokens=40)
    dataset = load(tmp_path, encoder, COLORS)

    assert set(variants(dataset, dataset, encoder, base)) == {Variant.BASE, Variant.TUNED}


def test_prompt_cuts_nothing_off_a_row(base: Base, tmp_path: Path) -> None:
    encoder = Encoder(base.tokenizer, stop_ids=base.stop_ids, max_tokens=60)
    dataset = load(tmp_path, encoder, [{"prompt": "One?", "completion": "two " * 100}])

    found = variants(dataset, dataset, encoder, base, "Be long. " * 20)

    told, bare = (found[name].examples[0] for name in (Variant.SYSTEM_PROMPT, Variant.BASE))
    assert len(bare.tokens) == 60
    assert bare.truncated
    assert given_and_trained(told, base)[1] == given_and_trained(bare, base)[1]


@pytest.mark.parametrize("held_out", [{"evaluation_share": 0.25}, {}], ids=["some", "none"])
def test_bench_has_the_variants_of_its_held_out_rows(
    held_out: dict[str, object], new_request: NewRequest, slots: Slots, places: Places
) -> None:
    bench = Bench(new_request(**held_out), slots, places.roots, use="run")

    found = bench.variants()
    bench.close()

    assert list(found) == (list(Variant) if held_out else [])
    assert {len(one.usable) for one in found.values()} == ({len(bench.evaluation.usable)} if held_out else set())
