"""Rows → tokens and mask through templates of all kinds: real ones for tools and reasoning, and strange ones."""

import importlib.util
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from training_service.audit import show_example
from training_service.encoder import LONG_CHARACTERS, Encoder, Example
from training_service.errors import DataError
from training_service.model import Base
from training_service.row import Row, parse_row

STOPS = ["<eos>", "<|im_end|>", "<|end|>"]
ASKED = {"role": "user", "content": "Weather in Oslo?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
TOLD = {"role": "tool", "tool_call_id": "c1", "content": "rain"}
SAID = {"role": "assistant", "content": "It rains."}
TOOL = {"type": "function", "function": {"name": "weather", "description": "", "parameters": {}}}
CHAT = [ASKED, SAID, {"role": "user", "content": "And now?"}, {"role": "assistant", "content": "Sun."}]


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> PreTrainedTokenizerBase:
    """A tokenizer that knows the ends of turns of other families too; each test gives it a template."""
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|end|>"]})
    return tokenizer


def template(name: str) -> str:
    """Return a chat template that trl ships, word for word as its model has it."""
    found = importlib.util.find_spec("trl")
    assert found is not None and found.submodule_search_locations  # noqa: PT018  # the extra `test` brings it
    return (Path(found.submodule_search_locations[0]) / "chat_templates" / f"{name}.jinja").read_text()


def encoder_of(tokenizer: PreTrainedTokenizerBase, chat_template: str, max_tokens: int = 2000) -> Encoder:
    tokenizer.chat_template = chat_template
    return Encoder(tokenizer, stop_ids=frozenset(tokenizer.convert_tokens_to_ids(STOPS)), max_tokens=max_tokens)


def row_of(**facts: object) -> Row:
    return parse_row(json.dumps(facts).encode(), 1, "rows.jsonl:1")


def trained_texts(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [part.partition("·")[0] for part in show_example(example, tokenizer).split("▌")[1:]]


def test_calls_of_tools_are_trained_as_the_template_writes_them(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = encoder_of(tokenizer, template("qwen2_5"))

    example = encoder.encode_row(row_of(tools=[TOOL], messages=[ASKED, CALLED, TOLD, SAID]), "rows.jsonl")

    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>'
    assert trained_texts(example, tokenizer) == [call, "It rains.<|im_end|>"]
    assert '"name": "weather"' in tokenizer.decode(example.tokens[: example.trained.index(True)])


def test_template_that_takes_no_objects_gets_arguments_as_text(tokenizer: PreTrainedTokenizerBase) -> None:
    calls = "{% for c in m.tool_calls %}{{ c.function.name + c.function.arguments }}{% endfor %}"
    writes = "{% for m in messages %}{{ m.role }}:{{ m.content }}" + calls + "<|end|>{% endfor %}"
    encoder = encoder_of(tokenizer, writes + "{% if add_generation_prompt %}assistant:{% endif %}")

    example = encoder.encode_row(row_of(messages=[ASKED, CALLED]), "rows.jsonl")

    assert trained_texts(example, tokenizer) == ['weather{"city": "Oslo"}<|end|>']


@pytest.mark.parametrize(
    ("facts", "left_out"),
    [({"tools": [TOOL], "messages": [ASKED, SAID]}, "weather"), ({"messages": [ASKED, CALLED, TOLD, SAID]}, "weather")],
    ids=["offered", "called"],
)
def test_template_that_knows_no_tools_is_refused_instead_of_training_empty_turns(
    facts: dict[str, object], left_out: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    encoder = encoder_of(tokenizer, template("llama3"))

    with pytest.raises(DataError, match=rf"rows\.jsonl:1: .*shows tools and their calls, got one .*'{left_out}'"):
        encoder.encode_row(row_of(**facts), "rows.jsonl")


def test_template_that_leaves_the_answer_out_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = encoder_of(tokenizer, template("smolvlm"))  # takes content as a list of parts

    with pytest.raises(DataError, match=r"rows\.jsonl:1: messages\[1\]: .*shows what the assistant says"):
        encoder.encode_row(row_of(messages=[ASKED, SAID]), "rows.jsonl")


def test_template_that_drops_earlier_reasoning_is_refused_where_it_marks_nothing(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    encoder = encoder_of(tokenizer, template("qwen3"))

    with pytest.raises(DataError, match=r"rows\.jsonl:1: messages\[1\]: .*split the row into one for each answer"):
        encoder.encode_row(row_of(messages=CHAT), "rows.jsonl")
    assert encoder.encode_row(row_of(prompt=CHAT[:3], completion="Sun."), "rows.jsonl").n_trained


def test_marks_of_the_template_tell_where_a_rewritten_turn_ends(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = encoder_of(tokenizer, template("phi3_training"))  # the end of the text stands behind the last turn only

    example = encoder.encode_row(row_of(messages=CHAT), "rows.jsonl")

    assert trained_texts(example, tokenizer) == ["It rains.<|end|>\n", "Sun.<|end|>\n<eos>"]


@pytest.mark.parametrize("name", ["cohere", "gemma3", "llama3", "phi3", "qwen2_5", "qwen3", "lfm2_v2", "glm4moe"])
def test_trained_tokens_are_those_that_marked_templates_mark_but_for_what_follows_a_stop(
    name: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    encoder = encoder_of(tokenizer, template(f"{name}_training"))
    marked = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)

    example = encoder.encode_row(row_of(messages=CHAT), "rows.jsonl")

    assert list(example.tokens) == marked["input_ids"]
    flags = zip(example.tokens, example.trained, map(bool, marked["assistant_masks"]), strict=True)
    other = [(tokenizer.decode([token]), ours) for token, ours, theirs in flags if ours != theirs]
    assert set(other) <= {("\n", False)}
    assert example.n_trained


def test_marks_train_no_turn_that_is_not_to_be_learned(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = encoder_of(tokenizer, template("phi3_training"))
    chat = [*CHAT, ASKED, SAID]

    first = encoder.encode_row(row_of(messages=[{**turn, "weight": 0} if turn is SAID else turn for turn in CHAT]), "x")
    assert trained_texts(first, tokenizer) == ["Sun.<|end|>\n<eos>"]
    with pytest.raises(DataError, match=r"messages\[1\]: expected what stands before"):
        encoder.encode_row(row_of(messages=[*chat[:-1], {**SAID, "weight": 0}]), "x")


def test_every_token_but_the_first_is_trained_on_all(base: Base) -> None:
    encoder = Encoder(base.tokenizer, stop_ids=base.stop_ids, max_tokens=100, train_on="all")

    for row in (row_of(messages=CHAT), row_of(prompt="One?", completion="Two."), row_of(text="Three.")):
        example = encoder.encode_row(row, "x")
        assert example.trained == (False,) + (True,) * (len(example.tokens) - 1)


def test_given_part_of_a_text_is_not_trained(base: Base, encoder: Encoder) -> None:
    text = Row(1, text="Be short. One two.", begun=len("Be short. "))

    assert trained_texts(encoder.encode_row(text, "x"), base.tokenizer) == ["One two.<eos>"]


def test_rows_together_are_the_rows_alone(encoder: Encoder) -> None:
    rows = [row_of(messages=CHAT), row_of(text="One."), row_of(prompt="A?", completion="B.")] * 200

    together = list(encoder.encode_rows(rows, "x"))

    assert together == [encoder.encode_row(row, "x") for row in rows[:3]] * 200


def test_long_chat_is_cut_to_what_the_same_chat_read_whole_would_be_cut_to(base: Base) -> None:
    turns = [turn for _ in range(40) for turn in CHAT[:2]]
    long = row_of(messages=[*turns, {"role": "user", "content": "x" * LONG_CHARACTERS}, SAID])
    short = row_of(messages=[*turns, {"role": "user", "content": "x"}, SAID])
    encoder = Encoder(base.tokenizer, stop_ids=base.stop_ids, max_tokens=100)

    assert encoder.encode_row(long, "x") == encoder.encode_row(short, "x")


def test_long_answer_that_is_kept_is_trained_to_its_end(base: Base) -> None:
    answer = "red " * LONG_CHARACTERS
    encoder = Encoder(base.tokenizer, stop_ids=base.stop_ids, max_tokens=1000)

    example = encoder.encode_row(row_of(messages=[*CHAT[:2], ASKED, {"role": "assistant", "content": answer}]), "x")

    assert example.truncated
    begin = max(at for at, on in enumerate(example.trained) if not on) + 1
    assert example.trained[begin:] == (True,) * (1000 - begin)
    assert example.n_trained > 1000 - begin  # the first answer, too


def test_what_a_template_says_when_it_refuses_is_told_with_the_line(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = encoder_of(tokenizer, template("gemma"))

    with pytest.raises(DataError, match=r"rows\.jsonl:1: the chat template refuses these turns: System role not supp"):
        encoder.encode_row(row_of(messages=[{"role": "system", "content": "Be short."}, *CHAT]), "rows.jsonl")


@pytest.mark.parametrize(("name", "takes"), [("gemma3", True), ("qwen2_5", True), ("gemma", False)])
def test_it_is_known_whether_a_template_shows_system_turns(
    name: str, takes: bool, tokenizer: PreTrainedTokenizerBase
) -> None:
    assert encoder_of(tokenizer, template(name)).takes_system_turns() is takes


turns = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "user", "assistant", "assistant", "tool"]),
            "content": st.sampled_from(["", " ", "One?", "<bos>", "<|im_end|>", "</think>x", "\n\n", "é☃"]),
        },
        optional={"weight": st.sampled_from([0, 1]), "tool_calls": st.just([CALL]), "reasoning_content": st.just("hm")},
    ),
    min_size=1,
    max_size=5,
)


@pytest.mark.slow
@given(
    facts=st.fixed_dictionaries({"messages": turns})
    | st.fixed_dictionaries({"prompt": turns, "completion": turns | st.sampled_from(["", "Two.", " ", "<eos>"])}),
    name=st.sampled_from(["qwen2_5", "qwen3", "qwen3_training", "gptoss_training", "gemma3"]),
    max_tokens=st.sampled_from([2, 40, 4000]),
    train_on=st.sampled_from(["assistant", "all"]),
)
def test_any_row_is_an_example_or_refused(
    facts: dict[str, object], name: str, max_tokens: int, train_on: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    tokenizer.chat_template = template(name)
    encoder = Encoder(tokenizer, stop_ids=frozenset({1}), max_tokens=max_tokens, train_on=train_on)

    try:
        example = encoder.encode_row(row_of(**facts), "rows.jsonl")
    except DataError:
        return

    assert len(example.tokens) == len(example.trained) <= max_tokens
    assert not example.trained[0]
