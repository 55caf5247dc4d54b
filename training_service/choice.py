"""Choosing the next token of a text: temperature, top_p, seed and log probabilities. Pure but for its own generator."""

from dataclasses import dataclass

import torch

from training_service.errors import TrainingError

UNLIKELY = -9999.0
"""Stands for the logarithm of no chance at all, which JSON cannot carry."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The token that was chosen.

    Attributes:
        logprob: Its natural log probability; None where nobody asked.
        top: The likeliest tokens and their log probabilities, the likeliest first.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Choice:
    """How one text chooses; its random state is its own, so no other text changes what it draws.

    Args:
        temperature: 0 takes the likeliest token each time.
        top_p: From 0 to 1: only the likeliest tokens that together have this chance are drawn from, at least one.
        seed: Of the drawing.
        n_top: How many alternatives are told with each token; None tells no log probabilities.
        device: Where the logits are.
    """

    def __init__(
        self, *, temperature: float, top_p: float, seed: int, n_top: int | None = None, device: torch.device
    ) -> None:
        self._temperature = temperature
        self._top_p = top_p
        self._n_top = n_top
        self._generator = torch.Generator(device).manual_seed(seed)

    def take(self, logits: torch.Tensor) -> Chosen:
        """Choose a token.

        The log probabilities are the model's own, before temperature and ``top_p`` change them.

        Args:
            logits: (V,), any float type; computed in float32.

        Raises:
            TrainingError: The logits are no numbers. Nothing was drawn.
        """
        logits = logits.float()
        if not torch.isfinite(logits.max()):
            raise TrainingError("expected logits that are numbers, got others: the adapter or its base is damaged")
        token = int(logits.argmax()) if self._temperature == 0 else self._draw(logits)
        if self._n_top is None:
            return Chosen(token)
        logprobs = torch.log_softmax(logits, dim=-1).clamp(min=UNLIKELY)
        values, tokens = logprobs.topk(min(self._n_top, len(logprobs)))
        return Chosen(token, float(logprobs[token]), tuple(zip(tokens.tolist(), values.tolist(), strict=True)))

    def _draw(self, logits: torch.Tensor) -> int:
        chances = torch.softmax(logits / self._temperature, dim=-1)
        if self._top_p < 1:
            chances = likeliest(chances, self._top_p)
        return int(torch.multinomial(chances, 1, generator=self._generator))


def likeliest(chances: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return *chances* (V,) without the tail: what the tokens before one have in sum must be below *top_p*.

    The likeliest token always stays.
    """
    ordered, tokens = chances.sort(descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered  # (V,)
    keep = before < top_p
    keep[0] = True
    return torch.zeros_like(chances).index_copy_(0, tokens, ordered * keep)
