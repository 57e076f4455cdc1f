"""Find whether all populations of a run have one and the same target, so that their normalisers are comparable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edmfast._internal.rows import for_rows

_MOST_COMPARED = 64
"""Populations that are compared with the first one, evenly spaced."""


def one_target(target: Any, populations: int) -> bool:
    """Return whether the target is the same for every population: the same conditions, exponents, strengths and
    observations.

    Each population's part of the target, as `for_rows` cuts it, is compared with that of the first. Numbers are
    compared by value, so conditions that happen to be equal count as one target. Conditions of single particles
    count as targets of their own.
    """
    if populations == 1:
        return True
    try:
        first = for_rows(target, 0, 1, populations)
        if first is target:
            return True
        count = min(populations - 1, _MOST_COMPARED)
        others = {1 + (populations - 2) * i // max(1, count - 1) for i in range(count)}
        return all(_same(first, for_rows(target, p, p + 1, populations)) for p in sorted(others))
    except ValueError:  # numbers for every particle
        return False


def check_rows(target: Any, populations: int) -> None:
    """Raise ValueError where a population would hold particles of several conditions, exponents or observations.

    Resampling moves particles between the slots of a population, and numbers belong to slots: a particle of one
    condition would go on under another.
    """
    try:
        for_rows(target, 0, 1, populations)
    except ValueError as error:
        raise ValueError(
            f"a population must have one condition, exponent and observation for all its particles, since "
            f"resampling moves them between slots ({error}): give one row in all, or one for each of the "
            f"{populations} populations; with ess_threshold=0 every particle stays in its slot"
        ) from error


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.shape == other.shape and bool(torch.equal(one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if hasattr(one, "__dict__"):
        return _same(vars(one), vars(other))
    return bool(one == other)
