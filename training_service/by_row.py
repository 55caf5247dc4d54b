"""Attention for rows that stand one behind the other in one line: each attends to itself alone.

It costs what the rows cost one by one; a mask over the whole line would cost the line's square. transformers hands
what it does not know on from the model's call to the attention (as the lengths for flash attention), so the lengths of
the rows come as ``row_lengths``.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "palaver_by_row"
"""Among transformers' kinds of attention. It knows no masks for it, and makes none."""


def attend_by_row(
    module: torch.nn.Module,
    query: torch.Tensor,  # (1, H, T, D)
    key: torch.Tensor,  # (1, H or fewer, T, D)
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    row_lengths: Sequence[int],
    sliding_window: int | None = None,
    **named: object,
) -> tuple[torch.Tensor, None]:
    """Return what each row of the T positions gets from itself, (1, T, H, D): transformers' own, row by row.

    Raises:
        TypeError: The model has a mask of its own, or says nothing of the rows.
    """
    if attention_mask is not None:
        raise TypeError(f"expected no mask beside rows, {type(module).__name__} makes one")
    lengths = list(row_lengths)
    rows = zip(*(torch.split(one, lengths, dim=2) for one in (query, key, value)), strict=True)
    found = [
        sdpa_attention_forward(module, *row, attention_mask=_window(row[0], sliding_window), **named)[0] for row in rows
    ]
    return torch.cat(found, dim=1), None


AttentionInterface.register(NAME, attend_by_row)


@contextmanager
def by_row(model: PreTrainedModel) -> Iterator[None]:
    """Let *model* attend by row within the block, the backward pass of what it computes included."""
    found = (getattr(module, "config", None) for module in model.modules())
    configs = {id(one): one for one in found if isinstance(one, PreTrainedConfig)}.values()
    before = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation = NAME
    try:
        yield
    finally:
        for config, kind in zip(configs, before, strict=True):
            config._attn_implementation = kind


def _window(query: torch.Tensor, width: int | None) -> torch.Tensor | None:
    """Return which positions of a row see which, (L, L), where a window is narrower than the row."""
    length = query.shape[2]
    if width is None or length <= width:
        return None
    seen = torch.ones(length, length, dtype=torch.bool, device=query.device)
    return seen.tril().triu(1 - width)
