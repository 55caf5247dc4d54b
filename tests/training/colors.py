"""Toy data that the training tests share: things and their colors."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from uuid import UUID

import torch

from training_service.data import Example, Pair
from training_service.model import Base
from training_service.request import TrainingRequest

CPU = torch.device("cpu")
COLORS = {"apple": "red", "grass": "green", "sky": "blue", "snow": "white"}
SPACE = UUID("5b0c1f0e-4b7c-4a55-9d0f-0f6f3a6a3a11")

NewRequest = Callable[..., TrainingRequest]


def color_rows(n_rows: int = 24, seed: int = 0) -> list[dict[str, object]]:
    source = random.Random(seed)
    rows: list[dict[str, object]] = []
    for index in range(n_rows):
        thing = source.choice(sorted(COLORS))
        question = f"What color has the {thing}?" + " Please." * (index % 3)
        answer = COLORS[thing] + (" indeed" if index % 3 == 0 else "")
        rows.append({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
    return rows


def color_pairs(base: Base, n_pairs: int = 8) -> list[Pair]:
    """Return the right color preferred to a wrong one; everything behind the prompt is trained."""
    source, pairs = random.Random(0), []
    for _ in range(n_pairs):
        thing = source.choice(sorted(COLORS))
        wrong = source.choice([color for color in COLORS.values() if color != COLORS[thing]])
        prompt = base.tokenizer.encode(f"What color has the {thing}?", add_special_tokens=False)
        answers = (COLORS[thing], wrong + " indeed")
        ends = [base.tokenizer.encode(f" {answer}", add_special_tokens=False) for answer in answers]
        pairs.append(Pair(*(Example((*prompt, *end), (False,) * len(prompt) + (True,) * len(end)) for end in ends)))
    return pairs


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
