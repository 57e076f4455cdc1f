"""Reading ahead: the rows that the next step needs are read by threads while a step is computed.

The rows of a step follow from the state of the run's generator alone. When a step asks for its first rows, all its
random numbers are drawn, so that a copy of the generator draws the rows of the next step. They are read in the
background, and used if the next step starts from that very state. What a step gets is the same with any number of
threads: reading ahead only changes when it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from edmfast.distill.data.stores import RawRows

Part = tuple[int, int]
"""The start and the stop of some rows of a batch."""


@dataclass
class Drawn:
    """The indices of a batch, int64 [count], and what is being read of it.

    host: the indices on the CPU, complete when `ready` has happened. state: the generator's state before the draw.
    after: its state after the draw. leading: True for the first draw of a step.
    """

    host: Tensor
    ready: torch.cuda.Event | None
    generator: torch.Generator
    state: Tensor
    after: Tensor
    leading: bool = True
    asked: list[Part] = field(default_factory=list)
    pending: dict[Part, Pending] = field(default_factory=dict)

    def index(self, part: Part) -> Tensor:
        """Return some of the indices on the CPU."""
        # the copy from a GPU takes place in the background
        if self.ready is not None:
            self.ready.synchronize()
        return self.host[part[0] : part[1]]


class Pending(NamedTuple):
    """Rows that threads are reading, in pieces."""

    pieces: list[Future[RawRows]]

    def result(self) -> RawRows:
        """Return the rows. An error of a thread is raised here."""
        rows = [piece.result() for piece in self.pieces]
        if len(rows) == 1:
            return rows[0]
        labels = [row.labels for row in rows if row.labels is not None]
        samples = torch.cat([row.samples for row in rows])
        return RawRows(samples, torch.cat(labels) if labels else None)


class AheadReader:
    """A reader of random rows, which reads those of the next step in the background.

    read: a function from indices to rows, which threads call. count: the number of rows that there are. workers:
    the number of threads; 0 reads in the calling thread when rows are asked for.
    """

    def __init__(self, read: Callable[[Sequence[int]], RawRows], count: int, workers: int) -> None:
        self._read, self._count, self._workers = read, count, workers
        self._pool: ThreadPoolExecutor | None = None
        self._parts: list[Part] = []
        self._next: Drawn | None = None
        self._starts_step = True

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """Return `count` random indices, which are those that `torch.randint` draws from the generator."""
        drawn, self._next = self._next, None
        known = drawn is not None and len(drawn.host) == count
        if drawn is not None and known and torch.equal(drawn.state, generator.get_state()):
            generator.set_state(drawn.after)
            drawn.generator = generator
        else:
            # another generator drew in between, and the rows that were read ahead may serve later
            self._next = drawn
            drawn = self._fresh(count, generator)
        drawn.leading, self._starts_step = self._starts_step, False
        return drawn

    def rows(self, drawn: Drawn, part: Part) -> RawRows:
        """Return the rows of a part of the indices."""
        self._starts_step = True
        if self._workers == 0:
            return self._read(drawn.index(part).tolist())
        first = not drawn.asked
        drawn.asked.append(part)
        pending = drawn.pending.pop(part, None) or self._start(drawn, part)
        if first and drawn.leading:
            self._read_ahead(drawn, part)
        return pending.result()

    def _read_ahead(self, drawn: Drawn, part: Part) -> None:
        # the parts are those of the step before: each process makes the same ones at every step
        for other in self._parts:
            if other != part and other[1] <= len(drawn.host):
                drawn.pending[other] = self._start(drawn, other)
        copy = torch.Generator(drawn.generator.device)
        copy.set_state(drawn.generator.get_state())
        self._next = self._fresh(len(drawn.host), copy)
        for other in self._parts or [part]:
            if other[1] <= len(drawn.host):
                self._next.pending[other] = self._start(self._next, other)
        # this list still grows while the step asks for its other parts
        self._parts = drawn.asked

    def _fresh(self, count: int, generator: torch.Generator) -> Drawn:
        device = generator.device
        state = generator.get_state()
        index = torch.randint(self._count, (count,), generator=generator, device=device)
        host, ready = _on_host(index)
        return Drawn(host, ready, generator, state, generator.get_state())

    def _start(self, drawn: Drawn, part: Part) -> Pending:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._workers, "edmfast-data")
        size = -(-(part[1] - part[0]) // self._workers)
        starts = range(part[0], part[1], max(1, size))
        pieces = [(first, min(first + size, part[1])) for first in starts] or [part]

        def read(piece: Part) -> RawRows:
            return self._read(drawn.index(piece).tolist())

        return Pending([self._pool.submit(read, piece) for piece in pieces])


def _on_host(index: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Return the indices on the CPU, and the event after which they are there, without waiting for the device."""
    if index.device.type != "cuda":
        return index.cpu(), None
    host = torch.empty(index.shape, dtype=index.dtype, pin_memory=True)
    host.copy_(index, non_blocking=True)
    ready = torch.cuda.Event()
    ready.record(torch.cuda.current_stream(index.device))
    return host, ready
