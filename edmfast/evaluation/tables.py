"""Tables of an evaluation, which print as aligned text and are written as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edmfast._internal.tables import Cell, Section, render


@dataclass(frozen=True)
class Table:
    """A table of results, one dictionary from the names of the columns to their cells for each row.

    Attributes:
        title: what the table holds.
        rows: the rows. A cell is a number, a text, or None where there is no result.
        notes: lines that explain the columns.
    """

    title: str
    rows: tuple[dict[str, Cell], ...]
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns, in the order in which the rows name them."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row))

    def column(self, name: str) -> list[Cell]:
        """Return the cells of a column, with None where a row has none. Raises KeyError for an unknown name."""
        if name not in self.columns:
            raise KeyError(f"there is no column {name!r}; there are {', '.join(self.columns)}")
        return [row.get(name) for row in self.rows]

    def __str__(self) -> str:
        cells = [[_shown(row.get(name)) for name in self.columns] for row in self.rows]
        return render([Section(self.title, self.columns, cells, self.notes)])

    def to_json(self) -> dict[str, Any]:
        """Return the table as a dictionary that JSON can hold; numbers that are not finite become None."""
        rows = [{name: _plain(cell) for name, cell in row.items()} for row in self.rows]
        return {"title": self.title, "rows": rows, "notes": [*self.notes]}


def joined(tables: Sequence[Table]) -> str:
    """Return the text of several tables, one below the other."""
    return "\n\n".join(map(str, tables))


def _shown(cell: Cell) -> Cell:
    return None if isinstance(cell, float) and math.isnan(cell) else cell


def _plain(cell: Cell) -> Cell:
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell
