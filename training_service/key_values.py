"""What a model remembers of the texts of one batch: their keys and values, put together and taken apart.

A text's part is the same whatever is beside it: rows are padded on the left, and the padding is masked.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

JOINED_LAYERS = (DynamicLayer, DynamicSlidingWindowLayer)
"""Exactly these grow token by token, each token by itself; a state of another kind cannot be padded."""


class KeyValues:
    """The keys and values of one text, which others may join.

    Attributes:
        cache: What the model reads and appends to; its rows are the texts.
        lengths: Tokens that it holds of each text.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        self.cache = DynamicCache(config=config)
        self.lengths = [0]
        kinds = getattr(config.get_text_config(decoder=True), "layer_types", None) or ()
        self._grows = "chunked_attention" not in kinds  # its chunks begin at the padding, not at the text

    @property
    def width(self) -> int:
        """Tokens of the longest text, to which the others are padded."""
        return max(self.lengths)

    @property
    def n_padding(self) -> int:
        """Places that hold no token; the same after each token that all texts grow by."""
        return self.width * len(self.lengths) - sum(self.lengths)

    @property
    def can_join(self) -> bool:
        """Whether something was read, and the model keeps nothing of it but keys and values of single tokens."""
        return self._grows and self.width > 0 and all(type(layer) in JOINED_LAYERS for layer in self.cache.layers)

    def padding_with(self, other: "KeyValues") -> int:
        """Return what ``n_padding`` would be if *other* joined."""
        lengths = [*self.lengths, *other.lengths]
        return max(lengths) * len(lengths) - sum(lengths)

    def inputs(self, n_new: int, device: torch.device) -> dict[str, torch.Tensor]:
        """Return what tells the model of the padding when each text gets *n_new* tokens; nothing where there is none.

        Without it the model takes a path that builds no mask.
        """
        if not self.n_padding:
            return {}
        lengths = torch.tensor(self.lengths, device=device)[:, None]  # (B, 1)
        places = torch.arange(self.width + n_new, device=device)[None]  # (1, T)
        return {
            "attention_mask": (places >= self.width - lengths).long(),  # (B, T)
            "position_ids": lengths + torch.arange(n_new, device=device),  # (B, n_new)
        }

    def grow(self, n_new: int) -> None:
        """Note that the model has read *n_new* more tokens of each text."""
        self.lengths = [length + n_new for length in self.lengths]

    def join(self, other: "KeyValues") -> None:
        """Take the texts of *other*, of the same model, behind one's own."""
        width = max(self.width, other.width)
        for layer, added in zip(self.cache.layers, other.cache.layers, strict=True):
            if layer.is_initialized:
                n_kept = _n_kept(layer, width)
                layer.keys = torch.cat([_widened(layer.keys, n_kept), _widened(added.keys, n_kept)])
                layer.values = torch.cat([_widened(layer.values, n_kept), _widened(added.values, n_kept)])
                _note_width(layer, width)
        self.lengths += other.lengths

    def keep(self, rows: Sequence[int]) -> None:
        """Forget every text but those at *rows*, and the padding that nobody needs any more."""
        self.lengths = [self.lengths[row] for row in rows]
        for layer in self.cache.layers:
            if layer.is_initialized:
                cut = layer.keys.shape[-2] - _n_kept(layer, self.width)
                layer.keys, layer.values = layer.keys[list(rows), :, cut:], layer.values[list(rows), :, cut:]
                _note_width(layer, self.width)


def _n_kept(layer: CacheLayerMixin, width: int) -> int:
    """Return how many of *width* tokens *layer* remembers: of a sliding window all that the next one may see."""
    return min(width, layer.sliding_window - 1) if isinstance(layer, DynamicSlidingWindowLayer) else width


def _note_width(layer: CacheLayerMixin, width: int) -> None:
    if isinstance(layer, DynamicSlidingWindowLayer):
        layer.cumulative_length = width


def _widened(states: torch.Tensor, n_tokens: int) -> torch.Tensor:
    """Return *states* (B, heads, T, D) with *n_tokens* tokens, padded on the left."""
    return pad(states, (0, 0, n_tokens - states.shape[-2], 0))
