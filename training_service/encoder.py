"""Rows → token ids and loss mask, through the model's own chat template.

Only what the model must say is trained: the assistant's turns with the token that ends them. Knows the tokenizer
only as the few methods of ``ChatTokenizer``, and loads no torch.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol, TypeAlias

from training_service.errors import DataError
from training_service.row import Row, Tool, Turn, with_text_arguments

CHUNK_ROWS, CHUNK_CHARACTERS = 256, 2_000_000
"""What goes through the tokenizer together, as it works in parallel; whichever is reached first."""

LONG_CHARACTERS = 65_536
"""A chat longer than this, and than 16 characters a token that is kept, is read turn by turn up to the cut."""

MAX_SHOWN = 300
"""Characters of what a template says when it refuses."""

MARKS_ANSWERS = re.compile(r"\{%-?\s*generation\s*-?%\}")

THOUGHT_ENDS = "</think>"
"""What templates cut reasoning off at; it may be left out of turns that others follow."""

TrainOn: TypeAlias = Literal["assistant", "all"]


class ChatTokenizer(Protocol):
    """What is used of a tokenizer."""

    @property
    def chat_template(self) -> object: ...

    @property
    def pad_token_id(self) -> int | None: ...

    @property
    def bos_token_id(self) -> int | None: ...

    @property
    def eos_token_id(self) -> int | None: ...

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> Mapping[str, list[list[int]]]: ...

    def decode(self, token_ids: list[int]) -> str: ...

    def apply_chat_template(
        self,
        conversation: list[Turn],
        *,
        tools: list[Tool] | None,
        tokenize: bool,
        add_generation_prompt: bool,
        continue_final_message: bool,
        return_assistant_tokens_mask: bool = False,
    ) -> object: ...


@dataclass(frozen=True, slots=True)
class Example:
    """One row for the model. ``trained[i]`` says that token i is a target; the first never is."""

    tokens: tuple[int, ...]
    trained: tuple[bool, ...]
    truncated: bool = False

    @property
    def n_trained(self) -> int:
        """How many tokens give loss."""
        return sum(self.trained)


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference for the model: the same prompt with the better and with the worse answer."""

    chosen: Example
    rejected: Example

    @property
    def teaches(self) -> bool:
        """Whether there are two answers to tell apart."""
        both = self.chosen.n_trained and self.rejected.n_trained
        return bool(both) and self.chosen.tokens != self.rejected.tokens


@dataclass(frozen=True, slots=True)
class _Draft:
    """A row on its way through the tokenizer, with all its texts.

    ``texts[0]`` is the whole; ``cuts`` name for each trained turn the text after which it is asked for and the
    text that ends with it. Of plain text, ``texts`` are what is given and what is learned.
    """

    row: Row
    where: str
    texts: list[str]
    cuts: list[tuple[int, int, int]]  # turn, place of what asks for it, of what ends with it
    is_long: bool = False  # its turns are looked at one after another, as most are cut away


