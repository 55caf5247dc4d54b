"""The label audit: what is wrong with training data is nearly always in its labels (TRAINING.md, trap 7)."""

from training_service.data import ChatTokenizer, Dataset, Example
from training_service.event import Audit

MAX_SHOWN = 2000
"""Characters of the first example that the audit shows."""

MASKED, TRAINED = "·", "▌"
"""Before a masked and before a trained part of the shown example."""


def audit(dataset: Dataset, evaluation: Dataset | None, tokenizer: ChatTokenizer, *, stop_ids: frozenset[int]) -> Audit:
    """Return what *dataset* holds, with a warning for everything that usually means wrong labels."""
    examples = dataset.examples
    held_out = {example.tokens for example in evaluation.examples} if evaluation else set()
    begin, pad = tokenizer.bos_token_id, tokenizer.pad_token_id
    facts = {
        "rows_masked": sum(not example.n_trained for example in examples),
        "rows_truncated": sum(example.truncated for example in examples),
        "rows_duplicated": len(examples) - len({example.tokens for example in examples}),
        "rows_shared_with_evaluation": sum(example.tokens in held_out for example in examples),
    }
    double_bos = begin is not None and any(example.tokens[:2] == (begin, begin) for example in examples)
    pad_is_eos = pad is not None and pad in stop_ids
    stops = all(_trains_stop(example, stop_ids) for example in dataset.usable if not example.truncated)
    n_trained = sum(example.n_trained for example in examples)
    notes = [_NOTES[name].format(facts[name]) for name in _NOTES if facts[name]]
    warnings = [text.format(facts[name]) for name, text in _WARNINGS.items() if facts[name]]
    if double_bos:
        warnings.append("rows begin with two <bos>: the rows hold one and the template adds another")
    if pad_is_eos:
        notes.append("the padding token is a stop token; padding is masked by position here, other tools may not")
    if not stops:
        warnings.append("some row does not train the token that ends a turn: the model may not learn to stop")
    return Audit(
        rows=len(examples),
        tokens=sum(len(example.tokens) for example in examples),
        trained_tokens=n_trained,
        double_bos=double_bos,
        pad_is_eos=pad_is_eos,
        stop_token_trained=stops,
        first_example=show_example(examples[0], tokenizer),
        notes=tuple(notes),
        warnings=tuple(warnings),
        **facts,
    )


_NOTES = {"rows_duplicated": "{} rows stand in the file more than once"}

_WARNINGS = {
    "rows_masked": "{} rows train nothing and are left out",
    "rows_truncated": "{} rows are longer than the model takes and were cut",
    "rows_shared_with_evaluation": "{} rows are in the evaluation set too: its figures will be too good",
}


def _trains_stop(example: Example, stop_ids: frozenset[int]) -> bool:
    return any(on and token in stop_ids for token, on in zip(example.tokens, example.trained, strict=True))


def show_example(example: Example, tokenizer: ChatTokenizer) -> str:
    """Return *example* decoded, each part behind the sign that says whether it is trained."""
    parts, start = [], 0
    for at in range(1, len(example.tokens) + 1):
        if at == len(example.tokens) or example.trained[at] != example.trained[start]:
            sign = TRAINED if example.trained[start] else MASKED
            parts.append(sign + tokenizer.decode(list(example.tokens[start:at])))
            start = at
    text = "".join(parts)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
