"""Numbers in every spelling: what a table of entry points is checked with.

A table holds rows (entry point, argument, a good value, a call that takes the value). Each good value is
given as NumPy's scalar and as an array or a tensor without dimensions, and must lead to what the plain number
of Python leads to. Each bad value must raise TypeError or ValueError that names the argument. A new entry point
adds one row.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

COUNT, SEED, REAL, CONDITION = "count", "seed", "real", "condition"


class Case(NamedTuple):
    """kind: which values are bad beside those in `bad`. argument: what the error must name."""

    entry: str
    argument: str
    kind: str
    good: Any
    call: Callable[[Any], Any]
    bad: tuple[Any, ...] = ()


def row(
    entry: str, argument: str, kind: str, good: Any, call: Callable[[Any], Any], *bad: Any
) -> Case:
    """One row, whose call takes the value itself."""
    return Case(entry, argument, kind, good, call, bad)


def table(entry: str, call: Callable[..., Any], **arguments: tuple[Any, ...]) -> list[Case]:
    """Rows of one entry point called by keyword: name = (kind, good value, further bad values)."""
    return [
        Case(entry, name, kind, good, lambda value, name=name: call(**{name: value}), tuple(bad))
        for name, (kind, good, *bad) in arguments.items()
    ]


WRONG = {
    COUNT: (True, np.bool_(True), "3", 1.5, np.float64(2), math.nan, torch.ones(2)),
    SEED: (True, "3", 1.5, math.nan, torch.ones(1), 2**64, -(2**63) - 1),
    REAL: (True, torch.tensor(True), "3", math.nan, np.float32(math.nan), 1j),
    CONDITION: (True, "3"),
}


def spellings(kind: str, value: Any) -> list[Any]:
    """The same number as NumPy and torch have it."""
    if kind == REAL:
        types = [np.float64, np.float32, np.array, torch.tensor]
    else:
        types = [np.int64, np.int32, np.array, torch.tensor]
    return [make(value) for make in types]


def same(one: Any, other: Any) -> bool:
    """Return whether two results are equal, bit for bit, whatever they are made of."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one.nan_to_num(-7), other.nan_to_num(-7)) and one.dtype == other.dtype
    if isinstance(one, nn.Module):
        assert getattr(one, "config", None) == getattr(other, "config", None)
        return same(one.state_dict(), other.state_dict())
    if dataclasses.is_dataclass(one):
        return type(one) is type(other) and same(vars(one), vars(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and one == other


def foreign(found: Any) -> list[Any]:
    """NumPy's scalars and arrays in a result and its attributes, which no JSON can hold."""
    if isinstance(found, (np.generic, np.ndarray)):
        return [found]
    if isinstance(found, nn.Module):
        own = {key: value for key, value in vars(found).items() if not key.startswith("_")}
        return foreign(own) + [one for child in found.children() for one in foreign(child)]
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        return foreign(vars(found))
    parts = found.values() if isinstance(found, dict) else found
    if isinstance(found, (dict, tuple, list)):
        return [one for part in parts for one in foreign(part)]
    return []


def name(case: Case) -> str:
    return f"{case.entry}-{case.argument}"


def check_good(case: Case) -> None:
    """Every spelling of the good value leads to what the plain number leads to."""
    plain = case.call(case.good)
    assert not foreign(plain)
    for value in spellings(case.kind, case.good):
        found = case.call(value)
        assert same(plain, found), repr(value)
        assert not foreign(found), repr(value)


def check_bad(case: Case) -> None:
    """Every bad value is refused in words that name the argument."""
    for value in (*WRONG[case.kind], *case.bad):
        with pytest.raises((TypeError, ValueError)) as caught:
            case.call(value)
        assert case.argument in str(caught.value), f"{value!r}: {caught.value}"
