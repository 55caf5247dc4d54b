"""Held-out rows: the loss on them, and how often the model's own answer is the expected one."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from training_service.batch import micro_batches, n_computed
from training_service.data import Dataset, Example
from training_service.loss import collate, loss_sum
from training_service.model import Base

BATCH_ROWS, BATCH_TOKENS = 32, 4096
"""Most rows and most padded tokens that are scored at a time: evaluation is not to decide a run's memory."""


@dataclass(slots=True)
class Tally:
    """What has been found so far."""

    loss_sum: float = 0.0
    n_targets: int = 0
    n_answered: int = 0
    n_right: int = 0

    @property
    def loss(self) -> float:
        """Mean cross entropy over all trained tokens."""
        return self.loss_sum / max(1, self.n_targets)

    def metrics(self) -> dict[str, float]:
        """Return what ``Evaluated`` carries; ``exact_match`` is left out where no row asks for an answer."""
        if not self.n_answered:
            return {}
        return {"exact_match": self.n_right / self.n_answered, "rows": float(self.n_answered)}


def score_rows(model: PreTrainedModel, base: Base, dataset: Dataset, tally: Tally) -> Iterator[None]:
    """Add every usable row of *dataset* to *tally*; stops after each batch, so that others get their turn.

    An answer is right when its text is the expected one, apart from blanks around it. Whoever shares the model
    sees to it that the right adapter is active at each ``next``.
    """
    for part in parts_of(dataset):
        _add_loss(model, base, part, tally)
        _add_answers(model, base, part, tally)
        yield


def parts_of(dataset: Dataset) -> Iterator[Sequence[Example]]:
    """Give the usable rows of *dataset* in the batches in which they are scored, short rows first."""
    return micro_batches(sorted(dataset.usable, key=lambda row: len(row.tokens)), BATCH_ROWS, BATCH_TOKENS)


def _add_loss(model: PreTrainedModel, base: Base, part: Sequence[Example], tally: Tally) -> None:
    model.eval()
    with torch.no_grad():
        batch = collate(part, pad_id=base.pad_id, device=base.device)
        tally.loss_sum += loss_sum(model, batch).item()
    tally.n_targets += sum(row.n_trained for row in part)


def _add_answers(model: PreTrainedModel, base: Base, part: Sequence[Example], tally: Tally) -> int:
    """Let the model answer, and return how many tokens the longest answer took, its stop token counted."""
    asked = [cut for cut in (last_answer(row) for row in part) if cut is not None]
    if not asked:
        return 0
    most = max(len(expected) for _, expected in asked) + 1
    answers = answer_batch(
        model, [prompt for prompt, _ in asked], max_tokens=most, stop_ids=base.stop_ids, pad_id=base.pad_id
    )
    tally.n_answered += len(asked)
    for (_, expected), answer in zip(asked, answers, strict=True):
        tally.n_right += _text(base, expected) == _text(base, answer)
    return min(most, max(map(len, answers)) + 1)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast held-out rows are scored: seconds for each token that is read, and for each that all answers grow by."""

    read: float
    write: float

    def seconds(self, dataset: Dataset) -> float:
        """Return how long all of *dataset* will take: every row is read for its loss, and again to be answered."""
        total = 0.0
        for part in parts_of(dataset):
            most = max((len(cut[1]) for cut in map(last_answer, part) if cut is not None), default=None)
            total += self.read * n_computed(part) * (1 if most is None else 2)
            total += self.write * (most or 0)
        return total


def rehearse_part(model: PreTrainedModel, base: Base, part: Sequence[Example]) -> Pace:
    """Score one batch of ``parts_of`` with what is active and return how fast it went."""
    tally, n_read = Tally(), n_computed(part)
    began_at = time.perf_counter()
    _add_loss(model, base, part, tally)
    read_at = time.perf_counter()
    n_written = _add_answers(model, base, part, tally)
    read, answered = read_at - began_at, time.perf_counter() - read_at
    write = max(0.0, answered - read) / (n_written - 1) if n_written > 1 else 0.0
    return Pace(read / n_read, write)


def last_answer(row: Example) -> tuple[Sequence[int], Sequence[int]] | None:
    """Return the prompt and the expected tokens of the row's last answer; None where all of it is trained."""
    end = max(at for at, trained in enumerate(row.trained) if trained) + 1
    begin = end
    while begin > 0 and row.trained[begin - 1]:
        begin -= 1
    return (row.tokens[:begin], row.tokens[begin:end]) if begin > 1 else None


def _text(base: Base, tokens: Sequence[int]) -> str:
    return str(base.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()


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
