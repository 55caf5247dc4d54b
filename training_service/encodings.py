"""Datasets that were read and encoded lately, so that a run begins with the rows of its quote. Loads no torch."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

from training_service.data import Dataset

MOST_KEPT, MOST_TOKENS = 8, 2_000_000
"""Groups of datasets, and tokens of all of them: a token takes 40 to 50 bytes here."""


class Encodings:
    """The newest datasets, each under what decides its examples; whoever asks says what that is.

    Only what a file *was* is kept: its hash belongs into the key, and is compared with the file before.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, tuple[Dataset, ...]] = OrderedDict()  # most recently used last

    def get(self, key: Hashable, make: Callable[[], tuple[Dataset, ...]]) -> tuple[Dataset, ...]:
        """Return what is kept under *key*, else what *make* gives; that is kept if it is not too large.

        Raises:
            DataError: From *make*; nothing is kept.
        """
        found = self._kept.pop(key, None)
        if found is None:
            found = make()
        self._kept[key] = found
        while len(self._kept) > MOST_KEPT or sum(map(_n_tokens, self._kept.values())) > MOST_TOKENS:
            self._kept.popitem(last=False)
        return found

    def __contains__(self, key: Hashable) -> bool:
        """Whether something is kept under *key*."""
        return key in self._kept


def _n_tokens(datasets: tuple[Dataset, ...]) -> int:
    return sum(len(one.tokens) for dataset in datasets for one in (*dataset.examples, *dataset.rejected))
