"""The call of a wrapped network, and noise levels in a form that multiplies its states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edmfast._internal.broadcast import unsqueeze_like
from edmfast.models.calling.condition_rows import check_condition_rows
from edmfast.models.calling.conditions import explained
from edmfast.models.calling.foreign import call_backbone, is_ours
from edmfast.models.calling.returned import check_backbone_output
from edmfast.models.preconditioning import expand_sigma


def predict(network: Any, y: Tensor, t: Tensor, **condition: Any) -> Tensor:
    """Return the prediction, like y, of a network for scaled states y [B, *shape] at times t [B].

    The network may overwrite y and t, which nobody else holds, and gets copies of the conditions. Raises TypeError
    where it returns no floating tensor, and ValueError where the shape is not that of y.
    """
    # Where derivatives are recorded, the call also watches for attention without a second derivative.
    if torch.is_grad_enabled() or is_ours(network):
        return call_backbone(network, y, t, "the network", **condition)
    copies = {
        name: value.clone() if isinstance(value, Tensor) else value
        for name, value in condition.items()
    }
    check_condition_rows(network, condition, len(y))
    try:
        returned = network(y, t, **copies)
    except (TypeError, RuntimeError) as error:
        clearer = explained(error, network, y, copies)
        # An error that is not recognised keeps its own traceback.
        if clearer is error:
            raise
        raise clearer from error
    return check_backbone_output(network, returned, y, "the network")


def levels_like(sigma: float | Tensor, x: Tensor) -> Tensor:
    """Return noise levels [B, 1, 1, ...] on the device of x, in float32 or a wider dtype of x or sigma.

    x: [B, *shape]. sigma: a float, [] or [B]. Raises TypeError or ValueError for other forms.
    """
    kind = sigma.dtype if isinstance(sigma, Tensor) and sigma.is_floating_point() else torch.float32
    # The scalings of a half-precision state would lose their digits in its own dtype.
    wide = torch.promote_types(kind if kind.itemsize >= 4 else torch.float32, x.dtype)
    # The levels of a sampler have this form, which needs no further check.
    if (
        isinstance(sigma, Tensor)
        and (sigma.shape, sigma.dtype, sigma.device) == (x.shape[:1], wide, x.device)
        and x.dim() > 1
        and x.is_floating_point()
    ):
        return unsqueeze_like(sigma, x)
    return expand_sigma(sigma, x if x.dtype == wide else x.new_empty((), dtype=wide).expand_as(x))


def multiply_add(start: Tensor, factor: Tensor, other: Tensor) -> Tensor:
    """Return start + factor * other, in one pass where all have one dtype."""
    if start.dtype == factor.dtype == other.dtype:
        return torch.addcmul(start, factor, other)
    return start + factor * other
