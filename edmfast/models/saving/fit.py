"""The comparison of the tensors in a state with those of a model, by names, shapes and kinds of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_state(
    expected: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    *,
    source: str = "the file",
    owner: str = "the model",
) -> None:
    """Raise ValueError that names the tensors by which a state differs from that of a model, with both shapes.

    expected: the state of the model. given: the state that it should load. source, owner: nouns for where the two
    come from. A model may be converted to another floating dtype after it is built, so these count as equal.
    """
    both = [name for name in expected if name in given]
    shapes = [
        f"{name} is {[*given[name].shape]} in {source} and {[*expected[name].shape]} in {owner}"
        for name in both
        if given[name].shape != expected[name].shape
    ]
    missing, surplus = expected.keys() - given.keys(), given.keys() - expected.keys()
    parts = [f"size mismatch: {_few(shapes, '; ')}"] if shapes else []
    if missing or surplus:
        parts.append(
            f"{source} lacks the tensors {_few(_shaped(missing, expected))}, and {owner} lacks "
            f"{_few(_shaped(surplus, given))}"
        )
    if parts:
        raise ValueError(". ".join(parts))
    for name in both:
        dtypes = given[name].dtype, expected[name].dtype
        if dtypes[0] != dtypes[1] and not (dtypes[0] in _FLOATS and dtypes[1] in _FLOATS):
            raise ValueError(f"{name} is {dtypes[0]} in {source} and {dtypes[1]} in {owner}")


def _shaped(names: Iterable[str], tensors: Mapping[str, Tensor]) -> list[str]:
    return [f"{name} {[*tensors[name].shape]}" for name in sorted(names)]


def _few(items: list[str], separator: str = ", ") -> str:
    shown = separator.join(items[:3])
    return f"{shown}, … ({len(items)})" if len(items) > 3 else shown or "none"
