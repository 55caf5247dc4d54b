"""The loss of a batch, computed only where a token is trained.

With a vocabulary of 262,144 the logits decide the memory: the head runs over trained positions alone, and where
they are many over a few of them at a time (TRAINING.md, trap 2).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.autograd.function import FunctionCtx
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from training_service.by_row import by_row
from training_service.data import Example
from training_service.errors import RequestInvalid

LARGE = 2**24
"""Most logits (positions × vocabulary) at once; more are computed in chunks. 64 MB in float32."""

CHUNK = 2**22
"""Logits of one chunk where their gradient is computed along: 16 positions of a vocabulary of 262,144."""

TOKENS_CHECKED = 16
HEAD_TOLERANCE = 2e-2
"""How far our logits may be from the model's own, as a share of the largest; bfloat16 alone makes 4e-3."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows as one tensor; ``trained[b, t]`` says that the token at t + 1 is a target.

    Either every line is one row, padded on the right, and *attention* says where; or the only line holds all rows, one
    behind the other, and *lengths* says where each ends.
    """

    tokens: torch.Tensor  # (B, T) int64
    attention: torch.Tensor | None  # (B, T) int64, 0 where padded
    trained: torch.Tensor  # (B, T - 1) bool
    lengths: tuple[int, ...] | None = None

    @property
    def targets(self) -> torch.Tensor:
        """The N trained tokens, int64."""
        return self.tokens[:, 1:][self.trained]


def collate(rows: Sequence[Example], *, pad_id: int, device: torch.device) -> Batch:
    """Return *rows* as one batch, each a line."""
    width = max(len(row.tokens) for row in rows)
    short = [width - len(row.tokens) for row in rows]
    tokens = torch.tensor([(*row.tokens, *[pad_id] * n) for row, n in zip(rows, short, strict=True)])
    attention = torch.tensor([[1] * (width - n) + [0] * n for n in short])
    trained = torch.tensor([(*row.trained[1:], *[False] * n) for row, n in zip(rows, short, strict=True)])
    return Batch(tokens.to(device), attention.to(device), trained.to(device, torch.bool))


def loss_sum(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return the summed cross entropy over the trained tokens of *batch*, a float32 scalar.

    The caller divides once by the count over all micro-batches of a step: a mean of means would weight short
    rows too much.
    """
    hidden, targets = _wanted(model, batch)
    if not _is_large(model, targets):
        return _head_losses(model, hidden, targets, "sum")
    head = model.get_output_embeddings()
    loss: torch.Tensor = _HeadLoss.apply(hidden, head.weight, head.bias, targets, _shape_of(model))  # type: ignore[no-untyped-call]  # of torch
    return loss


