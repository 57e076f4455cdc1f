"""Run networks without any operator of ours, as torch alone would: the basis of baselines."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edmfast.models import potentials
from edmfast.models.backbones import (
    activation,
    convolution,
    dit_blocks,
    normalisation,
    self_attention,
)

OPERATORS: list[Any] = [potentials, normalisation, convolution, dit_blocks]
"""The modules in which models ask whether operators work."""


def by_formula(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    causal: bool = False,
    key_mask: Tensor | None = None,
) -> Tensor:
    """Compute attention with its L x L matrix in memory, the only way in torch that has a second derivative."""
    return torch.softmax(q @ k.mT * _scale(scale, causal, key_mask), -1) @ v


def by_torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    causal: bool = False,
    key_mask: Tensor | None = None,
) -> Tensor:
    """Compute attention by torch's own fast kernels, which have one derivative: enough for a score."""
    return F.scaled_dot_product_attention(q, k, v, scale=_scale(scale, causal, key_mask))


def _scale(scale: float | None, causal: bool, key_mask: Tensor | None) -> float:
    # the formulas here have no masks, and to leave one out would make a wrong baseline
    if scale is None or causal or key_mask is not None:
        raise ValueError("the networks timed ask for neither masks nor a scale left out")
    return scale


@contextlib.contextmanager
def plain_formulas(attention: Callable[..., Tensor]) -> Iterator[None]:
    """Within this context, models use torch's layers, activations and this attention instead of our operators."""
    replaced: list[tuple[Any, str, Any]] = [
        (self_attention, "attention", attention),
        (activation, "silu", F.silu),
        (dit_blocks, "gelu", partial(F.gelu, approximate="tanh")),
        *((module, "operators_work", _never) for module in OPERATORS),
    ]
    before = [getattr(module, name) for module, name, _ in replaced]
    for module, name, plain in replaced:
        setattr(module, name, plain)
    try:
        yield
    finally:
        for (module, name, _), ours in zip(replaced, before, strict=True):
            setattr(module, name, ours)


def _never() -> bool:
    return False
