"""Texts side by side: they share passes and nothing else, whoever comes, goes or fails."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from writing import CHAT, HOT, LONG, Writing, add_adapter, close_to, values_of

from training_service import text_batch
from training_service.errors import RequestInvalid, TrainingError
from training_service.event import Generated, Piece
from training_service.run import Places
from training_service.slots import Slots
from training_service.texts import MOST_TEXTS

ADAPTERS = {"plain": {}, "scaled": {"rslora": True, "dropout": 0.5}, "few": {"targets": ("q_proj",)}}


@pytest.fixture
def writing(slots: Slots, places: Places) -> Writing:
    return Writing(slots, places)


def count_rows(slots: Slots, base: Path) -> list[int]:
    """Return a list that fills with the number of texts of each pass."""
    found: list[int] = []
    slots.shared(str(base)).base.model.register_forward_pre_hook(
        lambda _, __, named: found.append(len(named["input_ids"])), with_kwargs=True
    )
    return found


@pytest.fixture
def n_rows(slots: Slots, tiny: Path) -> list[int]:
    return count_rows(slots, tiny)


def add_all(places: Places, tiny: Path) -> list[str]:
    return [
        add_adapter(places, tiny, name, seed=seed, **order)  # type: ignore[arg-type]
        for seed, (name, order) in enumerate(ADAPTERS.items())
    ]


@pytest.mark.parametrize("temperature", [0.0, HOT])
def test_texts_of_different_adapters_share_passes_and_equal_each_alone(
    temperature: float, slots: Slots, places: Places, tiny: Path, n_rows: list[int]
) -> None:
    orders: list[dict[str, object]] = [
        {"adapter": label, "messages": chat, "temperature": temperature, "seed": seed, "logprobs": 3}
        for seed, (label, chat) in enumerate(zip([*add_all(places, tiny), None], (CHAT, LONG, CHAT, LONG), strict=True))
    ]
    alone = []
    for order in orders:
        one = Writing(slots, places)
        one.begin(tiny, **order)
        alone.append(one.work())
    n_rows.clear()

    together = Writing(slots, places)
    for row, order in enumerate(orders):
        together.begin(tiny, str(row), **order)
    together.work()

    assert max(n_rows) == len(orders)
    assert len({tuple(values_of(one.logprobs()[0])) for one in alone}) == len(orders)
    for row, one in enumerate(alone):
        assert together.pieces(str(row)) == one.pieces()
        assert close_to(together.logprobs(str(row)), one.logprobs())


def test_one_comes_and_one_goes_while_others_are_written(
    writing: Writing, slots: Slots, places: Places, tiny: Path, n_rows: list[int]
) -> None:
    order: dict[str, object] = {"temperature": HOT, "max_tokens": 30}
    alone = {}
    for name, chat in (("short", CHAT), ("long", LONG), ("late", CHAT)):
        one = Writing(slots, places)
        one.begin(tiny, messages=chat, seed=len(name), **order)
        alone[name] = one.work().end()

    writing.begin(tiny, "short", seed=5, **order)
    writing.begin(tiny, "long", seed=4, messages=LONG, **order)
    writing.work(8)
    writing.begin(tiny, "late", seed=4, **order)
    writing.work(4)
    writing.texts.cancel("long")
    writing.work()

    assert 3 in n_rows
    assert (writing.end("short").text, writing.end("late").text) == (alone["short"].text, alone["late"].text)
    canceled = writing.end("long")
    assert canceled.finish_reason == "canceled"
    assert 0 < canceled.n_tokens < 30
    assert alone["long"].text.startswith(canceled.text)
    assert not slots.shared(str(tiny)).users


@pytest.fixture
def windowed(tiny: Path, models_dir: Path) -> Path:
    """The folder of a base whose first layer sees 16 tokens and whose second sees all."""
    folder = models_dir / "windowed"
    if not folder.is_dir():
        shutil.copytree(tiny, folder)
        path = folder / "config.json"
        facts = json.loads(path.read_text())
        path.write_text(
            json.dumps({**facts, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]})
        )
    return folder


def test_a_prompt_beyond_the_window_beside_short_ones_equals_it_alone(
    writing: Writing, slots: Slots, places: Places, windowed: Path
) -> None:
    chats = ({"role": "user", "content": "Hi"},), LONG, CHAT
    limits = (40, 12, 30)
    orders: list[dict[str, object]] = [
        {"messages": chat, "temperature": HOT, "seed": seed, "max_tokens": limit, "logprobs": 2}
        for seed, (chat, limit) in enumerate(zip(chats, limits, strict=True))
    ]
    alone = []
    for order in orders:
        one = Writing(slots, places)
        one.begin(windowed, **order)
        alone.append(one.work())

    n_rows = count_rows(slots, windowed)
    for row, order in enumerate(orders):
        writing.begin(windowed, str(row), **order)
    writing.work()

    assert n_rows == [1] * 3 + [3] * 11 + [2] * 18 + [1] * 10
    for row, one in enumerate(alone):
        assert writing.end(str(row)).text == one.end().text
        assert close_to(writing.logprobs(str(row)), one.logprobs())


def test_a_windowed_text_equals_the_librarys_own(writing: Writing, slots: Slots, windowed: Path) -> None:
    base = slots.shared(str(windowed)).base
    writing.begin(windowed, messages=LONG, max_tokens=30)
    writing.begin(windowed, "beside")
    writing.work()
    prompt = base.tokenizer.apply_chat_template(list(LONG), tokenize=False, add_generation_prompt=True)
    tokens = torch.tensor([base.tokenizer.encode(prompt, add_special_tokens=False)])

    expected = base.model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=30, do_sample=False)

    assert writing.end().text == base.tokenizer.decode(expected[0, tokens.shape[1] :], skip_special_tokens=True)


def test_a_dora_adapter_is_written_in_passes_of_its_own_and_right(
    writing: Writing, slots: Slots, places: Places, tiny: Path, n_rows: list[int]
) -> None:
    labels = [add_adapter(places, tiny, "dora", dora=True, seed=1), *add_all(places, tiny)[:1]]
    orders: list[dict[str, object]] = [{"adapter": label, "temperature": HOT} for label in labels]
    alone = []
    for order in orders:
        one = Writing(slots, places)
        one.begin(tiny, **order)
        alone.append(one.work().end().text)
    n_rows.clear()

    for row, order in enumerate([*orders, *orders]):
        writing.begin(tiny, str(row), **order)
    writing.work()

    assert [writing.end(str(row)).text for row in range(4)] == alone * 2
    assert alone[0] != alone[1]
    assert max(n_rows) == 2


@pytest.mark.parametrize("base", ["tiny", "windowed"])
def test_a_prompt_is_read_in_parts_while_others_are_written(
    base: str, writing: Writing, slots: Slots, places: Places, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = request.getfixturevalue(base)
    whole = Writing(slots, places)
    whole.begin(folder, messages=LONG, logprobs=2)
    whole.work()
    monkeypatch.setattr(text_batch, "READ_AT_ONCE", 20)

    writing.begin(folder, "short")
    writing.begin(folder, "long", messages=LONG, logprobs=2)
    writing.work(8)

    assert {one.request_id for one in writing.said} == {"short"}  # type: ignore[union-attr]
    writing.work()
    assert writing.end("long").text == whole.end().text
    assert close_to(writing.logprobs("long"), whole.logprobs())


def test_texts_that_would_pad_each_other_too_much_stay_apart(
    writing: Writing, tiny: Path, n_rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_batch, "MOST_PADDING", 20)
    writing.begin(tiny, "long", messages=LONG)
    for name in ("a", "b"):
        writing.begin(tiny, name)

    writing.work()

    assert max(n_rows) == 2
    assert writing.end("a").text == writing.end("b").text


def test_texts_on_two_bases_take_turns(writing: Writing, tiny: Path, tiny_llama: Path) -> None:
    writing.begin(tiny, "gemma")
    writing.begin(tiny_llama, "llama")
    writing.begin(tiny_llama, "other")

    writing.work(9)
    spoken = [one.request_id for one in writing.said if isinstance(one, Piece)]
    writing.work()

    assert {"gemma", "llama", "other"} <= set(spoken)
    assert writing.end("llama").text == writing.end("other").text


def test_an_order_that_is_wrong_disturbs_nobody(writing: Writing, slots: Slots, places: Places, tiny: Path) -> None:
    alone = Writing(slots, places)
    alone.begin(tiny)
    expected = alone.work().end()
    writing.begin(tiny)
    writing.work(3)

    with pytest.raises(RequestInvalid, match="alternate"):
        writing.begin(tiny, "bad", messages=({"role": "assistant", "content": "I begin"}, *CHAT, *CHAT))
    with pytest.raises(RequestInvalid, match="expected a base or an adapter"):
        writing.begin(None, "nothing")
    writing.work()

    assert writing.end() == expected
    assert {one.request_id for one in writing.said} == {"g"}  # type: ignore[union-attr]


def test_a_pass_that_fails_parts_its_texts_and_they_go_on_alone(
    writing: Writing, slots: Slots, places: Places, tiny: Path, n_rows: list[int]
) -> None:
    """A pass of many may want more memory than there is; each by itself may well have enough."""
    orders: dict[str, dict[str, object]] = {
        "a": {"temperature": HOT, "logprobs": 2},
        "b": {"temperature": HOT, "seed": 3, "messages": LONG, "logprobs": 2},
    }
    alone = {}
    for name, order in orders.items():
        alone[name] = Writing(slots, places)
        alone[name].begin(tiny, **order)
        alone[name].work()
    n_rows.clear()
    for name, order in orders.items():
        writing.begin(tiny, name, **order)
    writing.work(8)
    assert n_rows[-1] == 2

    def refuse(_: object, __: object, named: dict[str, torch.Tensor]) -> None:
        if len(named["input_ids"]) > 1:
            raise torch.OutOfMemoryError("expected more memory")

    slots.shared(str(tiny)).base.model.model.layers[1].register_forward_pre_hook(
        lambda _, arguments: refuse(_, _, {"input_ids": arguments[0]})
    )
    writing.work()

    assert writing.failures() == []
    for name, one in alone.items():
        assert writing.pieces(name) == one.pieces()
        assert close_to(writing.logprobs(name), one.logprobs())


def test_a_text_whose_pass_fails_fails_by_itself(writing: Writing, places: Places, slots: Slots, tiny: Path) -> None:
    label = add_adapter(places, tiny, "broken", targets=("q_proj",))
    writing.begin(tiny, "broken", adapter=label)
    writing.begin(tiny, "well")
    (name,) = slots.shared(str(tiny)).served
    with torch.no_grad():
        for one in slots.shared(str(tiny)).host.parameters(name).values():
            one.fill_(float("nan"))

    writing.work()

    assert writing.failures() == ["broken"]
    assert writing.end("well").finish_reason in ("stop", "length")
    assert not slots.shared(str(tiny)).users


def test_an_adapter_needs_no_base_and_brings_its_own(writing: Writing, places: Places, tiny: Path) -> None:
    label = add_adapter(places, tiny, "colors")
    writing.begin(None, "own", adapter="colors")
    writing.begin(tiny, "named", adapter=label)
    writing.work()

    assert writing.end("own").adapter == label
    assert writing.end("own").text == writing.end("named").text


def test_the_adapter_of_a_text_stays_when_many_others_come_and_go(
    writing: Writing, slots: Slots, places: Places, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training_service.slots.SERVED_ADAPTERS", 2)
    labels = [add_adapter(places, tiny, f"a{n}", seed=n, targets=("q_proj", "v_proj")) for n in range(4)]
    alone = Writing(slots, places)
    alone.begin(tiny, adapter=labels[0], temperature=HOT)
    expected = alone.work().end().text

    writing.begin(tiny, "first", adapter=labels[0], temperature=HOT)
    for label in labels[1:]:
        writing.work(3)
        writing.begin(tiny, label, adapter=label, max_tokens=1)
    writing.work()

    assert writing.end("first").text == expected
    assert len(slots.shared(str(tiny)).served) <= 3


def test_one_text_too_many_is_refused(writing: Writing, tiny: Path) -> None:
    for n in range(MOST_TEXTS):
        writing.begin(tiny, str(n), max_tokens=2)

    with pytest.raises(TrainingError, match="ask again later"):
        writing.begin(tiny, "more")

    writing.work()
    assert len([one for one in writing.said if isinstance(one, Generated)]) == MOST_TEXTS
    writing.begin(tiny, "more")


def test_a_prompt_of_a_single_token_is_read_before_its_text_joins(
    writing: Writing, slots: Slots, tiny: Path, n_rows: list[int]
) -> None:
    slots.shared(str(tiny)).base.tokenizer.chat_template = "{{ bos_token }}"
    for name in ("a", "b"):
        writing.begin(tiny, name, max_tokens=6)

    writing.work()

    assert writing.failures() == []
    assert (writing.end("a").n_prompt_tokens, n_rows[:3]) == (1, [1, 1, 2])
    assert writing.end("a").text == writing.end("b").text
