"""Endless batches by number: batch b is a function of b alone, so that training goes on anywhere exactly.

Training asks for batches ``start, start + stride, ...``; with several processes each takes every so-many-th, and with
gradient accumulation one step takes several in a row. So W processes see in one step the batches that one
process with accumulation W sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import count
from typing import Any, Protocol

import numpy as np
from torch.utils.data import DataLoader, Dataset

from qdbev.engine.randomness import seed_everything


class Batches(Protocol):
    """Batches by number."""

    def __call__(self, start: int, *, stride: int) -> Iterable[Any]:
        """Give the batches number ``start``, ``start + stride``, ... without end."""
        ...


def numbered(make: Callable[[int], Any]) -> Batches:
    """Make batches of a function of the batch number.

    >>> from itertools import islice
    >>> list(islice(numbered(lambda number: number * 10)(3, stride=2), 3))
    [30, 50, 70]
    """

    def batches(start: int, *, stride: int) -> Iterator[Any]:
        return (make(number) for number in count(start, stride))

    return batches


class ShuffledBatches:
    """Batches over a data set, reshuffled every epoch; each sample comes once an epoch, batches run across epochs.

    Before an item is read, Python's, numpy's and torch's global generators are seeded from the seed and the item's
    position in the endless sequence, so random augmentation does not depend on the number of workers.
    """

    def __init__(
        self,
        dataset: Sequence[Any],
        *,
        batch_size: int,
        seed: int,
        collate: Callable[[list[Any]], Any],
        shuffle: bool = True,
        workers: int = 0,
    ) -> None:
        """Describe the batches; nothing is read yet.

        Args:
            dataset: Anything with a length and items by index.
            batch_size: Samples per batch.
            seed: Seed of order and augmentation.
            collate: Makes a batch of a list of items.
            shuffle: False keeps the data set's order.
            workers: Worker processes that read ahead; 0 reads in this process.

        Raises:
            ValueError: An empty data set or a batch size below 1.
        """
        if len(dataset) == 0 or batch_size < 1:
            raise ValueError(f"{len(dataset)} samples in batches of {batch_size}: expected at least one of each")
        self._dataset = dataset
        self._batch_size = batch_size
        self._seed = seed
        self._collate = collate
        self._shuffle = shuffle
        self._workers = workers

    def __call__(self, start: int, *, stride: int) -> Iterable[Any]:
        """Give the batches number ``start``, ``start + stride``, ... without end."""
        return DataLoader(
            _SeededItems(self._dataset, seed=self._seed),
            batch_sampler=_Endless(lambda: (self.positions(number) for number in count(start, stride))),  # type: ignore[arg-type]
            collate_fn=self._collate,
            num_workers=self._workers,
        )

    def positions(self, number: int) -> list[tuple[int, int]]:
        """Give batch ``number`` as pairs (position in the endless sequence, index into the data set)."""
        first = number * self._batch_size
        return [(position, self._index(position)) for position in range(first, first + self._batch_size)]

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, len(self._dataset))
        return int(_order(self._seed, epoch, len(self._dataset))[place]) if self._shuffle else place


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, length: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(length)


class _Endless:
    def __init__(self, make: Callable[[], Iterator[Any]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Any]:
        return self._make()


class _SeededItems(Dataset):
    def __init__(self, dataset: Sequence[Any], *, seed: int) -> None:
        self._dataset = dataset
        self._seed = seed

    def __getitem__(self, place: tuple[int, int]) -> Any:
        position, index = place
        seed_everything(self._seed, position)
        return self._dataset[index]
