"""Check from tables of calls that entry points accept a number in every spelling and refuse bad ones.

A table holds rows (entry point, argument, a good value, a call that takes the value). Each good value is passed
as a NumPy scalar and as an array and a tensor without dimensions, and must give the result of the plain number.
Each bad value must raise TypeError or ValueError with the argument's name. A new entry point adds one row.
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
    """One row. kind: the key of further bad values in WRONG. argument: the name that the error must contain."""

    entry: str
    argument: str
    kind: str
    good: Any
    call: Callable[[Any], Any]
    bad: tuple[Any, ...] = ()


def row(
    entry: str, argument: str, kind: str, good: Any, call: Callable[[Any], Any], *bad: Any
) -> Case:
    """Return a row whose call takes the value alone."""
    return Case(entry, argument, kind, good, call, bad)


def table(entry: str, call: Callable[..., Any], **arguments: tuple[Any, ...]) -> list[Case]:
    """Return the rows of an entry point that is called by keyword: name = (kind, good value, *bad values)."""
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
    """Return the same number as scalars, arrays and tensors of NumPy and torch."""
    if kind == REAL:
        types = [np.float64, np.float32, np.array, torch.tensor]
    else:
        types = [np.int64, np.int32, np.array, torch.tensor]
    return [make(value) for make in types]


def same(first: Any, second: Any) -> bool:
    """Return whether two results of any type are equal, bit for bit."""
    if isinstance(first, torch.Tensor):
        return (
            torch.equal(first.nan_to_num(-7), second.nan_to_num(-7)) and first.dtype == second.dtype
        )
    if isinstance(first, nn.Module):
        assert getattr(first, "config", None) == getattr(second, "config", None)
        return same(first.state_dict(), second.state_dict())
    if dataclasses.is_dataclass(first):
        return type(first) is type(second) and same(vars(first), vars(second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (tuple, list)):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, float) and math.isnan(first):
        return math.isnan(second)
    return type(first) is type(second) and first == second


def foreign(result: Any) -> list[Any]:
    """Return NumPy's scalars and arrays in a result and its attributes, which JSON cannot hold."""
    if isinstance(result, (np.generic, np.ndarray)):
        return [result]
    if isinstance(result, nn.Module):
        attributes = {key: value for key, value in vars(result).items() if not key.startswith("_")}
        return foreign(attributes) + [
            value for child in result.children() for value in foreign(child)
        ]
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return foreign(vars(result))
    parts = result.values() if isinstance(result, dict) else result
    if isinstance(result, (dict, tuple, list)):
        return [value for part in parts for value in foreign(part)]
    return []


def name(case: Case) -> str:
    return f"{case.entry}-{case.argument}"


def check_good(case: Case) -> None:
    """Check that every spelling of the good value gives the result of the plain number."""
    plain = case.call(case.good)
    assert not foreign(plain)
    for value in spellings(case.kind, case.good):
        result = case.call(value)
        assert same(plain, result), repr(value)
        assert not foreign(result), repr(value)


def check_bad(case: Case) -> None:
    """Check that every bad value is refused with an error that names the argument."""
    for value in (*WRONG[case.kind], *case.bad):
        with pytest.raises((TypeError, ValueError)) as caught:
            case.call(value)
        assert case.argument in str(caught.value), f"{value!r}: {caught.value}"
