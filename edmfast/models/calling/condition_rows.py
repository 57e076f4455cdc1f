"""The rows of conditions: every condition of a call has one row per sample, or one row for all samples.

A foreign model may broadcast, cut or pad a condition of another length without an error. So the check stands
before the call of every model, and it names the sizes that the caller passed. It covers tensors and arrays, and
those inside lists, tuples and dictionaries. Tensors without dimensions, numbers, strings and lists of them have no
rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from edmfast._internal.rows import shared_names
from edmfast.models.calling.origin import is_ours


def check_condition_rows(model: Any, condition: Mapping[str, Any], batch: int) -> None:
    """Raise ValueError for a condition that has neither one row per sample nor one row for all samples.

    model: an object that may name conditions without rows in its attribute `shared_conditions`. batch: the number
    of samples of the caller, before any padding.
    """
    # most calls have no conditions
    if not condition:
        return
    shared = conditions_without_rows(model)
    for name, value in condition.items():
        if name in shared:
            continue
        for rows in _rows_in(value):
            if rows not in (1, batch):
                raise ValueError(
                    f"{name} has {rows} rows for a batch of {batch}: a condition has one row per sample, or one "
                    f"row for all samples ({name}[None]). If it has no such rows, name it in the attribute "
                    f"shared_conditions of the model or backbone, as in shared_conditions = ({name!r},)"
                )


def conditions_without_rows(model: Any) -> frozenset[str]:
    """Return the names in the attribute `shared_conditions` of a model, and of the models inside our wrappers."""
    # a method is called in place of its object, which declares the names
    owner = getattr(model, "__self__", model)
    names: frozenset[str] = shared_names(owner)
    if not is_ours(owner):
        return names
    # our wrappers pass conditions on, and each model inside is checked again by its own names
    inside = [getattr(owner, name, None) for name in ("backbone", "model")]
    inside += getattr(owner, "models", None) or []
    return names.union(*(conditions_without_rows(part) for part in inside if part is not None))


def _rows_in(value: Any) -> Iterator[int]:
    """Yield the first size of every tensor and array in a value that has dimensions."""
    if isinstance(value, (Tensor, np.ndarray)):
        if value.ndim > 0:
            yield value.shape[0]
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _rows_in(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _rows_in(part)
