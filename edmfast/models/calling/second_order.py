"""Errors of torch's attention at a second derivative, told with their cure.

The kernels behind `torch.nn.functional.scaled_dot_product_attention` have a first derivative only. The score of an
energy takes it, so that training an energy, probing its curvature or following a reward through it asks for the
second. torch then says "derivative for aten::_scaled_dot_product_…_backward is not implemented" and no more.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.redirect import is_redirected, original, redirected

_ATTENTION = "scaled_dot_product_attention"
_MISSING = re.compile(
    r"derivative for \S*scaled_dot_product\S*attention\S*_backward.* not implemented"
)
CURE = (
    "torch's attention has no second derivative, which an energy needs where it is trained or its score is "
    "differentiated: call edmfast.models.patch_attention(model) first"
)


@contextlib.contextmanager
def second_derivatives() -> Iterator[None]:
    """Within, torch's error of a missing second derivative of attention is raised again with its cure."""
    try:
        yield
    except RuntimeError as error:
        if _MISSING.search(str(error)) is None:
            raise
        raise RuntimeError(f"{CURE} ({error})") from error


@contextlib.contextmanager
def watched_attention() -> Iterator[None]:
    """Within, attention is torch's own, with an error that names the cure wherever it is differentiated twice.

    A caller who differentiates a score is not within any call of ours when torch fails, so that the error is
    left in the graph. Nothing is done within `patch_attention`, nor without a graph.
    """
    if not torch.is_grad_enabled() or is_redirected(_ATTENTION):
        yield
        return
    with redirected(**{_ATTENTION: _watched}):
        yield


def _watched(*args: Any, **kwargs: Any) -> Tensor:
    out: Tensor = original(_ATTENTION)(*args, **kwargs)
    if out.grad_fn is not None and "ScaledDotProduct" in out.grad_fn.name():
        out.grad_fn.register_hook(_mark)
    return out


def _mark(gradients: tuple[Any, ...], _: Any) -> None:
    for gradient in gradients:
        node = None if gradient is None else gradient.grad_fn
        if node is not None and "NotImplemented" in node.name():
            node.register_prehook(_raise)


def _raise(_: Any) -> None:
    raise RuntimeError(CURE)
