"""Test how tables of numbers are laid out."""

from __future__ import annotations

import pytest

from edmfast._internal.tables import Section, render


def test_columns_are_aligned() -> None:
    section = Section("title", ["name", "a", "b"], [["x", 1.23456, None], ["long", 12345.6, 7]])
    assert render([section]).splitlines() == [
        "title",
        "-" * 14,
        "name      a  b",
        "-" * 14,
        "x      1.23  -",
        "long  12346  7",
    ]


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 columns, but a row has 1 cells"):
        render([Section("title", ["a", "b"], [["x"]])])
