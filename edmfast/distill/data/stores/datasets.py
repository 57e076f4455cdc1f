"""A store over a data set with `__len__` and `__getitem__`, such as a map-style `torch.utils.data.Dataset`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from edmfast.distill.data.stores.items import Item, ItemReader, stacked
from edmfast.distill.data.stores.store import RawRows, Store


class DatasetStore(Store):
    """A store whose samples are the items of a data set; see `ItemReader` for what an item may be.

    The item at an index must always be the same, or a resumed run is another one. Item 0 is read twice, and there
    is a warning where the two differ, as they do with random augmentation.
    """

    is_costly = True

    def __init__(self, dataset: Any, reader: ItemReader) -> None:
        self._dataset, self._reader = dataset, reader
        self._count = len(dataset)
        if self._count == 0:
            raise ValueError(f"data must have at least one item, given an empty {_name(dataset)}")
        first, again = self._item(0), self._item(0)
        if not torch.equal(first.sample, again.sample) or first.label != again.label:
            warnings.warn(
                f"{_name(dataset)} returned two different samples for its item 0: a run on random items cannot be "
                "repeated, and a resumed run is another one",
                stacklevel=5,
            )
        self.shape, self.dtype = tuple(first.sample.shape), first.sample.dtype
        self.has_labels = first.label is not None
        self.identity = _name(dataset)

    def __len__(self) -> int:
        return self._count

    def read(self, index: Sequence[int]) -> RawRows:
        """Return the samples and labels at some indices."""
        return RawRows(*stacked([self._item(int(i)) for i in index]))

    def _item(self, index: int) -> Item:
        try:
            item = self._dataset[index]
        except (IndexError, KeyError) as error:
            raise ValueError(
                f"{_name(self._dataset)} says that it has {self._count} items, but has no item {index}"
            ) from error
        return self._reader(item, f"data[{index}]")


def _name(dataset: Any) -> str:
    return type(dataset).__name__
