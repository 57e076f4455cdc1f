"""Clearer errors for the second derivative of torch's attention, which torch does not have.

The kernels behind `torch.nn.functional.scaled_dot_product_attention` have a first derivative only. The score of an
energy uses it up, so that training an energy, probing its curvature or following a reward through it needs a
second one. torch then says only "derivative for aten::_scaled_dot_product_…_backward is not implemented". The
error raised here names the cure, `edmfast.models.patch_attention`.
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
    """Raise torch's error for the missing second derivative of attention again, with its cure."""
    try:
        yield
    except RuntimeError as error:
        if _MISSING.search(str(error)) is None:
            raise
        raise RuntimeError(f"{CURE} ({error})") from error


@contextlib.contextmanager
def watched_attention() -> Iterator[None]:
    """Let torch's attention raise an error that names the cure when it is differentiated twice.

    When a caller differentiates a score, torch fails outside of any call of this package. So hooks in the graph
    raise the error. The context does nothing inside a patched module and where no graph is recorded.
    """
    # within patch_attention the second derivative exists, and without a graph none is taken
    if not torch.is_grad_enabled() or is_redirected(_ATTENTION):
        yield
        return
    with redirected(**{_ATTENTION: _watched}):
        yield


def _watched(*args: Any, **kwargs: Any) -> Tensor:
    out: Tensor = original(_ATTENTION)(*args, **kwargs)
    # the plain math path has second derivatives, and only the fused kernels have such a node
    if out.grad_fn is not None and "ScaledDotProduct" in out.grad_fn.name():
        out.grad_fn.register_hook(_mark)
    return out


def _mark(gradients: tuple[Any, ...], _: Any) -> None:
    for gradient in gradients:
        # torch marks the missing derivative by a node that fails when it runs
        node = None if gradient is None else gradient.grad_fn
        if node is not None and "NotImplemented" in node.name():
            # the hook runs before torch's own node fails with a message that names no cure
            node.register_prehook(_raise)


def _raise(_: Any) -> None:
    raise RuntimeError(CURE)
