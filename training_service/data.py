"""Datasets: JSONL rows → token ids and loss mask through the model's chat template.

A row is a chat ``{"messages": […]}``, a pair ``{"prompt": …, "completion": …}`` or plain ``{"text": …}``. Only
what the model must say is trained: the assistant's turns with the token that ends them. Pure but for reading the
file; knows the tokenizer only as the few methods of ``ChatTokenizer``, and loads no torch.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Protocol

from training_service.errors import DataError
from training_service.request import Artifact

MAX_FILE_BYTES = 1024**3
MAX_LINE_BYTES = 4 * 1024**2
MAX_ROWS = 2_000_000
ROLES = ("system", "user", "assistant")


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

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def decode(self, token_ids: list[int]) -> str: ...

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        continue_final_message: bool,
    ) -> object: ...


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file: turns (an assistant's last turn with *trained_from* characters given), or plain text."""

    line: int
    messages: tuple[dict[str, str], ...] = ()
    trained_from: int | None = None  # None: every turn of the assistant is trained, and trained whole
    text: str | None = None


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
    """Two answers to one prompt, of which the first is preferred; each example holds the prompt as well."""

    chosen: Example
    rejected: Example


@dataclass(frozen=True, slots=True)
class Dataset:
    """All examples of one file, in the file's order."""

    examples: tuple[Example, ...]
    sha256: str
    pairs: tuple[Pair, ...] = ()

    @property
    def usable(self) -> tuple[Example, ...]:
        """The examples that train something."""
        return tuple(example for example in self.examples if example.n_trained)


def check_artifact(artifact: Artifact, roots: Sequence[Path]) -> Path:
    """Return the file of a dataset after place, size and hash were compared.

    Raises:
        DataError: It lies under none of *roots* (links followed), is missing, too large or changed.
    """
    given = artifact.path
    try:
        path = given.resolve(strict=True)
        n_bytes = path.stat().st_size
        if not any(path.is_relative_to(root.resolve()) for root in roots):
            under = ", ".join(str(root) for root in roots)
            raise DataError(f"{given}: expected a file under one of: {under}; put the data there")
        if n_bytes > MAX_FILE_BYTES:
            raise DataError(f"{given}: expected at most {MAX_FILE_BYTES} bytes, got {n_bytes}: split the file")
        with path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{given}: expected a readable file, got {error.strerror}") from error
    if digest != artifact.sha256:
        raise DataError(f"{given}: expected sha256 {artifact.sha256}, got {digest}: the file was changed since")
    return path


def read_rows(path: Path) -> Iterator[Row]:
    """Give the rows of a JSONL file; blank lines are passed over.

    Raises:
        DataError: A line is too long, no UTF-8, no JSON or no row; the text names ``file:line``.
    """
    n_rows = 0
    with path.open("rb") as file:
        for number in range(1, 1 << 62):
            line = file.readline(MAX_LINE_BYTES + 1)
            if not line:
                break
            where = f"{path}:{number}"
            if len(line) > MAX_LINE_BYTES:
                raise DataError(f"{where}: expected at most {MAX_LINE_BYTES} bytes in a line; split the row")
            if line.strip():
                n_rows += 1
                if n_rows > MAX_ROWS:
                    raise DataError(f"{where}: expected at most {MAX_ROWS} rows; split the file")
                yield _parse_row(line, number, where)
    if not n_rows:
        raise DataError(f"{path}: expected at least one row, got an empty file")


