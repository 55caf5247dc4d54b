"""The loss of a batch, computed only where a token is trained.

With a vocabulary of 262,144 the logits decide the memory: the head runs over trained positions alone, and over
``CHUNK`` of them at a time with recomputation where they are large (TRAINING.md, trap 2).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from training_service.data import Example

CHUNK = 64
LARGE = 2**24
"""Logits (positions × vocabulary) from which on they are recomputed in chunks: 64 MB in float32."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded on the right; ``trained[b, t]`` says that the token at t + 1 is a target."""

    tokens: torch.Tensor  # (B, T) int64
    attention: torch.Tensor  # (B, T) int64, 0 where padded
    trained: torch.Tensor  # (B, T - 1) bool

    @property
    def targets(self) -> torch.Tensor:
        """The N trained tokens, int64."""
        return self.tokens[:, 1:][self.trained]


def collate(rows: Sequence[Example], *, pad_id: int, device: torch.device) -> Batch:
    """Return *rows* as one batch."""
    width = max(len(row.tokens) for row in rows)
    tokens = torch.full((len(rows), width), pad_id, dtype=torch.int64)
    attention = torch.zeros((len(rows), width), dtype=torch.int64)
    trained = torch.zeros((len(rows), width), dtype=torch.bool)
    for index, row in enumerate(rows):
        length = len(row.tokens)
        tokens[index, :length] = torch.tensor(row.tokens)
        attention[index, :length] = 1
        trained[index, :length] = torch.tensor(row.trained)
    return Batch(tokens.to(device), attention.to(device), trained[:, 1:].to(device))


def loss_sum(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return the summed cross entropy over the trained tokens of *batch*, a float32 scalar.

    The caller divides once by the count over all micro-batches of a step: a mean of means would weight short
    rows too much.
    """
    hidden = model.get_decoder()(  # (B, T, D)
        input_ids=batch.tokens, attention_mask=batch.attention, use_cache=False
    ).last_hidden_state
    wanted = hidden[:, :-1][batch.trained]  # (N, D)
    targets = batch.targets
    n_targets, vocabulary = wanted.shape[0], model.get_output_embeddings().weight.shape[0]
    if n_targets * vocabulary <= LARGE or n_targets <= CHUNK:
        return _head_loss(model, wanted, targets)
    total: torch.Tensor = wanted.new_zeros(())
    for part, part_targets in zip(torch.split(wanted, CHUNK), torch.split(targets, CHUNK), strict=True):
        total = total + checkpoint(_head_loss, model, part, part_targets, use_reentrant=False)
    return total


def _head_loss(model: PreTrainedModel, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    config = model.config.get_text_config()
    logits: torch.Tensor = model.get_output_embeddings()(hidden).float()  # (N, V)
    cap = getattr(config, "final_logit_softcapping", None)
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    for name, inverse in (("logit_scale", False), ("logits_scaling", True)):  # Cohere; Granite
        scale = getattr(config, name, None)
        if scale is not None:
            logits = logits / scale if inverse else logits * scale
    loss: torch.Tensor = cross_entropy(logits, targets, reduction="sum")
    return loss
