"""Rows one behind the other instead of padded, without any of them seeing another (``by_row``).

Positions begin anew with each row. Whether a model keeps the rows apart is measured, not guessed from its name.
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

ROWS_CHECKED, TOKENS_CHECKED, BEYOND = 4, 64, 16
"""What is tried of the data: so many rows, so many tokens of each, and of the longest more than a sliding window."""


def put_together(rows: Sequence[Example], *, packing: bool, pad_id: int, device: torch.device) -> Batch:
    """Return *rows* as one batch, packed or padded."""
    return line_up(rows, device=device) if packing else collate(rows, pad_id=pad_id, device=device)


def line_up(rows: Sequence[Example], *, device: torch.device) -> Batch:
    """Return *rows* as one line, each behind the one before; the first token of a row is nobody's target."""
    trained = [flag for row in rows for flag in (False, *row.trained[1:])]
    return Batch(
        tokens=torch.tensor([[token for row in rows for token in row.tokens]], device=device),
        attention=None,
        trained=torch.tensor([trained[1:]], dtype=torch.bool, device=device),
        lengths=tuple(len(row.tokens) for row in rows),
    )


def check_packing(model: PreTrainedModel, rows: Sequence[Example], *, pad_id: int, device: torch.device) -> None:
    """See that *model* keeps packed rows apart.

    When the first row of a line says something else, the losses of the others stay the same to the bit; and each
    is the one it has in a padded batch. The longest of *rows* is tried beyond the model's sliding window.

    Raises:
        RequestInvalid: It does not.
    """
    window = getattr(model.config.get_text_config(), "sliding_window", None) or 0
    longest = sorted(rows, key=lambda row: len(row.tokens), reverse=True)
    starts = [row.tokens[:TOKENS_CHECKED] for row in (*longest, *longest)][:ROWS_CHECKED]
    starts[0] = longest[0].tokens[: max(TOKENS_CHECKED, window + BEYOND)]
    some = [Example(start, (False,) + (True,) * (len(start) - 1)) for start in starts]
    first, n_words = some[0], int(model.get_output_embeddings().weight.shape[0])
    other = replace(first, tokens=tuple((token + 1) % n_words for token in first.tokens))
    model.eval()
    with torch.no_grad():
        padded = token_losses(model, collate(some, pad_id=pad_id, device=device))
        try:
            packed = token_losses(model, line_up(some, device=device))
            beside = token_losses(model, line_up([other, *some[1:]], device=device))
        except (TypeError, ValueError) as error:  # a decoder that takes no positions, or has masks of its own
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
