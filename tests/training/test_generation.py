"""Texts: pieces, stops, seeds; and the scores of held-out rows."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer
from writing import CHAT, HOT, Writing

from training_service.data import Dataset, load_dataset
from training_service.errors import NoSuchBase, RequestInvalid
from training_service.evaluate import Tally, answer_batch, last_answer, score_rows
from training_service.event import Piece
from training_service.model import TINY, Base, free_all, hash_tensors, load_base, resolve_base
from training_service.run import Places
from training_service.slots import Slots
from training_service.steps import Plan, Steps
from training_service.tensors import read_tensors, write_tensors
from training_service.text import StopTexts, TextStream, TokenTexts
from training_service.tiny import make_tiny_gemma

Write = Callable[..., Writing]


@pytest.fixture
def write(slots: Slots, places: Places, tiny: Path) -> Write:
    """Return a function that writes one text to its end."""

    def run(**changes: object) -> Writing:
        writing = Writing(slots, places)
        writing.begin(tiny, **changes)
        return writing.work()

    return run


@pytest.mark.parametrize(
    "text", ["plain words and more", "naïve Łódź 東京 🦜🦜🏽 ok", "  spaces\n\n\nlines\t", "é" * 20, "a🦜"]
)
def test_pieces_join_to_the_text_and_never_cut_a_character(text: str, tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokens = tokenizer.encode(text, add_special_tokens=False)
    stream = TextStream(tokenizer, tokenizer.encode("<start_of_turn>model\n", add_special_tokens=False))

    pieces = [stream.push(token) for token in tokens]

    assert "".join(pieces) + stream.finish() == text
    assert all("\ufffd" not in piece for piece in pieces)


def test_text_that_ends_within_a_character_says_so_once(tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokens = tokenizer.encode("🦜", add_special_tokens=False)
    stream = TextStream(tokenizer, [])

    pieces = [stream.push(token) for token in tokens[:-1]]

    assert "".join(pieces) == ""
    assert set(stream.finish()) == {"\ufffd"}


def test_stop_text_is_found_across_pieces_and_never_sent() -> None:
    stops = StopTexts(["END", "\n\n"])

    said = [stops.push(piece) for piece in ("one E", "N", "two EN", "D three")]

    assert said == [("one ", False), ("", False), ("ENtwo ", False), ("", True)]


def test_text_held_back_for_a_stop_that_does_not_come_is_sent_at_the_end() -> None:
    stops = StopTexts(["END"])

    assert stops.push("the EN") == ("the ", False)
    assert stops.finish() == "EN"


def test_pieces_of_a_text_join_to_it(write: Write) -> None:
    writing = write(temperature=HOT, seed=3)

    assert "".join(writing.pieces()) == writing.end().text
    assert writing.end().finish_reason in {"stop", "length"}
    assert writing.end().n_prompt_tokens > 5
    assert writing.end().n_tokens <= 24


def test_equal_seeds_give_equal_texts_and_others_do_not(write: Write) -> None:
    texts = [write(temperature=HOT, seed=seed).end().text for seed in (1, 1, 2)]

    assert texts[0] == texts[1] != texts[2]


def test_greedy_text_equals_the_librarys_own(write: Write, base: Base) -> None:
    said = write().end()
    text = base.tokenizer.apply_chat_template(list(CHAT), tokenize=False, add_generation_prompt=True)
    tokens = torch.tensor([base.tokenizer.encode(text, add_special_tokens=False)])

    expected = base.model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=24, do_sample=False)

    assert said.text == base.tokenizer.decode(expected[0, tokens.shape[1] :], skip_special_tokens=True)


def test_begun_answer_is_gone_on_with(write: Write) -> None:
    chat = (*CHAT, {"role": "assistant", "content": "The sky is"})

    assert write(messages=chat, max_tokens=1).end().n_prompt_tokens > write(max_tokens=1).end().n_prompt_tokens


@pytest.fixture
def read(slots: Slots, tiny: Path) -> list[int]:
    """Fills with the tokens that the model has read."""
    found: list[int] = []
    slots.shared(str(tiny)).base.model.register_forward_pre_hook(
        lambda _, __, named: found.extend(named["input_ids"][0].tolist()), with_kwargs=True
    )
    return found


def test_log_probabilities_equal_those_of_a_plain_forward_pass(write: Write, read: list[int], base: Base) -> None:
    writing = write(temperature=HOT, seed=5, logprobs=4)
    told, n_prompt = writing.logprobs(), writing.end().n_prompt_tokens

    with torch.no_grad():
        logits = base.model(input_ids=torch.tensor([read])).logits[0, n_prompt - 1 :]
    expected = torch.log_softmax(logits, dim=-1)

    assert len(told) == len(expected) == writing.end().n_tokens
    for entry, token, row in zip(told, read[n_prompt:], expected, strict=False):  # the last token was never read
        assert entry.logprob == pytest.approx(row[token].item(), abs=1e-4)
        assert [one.logprob for one in entry.top] == pytest.approx(row.topk(4).values.tolist(), abs=1e-4)


def test_tokens_told_join_to_the_text_and_come_with_the_piece_that_they_begin(write: Write) -> None:
    writing = write(temperature=HOT, seed=5, logprobs=0)

    pieces = [one for one in writing.said if isinstance(one, Piece)]
    whole = [one for one in pieces if "\ufffd" not in one.text]
    assert len(whole) > 3
    assert all("".join(entry.token for entry in one.logprobs) == one.text for one in whole)
    assert len(writing.logprobs()) == writing.end().n_tokens
    assert write(temperature=HOT, seed=5).logprobs() == []


def test_nothing_is_told_of_tokens_behind_a_stop_text(write: Write) -> None:
    text = write(temperature=HOT, seed=5).end().text
    stop = text[6:9]

    writing = write(temperature=HOT, seed=5, logprobs=0, stop=("never", stop))

    said = writing.end()
    assert (said.text, said.finish_reason) == (text[: text.index(stop)], "stop")
    assert "".join(entry.token for entry in writing.logprobs()).startswith(said.text)
    assert "".join(entry.token for entry in writing.logprobs()[:-1]) != said.text + stop
    assert len(writing.logprobs()) < said.n_tokens


def test_a_stop_token_ends_a_text_and_is_told_nowhere(write: Write, read: list[int], slots: Slots, tiny: Path) -> None:
    tokens = read[write(temperature=HOT, seed=5).end().n_prompt_tokens :]
    slots.shared(str(tiny)).base.stop_ids = frozenset({tokens[4]})

    writing = write(temperature=HOT, seed=5, logprobs=0)

    at = tokens.index(tokens[4])
    assert (writing.end().finish_reason, writing.end().n_tokens) == ("stop", at + 1)
    assert len(writing.logprobs()) == at


def test_special_tokens_are_told_by_name(base: Base) -> None:
    texts = TokenTexts(base.tokenizer)
    token = base.tokenizer.convert_tokens_to_ids("<end_of_turn>")

    assert texts.text(token) == "<end_of_turn>"
    assert "".join(map(texts.text, base.tokenizer.encode(" the sky", add_special_tokens=False))) == " the sky"


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": ()},
        {"max_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("inf")},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"logprobs": 21},
        {"messages": ({"role": "assistant", "content": "I begin"}, {"role": "assistant", "content": "again"})},
        {"messages": ({"content": "nobody's"},)},
        {"messages": ({"role": "user", "content": "word " * 5000},)},
    ],
)
def test_order_for_a_text_that_cannot_be_written_is_refused(changes: dict[str, object], write: Write) -> None:
    with pytest.raises(RequestInvalid):
        write(**changes)


def test_answers_padded_on_the_left_equal_each_alone(base: Base) -> None:
    prompts = [[2, 7, 8], [2, 9, 10, 11, 12, 13, 14, 15], [2, 30]]
    limits = {"max_tokens": 6, "stop_ids": base.stop_ids, "pad_id": base.pad_id}

    together = answer_batch(base.model, prompts, **limits)

    assert together == [answer_batch(base.model, [prompt], **limits)[0] for prompt in prompts]


@pytest.mark.slow
def test_score_of_a_model_that_learned_its_rows_is_one_and_of_a_fresh_one_none(base: Base, dataset: Dataset) -> None:
    def score() -> Tally:
        found = Tally()
        for _ in score_rows(base.model, base, dataset, found):
            pass
        return found

    before = score()
    plan = Plan(steps=120, batch_rows=12, learning_rate=1e-2, weight_decay=0.0, seed=0)
    for _ in Steps(base.model, free_all(base), dataset.usable, plan, pad_id=base.pad_id):
        pass
    after = score()

    assert before.metrics() == {"exact_match": 0.0, "rows": 24.0}
    assert after.metrics() == {"exact_match": 1.0, "rows": 24.0}
    assert after.loss < 0.1 < before.loss


def test_text_rows_are_scored_by_their_loss_alone(base: Base, encoder, tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "hello there"}\n')
    dataset, score = load_dataset(path, encoder), Tally()

    for _ in score_rows(base.model, base, dataset, score):
        pass

    assert last_answer(dataset.examples[0]) is None
    assert score.metrics() == {}
    assert score.loss > 0


def test_tiny_gemma_follows_from_its_seed_and_is_made_once(tmp_path: Path) -> None:
    small = {"corpus": ["a few words"] * 3, "hidden": 16, "layers": 1, "heads": 1, "vocabulary": 280}
    first = make_tiny_gemma(tmp_path / "a", seed=1, **small)
    written_at = (first / "model.safetensors").stat().st_mtime_ns
    again = make_tiny_gemma(tmp_path / "a", seed=1, **small)
    elsewhere = make_tiny_gemma(tmp_path / "b", seed=1, **small)
    other = make_tiny_gemma(tmp_path / "a", seed=2, **small)

    assert again == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written_at
    assert elsewhere.name == first.name
    assert (elsewhere / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()
    assert other != first
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted((first.name, other.name))


@pytest.mark.slow
def test_base_named_tiny_has_gemmas_classes_tokens_and_template(tmp_path: Path) -> None:
    folder = resolve_base(TINY, models_dir=tmp_path, allow_hub=False)

    base = load_base(folder, name=TINY, device=torch.device("cpu"))

    assert type(base.model).__name__ == "Gemma3ForCausalLM"
    assert base.model.get_input_embeddings().weight.shape == (1024, 192)
    vocabulary = base.tokenizer.get_vocab()
    assert base.stop_ids == {vocabulary["<eos>"], vocabulary["<end_of_turn>"]}
    assert (base.tokenizer.pad_token, base.tokenizer.bos_token) == ("<pad>", "<bos>")
    assert resolve_base(TINY, models_dir=tmp_path, allow_hub=False) == folder


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no/such-model", "tried folder .*, the local hub cache; fetching is not allowed here"),
        ("nothing", "tried folder"),
        ("/etc", "expected a folder with config.json"),
        ("../../x", "expected a folder with config.json"),
        ("a b", "expected 'tiny-gemma3', a folder or a hub name"),
        ("", "expected 'tiny-gemma3', a folder or a hub name"),
        ("x" * 5000 + "/y/z", "expected 'tiny-gemma3', a folder or a hub name"),
    ],
)
def test_unknown_base_is_refused_with_what_was_tried(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(NoSuchBase, match=said):
        resolve_base(name, models_dir=tmp_path, allow_hub=False)


def test_base_outside_the_roots_is_refused_even_through_a_link(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tiny)

    with pytest.raises(NoSuchBase, match="expected a base model under one of"):
        resolve_base(str(tmp_path / "link"), models_dir=tmp_path, allow_hub=False)


def test_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')

    with pytest.raises(NoSuchBase, match="expected a causal language model"):
        load_base(tmp_path, name="x", device=torch.device("cpu"))


def test_tensors_come_back_as_they_were_written_and_readable(tmp_path: Path) -> None:
    tensors = {
        "a": torch.arange(6, dtype=torch.float32).reshape(2, 3).t(),
        "b": torch.tensor(3.0),
        "c": torch.zeros(0, 4),
        "d": torch.tensor([1, 2], dtype=torch.uint8),
        "e": torch.ones(2, dtype=torch.bfloat16),
    }

    write_tensors(tmp_path / "t.safetensors", tensors, metadata={"format": "pt"})
    back = read_tensors(tmp_path / "t.safetensors")

    assert hash_tensors(back) == hash_tensors(tensors)
    assert os.stat(tmp_path / "t.safetensors").st_mode & 0o777 == 0o644
