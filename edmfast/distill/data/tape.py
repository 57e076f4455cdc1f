"""The items of an iterable by their position, over as many passes through it as are needed."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from edmfast.distill.data.stores.items import Item, ItemReader

_HEAD = 1024
"""The number of first items that are kept, from which scales are estimated."""
_HEAD_BYTES = 1 << 26


class Tape:
    """A reader of an iterable that starts again where it ends, and where an earlier position is asked for.

    A method `set_epoch` of the iterable, where there is one, is called with the number of each pass.

    Attributes:
        head: the first items, up to 1024 of them and up to 64 MiB, which are kept.

    Raises TypeError for an iterator, which can be read only once, and ValueError for an empty iterable.
    """

    def __init__(self, data: Iterable[Any], read: ItemReader) -> None:
        self._data, self._read = data, read
        self._name, self._lock = type(data).__name__, threading.Lock()
        self._items = self._start(0)
        if self._items is data:
            raise TypeError(
                f"data must be an iterable that can be read again, given the iterator {self._name}: give an "
                "object whose __iter__ returns a new iterator with the same items"
            )
        self.head: list[Item] = []
        most = _HEAD
        while len(self.head) < most and (raw := next(self._items, None)) is not None:
            item = read(raw, f"item {len(self.head)} of data")
            self.head.append(item)
            size = item.sample.numel() * item.sample.element_size()
            most = max(1, min(_HEAD, _HEAD_BYTES // size))
        if not self.head:
            raise ValueError(f"data must have at least one item, given an empty {self._name}")
        # the position of the next item, and how many items this pass has given
        self._position = self._given = len(self.head)

    def window(self, start: int, stop: int) -> list[Item]:
        """Return the items from one position to another, without the latter."""
        kept = self.head[start:stop]
        # a run that has ended may still read ahead while the next one starts
        with self._lock:
            return kept + [self._at(position) for position in range(start + len(kept), stop)]

    def _at(self, position: int) -> Item:
        if position < self._position:
            self._rewind()
        while self._position < position:
            self._next()
        return self._read(self._next(), f"item {position} of data")

    def _rewind(self) -> None:
        self._items = self._start(0)
        self._position = self._given = 0
        item, first = self._read(self._next(), "item 0 of data"), self.head[0]
        # a shuffled stream would silently give other samples
        if not torch.equal(item.sample, first.sample) or item.label != first.label:
            raise ValueError(
                f"{self._name} gave another first item when it was read again: the order of a stream must be the "
                "same each time, or a run cannot be repeated"
            )

    def _next(self) -> Any:
        for _ in range(2):
            try:
                raw = next(self._items)
            except StopIteration:
                if self._given == 0:
                    break
                self._pass += 1
                self._items = self._start(self._pass)
                self._given = 0
                continue
            self._position += 1
            self._given += 1
            return raw
        raise ValueError(f"{self._name} had no item when it was read again")

    def _start(self, number: int) -> Iterator[Any]:
        self._pass = number
        set_epoch = getattr(self._data, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(number)
        return iter(self._data)
