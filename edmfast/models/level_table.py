"""Numbers that depend on the noise level alone, computed once for all levels of a run.

A model derives scalings, embeddings and shifts from its noise level at every call. On a GPU each of these small
tensors costs a launch, thirty and more for a perceptron. A run knows all its levels beforehand. While its
`LevelTable` is active, `level_row` returns the level as a row of a tensor with one row for each level, and
`of_level` computes a function of such a row for all levels at its first call. Later calls return a row of the
result, which is a view and launches nothing.

A row is recognised by its memory, so that it may pass through code that knows nothing of tables. The models work
as before on every other tensor. A table notices when a tensor that its numbers were computed from is replaced or
changed in place, and computes them anew. A change in place through `.data` counts no version and cannot be
noticed, so a run forgets its numbers after every callback. Numbers that a caller changes in place are not used
again. The numbers carry no derivatives with respect to the tensors that they were computed from.

Inside a trace the rows of a known level would become constants. There only the level that `traced` names is looked
up, by an index on the device.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from edmfast._internal.derivatives import is_transformed
from edmfast._internal.rows import MIN_ROWS, ROW_TILE

Rows = tuple[Tensor, ...]
Compute = Callable[..., Rows]
_thread = threading.local()


class _Columns(NamedTuple):
    """The results [T, ...] of a function for all levels, and the tensors besides its arguments that it read."""

    results: list[Tensor]
    sources: Sequence[Tensor]
    memories: list[torch.UntypedStorage]
    """The memory of the sources. Holding it keeps its number from being used again."""
    versions: list[tuple[int, int]]
    results_versions: list[tuple[int, int]]

    def are_current(self, sources: Sequence[Tensor]) -> bool:
        """Return whether these sources are those of the results, and neither has changed."""
        same = all(a is b for a, b in zip(self.sources, sources, strict=True))
        return same and self.versions == _versions(sources) and self.are_intact()

    def are_intact(self) -> bool:
        """Return whether no caller has changed a row of the results in place."""
        return self.results_versions == _versions(self.results)


class _Key(NamedTuple):
    """A name of columns: a function, the numbers of its arguments, their shapes, and the dtype of autocast."""

    name: Hashable
    arguments: tuple[int, ...]
    shapes: tuple[torch.Size, ...]
    cast: torch.dtype | bool


class _Place(NamedTuple):
    """A column [T, ...], the number of elements of its rows, and the version at which it was computed."""

    column: Tensor
    size: int
    version: int


class LevelTable:
    """The numbers of all noise levels of a run. levels: positive, in the units of x."""

    def __init__(self, levels: Sequence[float]) -> None:
        self.places = {float(level): index for index, level in enumerate(levels)}
        # rows are computed in the numbers at which a row has the same bits as in any batch
        self._missing = max(MIN_ROWS - len(levels), -len(levels) % ROW_TILE)
        self._columns: dict[Hashable, _Columns] = {}
        self._places_of: dict[int, _Place] = {}
        self._traced: tuple[Tensor, Tensor] | None = None
        self._taken: dict[int, tuple[Tensor, Tensor, int]] = {}

    def active(self) -> contextlib.AbstractContextManager[None]:
        """Let models of this thread look up rows within the block."""
        return _using(self)

    def forget(self) -> None:
        """Drop what was computed from a model, where a caller may have changed it in a way that shows nowhere."""
        # the levels themselves stay: making them anew would wait for the device
        for key, columns in [*self._columns.items()]:
            if columns.sources:
                self._drop(key)

    @contextlib.contextmanager
    def traced(self, level: Tensor, index: Tensor) -> Iterator[None]:
        """Let a trace look up the row of one level. index: int64 [1], the number of the level in the table."""
        self._traced = level, index
        try:
            with self.active():
                yield
        finally:
            self._traced = None
            self._taken.clear()

    def level_row(self, sigma: float | Tensor, x: Tensor) -> Tensor | None:
        """Return the level as [1] in the dtype and on the device of x, or None where it is not in the table."""
        tracing = get_proxy_mode() is not None
        if tracing:
            if self._traced is None or sigma is not self._traced[0]:
                return None
        elif type(sigma) not in (float, int) or sigma not in self.places:
            return None
        key = ("level", x.dtype, x.device)
        columns = self._columns.get(key)
        if columns is None or not columns.are_intact():
            if tracing:
                return None
            with torch.inference_mode(False), torch.no_grad():
                levels = torch.tensor([*self.places], dtype=torch.float64, device="cpu")
                columns = self._store(key, [levels.to(x.dtype).to(x.device)], ())
        return self._row(columns.results[0], None if tracing else self.places[float(sigma)])

    def derive(
        self, rows: Sequence[Tensor], name: Hashable, sources: Sequence[Tensor], compute: Compute
    ) -> Rows | None:
        """Return compute(*rows) as `of_level` does."""
        tracing = get_proxy_mode() is not None
        found = [at for row in rows if (at := self._find(row, tracing)) is not None]
        if len(found) < len(rows) or len({place for _, place in found}) != 1:
            return None
        arguments, place = [column for column, _ in found], found[0][1]
        kind, shapes = rows[0].device.type, tuple(row.shape[1:] for row in rows)
        cast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
        # a column is dropped together with those that were computed from it, so that its number is unique
        key = _Key(name, tuple(map(id, arguments)), shapes, cast)
        columns = self._columns.get(key)
        if columns is None or not columns.are_current(sources):
            # a trace computes them itself, inside its graph
            if tracing:
                return None
            results = self._results(arguments, shapes, compute)
            columns = self._store(key, results, sources)
        return tuple(self._row(column, None if tracing else place) for column in columns.results)

    def _results(
        self, arguments: list[Tensor], shapes: Sequence[torch.Size], compute: Compute
    ) -> list[Tensor]:
        count = len(self.places)
        whole = [c.reshape(count, *shape) for c, shape in zip(arguments, shapes, strict=True)]
        if whole[0].device.type == "cpu":
            whole = [torch.cat([c, c[-1:].expand(self._missing, *c.shape[1:])]) for c in whole]
        # tensors of inference mode could take part in no derivative of a later call
        with torch.inference_mode(False), torch.no_grad():
            # each result needs memory of its own, by which it is recognised
            return [
                result[:count].clone(memory_format=torch.contiguous_format)
                for result in compute(*whole)
            ]

    def _store(self, key: Hashable, results: list[Tensor], sources: Sequence[Tensor]) -> _Columns:
        self._drop(key)
        memories = [source.untyped_storage() for source in sources]
        columns = _Columns(results, sources, memories, _versions(sources), _versions(results))
        self._columns[key] = columns
        for column in results:
            size = max(1, column[:1].numel())
            self._places_of[_memory(column)] = _Place(column, size, column._version)
        return columns

    def _drop(self, key: Hashable) -> None:
        """Drop columns, and all that were computed from them."""
        columns = self._columns.pop(key, None)
        if columns is None:
            return
        for column in columns.results:
            del self._places_of[_memory(column)]
        gone = {id(column) for column in columns.results}
        for other in [*self._columns]:
            if isinstance(other, _Key) and gone.intersection(other.arguments):
                self._drop(other)

    def _find(self, row: Tensor, tracing: bool) -> tuple[Tensor, int] | None:
        """Return the column that a row lies in and its number, or None for any other tensor."""
        # other views of the memory of a row, such as a transposed one, hold other numbers
        if row.requires_grad or row.shape[0] != 1 or not row.is_contiguous() or row.is_neg():
            return None
        if tracing:
            taken = self._taken.get(_memory(row))
            return None if taken is None or taken[2] != taken[0]._version else (taken[1], 0)
        found = self._places_of.get(_memory(row))
        if found is None or found.version != found.column._version:
            return None
        place, rest = divmod(int(row.storage_offset()), found.size)
        known = rest == 0 and row.numel() == found.size and row.dtype == found.column.dtype
        return (found.column, place) if known else None

    def _row(self, column: Tensor, place: int | None) -> Tensor:
        if place is not None:
            return column[place : place + 1]
        assert self._traced is not None
        row = column.index_select(0, self._traced[1])
        # holding the row keeps its memory, by which it is recognised, from being used again
        self._taken[_memory(row)] = row, column, row._version
        return row


def no_table() -> contextlib.AbstractContextManager[None]:
    """Let models of this thread compute their levels within the block, with all derivatives."""
    return _using(None)


@contextlib.contextmanager
def _using(table: LevelTable | None) -> Iterator[None]:
    before = getattr(_thread, "table", None)
    _thread.table = table
    try:
        yield
    finally:
        _thread.table = before


def level_row(sigma: float | Tensor, x: Tensor) -> Tensor | None:
    """Return one noise level as a row [1] of the active table, or None where there is no such row."""
    table = _active()
    return None if table is None else table.level_row(sigma, x)


def of_level(
    rows: Sequence[Tensor], name: Hashable, sources: Sequence[Tensor], compute: Compute
) -> Rows | None:
    """Return compute(*rows), a tuple of tensors [1, ...], from the active table; None where it cannot.

    rows: tensors [1, ...] of one level, as `level_row` or this function returned them, or views of their memory.
    name: identifies the function. sources: the tensors besides the rows that it reads. compute: takes tensors of
    any number of rows, and returns tensors of as many.
    """
    table = _active()
    return None if table is None else table.derive(rows, name, sources, compute)


def _active() -> LevelTable | None:
    table: LevelTable | None = getattr(_thread, "table", None)
    # wrapped tensors of transforms show no memory, and a table must not hold them
    if table is None or torch.compiler.is_compiling() or is_transformed():
        return None
    return table


def _versions(sources: Sequence[Tensor]) -> list[tuple[int, int]]:
    # tensors of inference mode count no versions
    return [(_memory(t), -1 if t.is_inference() else t._version) for t in sources]


def _memory(tensor: Tensor) -> int:
    """Return a number that tensors of the same memory share."""
    number: int = tensor.untyped_storage()._cdata
    return number
