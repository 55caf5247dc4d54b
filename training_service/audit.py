"""The label audit: what is wrong with training data is nearly always in its labels (TRAINING.md, trap 7)."""

from collections.abc import Iterable, Sequence

from training_service.data import ChatTokenizer, Dataset, Example
from training_service.errors import WarningsFound
from training_service.event import Audit

MAX_SHOWN = 2000
"""Characters of the first example that the audit shows."""

MASKED, TRAINED = "·", "▌"
"""Before a masked and before a trained part of the shown example."""

MAX_LINES = 5
"""Lines of the file that a finding names."""

FEW = 0.01
"""Share of trained tokens below which that is worth a note."""

_NOTES = {"rows_duplicated": "in the file more than once: {}"}
_WARNINGS = {
    "rows_masked": "nothing to train, left out: {}",
    "rows_truncated": "longer than max_tokens or than the model takes, cut: {}",
    "rows_shared_with_evaluation": "in the evaluation set too, so that its figures will be too good: {}",
    "rows_equal": "the same chosen and rejected answer, which teaches nothing, left out: {}",
    "rows_endless": "the token that ends a turn is not trained, so that the model may not learn to stop: {}",
}


def audit(dataset: Dataset, evaluation: Dataset | None, tokenizer: ChatTokenizer, *, stop_ids: frozenset[int]) -> Audit:
    """Return what *dataset* holds, with a warning for everything that usually means wrong labels."""
    answers = dataset.answers
    places = _findings(dataset, evaluation, stop_ids)
    counts = {name: len(found) for name, found in places.items()}
    examples = [example for of_row in answers for example in of_row]
    begin, pad = tokenizer.bos_token_id, tokenizer.pad_token_id
    n_tokens, n_trained = sum(len(one.tokens) for one in examples), sum(one.n_trained for one in examples)
    double_bos = begin is not None and any(example.tokens[:2] == (begin, begin) for example in examples)
    pad_is_eos = pad is not None and pad in stop_ids
    notes = [text.format(_rows(dataset, places[name])) for name, text in _NOTES.items() if counts[name]]
    warnings = [text.format(_rows(dataset, places[name])) for name, text in _WARNINGS.items() if counts[name]]
    if double_bos:
        warnings.append("rows begin with two <bos>: the rows hold one and the template adds another")
    if not stop_ids:
        warnings.append("the tokenizer names no token that ends a turn: the model cannot learn to stop")
    if pad_is_eos:
        notes.append("the padding token is a stop token; padding is masked by position here, other tools may not")
    if n_trained < FEW * n_tokens:
        notes.append(f"only {n_trained} of {n_tokens} tokens are trained: most of the time goes into prompts")
    return Audit(
        rows=len(answers),
        tokens=n_tokens,
        trained_tokens=n_trained,
        rows_masked=counts["rows_masked"],
        rows_truncated=counts["rows_truncated"],
        rows_duplicated=counts["rows_duplicated"],
        rows_shared_with_evaluation=counts["rows_shared_with_evaluation"],
        double_bos=double_bos,
        pad_is_eos=pad_is_eos,
        stop_token_trained=bool(stop_ids) and not counts["rows_endless"],
        first_example="\n".join(show_example(example, tokenizer) for example in answers[0]),
        notes=tuple(notes),
        warnings=tuple(warnings),
    )


def check_warnings(found: Audit, *, accepted: bool) -> None:
    """See that nobody trains on what the audit warns of without having said so.

    Raises:
        WarningsFound: *found* warns and the order does not accept it.
    """
    if found.warnings and not accepted:
        raise WarningsFound(
            f"expected data without warnings, got: {'; '.join(found.warnings)}. Mend the data, or train on it as it "
            "is with accept_warnings: true (palaver train --accept-warnings)"
        )


def _findings(dataset: Dataset, evaluation: Dataset | None, stop_ids: frozenset[int]) -> dict[str, list[int]]:
    """Return the places of the rows that each finding is about."""
    keys, held_out = dataset.keys, set(evaluation.keys if evaluation is not None else ())
    seen: set[object] = set()
    places: dict[str, list[int]] = {name: [] for name in (*_NOTES, *_WARNINGS)}
    for place, (key, of_row) in enumerate(zip(keys, dataset.answers, strict=True)):
        masked = not all(example.n_trained for example in of_row)
        equal = len(of_row) > 1 and of_row[0].tokens == of_row[1].tokens
        whole = [example for example in of_row if example.n_trained and not example.truncated]
        facts = {
            "rows_duplicated": key in seen,
            "rows_masked": masked,
            "rows_truncated": any(example.truncated for example in of_row),
            "rows_shared_with_evaluation": key in held_out,
            "rows_equal": equal and not masked,
            "rows_endless": bool(stop_ids) and not all(_trains_stop(example, stop_ids) for example in whole),
        }
        seen.add(key)
        for name, is_so in facts.items():
            if is_so:
                places[name].append(place)
    return places


def _rows(dataset: Dataset, places: Sequence[int]) -> str:
    """Return how many rows these are, and where the first ones stand in the file."""
    count = "1 row" if len(places) == 1 else f"{len(places)} rows"
    if not dataset.rows:
        return count
    lines = [str(dataset.rows[place].line) for place in places[:MAX_LINES]]
    more = ", …" if len(places) > MAX_LINES else ""
    return f"{count} (line{'s' if len(places) > 1 else ''} {', '.join(lines)}{more})"


def _trains_stop(example: Example, stop_ids: Iterable[int]) -> bool:
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
    half = MAX_SHOWN // 2
    return text if len(text) <= MAX_SHOWN else f"{text[: half - 1]}…{text[-half:]}"  # an answer stands at the end