class Encoder:
    """Turns rows into examples with one tokenizer.

    Args:
        tokenizer: The base model's own.
        stop_ids: Tokens that end a turn, e.g. those of the generation config.
        max_tokens: Longer rows are cut there.
        train_on: Whether the assistant's turns alone or all tokens give loss.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        *,
        stop_ids: frozenset[int],
        max_tokens: int,
        train_on: TrainOn = "assistant",
    ) -> None:
        self.max_tokens = max_tokens
        self.train_on = train_on
        self._tokenizer = tokenizer
        self._stop_ids = stop_ids
        self._reach = max_tokens  # turns that begin later are not looked at

    def uncut(self, reach: int) -> "Encoder":
        """Return the same encoder without a limit; of a long row, only turns within *reach* tokens are trained."""
        other = copy(self)
        other.max_tokens, other._reach = sys.maxsize, reach
        return other

    def render(self, messages: Sequence[Mapping[str, object]], tools: Sequence[Tool] = ()) -> str:
        """Return the text after which the model writes: answers the last turn, or goes on with the assistant's.

        Raises:
            DataError: The tokenizer has no chat template, or the template refuses these turns.
        """
        goes_on = messages[-1]["role"] == "assistant"
        return self._apply(messages, tools, prompt=not goes_on, goes_on=goes_on)

    def encode_prompt(self, messages: Sequence[Mapping[str, object]], tools: Sequence[Tool] = ()) -> list[int]:
        """Return the tokens of ``render``."""
        return self.tokens_of([self.render(messages, tools)])[0]

    def tokens_of(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each of *texts*, without any that a tokenizer adds around them."""
        return self._tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []

    def takes_system_turns(self) -> bool:
        """Return whether the chat template shows what a system turn says; some refuse it, some drop it."""
        sign = "who speaks here"
        turns: list[Turn] = [{"role": "system", "content": sign}, {"role": "user", "content": "?"}]
        try:
            return sign in self._apply(turns, (), prompt=True, goes_on=False)
        except DataError:
            return False

    def encode_row(self, row: Row, path: object) -> Example:
        """Return *row* as the model reads it; of a preference the chosen answer.

        Args:
            row: See there.
            path: Names the file in errors.

        Raises:
            DataError: The template refuses the turns, or a turn changes how the turns before it are rendered.
        """
        return next(self.encode_rows([row], path))

    def encode_rows(self, rows: Iterable[Row], path: object) -> Iterator[Example]:
        """Give every one of *rows* as ``encode_row`` does, many at a time."""
        drafts: list[_Draft] = []
        n_characters = 0
        for row in rows:
            drafts.append(self._draft(row, f"{path}:{row.line}"))
            n_characters += sum(map(len, drafts[-1].texts))
            if len(drafts) >= CHUNK_ROWS or n_characters >= CHUNK_CHARACTERS:
                yield from self._examples(drafts)
                drafts, n_characters = [], 0
        yield from self._examples(drafts)

    def _draft(self, row: Row, where: str) -> _Draft:
        if row.text is not None:
            return _Draft(row, where, [row.text[: row.begun], row.text[row.begun :]], [])
        try:
            texts = [self._apply(row.messages, row.tools, prompt=False, goes_on=False)]
            self._check_shown(row, texts[0])
            if len(texts[0]) > max(LONG_CHARACTERS, 16 * self._reach):
                return _Draft(row, where, texts, [], is_long=True)
            cuts = []
            for index in row.trained if self.train_on == "assistant" else ():
                cuts.append((index, len(texts), 0 if _is_last(row, index) else len(texts) + 1))
                texts.append(self._asked_by(row, index))
                if not _is_last(row, index):
                    texts.append(self._ended_by(row, index))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        return _Draft(row, where, texts, cuts)

    def _examples(self, drafts: Sequence[_Draft]) -> Iterator[Example]:
        tokens = iter(self.tokens_of([text for draft in drafts for text in draft.texts]))
        for draft in drafts:
            texts = list(islice(tokens, len(draft.texts)))
            if draft.row.text is not None:
                yield self._cut(*self._framed(*texts))
            elif self.train_on == "all":
                yield self._cut(texts[0], [True] * len(texts[0]))
            else:
                cuts = (
                    self._late_cuts(draft.row, texts[0])
                    if draft.is_long
                    else ((index, texts[prompt], texts[until]) for index, prompt, until in draft.cuts)
                )
                try:
                    yield self._cut(texts[0], self._learned(draft.row, texts[0], cuts))
                except DataError as error:
                    raise DataError(f"{draft.where}: {error}") from error

    def _late_cuts(self, row: Row, tokens: list[int]) -> Iterator[tuple[int, list[int], list[int]]]:
        """Give the cuts of a long row, up to where it will be cut away."""
        for index in row.trained:
            asked = self.tokens_of([self._asked_by(row, index)])[0]
            if len(asked) >= self._reach:
                return
            yield index, asked, tokens if _is_last(row, index) else self.tokens_of([self._ended_by(row, index)])[0]

    def _asked_by(self, row: Row, index: int) -> str:
        """Return the text after which the model says the turn at *index*, or the rest of it."""
        before, turn = row.messages[:index], row.messages[index]
        if not row.begun or index != row.trained[0]:
            return self._apply(before, row.tools, prompt=True, goes_on=False)
        begun: Turn = {**turn, "content": str(turn["content"])[: row.begun]}
        return self._apply((*before, begun), row.tools, prompt=False, goes_on=True)

    def _ended_by(self, row: Row, index: int) -> str:
        """Return the text that ends with the turn at *index*."""
        return self._apply(row.messages[: index + 1], row.tools, prompt=False, goes_on=False)

    @staticmethod
    def _check_shown(row: Row, whole: str) -> None:
        """See that the template shows what is said and called: one that drops it would train empty turns."""
        for name in row.tool_names:
            if name not in whole:
                raise DataError(
                    f"expected a chat template that shows tools and their calls, got one that leaves out {name!r}: "
                    "take a base made for tools, or write the calls as text"
                )
        for index in row.trained:
            said = str(row.messages[index].get("content", "")).rpartition(THOUGHT_ENDS)[2].strip()
            if said not in whole:
                raise DataError(
                    f"messages[{index}]: expected a chat template that shows what the assistant says, got one that "
                    "leaves it out: take a base made for text"
                )

    def _learned(self, row: Row, tokens: list[int], cuts: Iterable[tuple[int, list[int], list[int]]]) -> list[bool]:
        """Return which of a chat's *tokens* are targets.

        Args:
            row: The chat.
            tokens: Of the whole.
            cuts: For each trained turn its index, the tokens that ask for it, and those up to its end.

        Raises:
            DataError: What asks for a turn does not stand before it in the whole.
        """
        learned = [False] * len(tokens)
        for index, asked, until in cuts:
            begin, end = len(asked), len(until)
            if tokens[:begin] != asked:
                raise _moved(index)
            if tokens[:end] == until:
                stops = [at for at in range(begin, end) if tokens[at] in self._stop_ids]
                end = stops[-1] + 1 if stops else end
            else:
                begin, end = self._marked(row, tokens, index, begin)
            learned[begin:end] = [True] * (end - begin)
        return learned

    def _marked(self, row: Row, tokens: list[int], index: int, begin: int) -> tuple[int, int]:
        """Return from where to where the template itself marks the turn that begins at *begin* as the assistant's.

        Used where a template rewrites a turn once others follow, e.g. drops its reasoning. What stands before the
        turn is known to be what it is asked by; the marks say where the rewritten turn ends.

        Raises:
            DataError: The template marks nothing, or a later turn of which nothing is to be learned.
        """
        later = {at for at, turn in enumerate(row.messages) if at > index and turn["role"] == "assistant"}
        if not MARKS_ANSWERS.search(str(self._tokenizer.chat_template)) or not later <= set(row.trained):
            raise _moved(index)
        try:
            marked = self._tokenizer.apply_chat_template(
                [dict(turn) for turn in row.messages],
                tools=list(row.tools) or None,
                tokenize=True,
                add_generation_prompt=False,
                continue_final_message=False,
                return_assistant_tokens_mask=True,
            )
        except Exception as error:  # as in _apply; a slow tokenizer cannot tell where its tokens stand
            raise _moved(index) from error
        assert isinstance(marked, Mapping)
        if list(marked["input_ids"]) != tokens:
            raise _moved(index)
        marks = [*marked["assistant_masks"], 0]
        first = next((at for at in range(begin, len(tokens)) if marks[at]), len(tokens))
        return first, next(at for at in range(first, len(marks)) if not marks[at])

    def _framed(self, given: list[int], text: list[int]) -> tuple[list[int], list[bool]]:
        begin, end = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        head = [] if begin is None or (given or text)[:1] == [begin] else [begin]
        tail = [] if end is None else [end]
        untrained = len(head) + len(given)
        tokens = [*head, *given, *text, *tail]
        return tokens, [at >= untrained for at in range(len(tokens))]

    def _cut(self, tokens: list[int], trained: list[bool]) -> Example:
        limit = self.max_tokens
        flags = (False, *trained[1:limit]) if trained else ()
        return Example(tuple(tokens[:limit]), flags, truncated=len(tokens) > limit)

    def _apply(
        self, messages: Sequence[Mapping[str, object]], tools: Sequence[Tool], *, prompt: bool, goes_on: bool
    ) -> str:
        """Return the turns as text; tool calls with JSON text as arguments where a template takes no objects."""
        if not self._tokenizer.chat_template:
            raise DataError("expected a base model with a chat template, got none: train on 'text' rows, or add one")
        try:
            return self._rendered(messages, tools, prompt=prompt, goes_on=goes_on)
        except Exception as error:  # templates are programs of their own: jinja raises what it likes
            if any("tool_calls" in message for message in messages):
                with suppress(Exception):
                    return self._rendered(with_text_arguments(messages), tools, prompt=prompt, goes_on=goes_on)
            raise DataError(f"the chat template refuses these turns: {str(error)[:MAX_SHOWN]}") from error

    def _rendered(
        self, messages: Sequence[Mapping[str, object]], tools: Sequence[Tool], *, prompt: bool, goes_on: bool
    ) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=list(tools) or None,
                tokenize=False,
                add_generation_prompt=prompt,
                continue_final_message=goes_on,
            )
        )


def _is_last(row: Row, index: int) -> bool:
    return index == len(row.messages) - 1


def _moved(index: int) -> DataError:
    return DataError(
        f"messages[{index}]: expected what stands before a turn to stay as it is when the turn is "
        "added, got other tokens: this chat template or row would train what is never asked; split the row "
        "into one for each answer"
    )
