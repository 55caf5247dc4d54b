"""Held-out rows as each variant of the model gets them: the base untouched, told what to do, and tuned.

The base alone sees no system turn; the base with a system prompt sees that of the order, the rows' own, or one made
of worked examples from the dataset; the tuned model sees the rows as they are. Pure but for reading the files.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from training_service.data import Dataset, Encoder, Row, check_artifact, read_rows
from training_service.errors import DataError
from training_service.event import Variant
from training_service.request import TrainingRequest

WORKED_EXAMPLES, WORKED_CHARACTERS = 4, 800
"""What a system prompt is made of where neither the order nor the rows have one."""


def evaluation_variants(
    request: TrainingRequest, encoder: Encoder, roots: tuple[Path, ...], tuned: Dataset | None
) -> Mapping[Variant, Dataset]:
    """Return the held-out rows of *request* for each variant; *tuned* are those for the tuned model.

    A variant whose rows the chat template refuses, or which would be the base's over again, is left out.

    Raises:
        DataError: The file is not what it was.
    """
    if request.evaluation is None or tuned is None:
        return {}
    path = check_artifact(request.evaluation, roots)
    rows = list(read_rows(path))
    found = {Variant.TUNED: tuned}
    without = [without_system(row) for row in rows]
    found[Variant.BASE] = _encoded(without, path, encoder, tuned.sha256)
    prompt = request.system_prompt
    if prompt is None and rows == without:
        prompt = worked_examples(read_rows(check_artifact(request.dataset, roots)))
    told = rows if prompt is None else [with_system(row, prompt) for row in without]
    if told != without:
        with suppress(DataError):  # a template without system turns
            found[Variant.SYSTEM_PROMPT] = _encoded(told, path, encoder, tuned.sha256)
    return found


def without_system(row: Row) -> Row:
    """Return *row* without its system turns."""
    return replace(row, messages=tuple(turn for turn in row.messages if turn["role"] != "system"))


def with_system(row: Row, prompt: str) -> Row:
    """Return *row*, whose system turns were taken, with *prompt* as the one it begins with; plain text stays."""
    if not row.messages:
        return row
    return replace(row, messages=({"role": "system", "content": prompt}, *row.messages))


def worked_examples(rows: Iterable[Row]) -> str | None:
    """Return a system prompt that shows some of *rows* answered, or None where none is a chat."""
    lines: list[str] = []
    n_shown, n_characters = 0, 0
    for row in rows:
        if n_shown == WORKED_EXAMPLES:
            break
        turns = [turn for turn in row.messages if turn["role"] != "system"]
        shown = [f"{turn['role']}: {turn['content']}" for turn in turns]
        n_here = sum(map(len, shown))
        if turns and n_characters + n_here <= WORKED_CHARACTERS:
            lines += [*shown, ""]
            n_shown, n_characters = n_shown + 1, n_characters + n_here
    return "\n".join(["Answer as in these examples.", "", *lines]).strip() if n_shown else None


def _encoded(rows: Sequence[Row], path: Path, encoder: Encoder, sha256: str) -> Dataset:
    return Dataset(tuple(encoder.encode_row(row, path) for row in rows), sha256)