def _parse_row(line: bytes, number: int, where: str) -> Row:
    try:
        data = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: expected UTF-8, got byte {line[error.start]:#04x} at {error.start}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where}: expected a JSON object in one line, got: {error}") from error
    if not isinstance(data, dict):
        raise DataError(f"{where}: expected a JSON object, got {type(data).__name__}")
    if "messages" in data:
        return Row(number, messages=_turns(data["messages"], f"{where}: messages"))
    if "prompt" in data and "completion" in data:
        return _pair(data["prompt"], data["completion"], number, where)
    if isinstance(data.get("text"), str):
        return Row(number, text=data["text"])
    got = ", ".join(sorted(map(repr, data))) or "none"
    raise DataError(f"{where}: expected the keys 'messages', or 'prompt' and 'completion', or 'text', got {got}")


def _turns(value: object, where: str) -> tuple[dict[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: expected a list of turns, got {_short(value)}")
    turns = []
    for index, turn in enumerate(value):
        if not isinstance(turn, dict):
            raise DataError(f"{where}[{index}]: expected an object, got {_short(turn)}")
        role, content = turn.get("role"), turn.get("content")
        if role not in ROLES:
            raise DataError(f"{where}[{index}].role: expected one of {', '.join(ROLES)}, got {_short(role)}")
        if not isinstance(content, str):
            raise DataError(f"{where}[{index}].content: expected text, got {_short(content)}")
        turns.append({"role": role, "content": content})
    return tuple(turns)


def _pair(prompt: object, completion: object, number: int, where: str) -> Row:
    if not isinstance(completion, str):
        raise DataError(f"{where}: completion: expected text, got {_short(completion)}")
    if isinstance(prompt, str):
        turns: tuple[dict[str, str], ...] = ({"role": "user", "content": prompt},)
    else:
        turns = _turns(prompt, f"{where}: prompt")
    if turns[-1]["role"] != "assistant":
        return Row(number, messages=(*turns, {"role": "assistant", "content": completion}), trained_from=0)
    begun = turns[-1]["content"]  # the completion goes on with a turn that has begun
    whole = {"role": "assistant", "content": begun + completion}
    return Row(number, messages=(*turns[:-1], whole), trained_from=len(begun))


class Encoder:
    """Turns rows into examples with one tokenizer.

    Args:
        tokenizer: The base model's own.
        stop_ids: Tokens that end a turn, e.g. those of the generation config.
        max_tokens: Longer rows are cut there.
    """

    def __init__(self, tokenizer: ChatTokenizer, *, stop_ids: frozenset[int], max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = stop_ids
        self._max_tokens = max_tokens

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the text after which the model writes: answers the last turn, or goes on with the assistant's.

        Raises:
            DataError: The tokenizer has no chat template, or the template refuses these turns.
        """
        goes_on = messages[-1]["role"] == "assistant"
        return self._apply(messages, prompt=not goes_on, goes_on=goes_on)

    def encode_prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the tokens of ``render``."""
        return self._encode(self.render(messages))

    def encode_row(self, row: Row, path: Path) -> Example:
        """Return *row* as the model reads it.

        Raises:
            DataError: The template refuses the turns, or a turn changes how the turns before it are rendered.
        """
        where = f"{path}:{row.line}"
        if row.text is not None:
            return self._cut(self._encode_text(row.text), None)
        try:
            whole = self._apply(row.messages, prompt=False, goes_on=False)
            tokens = self._encode(whole)
            trained = [False] * len(tokens)
            for index, message in enumerate(row.messages):
                if message["role"] != "assistant":
                    continue
                if row.trained_from is not None and index < len(row.messages) - 1:
                    continue
                begin, end = self._span(row, index, tokens)
                trained[begin:end] = [True] * (end - begin)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        return self._cut(tokens, trained)

    def _span(self, row: Row, index: int, tokens: list[int]) -> tuple[int, int]:
        """Return from where to where the turn at *index* is trained, its stop token included."""
        before, turn = row.messages[:index], row.messages[index]
        given = row.trained_from or 0
        if given:
            prompt = self._apply((*before, {**turn, "content": turn["content"][:given]}), prompt=False, goes_on=True)
        else:
            prompt = self._apply(before, prompt=True, goes_on=False)
        prompt_tokens = self._encode(prompt)
        until = self._encode(self._apply((*before, turn), prompt=False, goes_on=False))
        if tokens[: len(prompt_tokens)] != prompt_tokens or tokens[: len(until)] != until:
            raise DataError(
                f"messages[{index}]: expected what stands before a turn to stay as it is when the turn is "
                "added, got other tokens: this chat template or row would train what is never asked; split the row"
            )
        stops = [at for at in range(len(prompt_tokens), len(until)) if tokens[at] in self._stop_ids]
        return len(prompt_tokens), stops[-1] + 1 if stops else len(until)

    def _encode_text(self, text: str) -> list[int]:
        tokens = self._encode(text)
        begin, end = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        if begin is not None and tokens[:1] != [begin]:
            tokens = [begin, *tokens]
        return tokens if end is None else [*tokens, end]

    def _cut(self, tokens: list[int], trained: list[bool] | None) -> Example:
        flags = [True] * len(tokens) if trained is None else trained
        flags = [False, *flags[1:]]
        limit = self._max_tokens
        return Example(tuple(tokens[:limit]), tuple(flags[:limit]), truncated=len(tokens) > limit)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _apply(self, messages: Sequence[Mapping[str, str]], *, prompt: bool, goes_on: bool) -> str:
        if not self._tokenizer.chat_template:
            raise DataError("expected a base model with a chat template, got none: train on 'text' rows, or add one")
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=prompt,
                continue_final_message=goes_on,
            )
        except Exception as error:  # templates are programs of their own: jinja raises what it likes
            raise DataError(f"the chat template refuses these turns: {error}") from error
        return str(text)


def load_dataset(path: Path, encoder: Encoder) -> Dataset:
    """Return every row of *path* encoded.

    Raises:
        DataError: See ``read_rows`` and ``Encoder.encode_row``; also where no row trains anything.
    """
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    dataset = Dataset(tuple(encoder.encode_row(row, path) for row in read_rows(path)), digest)
    if not dataset.usable:
        raise DataError(f"{path}: expected at least one token to train, got none: every row is masked or cut away")
    return dataset


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
