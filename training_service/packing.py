"""Rows one behind the other instead of padded, without any of them seeing another.

Positions begin anew with each row; from that transformers makes masks that keep the rows apart (its
``find_packed_sequence_indices``), in full and in sliding-window layers. Whether a model does is measured, not
guessed from its name.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from training_service.data import Example
from training_service.errors import RequestInvalid
from training_service.loss import Batch, collate, token_losses

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""How far the loss of a token may be from the padded one's, in nats. Tiny models were 5e-7 and 2e-3 apart; rows
that saw each other 0.15 and more (Gemma 3, Llama), but for untrained weights as little as 1e-3 (Bloom), 4e-5 (LFM2):
so that a row sees no other is checked by itself, to the bit."""

ROWS_CHECKED, TOKENS_CHECKED = 4, 64
"""What is tried of the data: rows, and tokens of each."""


def put_together(
    rows: Sequence[Example], *, packing: bool, pad_id: int, device: torch.device
) -> tuple[Batch, list[int]]:
    """Return *rows* as one batch, packed or padded, and in which order they stand in it."""
    if not packing:
        return collate(rows, pad_id=pad_id, device=device), list(range(len(rows)))
    lines = fill_lines(rows)
    batch = collate_lines([[rows[index] for index in line] for line in lines], pad_id=pad_id, device=device)
    return batch, [index for line in lines for index in line]


def fill_lines(rows: Sequence[Example]) -> list[list[int]]:
    """Return which rows stand in each line: lines as long as the longest row, filled longest first.

    One line for all would be without any padding, but attention costs the square of a line.
    """
    width = max(len(row.tokens) for row in rows)
    lines: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(rows)), key=lambda index: -len(rows[index].tokens)):
        length = len(rows[index].tokens)
        at = next((at for at, free in enumerate(room) if free >= length), None)
        if at is None:
            lines.append([index])
            room.append(width - length)
        else:
            lines[at].append(index)
            room[at] -= length
    return lines


def collate_lines(lines: Sequence[Sequence[Example]], *, pad_id: int, device: torch.device) -> Batch:
    """Return *lines* as one batch; what a line lacks at its end is filled with rows of one masked token."""
    width = max(sum(len(row.tokens) for row in line) for line in lines)
    tokens, trained, positions = [], [], []
    for line in lines:
        n_short = width - sum(len(row.tokens) for row in line)
        tokens.append([token for row in line for token in row.tokens] + [pad_id] * n_short)
        trained.append([flag for row in line for flag in row.trained][1:] + [False] * n_short)
        positions.append([at for row in line for at in range(len(row.tokens))] + [0] * n_short)
    return Batch(
        tokens=torch.tensor(tokens, device=device),
        attention=None,
        trained=torch.tensor(trained, device=device),
        positions=torch.tensor(positions, device=device),
    )


def check_packing(model: PreTrainedModel, rows: Sequence[Example], *, pad_id: int, device: torch.device) -> None:
    """See that *model* keeps packed rows apart.

    When the first row of a line says something else, the losses of the others stay the same to the bit; and each
    is the one it has in a padded batch.

    Raises:
        RequestInvalid: It does not.
    """
    starts = [row.tokens[:TOKENS_CHECKED] for row in (*rows, *rows)][:ROWS_CHECKED]
    some = [Example(start, (False,) + (True,) * (len(start) - 1)) for start in starts]
    first, n_words = some[0], int(model.get_output_embeddings().weight.shape[0])
    other = replace(first, tokens=tuple((token + 1) % n_words for token in first.tokens))
    model.eval()
    with torch.no_grad():
        padded = token_losses(model, collate(some, pad_id=pad_id, device=device))
        try:
            packed = token_losses(model, collate_lines([some], pad_id=pad_id, device=device))
            beside = token_losses(model, collate_lines([[other, *some[1:]]], pad_id=pad_id, device=device))
        except TypeError as error:  # a decoder that takes no positions
            raise RequestInvalid(_refusal(model, str(error))) from error
    if not torch.equal(packed[first.n_trained :], beside[first.n_trained :]):
        raise RequestInvalid(_refusal(model, "a row's loss depends on the row before it"))
    apart = (packed - padded).abs().max().item()
    if not apart <= TOLERANCE[model.dtype]:
        raise RequestInvalid(_refusal(model, f"a token's loss is {apart:.2g} off the one without packing"))


def _refusal(model: PreTrainedModel, why: str) -> str:
    return (
        f"packing: expected a base that keeps packed rows apart, {type(model).__name__} does not: {why}; "
        "write packing: false"
    )
