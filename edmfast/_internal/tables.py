"""Print tables of numbers as aligned plain text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

Cell = str | float | int | None


@dataclasses.dataclass(frozen=True)
class Section:
    """A table with a title."""

    title: str
    header: Sequence[str]
    """Names of the columns."""
    rows: Sequence[Sequence[Cell]]
    """The rows, each with one cell for every column."""
    notes: Sequence[str] = ()
    """Lines below the table."""


def render(sections: Sequence[Section]) -> str:
    """Return all tables, one below the other. Raises ValueError for a row that does not fit its header."""
    return "\n\n".join(_render_section(section) for section in sections)


def _render_section(section: Section) -> str:
    lines = [[*section.header], *([_cell(cell) for cell in row] for row in section.rows)]
    for line in lines:
        if len(line) != len(section.header):
            raise ValueError(
                f"the table has {len(section.header)} columns, but a row has {len(line)} cells: {line}"
            )
    widths = [max(len(line[column]) for line in lines) for column in range(len(section.header))]
    aligned = [_align(line, widths) for line in lines]
    rule = "-" * max(len(line) for line in aligned)
    return "\n".join([section.title, rule, aligned[0], rule, *aligned[1:], *section.notes])


def _align(line: Sequence[str], widths: Sequence[int]) -> str:
    first = line[0].ljust(widths[0])
    rest = [text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)]
    return "  ".join([first, *rest]).rstrip()


def _cell(value: Cell) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        # three digits of a number above 1000 would be written with a power of ten
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
