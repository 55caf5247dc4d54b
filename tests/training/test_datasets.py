"""Rows → tokens and mask, and which rows a step takes."""

import json
from collections import Counter
from itertools import accumulate
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from training_service.audit import show_example
from training_service.batch import Batches, micro_batches, steps_per_epoch
from training_service.data import Encoder, Example, Row, check_artifact, load_dataset, read_rows
from training_service.errors import DataError
from training_service.model import Base
from training_service.request import Artifact

CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "Three?"},
    {"role": "assistant", "content": "Four."},
]


def encode(encoder: Encoder, tmp_path: Path, row: dict[str, object]) -> Example:
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    return load_dataset(path, encoder).examples[0]


def trained_texts(base: Base, example: Example) -> list[str]:
    shown = show_example(example, base.tokenizer)
    return [part.partition("·")[0] for part in shown.split("▌")[1:]]


def test_only_the_assistants_turns_and_their_ends_are_trained(base: Base, encoder: Encoder, tmp_path: Path) -> None:
    example = encode(encoder, tmp_path, {"messages": CHAT})

    assert trained_texts(base, example) == ["Two.<end_of_turn>", "Four.<end_of_turn>"]


def test_tokens_of_a_prompt_are_the_beginning_of_the_tokens_of_the_whole(encoder: Encoder, tmp_path: Path) -> None:
    example = encode(encoder, tmp_path, {"messages": CHAT})
    prompt = encoder.encode_prompt(CHAT[:-1])

    assert list(example.tokens[: len(prompt)]) == prompt
    assert example.trained[len(prompt)]
    assert not example.trained[len(prompt) - 1]


@pytest.mark.parametrize(
    ("prompt", "completion", "trained"),
    [
        ("One?", "Two.", "Two.<end_of_turn>"),
        (CHAT[:4], "Four.", "Four.<end_of_turn>"),
        ([CHAT[1], {"role": "assistant", "content": "It is"}], " two.", " two.<end_of_turn>"),
    ],
)
def test_pair_trains_its_completion_alone(
    prompt: object, completion: str, trained: str, base: Base, encoder: Encoder, tmp_path: Path
) -> None:
    example = encode(encoder, tmp_path, {"prompt": prompt, "completion": completion})

    assert trained_texts(base, example) == [trained]


def test_begun_answer_is_asked_for_with_the_tokens_that_were_trained(encoder: Encoder, tmp_path: Path) -> None:
    begun = [CHAT[1], {"role": "assistant", "content": "It is"}]
    example = encode(encoder, tmp_path, {"prompt": begun, "completion": " two."})
    prompt = encoder.encode_prompt(begun)

    assert list(example.tokens[: len(prompt)]) == prompt
    assert example.trained.index(True) == len(prompt)


def test_text_is_trained_from_its_first_token_to_its_end(base: Base, encoder: Encoder, tmp_path: Path) -> None:
    example = encode(encoder, tmp_path, {"text": "What color?"})

    assert example.tokens[0] == base.tokenizer.bos_token_id
    assert example.tokens[-1] == base.tokenizer.eos_token_id
    assert example.trained == (False,) + (True,) * (len(example.tokens) - 1)


def test_template_that_rewrites_earlier_turns_is_refused_by_line(tiny: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = "{{ messages | length }}" + tokenizer.chat_template
    strange = Encoder(tokenizer, stop_ids=frozenset({5}), max_tokens=100)
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": CHAT}) + "\n")

    with pytest.raises(DataError, match=r"rows\.jsonl:1: messages\[2\]: expected what stands before"):
        load_dataset(path, strange)


def test_base_without_a_chat_template_takes_text_but_no_chats(tiny: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = None
    plain = Encoder(tokenizer, stop_ids=frozenset({5}), max_tokens=100)

    assert encode(plain, tmp_path, {"text": "hello"}).n_trained
    with pytest.raises(DataError, match="expected a base model with a chat template"):
        encode(plain, tmp_path, {"messages": CHAT})


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_empty_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)

    with pytest.raises(DataError, match="got an empty file"):
        list(read_rows(path))


def test_rows_that_train_nothing_are_refused_together_and_left_out_alone(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    asked = json.dumps({"messages": CHAT[1:2]}) + "\n"
    path.write_text(asked)
    with pytest.raises(DataError, match="expected at least one token to train"):
        load_dataset(path, encoder)

    path.write_text(asked + json.dumps({"messages": CHAT}) + "\n")
    assert len(load_dataset(path, encoder).usable) == 1


PREFERENCE = {"prompt": "One?", "chosen": "Two.", "rejected": "No."}


@pytest.mark.parametrize(
    ("objective", "first", "other", "hint"),
    [("sft", {"text": "a"}, PREFERENCE, "objective: dpo"), ("dpo", PREFERENCE, {"messages": CHAT}, "objective: sft")],
)
def test_row_that_does_not_fit_the_objective_is_refused_by_line(
    objective: str, first: object, other: object, hint: str, encoder: Encoder, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(first) + "\n" + json.dumps(other) + "\n")

    with pytest.raises(DataError, match=rf"rows\.jsonl:2: expected .* with objective {objective}, got .*{hint}"):
        load_dataset(path, encoder, objective=objective)


def test_preference_trains_the_answers_alone_in_both_examples(base: Base, encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": CHAT[:4], "chosen": "Four.", "rejected": "Five."}) + "\n")

    dataset = load_dataset(path, encoder, objective="dpo")

    (pair,) = dataset.pairs
    assert trained_texts(base, pair.chosen) == ["Four.<end_of_turn>"]
    assert trained_texts(base, pair.rejected) == ["Five.<end_of_turn>"]
    assert dataset.examples == dataset.usable == (pair.chosen,)
    assert dataset.rejected == (pair.rejected,)


def test_preferences_that_are_all_equal_are_refused(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({**PREFERENCE, "rejected": "Two."}) + "\n")

    with pytest.raises(DataError, match=r"rows\.jsonl: expected at least one pair of different answers, got none"):
        load_dataset(path, encoder, objective="dpo")


def test_dataset_outside_the_roots_is_refused_even_through_a_link(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside.jsonl"
    root.mkdir()
    outside.write_text('{"text": "a"}\n')
    (root / "link.jsonl").symlink_to(outside)
    plain = Artifact.from_file(outside)
    linked = plain.model_copy(update={"uri": (root / "link.jsonl").as_uri()})

    for artifact in (plain, linked):
        with pytest.raises(DataError, match="expected a file under one of"):
            check_artifact(artifact, (root,))


def test_dataset_that_changed_since_it_was_ordered_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n')
    artifact = Artifact.from_file(path)
    path.write_text('{"text": "b"}\n')

    with pytest.raises(DataError, match="the file was changed since"):
        check_artifact(artifact, (tmp_path,))


def test_every_epoch_takes_every_row_once_in_an_order_of_its_own() -> None:
    each, batches = steps_per_epoch(10, 4), Batches(10, 4, seed=1)
    epochs = [
        [index for step in range(epoch * each, (epoch + 1) * each) for index in batches.indices(step)]
        for epoch in range(3)
    ]

    assert each == 3
    assert all(Counter(epoch) == Counter(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_rows_of_a_step_follow_from_seed_and_step_alone() -> None:
    batches = Batches(100, 7, seed=3)
    late_first = [batches.indices(step) for step in (40, 2, 17)]

    assert late_first == [Batches(100, 7, seed=3).indices(step) for step in (40, 2, 17)]
    assert late_first[0] != Batches(100, 7, seed=4).indices(40)


def test_micro_batches_keep_order_and_bounds() -> None:
    rows = [Example(tuple(range(length)), (False,) + (True,) * (length - 1)) for length in (2, 9, 3, 3, 30, 1)]

    parts = list(micro_batches(rows, 3, 20))

    assert [row for part in parts for row in part] == rows
    assert [len(part) for part in parts] == [2, 2, 1, 1]
    assert all(len(part) == 1 or len(part) * max(len(row.tokens) for row in part) <= 20 for part in parts)
    assert list(accumulate(len(part) for part in parts))[-1] == len(rows)


def test_system_turn_stands_in_the_first_user_turn_as_in_gemma(base: Base, encoder: Encoder) -> None:
    text = encoder.render(CHAT[:2])

    assert text == "<bos><start_of_turn>user\nBe short.\n\nOne?<end_of_turn>\n<start_of_turn>model\n"
    assert (
        encoder.encode_row(Row(1, messages=tuple(CHAT), trained=(2, 4)), Path("x")).tokens[0]
        == base.tokenizer.bos_token_id
    )
