"""Texts that share their passes through one base. They share passes, not states: adapter, tokens, keys and values,
and what is drawn are each text's own.

Knows no queue: who writes next is ``texts``' to say.
"""

from collections.abc import Sequence

import torch

from training_service.key_values import KeyValues
from training_service.slots import Slot
from training_service.text import Text

READ_AT_ONCE = 512
"""Tokens of a prompt that are read in one pass, so that nobody waits for a long prompt as a whole."""

MOST_PADDING = 8192
"""Places without a token that the texts of one batch may cost, in sum: a short text is not put beside a long one
at any price."""


class TextBatch:
    """At first one text with its prompt unread; others may join once it is read.

    Args:
        text: Whose prompt is to be read.
        slot: Where it is written.
        name: Internal name of the adapter that writes it; None is the base alone.
        is_alone: Whether nobody may join.

    Attributes:
        texts: In the order of their rows.
        names: The adapter of each.
    """

    def __init__(self, text: Text, slot: Slot, name: str | None, *, is_alone: bool = False) -> None:
        self.texts = [text]
        self.names = [name]
        self.slot = slot
        self._is_alone = is_alone
        self._memory = KeyValues(slot.base.model.config)

    @torch.inference_mode()
    def advance(self) -> torch.Tensor | None:
        """Let the model read the next token of each text, or the next part of the prompt.

        Returns:
            (B, V) in float32, what comes next in each text; None where the prompt is not read to its end.
        """
        model, device = self.slot.base.model, self.slot.base.device
        if model.training:
            model.eval()
        tokens = torch.tensor([text.unread[:READ_AT_ONCE] for text in self.texts], device=device)  # (B, T)
        n_new = tokens.shape[1]
        with self.slot.host.rows(self.names):
            output = model(
                input_ids=tokens, past_key_values=self._memory.cache, use_cache=True, logits_to_keep=1,
                **self._memory.inputs(n_new, device),
            )  # fmt: skip
        self._memory.grow(n_new)
        for text in self.texts:
            text.unread = text.unread[n_new:]
        return None if self.texts[0].unread else output.logits[:, -1].float()

    def takes(self, other: "TextBatch") -> bool:
        """Whether the texts of *other*, all read, may join these."""
        names = {*self.names, *other.names}
        return (
            self.slot is other.slot
            and not self._is_alone
            and not other._is_alone
            and all(len(text.unread) == 1 for text in (*self.texts, *other.texts))
            and (len(names) == 1 or all(self.slot.host.can_mix(name) for name in names))
            and self._memory.can_join
            and self._memory.padding_with(other._memory) <= MOST_PADDING
        )

    @torch.inference_mode()
    def join(self, other: "TextBatch") -> None:
        """Take the texts of *other*, which is of no use afterwards."""
        self._memory.join(other._memory)
        self.texts += other.texts
        self.names += other.names

    @torch.inference_mode()
    def keep(self, texts: Sequence[Text]) -> None:
        """Go on with *texts* alone, at least one."""
        rows = [row for row, text in enumerate(self.texts) if text in texts]
        if len(rows) < len(self.texts):
            self.texts, self.names = [self.texts[row] for row in rows], [self.names[row] for row in rows]
            self._memory.keep(rows)

    def parts(self) -> list["TextBatch"]:
        """Return each text as a batch of its own that reads everything again and stays alone."""
        for text in self.texts:
            text.read_again()
        return [
            TextBatch(text, self.slot, name, is_alone=True) for text, name in zip(self.texts, self.names, strict=True)
        ]
