"""The branches of a guided denoiser: one model under several sets of conditions, in one call or one after another.

A branch is the set of the caller's conditions with some of them replaced, such as the empty class label of
classifier-free guidance. One call evaluates n branches of B samples as a batch of n B rows.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.nested import tensors_in, with_tensors
from edmfast._internal.numbers import as_float, as_int
from edmfast._internal.rows import spread_rows
from edmfast.models.calling.condition_rows import (
    check_condition_rows,
    conditions_without_rows,
)
from edmfast.models.calling.conditions import check_accepted
from edmfast.models.calling.foreign import call_denoiser, call_on_own_states
from edmfast.targets.protocols import Model

Conditions = Mapping[str, Any]


def as_branch(name: str, conditions: Any, model: Any) -> dict[str, Any]:
    """Return the conditions that replace those of the caller in one branch.

    name: the name of the argument in errors. Numbers become Python numbers, and None stands for no condition.
    Raises TypeError for anything but a mapping of names that the model accepts.
    """
    if not isinstance(conditions, Mapping) or not all(isinstance(key, str) for key in conditions):
        raise TypeError(
            f"{name} must be a dictionary of conditions, such as {{'class_label': 10}}, got {conditions!r}"
        )
    check_accepted(model, conditions)
    return {key: _as_value(value) for key, value in conditions.items()}


def branch_of(name: str, given: Conditions, replaced: Conditions, batch: int) -> dict[str, Any]:
    """Return the conditions of a branch: those that the caller gave, with some of them replaced or left out.

    name: the name of the argument that replaces them. Raises ValueError for one that the caller did not give, and
    for one whose number of rows is neither 1 nor that of the batch.
    """
    missing = sorted(replaced.keys() - given.keys())
    if missing:
        raise ValueError(
            f"{name} replaces {', '.join(missing)}, and the call gives "
            f"{', '.join(sorted(given)) or 'no conditions'}: pass {missing[0]} in extra_args"
        )
    branch = dict(given)
    for key, value in replaced.items():
        if value is None:
            del branch[key]
        else:
            branch[key] = _with_rows(f"{name}[{key!r}]", value, given[key], batch)
    return branch


def denoised_branches(
    model: Model,
    x: Tensor,
    sigma: float | Tensor,
    branches: Sequence[dict[str, Any]],
    *,
    batched: bool,
) -> Sequence[Tensor]:
    """Return the denoised states [B, *shape] of each branch, by one call of the model where that is possible.

    One call is not possible where a branch lacks a condition of another one, or where branches differ in a value
    that is no tensor. Raises ValueError where a condition has a wrong number of rows, or tensors of different
    sizes in two branches.
    """
    batch = x.shape[0]
    shared = conditions_without_rows(model)
    for branch in branches:
        check_condition_rows(model, branch, batch)
    if not batched or not _can_be_stacked(branches):
        return [call_denoiser(model, x, sigma, **branch) for branch in branches]
    count = len(branches)
    # All of these are new tensors, so that the model needs no copies of them.
    condition = {
        name: _stacked(name, [branch[name] for branch in branches], batch, name in shared)
        for name in branches[0]
    }
    levels = sigma
    if isinstance(sigma, Tensor):
        levels = sigma.repeat(count) if sigma.dim() == 1 else sigma.clone()
    denoised = call_on_own_states(model, torch.cat([x] * count), levels, **condition)
    return denoised.split(batch) if batch else [denoised] * count


def split_branch(conditions: Conditions, start: int, stop: int, batch: int) -> dict[str, Any]:
    """Return conditions of a branch for the samples start to stop - 1 of a batch."""
    parts: dict[str, Any] = {}
    for name, value in conditions.items():
        parts[name] = with_tensors(value, functools.partial(_part, name, start, stop, batch))
    return parts


def _part(name: str, start: int, stop: int, batch: int, rows: Tensor) -> Any:
    # One row for all samples serves every part of them.
    single = rows.dim() > 0 and rows.shape[0] == 1
    return rows if single else spread_rows(name, rows, start, stop, batch)


def _as_value(value: Any) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    convert: Callable[[str, Any], Any]
    # Integers come first: a class label must stay an integer to index an embedding.
    for convert in (as_int, as_float):
        with contextlib.suppress(TypeError):
            return convert("a condition", value) if not isinstance(value, Tensor) else value
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _with_rows(name: str, value: Any, given: Any, batch: int) -> Any:
    """Return a replaced condition with one row per sample, in the dtype and on the device of the caller's."""
    like = [*tensors_in(given)]
    if _is_number(value):
        if not isinstance(given, Tensor):
            return value
        return given.new_full((batch, *given.shape[1:]), value)
    places = iter(like)

    def rows(tensor: Tensor) -> Tensor:
        model = next(places, None)
        if model is not None:
            tensor = tensor.to(model)
        if tensor.dim() == 0:
            return tensor.expand(batch)
        if tensor.shape[0] == batch:
            return tensor
        if tensor.shape[0] != 1:
            raise ValueError(
                f"{name} has {tensor.shape[0]} rows for a batch of {batch}: a condition has one row per sample, "
                "or one row for all samples"
            )
        return tensor.expand(batch, *tensor.shape[1:])

    return with_tensors(value, rows)


def _can_be_stacked(branches: Sequence[dict[str, Any]]) -> bool:
    first, *others = branches
    return all(_is_stackable(first, other) for other in others)


def _same(first: Any, second: Any) -> bool:
    if first is second:
        return True
    plain = (bool, int, float, str)
    return isinstance(first, plain) and type(first) is type(second) and bool(first == second)


def _is_stackable(first: Any, second: Any) -> bool:
    """Return whether two values have the same structure, and differ in tensors alone."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return True
    if type(first) is dict and type(second) is dict:
        same_names = first.keys() == second.keys()
        return same_names and all(_is_stackable(first[key], second[key]) for key in first)
    if type(first) in (list, tuple) and type(first) is type(second) and len(first) == len(second):
        return all(map(_is_stackable, first, second))
    return _same(first, second)


def _stacked(name: str, values: Sequence[Any], batch: int, shared: bool) -> Any:
    """Return a condition of all branches in one value, with the rows of the branches one after another."""
    first = values[0]
    if all(_same(first, value) for value in values[1:]):
        if shared:
            return with_tensors(first, torch.clone)
        return with_tensors(first, lambda t: _repeated(t, batch, len(values)))
    if isinstance(first, Tensor):
        return _joined(name, values, batch)
    if type(first) is dict:
        return {
            key: _stacked(f"{name}[{key!r}]", [value[key] for value in values], batch, shared)
            for key in first
        }
    parts = zip(*values, strict=True)
    return type(first)(
        _stacked(f"{name}[{i}]", part, batch, shared) for i, part in enumerate(parts)
    )


def _repeated(tensor: Tensor, batch: int, count: int) -> Tensor:
    """Return the rows of a condition that all branches share, once for each branch."""
    has_rows = tensor.dim() > 0 and tensor.shape[0] == batch
    return torch.cat([tensor] * count) if has_rows else tensor.clone()


def _joined(name: str, tensors: Sequence[Tensor], batch: int) -> Tensor:
    rows = [
        t if t.dim() > 0 and t.shape[0] == batch else t.expand(batch, *t.shape[1:]) for t in tensors
    ]
    if len({row.shape for row in rows}) > 1:
        sizes = " and ".join(str([*row.shape]) for row in rows)
        raise ValueError(
            f"{name} has the sizes {sizes} in the branches, which cannot be one batch: pass tensors of one size, "
            "or batched=False"
        )
    return torch.cat([row.to(rows[0]) for row in rows])
