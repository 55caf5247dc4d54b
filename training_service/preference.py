"""Direct preference optimization (arXiv 2305.18290): the loss of pairs, a chosen answer beside a rejected one."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel

from training_service.data import Example
from training_service.loss import Batch, token_losses
from training_service.request import Dpo

Reference = Callable[[], AbstractContextManager[PreTrainedModel]]
"""Gives the untouched base for the length of a block; afterwards the trained model computes as before."""


def pair_losses(
    model: PreTrainedModel,
    reference: Reference,
    batch: Batch,
    *,
    rows: Sequence[Example],
    dpo: Dpo,
) -> torch.Tensor:
    """Return the loss of each pair, (P,) float32.

    The reference computes first: nothing may be switched between a forward pass and its backward pass.

    Args:
        model: What is trained.
        reference: What it must stay near to.
        batch: *rows*.
        rows: Every chosen answer with its prompt, then every rejected one, 2 P of them.
        dpo: How near, and how far the labels are trusted.
    """
    with reference() as base, torch.no_grad():
        base.eval()
        expected = _row_sums(token_losses(base, batch), rows)
    model.train()
    found = _row_sums(token_losses(model, batch), rows)
    return dpo_loss(expected - found, dpo)


def dpo_loss(gains: torch.Tensor, dpo: Dpo) -> torch.Tensor:
    """Return the loss of each pair, (P,).

    Args:
        gains: (2 P,): by how much the log probability of each answer has grown, chosen ones first.
        dpo: *label_smoothing* is the share of pairs that are taken to be the wrong way round (conservative DPO).
    """
    chosen, rejected = gains.chunk(2)
    margin = dpo.beta * (chosen - rejected)
    return -(1 - dpo.label_smoothing) * logsigmoid(margin) - dpo.label_smoothing * logsigmoid(-margin)


def _row_sums(losses: torch.Tensor, rows: Sequence[Example]) -> torch.Tensor:
    """Return the sum over each row's tokens; one by one, because a scattered sum has no fixed order on CUDA."""
    return torch.stack([part.sum() for part in torch.split(losses, [row.n_trained for row in rows])])
