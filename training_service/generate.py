"""Writing text with a base, alone or with an adapter, one token at a time; the scheduler is somebody else.

The chat template is always the tokenizer's. Pieces are cut so that joined they are the whole text, whatever
bytes or marks the tokens hold.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training_service.data import Encoder
from training_service.errors import DataError, RequestInvalid
from training_service.event import Generated, GenerateRequest, Piece, Speech
from training_service.model import Base

UNFINISHED = "\ufffd"
"""What a decoder gives for the first bytes of a character whose last bytes are in the next token."""

CONTEXT = 8
"""Tokens of the prompt that are decoded along, so that a space at the start of the text is kept."""


class TextStream:
    """Turns tokens into pieces of text; a piece never ends within a character."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._tokens = list(prompt[-CONTEXT:])
        self._begin, self._read = 0, len(self._tokens)

    def push(self, token: int) -> str:
        """Return the text that *token* completes, maybe none."""
        self._tokens.append(token)
        known, text = self._decode(self._read), self._decode(len(self._tokens))
        if text.endswith(UNFINISHED):
            return ""
        self._begin, self._read = self._read, len(self._tokens)
        return text[len(known) :]

    def finish(self) -> str:
        """Return what is left at the end: the sign for an unfinished character, or nothing."""
        return self._decode(len(self._tokens))[len(self._decode(self._read)) :]

    def _decode(self, end: int) -> str:
        return str(
            self._tokenizer.decode(
                self._tokens[self._begin : end], skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )


class StopTexts:
    """Holds text back as long as it may be the beginning of a stop text."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = [text for text in texts if text]
        self._held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """Return what may go out now, and whether a stop text was met (then nothing may follow)."""
        self._held += piece
        found = [at for at in (self._held.find(text) for text in self._texts) if at >= 0]
        if found:
            piece, self._held = self._held[: min(found)], ""
            return piece, True
        keep = max((n for text in self._texts for n in range(1, len(text)) if self._held.endswith(text[:n])), default=0)
        piece, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return piece, False

    def finish(self) -> str:
        """Return what was held back in vain."""
        piece, self._held = self._held, ""
        return piece


class Writing:
    """One text being written.

    Whoever drives it sees to it that the right adapter is active at each ``advance``.

    Raises:
        RequestInvalid: The chat cannot be rendered, the prompt is longer than the model takes, or a number is
            out of range.
    """

    def __init__(self, request: GenerateRequest, base: Base, *, adapter: str | None) -> None:
        if not request.messages or request.max_tokens < 1 or not 0 <= request.temperature < float("inf"):
            raise RequestInvalid("expected at least one message, max_tokens >= 1 and temperature >= 0")
        encoder = Encoder(base.tokenizer, stop_ids=base.stop_ids, max_tokens=base.max_tokens)
        try:
            prompt = encoder.encode_prompt(request.messages)
        except (DataError, KeyError) as error:
            raise RequestInvalid(f"messages: {error}") from error
        room = base.max_tokens - len(prompt)
        if room < 1:
            raise RequestInvalid(
                f"expected a prompt below {base.max_tokens} tokens, got {len(prompt)}: shorten the chat"
            )
        self.request = request
        self._model = base.model
        self._adapter = adapter
        self._stop_ids = base.stop_ids
        self._n_prompt, self._room = len(prompt), min(room, request.max_tokens)
        self._next = torch.tensor([prompt], dtype=torch.int64, device=base.device)  # (1, T), then (1, 1)
        self._cache: object = None
        self._generator = torch.Generator(base.device).manual_seed(request.seed)
        self._stream = TextStream(base.tokenizer, prompt)
        self._stops = StopTexts(request.stop)
        self._text: list[str] = []
        self._n_tokens = 0

    @torch.inference_mode()
    def advance(self) -> list[Speech]:
        """Write one token; the last report of a text is ``Generated``."""
        self._model.eval()
        output = self._model(input_ids=self._next, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._cache = output.past_key_values
        token = self._choose(output.logits[0, -1].float())
        self._n_tokens += 1
        if token in self._stop_ids:
            return self.finish("stop")
        self._next = torch.tensor([[token]], dtype=torch.int64, device=self._next.device)
        piece, met = self._stops.push(self._stream.push(token))
        reports = self._say(piece)
        if met:
            return [*reports, self._generated("stop")]
        if self._n_tokens >= self._room:
            return [*reports, *self.finish("length")]
        return reports

    def finish(self, reason: str) -> list[Speech]:
        """End the text as it stands."""
        piece, met = self._stops.push(self._stream.finish())
        reports = self._say(piece + ("" if met else self._stops.finish()))
        return [*reports, self._generated("stop" if met else reason)]

    def _choose(self, logits: torch.Tensor) -> int:
        if self.request.temperature == 0:
            return int(logits.argmax())
        chances = torch.softmax(logits / self.request.temperature, dim=-1)
        return int(torch.multinomial(chances, 1, generator=self._generator))

    def _say(self, piece: str) -> list[Speech]:
        if not piece:
            return []
        self._text.append(piece)
        return [Piece(self.request.request_id, piece)]

    def _generated(self, reason: str) -> Generated:
        return Generated(
            request_id=self.request.request_id,
            text="".join(self._text),
            n_prompt_tokens=self._n_prompt,
            n_tokens=self._n_tokens,
            finish_reason=reason,
            adapter=self._adapter,
        )


@torch.inference_mode()
def answer_batch(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], *, max_tokens: int, stop_ids: frozenset[int], pad_id: int
) -> list[list[int]]:
    """Return the likeliest answer to each prompt, at most *max_tokens* long and without its stop token.

    The prompts are padded on the left, so that all answers grow at the same place.
    """
    model.eval()
    device = next(model.parameters()).device
    width = max(len(prompt) for prompt in prompts)
    tokens = torch.full((len(prompts), width), pad_id, dtype=torch.int64, device=device)  # (B, T)
    attention = torch.zeros_like(tokens)
    for index, prompt in enumerate(prompts):
        tokens[index, width - len(prompt) :] = torch.tensor(prompt, device=device)
        attention[index, width - len(prompt) :] = 1
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    answers: list[list[int]] = [[] for _ in prompts]
    live, cache = [True] * len(prompts), None
    for _ in range(max_tokens):
        output = model(
            input_ids=tokens, attention_mask=attention, position_ids=positions, past_key_values=cache,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        cache = output.past_key_values
        chosen = output.logits[:, -1].argmax(-1)  # (B,)
        for index, token in enumerate(chosen.tolist()):
            live[index] = live[index] and token not in stop_ids
            if live[index]:
                answers[index].append(token)
        if not any(live):
            break
        tokens, positions = chosen[:, None], positions[:, -1:] + 1
        attention = torch.cat([attention, attention.new_ones((len(prompts), 1))], dim=1)
    return answers
