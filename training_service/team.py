"""With whom a run takes its steps: alone, or as one of several ranks.

A *rank* is one process of a run over several; the ranks of a run are its *team* and number from 0. Rank 0 leads: it
reports, writes and decides what comes next. The loop (``steps``) knows its team through what stands here; ``group``
is the team that computes over ``torch.distributed``. Knows nothing of processes or networks.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeAlias, TypeVar

import torch
from transformers import PreTrainedModel

from training_service.model import Base
from training_service.request import Artifact

Row = TypeVar("Row")
Cut: TypeAlias = Callable[[Sequence[Row]], Iterable[Sequence[Row]]]
"""Cuts rows into the parts of single forward passes."""


class Team(Protocol):
    """What the steps of a run ask of those who take them together."""

    @property
    def rank(self) -> int:
        """Which of the team this process is."""

    @property
    def size(self) -> int:
        """How many ranks there are."""

    def spread(
        self, base: Base, parameters: Mapping[str, torch.nn.Parameter]
    ) -> tuple[PreTrainedModel, Mapping[str, torch.nn.Parameter]]:
        """Return the model that the steps compute with, and those of its parameters that are trained.

        Where they are not *base*'s own, *base* holds its weights within ``whole_model`` only.
        """

    def compute(
        self, model: PreTrainedModel, function: Callable[..., torch.Tensor], *arguments: object, **named: object
    ) -> torch.Tensor:
        """Return ``function(model, …)``, whose gradient is summed over all ranks."""

    def begin(self) -> None:
        """Give the others the cue for the next step."""

    def shares(self, rows: Sequence[Row], cut: Cut[Row]) -> Iterator[tuple[Sequence[Row], float]]:
        """Give this rank's parts of *rows*, each with the weight of its loss.

        Every rank gets equally many, the last ones maybe with weight 0: forward and backward passes happen together.
        """

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of every rank's *value*; every rank asks at the same time."""

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return all of a tensor of which each rank holds a share; every rank asks at the same time."""

    def gather(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return all of the tensor called *name* in the state of the steps; rank 0 alone asks, the others follow."""

    def place(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return this rank's share of *whole*, laid out as *like*; maybe *whole* itself."""

    def everyones(self, randomness: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the random state of all ranks under ``random_name``; rank 0 alone asks."""

    def recall(self, checkpoint: Artifact) -> None:
        """Let the others go back to *checkpoint*, as this rank is about to; rank 0 alone asks."""

    def peak(self, measure: Callable[[], int]) -> int:
        """Return the sum of what *measure* gives in every rank; rank 0 alone asks."""

    def whole_model(self, base: Base) -> AbstractContextManager[object]:
        """Let ``base.model`` hold the present weights within the block; rank 0 alone asks."""


class Alone:
    """A team of one."""

    rank, size = 0, 1

    def spread(
        self, base: Base, parameters: Mapping[str, torch.nn.Parameter]
    ) -> tuple[PreTrainedModel, Mapping[str, torch.nn.Parameter]]:
        """Return the model of *base* and *parameters*."""
        return base.model, parameters

    def compute(
        self, model: PreTrainedModel, function: Callable[..., torch.Tensor], *arguments: object, **named: object
    ) -> torch.Tensor:
        """Return ``function(model, …)``."""
        return function(model, *arguments, **named)

    def begin(self) -> None:
        """There is nobody to give a cue."""

    def shares(self, rows: Sequence[Row], cut: Cut[Row]) -> Iterator[tuple[Sequence[Row], float]]:
        """Give every part."""
        for part in cut(rows):
            yield part, 1.0

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """Return *value*."""
        return value

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return *tensor*."""
        return tensor

    def gather(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return *tensor*."""
        return tensor

    def place(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return *whole*."""
        return whole

    def everyones(self, randomness: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return this process's random state."""
        return {random_name(kind, 0): state for kind, state in randomness.items()}

    def recall(self, checkpoint: Artifact) -> None:
        """There is nobody else."""

    def peak(self, measure: Callable[[], int]) -> int:
        """Return what *measure* gives."""
        return measure()

    def whole_model(self, base: Base) -> AbstractContextManager[object]:
        """Do nothing: the weights are whole."""
        return nullcontext()


ALONE = Alone()


def random_name(kind: str, rank: int) -> str:
    """Return the name of a random state in a checkpoint: ``random/cpu``, and ``random/cpu.1`` of rank 1."""
    return f"random/{kind}" if rank == 0 else f"random/{kind}.{rank}"