def token_losses(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return the cross entropy of each trained token of *batch*, (N,) float32, in the order of ``batch.targets``."""
    hidden, targets = _wanted(model, batch)
    if not _is_large(model, targets):
        return _head_losses(model, hidden, targets, "none")
    n_rows = max(1, LARGE // int(model.get_output_embeddings().weight.shape[0]))
    parts = zip(torch.split(hidden, n_rows), torch.split(targets, n_rows), strict=True)
    return torch.cat([checkpoint(_head_losses, model, *part, "none", use_reentrant=False) for part in parts])


def check_head(model: PreTrainedModel, row: Example) -> None:
    """See that the logits of which the loss is made are the model's own.

    Raises:
        RequestInvalid: The model does more between its last layer and its logits than is known here.
    """
    tokens = torch.tensor([row.tokens[:TOKENS_CHECKED]], device=next(model.parameters()).device)
    with torch.no_grad():
        output = model(input_ids=tokens, use_cache=False, output_hidden_states=True, logits_to_keep=1)
        own = output.logits[0, -1].float()
        ours = _shape_of(model).bend(model.get_output_embeddings()(output.hidden_states[-1][0, -1]).float())
    if (own - ours).abs().max() > HEAD_TOLERANCE * own.abs().max():
        raise RequestInvalid(
            f"expected a base whose logits are its head's, scaled or capped; {type(model).__name__} makes others: "
            "take another base"
        )


def _wanted(model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the last hidden states where a token is trained, (N, D), and those N tokens."""
    decoder, named = model.get_decoder(), {"input_ids": batch.tokens, "use_cache": False}
    if batch.lengths is None:
        hidden = decoder(attention_mask=batch.attention, **named).last_hidden_state  # (B, T, D)
    else:
        positions = torch.cat([torch.arange(length, device=batch.tokens.device) for length in batch.lengths])
        with by_row(model):
            hidden = decoder(position_ids=positions[None], row_lengths=batch.lengths, **named).last_hidden_state
    return hidden[:, :-1][batch.trained], batch.targets


def _is_large(model: PreTrainedModel, targets: torch.Tensor) -> bool:
    return targets.numel() * int(model.get_output_embeddings().weight.shape[0]) > LARGE


def _chunk_rows(weight: torch.Tensor) -> int:
    return max(1, CHUNK // weight.shape[0])


def _head_losses(model: PreTrainedModel, hidden: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
    logits = _shape_of(model).bend(model.get_output_embeddings()(hidden).float())  # (N, V)
    return cross_entropy(logits, targets, reduction=reduction)


@dataclass(frozen=True, slots=True)
class _LogitShape:
    """What happens to the head's output before the softmax: times *scale*, then bent below *cap*."""

    scale: float = 1.0
    cap: float | None = None

    def bend(self, logits: torch.Tensor) -> torch.Tensor:
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def _shape_of(model: PreTrainedModel) -> _LogitShape:
    config = model.config.get_text_config()
    scale = 1.0
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):  # Cohere; others of its kind; Falcon H1
        scale *= getattr(config, name, None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0  # Granite, MiniCPM
    scale = scale * divisor if getattr(config, "model_type", "") == "hyperclovax" else scale / divisor
    return _LogitShape(scale, getattr(config, "final_logit_softcapping", None))


class _HeadLoss(torch.autograd.Function):
    """Summed cross entropy behind the head, whose gradients are computed along with it, chunk by chunk.

    No logits outlive their chunk, and none are computed twice. With 262,144 × 64 weights and 511 targets, two
    threads (torch 2.13): 201 MB and 5.4 s for a step, against 274 MB and 8.7 s with recomputation of 64 positions
    at a time, 668 MB and 11.2 s with TRL 1.16's fused head, 2146 MB and 8.1 s with all logits at once. Where the
    head is frozen: 67, 207, 603 and 2158 MB.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden: torch.Tensor,  # (N, D)
        weight: torch.Tensor,  # (V, D)
        bias: torch.Tensor | None,  # (V,)
        targets: torch.Tensor,  # (N,)
        shape: _LogitShape,
    ) -> torch.Tensor:
        """Return the sum; keep the gradients of what needs one."""
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]  # type: ignore[attr-defined]  # of torch
        of_hidden = torch.empty_like(hidden) if wants_hidden else None
        of_weight = torch.zeros_like(weight) if wants_weight else None
        of_bias = torch.zeros_like(bias) if wants_bias and bias is not None else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        with torch.autocast(kind, enabled=False):
            head, bend = weight.to(dtype), None if bias is None else bias.float()
            for start in range(0, len(targets), _chunk_rows(weight)):
                rows = slice(start, start + _chunk_rows(weight))
                states = hidden[rows].to(dtype)
                loss, gradient = _chunk_loss(states @ head.T, bend, targets[rows], shape)
                total += loss
                if of_bias is not None:
                    of_bias += gradient.sum(0)
                gradient = gradient.to(dtype)
                if of_hidden is not None:
                    of_hidden[rows] = gradient @ head
                if of_weight is not None:
                    if of_weight.dtype == dtype:
                        of_weight.addmm_(gradient.T, states)
                    else:
                        of_weight += gradient.T @ states
        ctx.save_for_backward(of_hidden, of_weight, of_bias)  # type: ignore[arg-type]  # None may be saved
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: FunctionCtx, *up: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the kept gradients times the one from above; in place, so once only."""
        kept: tuple[torch.Tensor | None, ...] = ctx.saved_tensors  # type: ignore[attr-defined]  # of torch
        return (*(None if one is None else one.mul_(up[0]) for one in kept), None, None)


def _chunk_loss(
    logits: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor, shape: _LogitShape
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the summed loss of some positions and its gradient by the head's output, (n, V) float32.

    Works in place wherever it can: a chunk's memory is one float32 tensor of its size, two with a cap.
    """
    logits = logits.float()
    if bias is not None:
        logits += bias
    if shape.scale != 1.0:
        logits *= shape.scale
    slope = None
    if shape.cap is not None:
        logits.div_(shape.cap).tanh_()
        slope = 1 - logits.square()
        logits *= shape.cap
    picked = logits.gather(1, targets[:, None])  # (n, 1)
    largest = logits.amax(1, keepdim=True)
    chances = logits.sub_(largest).exp_()
    total = chances.sum(1, keepdim=True)
    loss = (total.log() + largest - picked).sum()
    chances.div_(total).scatter_add_(1, targets[:, None], chances.new_full(picked.shape, -1.0))
    if slope is not None:
        chances *= slope
    if shape.scale != 1.0:
        chances *= shape.scale
    return loss, chances
