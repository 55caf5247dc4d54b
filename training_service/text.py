"""One text being written: what it has read, how it chooses, what it has said. Knows no model and no other text.

The chat template is always the tokenizer's. Pieces are cut so that joined they are the whole text, whatever
bytes or marks the tokens hold.
"""

from collections import deque
from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from training_service.choice import Choice, Chosen
from training_service.data import Encoder
from training_service.errors import DataError, RequestInvalid
from training_service.event import Alternative, Generated, GenerateRequest, Piece, Speech, TokenLogprob
from training_service.model import Base

UNFINISHED = "\ufffd"
"""What a decoder gives for the first bytes of a character whose last bytes are in the next token."""

CONTEXT = 8
"""Tokens of the prompt that are decoded along, so that a space at the start of the text is kept."""

MOST_TOP = 20
"""Alternatives that may be asked for with each token."""


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


class TokenTexts:
    """Says what single tokens are as text, special ones included."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        # Some decoders drop the space before the first token: none of ours is the first.
        self._before = tokenizer.encode("a", add_special_tokens=False)[-1:]
        self._n_before = len(self._decode(self._before))

    def text(self, token: int) -> str:
        """Return *token* as text; of a part of a character ``UNFINISHED``."""
        return self._decode([*self._before, token])[self._n_before :]

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))


class Text:
    """One text being written.

    Args:
        request: The order.
        base: Whose template, tokenizer and limits hold.
        adapter: The label that ``Generated`` names.

    Attributes:
        unread: Tokens that the model has not read yet; at first the prompt.

    Raises:
        RequestInvalid: The chat cannot be rendered, the prompt is longer than the model takes, or a number is
            out of range.
    """

    def __init__(self, request: GenerateRequest, base: Base, *, adapter: str | None) -> None:
        _check_numbers(request)
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
        self.request_id = request.request_id
        self.unread = list(prompt)
        self._prompt, self._written = prompt, list[int]()
        self._adapter = adapter
        self._stop_ids = base.stop_ids
        self._n_tokens, self._room = 0, min(room, request.max_tokens)
        self._choice = Choice(
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            n_top=request.logprobs,
            device=base.device,
        )
        self._stream = TextStream(base.tokenizer, prompt)
        self._stops = StopTexts(request.stop)
        self._texts = TokenTexts(base.tokenizer)
        self._said: list[str] = []
        self._n_decoded = self._n_said = 0  # characters
        self._untold: deque[tuple[int, TokenLogprob]] = deque()  # with the place of the token's first character

    def take(self, logits: torch.Tensor) -> list[Speech]:
        """Write one token; the last report of a text is ``Generated``.

        Args:
            logits: (V,): what the model says after everything that was unread.
        """
        chosen = self._choice.take(logits)
        self._n_tokens += 1
        if chosen.token in self._stop_ids:
            return self.finish("stop")
        self._written.append(chosen.token)
        self.unread = [chosen.token]
        self._note(chosen)
        decoded = self._stream.push(chosen.token)
        self._n_decoded += len(decoded)
        piece, met = self._stops.push(decoded)
        reports = self._say(piece)
        if met:
            return [*reports, self._end("stop", is_cut=True)]
        if self._n_tokens >= self._room:
            return [*reports, *self.finish("length")]
        return reports

    def finish(self, reason: str) -> list[Speech]:
        """End the text as it stands."""
        piece, met = self._stops.push(self._stream.finish())
        reports = self._say(piece + ("" if met else self._stops.finish()))
        return [*reports, self._end("stop" if met else reason, is_cut=met)]

    def read_again(self) -> None:
        """Let the model read everything once more: what it remembered is lost. The text goes on where it is."""
        self.unread = [*self._prompt, *self._written]

    def _note(self, chosen: Chosen) -> None:
        if chosen.logprob is None:
            return
        top = tuple(Alternative(self._texts.text(token), logprob) for token, logprob in chosen.top)
        entry = TokenLogprob(self._texts.text(chosen.token), chosen.logprob, top)
        self._untold.append((self._n_decoded, entry))

    def _say(self, piece: str) -> list[Speech]:
        if not piece:
            return []
        self._said.append(piece)
        self._n_said += len(piece)
        told = []
        while self._untold and self._untold[0][0] < self._n_said:
            told.append(self._untold.popleft()[1])
        return [Piece(self.request_id, piece, tuple(told))]

    def _end(self, reason: str, *, is_cut: bool) -> Generated:
        """Return the last report; of a text that a stop text has cut, what lies behind the cut is not told."""
        return Generated(
            request_id=self.request_id,
            text="".join(self._said),
            n_prompt_tokens=len(self._prompt),
            n_tokens=self._n_tokens,
            finish_reason=reason,
            adapter=self._adapter,
            logprobs=() if is_cut else tuple(entry for _, entry in self._untold),
        )


def _check_numbers(request: GenerateRequest) -> None:
    if not request.messages or request.max_tokens < 1 or not 0 <= request.temperature < float("inf"):
        raise RequestInvalid("expected at least one message, max_tokens >= 1 and temperature >= 0")
    if not 0 <= request.top_p <= 1:
        raise RequestInvalid(f"top_p: expected a number from 0 to 1, got {request.top_p}")
    if request.logprobs is not None and not 0 <= request.logprobs <= MOST_TOP:
        raise RequestInvalid(f"logprobs: expected 0 to {MOST_TOP} alternatives, got {request.logprobs}")
