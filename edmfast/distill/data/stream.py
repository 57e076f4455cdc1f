"""Training data from a stream: an iterable that is read from its start to its end, and then again.

Step k takes the samples k B to (k + 1) B - 1 of the stream, in its own order. So a resumed run skips what the
steps before have taken, and every process reads the whole stream and keeps its own rows.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from edmfast._internal.checksum import checksum
from edmfast.distill.data.placing import to_device
from edmfast.distill.data.scaling import Scaling
from edmfast.distill.data.stores.items import stacked
from edmfast.distill.data.stores.labels import check_range
from edmfast.distill.data.stores.store import RawRows
from edmfast.distill.data.tape import Tape

_DIGEST = 256
"""The number of first samples by which a resumed run recognises its data."""
_KEPT = 64
"""The number of windows at most that are read ahead and not used yet."""


class Window(NamedTuple):
    """The samples of a stream that a step takes: `size` of them from the position `first`."""

    first: int
    size: int


class StreamData:
    """Training data from an iterable; see `TrainingData` for its parts.

    size: None, since a stream may be endless. workers: 0 reads when rows are asked for, and any other number reads
    the rows of the next step in one thread, which keeps the order.
    """

    size = None
    class_names = None

    def __init__(self, tape: Tape, scaling: Scaling, *, workers: int) -> None:
        first = tape.head[0]
        self.shape, self.has_labels = tuple(first.sample.shape), first.label is not None
        scaling.check(self.shape)
        self._tape, self._scaling, self._workers = tape, scaling, workers
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.num_classes = 0
        self._known: int | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._pending: dict[tuple[int, int], Future[RawRows]] = {}
        self._window = Window(-1, 0)
        self._asked: list[slice] = []
        self._parts: list[slice] = []

    def placed(
        self, device: torch.device, dtype: torch.dtype, num_classes: int | None
    ) -> StreamData:
        """Return the same data for a student on this device, in this dtype, with so many classes.

        num_classes: None where the student does not say.
        """
        placed = StreamData(self._tape, self._scaling, workers=self._workers)
        placed.device, placed.dtype = device, dtype
        placed._known = num_classes if self.has_labels else None
        placed.num_classes = placed._known or 0
        return placed

    def draw(self, step: int, count: int, generator: torch.Generator) -> Window:
        """Return the window of the stream that a step takes. The generator is not used."""
        return Window(step * count, count)

    def rows(self, drawn: Window, part: slice) -> tuple[Tensor, Tensor | None]:
        """Return the samples [n, *shape] of a part of a window, and their labels int64 [n] or None."""
        start, stop, _ = part.indices(drawn.size)
        part = slice(start, stop)
        raw, labels = (
            self._read_and_look_ahead(drawn, part)
            if self._workers
            else self._read(drawn.first + start, drawn.first + stop)
        )
        if labels is not None:
            check_range(labels, self._known)
            labels = to_device(labels, self.device)
        return self._scaling(to_device(raw, self.device), self.dtype), labels

    def some(self, count: int) -> Tensor:
        """Return the first samples, up to count of them, and up to 1024."""
        raw, _ = stacked(self._tape.head[:count])
        return self._scaling(to_device(raw, self.device), self.dtype)

    def digest(self) -> str:
        """Return a checksum of the settings and of up to 256 first samples."""
        samples, labels = stacked(self._tape.head[:_DIGEST])
        parts = {"samples": samples} if labels is None else {"samples": samples, "labels": labels}
        text = f"stream {[*self.shape]} {self._scaling.text()}"
        return hashlib.sha256(checksum(parts, text).encode()).hexdigest()[:32]

    def _read(self, start: int, stop: int) -> RawRows:
        if start == stop:
            return RawRows(self._tape.head[0].sample[None][:0], None)
        return RawRows(*stacked(self._tape.window(start, stop)))

    def _read_and_look_ahead(self, drawn: Window, part: slice) -> RawRows:
        """Return some rows, and read in the background what is expected to be asked for next."""
        if drawn != self._window:
            self._parts, self._asked = self._asked, []
            self._window = drawn
        self._asked.append(part)
        future = self._future(drawn, part)
        # the parts of a step are those of the step before; a wrong guess costs time and changes nothing
        if part in self._parts:
            after = self._parts.index(part) + 1
            following = (
                drawn if after < len(self._parts) else Window(drawn.first + drawn.size, drawn.size)
            )
            self._pending_at(following, self._parts[after % len(self._parts)])
        return future.result()

    def _future(self, drawn: Window, part: slice) -> Future[RawRows]:
        self._pending_at(drawn, part)
        return self._pending.pop((drawn.first + part.start, drawn.first + part.stop))

    def _pending_at(self, drawn: Window, part: slice) -> None:
        place = drawn.first + part.start, drawn.first + part.stop
        if place not in self._pending:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, "edmfast-data")
            self._pending[place] = self._pool.submit(self._read, *place)
        if len(self._pending) > _KEPT:
            self._pending.pop(next(iter(self._pending)))
