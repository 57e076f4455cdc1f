"""Compare the targets of the populations of a run, to know whether their normalisers are comparable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edmfast._internal.rows import for_rows

_MOST_COMPARED = 64
"""The number of populations that are compared with the first one, evenly spaced."""


def has_one_target(target: Any, populations: int) -> bool:
    """Return whether all populations have the same conditions, exponents, strengths and observations.

    Each population's part of the target, as `for_rows` cuts it, is compared with that of the first. Numbers are
    compared by value, so conditions that happen to be equal count as one target. Conditions of single particles
    count as several targets.
    """
    if populations == 1:
        return True
    try:
        first = for_rows(target, 0, 1, populations)
        # a target without numbers for populations returns itself
        if first is target:
            return True
        # Every comparison of tensors reads the device, so their number is bounded.
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


def _same(first: Any, second: Any) -> bool:
    if first is second:
        return True
    if type(first) is not type(second):
        return False
    if isinstance(first, Tensor):
        return first.shape == second.shape and bool(torch.equal(first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(first[k], second[k]) for k in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(_same, first, second))
    if hasattr(first, "__dict__"):
        return _same(vars(first), vars(second))
    return bool(first == second)
