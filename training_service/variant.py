"""The held-out rows as each variant of the model is asked them: is a system prompt as good as fine tuning?

The untouched base is asked without any system turn, then with a system prompt; the tuned model is asked as it was
trained. What they must say is the same, only what stands before it differs. Pure.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from training_service.data import Dataset, Encoder, Example, Row, encode_dataset
from training_service.errors import DataError
from training_service.event import Variant
from training_service.row import Turn

MOST_EXAMPLES, MOST_TRIED = 8, 64
"""Training rows that a built system prompt shows at most, and among how many those that fit are looked for."""

PROMPT_SHARE = 4
"""A built system prompt takes at most this part of the tokens of a row: a quarter."""

BREAK = "\n\n"


def variants_of(
    evaluation: Dataset, training: Dataset, encoder: Encoder, *, system_prompt: str | None, longest: int
) -> dict[Variant, Dataset]:
    """Return the rows of *evaluation* as each variant of the model is asked them.

    The base with and without the prompt has the same targets, also where a row is cut: the prompt comes on top of
    what ``max_tokens`` allows, as far as the model takes it. Where nobody gave a prompt and none could be built,
    or the template refuses it, there is no ``Variant.SYSTEM_PROMPT``.

    Args:
        evaluation: The held-out rows as they are, with ``rows``.
        training: Where worked examples come from when neither order nor row has a prompt; with ``rows``.
        encoder: The one that made both.
        system_prompt: The order's own, if any.
        longest: Tokens that the model takes.

    Raises:
        DataError: The chat template refuses a row without its system turn.
    """
    whole = encoder.uncut(longest)  # the prompt is put in before rows are cut, not after
    bare_rows = [without_system(row) for row in evaluation.rows]
    told_rows = list(_told(evaluation.rows, training.rows, encoder, system_prompt))
    bare = encode_dataset(bare_rows, whole, sha256=evaluation.sha256, where="evaluation")
    variants = {Variant.BASE: _with_examples(bare, [_cut(one, encoder.max_tokens) for one in _flat(bare)])}
    if told_rows != bare_rows:
        with suppress(DataError):  # the template takes no such prompt: no reason to fail a run
            told = encode_dataset(told_rows, whole, sha256=evaluation.sha256, where="evaluation")
            both = zip(_flat(bare), _flat(told), strict=True)
            aligned = [_aligned(one, other, encoder, longest) for one, other in both]
            variants[Variant.SYSTEM_PROMPT] = _with_examples(told, aligned)
    return variants | {Variant.TUNED: evaluation}


def without_system(row: Row) -> Row:
    """Return *row* without its system turns; where they are all that is asked, and for plain text, as it was."""
    asked = row.messages[: min(row.trained, default=len(row.messages))]
    return row if all(turn["role"] == "system" for turn in asked) else _without_system(row)


def _without_system(row: Row) -> Row:
    kept = [place for place, turn in enumerate(row.messages) if turn["role"] != "system"]
    return replace(
        row,
        messages=tuple(row.messages[place] for place in kept),
        trained=tuple(kept.index(place) for place in row.trained),
        rejected=None if row.rejected is None else _without_system(row.rejected),
    )


def with_system(row: Row, prompt: str, *, in_user_turn: bool = False) -> Row:
    """Return *row* with *prompt* as its only system turn; before plain text it stands as text that is not trained.

    Args:
        row: Any row.
        prompt: What the model is told.
        in_user_turn: Put it at the head of the first user's turn, for templates that show no system turn.
    """
    if row.text is not None:
        return replace(row, text=prompt + BREAK + row.text, begun=len(prompt + BREAK) + row.begun)
    bare = _without_system(row)
    rejected = None if row.rejected is None else with_system(row.rejected, prompt, in_user_turn=in_user_turn)
    first = next((place for place, turn in enumerate(bare.messages) if turn["role"] == "user"), None)
    if in_user_turn and first is not None:
        turns = list(bare.messages)
        turns[first] = {**turns[first], "content": f"{prompt}{BREAK}{turns[first]['content']}"}
        return replace(bare, messages=tuple(turns), rejected=rejected)
    system: Turn = {"role": "system", "content": prompt}
    trained = tuple(place + 1 for place in bare.trained)
    return replace(bare, messages=(system, *bare.messages), trained=trained, rejected=rejected)


def build_prompt(rows: Sequence[Row], encoder: Encoder) -> str | None:
    """Return a system prompt that shows some of *rows* as worked examples, or None where none fits.

    A function of the rows alone: those that are tried are drawn with a fixed seed, and each is taken that leaves
    the whole within a ``PROMPT_SHARE``-th of ``max_tokens``.
    """
    limit = encoder.max_tokens // PROMPT_SHARE
    tried = random.Random("worked examples").sample(range(len(rows)), min(MOST_TRIED, len(rows)))
    taken: list[str] = []
    for example in (_worked(rows[place]) for place in tried):
        if example is None or example in taken or len(example) > 16 * limit:
            continue
        if len(encoder.tokens_of([_shown([*taken, example])])[0]) <= limit:
            taken.append(example)
        if len(taken) == MOST_EXAMPLES:
            break
    return _shown(taken) if taken else None


def _shown(examples: Sequence[str]) -> str:
    return BREAK.join(["Answer as in these examples.", *examples])


def _worked(row: Row) -> str | None:
    """Return the last thing that *row* teaches as text; None where that is no text."""
    if row.text is not None:
        return row.text
    for place in reversed(row.trained):
        asked = [turn.get("content") for turn in row.messages[:place] if turn["role"] == "user"]
        answer = row.messages[place].get("content")
        if asked and isinstance(answer, str) and answer.strip():
            return f"User: {asked[-1]}\nAssistant: {answer}"
    return None


def _told(rows: Sequence[Row], training: Sequence[Row], encoder: Encoder, system_prompt: str | None) -> Iterator[Row]:
    """Give each row with the order's prompt, else with its own, else with one built from *training*."""
    in_user_turn = not encoder.takes_system_turns()
    built = None
    if system_prompt is None and not all(_has_system(row) for row in rows):
        built = build_prompt(training, encoder)
    for row in rows:
        prompt = system_prompt
        if prompt is None and not _has_system(row):
            prompt = built
        yield row if prompt is None else with_system(row, prompt, in_user_turn=in_user_turn)


def _has_system(row: Row) -> bool:
    return any(turn["role"] == "system" for turn in row.messages)


def _aligned(bare: Example, told: Example, encoder: Encoder, longest: int) -> Example:
    """Return *told* with the targets of *bare*: cut as much later as it is longer, the prompt itself no target."""
    n_put_in = len(told.tokens) - len(bare.tokens)
    trained = told.trained
    if encoder.train_on == "all" and n_put_in > 0:
        same = zip(bare.tokens, told.tokens, strict=False)
        head = next((place for place, (one, other) in enumerate(same) if one != other), len(bare.tokens))
        trained = (*trained[:head], *([False] * n_put_in), *trained[head + n_put_in :])
    return _cut(replace(told, trained=trained), min(longest, max(2, encoder.max_tokens + n_put_in)))


def _cut(example: Example, limit: int) -> Example:
    return Example(example.tokens[:limit], example.trained[:limit], truncated=len(example.tokens) > limit)


def _flat(dataset: Dataset) -> list[Example]:
    return [*dataset.examples, *dataset.rejected]


def _with_examples(dataset: Dataset, flat: Sequence[Example]) -> Dataset:
    n_rows = len(dataset.examples)
    return replace(dataset, examples=tuple(flat[:n_rows]), rejected=tuple(flat[n_rows:]))
