"""The asymmetry of a vector field's Jacobian J, estimated by random probes: is the field a gradient?

    Asym = tr(J J^T) - tr(J²) = |J - J^T|² / 2,   NAsym = Asym / (2 tr(J J^T)) in [0, 1].

NAsym is the share of the antisymmetric part in the squared norm of J. It is 0 for a gradient field, such as the
score of every energy model, and 1 for a pure rotation. With a probe v of independent signs, one vector-Jacobian
product J^T v and one Jacobian-vector product J v (by a second reverse pass) give E|J v|² = E|J^T v|² = tr(J J^T)
and E<J v, J^T v> = tr(J²). So |J v - J^T v|² / 2 estimates Asym, is never negative, and is 0 up to rounding for a
symmetric J. Sources: Hutchinson 1990; Chao et al. 2023, "On investigating the conservative property of score-based
generative models", arXiv 2209.12753.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from edmfast._internal.derivatives import refuse_run
from edmfast._internal.numbers import as_int, as_seed
from edmfast.models.calling.second_order import second_derivatives
from edmfast.ops import random_signs

_PROBE_STREAM = 2


@dataclass(frozen=True)
class Asymmetry:
    """The estimated asymmetry of the Jacobian J of a field, per sample.

    Attributes:
        asymmetry: |J - J^T|² / 2, [B].
        squared_norm: tr(J J^T), [B].
    """

    asymmetry: Tensor
    squared_norm: Tensor

    @property
    def normalised(self) -> Tensor:
        """NAsym per sample, [B] in [0, 1], and 0 where the Jacobian is 0."""
        scale = 2 * self.squared_norm
        # A constant field has J = 0 and is a gradient, where the plain quotient would be 0/0.
        return torch.where(scale > 0, self.asymmetry / scale.clamp_min(_tiny(scale)), 0 * scale)

    @property
    def overall(self) -> float:
        """NAsym of the batch as the ratio of the two means, which is less noisy than the mean of the ratios."""
        total = float(self.squared_norm.sum())
        return float(self.asymmetry.sum()) / (2 * total) if total else 0.0


def field_asymmetry(
    field: Callable[[Tensor], Tensor], x: Tensor, *, probes: int = 1, seed: int = 0
) -> Asymmetry:
    """Estimate the asymmetry of the Jacobian of `field` at every sample of x.

    Sources: Hutchinson 1990; Chao et al. 2023, arXiv 2209.12753.

    Args:
        field: a function [B, *shape] -> [B, *shape] whose samples are independent, twice differentiable in reverse
            mode.
        x: the points [B, *shape].
        probes: the number of random probes per sample, at least 1.
        seed: the seed of the probes; those of sample k depend on (seed, k) alone.

    Returns:
        An `Asymmetry` of tensors [B] in the dtype of x.

    Raises:
        TypeError: probes or a seed that is no integer.
        ValueError: probes < 1, or a field that returns another shape or is not differentiable.
        RuntimeError: a derivative of the call is requested by torch.func or forward mode.
    """
    refuse_run("field_asymmetry", field, x)
    probes, seed = as_int("probes", probes, least=1), as_seed(seed)
    # The measurement needs a graph also where its caller has switched grad mode off.
    with torch.enable_grad():
        point = x.detach().requires_grad_(True)
        value = field(point)
        if value.shape != x.shape:
            raise ValueError(
                f"the field must keep the shape {tuple(x.shape)}, got {tuple(value.shape)}"
            )
        if not value.requires_grad:
            raise ValueError("the field's value does not depend differentiably on x")
        estimates = [_probe(value, point, _signs(x, seed, i)) for i in range(probes)]
    asymmetry, squared_norm = (torch.stack(part).mean(0) for part in zip(*estimates, strict=True))
    return Asymmetry(asymmetry, squared_norm)


def _probe(value: Tensor, point: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    """Return the estimates (|J - J^T|² / 2, tr(J J^T)) of one probe, each [B]."""
    # J^T w is linear in w, so differentiating <J^T w, v> with respect to w gives J v, whatever w is.
    dual = probe.clone().requires_grad_(True)
    (vjp,) = torch.autograd.grad(value, point, dual, create_graph=True)
    with second_derivatives():
        (jvp,) = torch.autograd.grad(vjp, dual, probe, retain_graph=True)
    vjp, jvp = vjp.detach().flatten(1), jvp.flatten(1)
    asymmetry = (jvp - vjp).square().sum(1) / 2
    # Both squares estimate tr(J J^T), and with their mean NAsym cannot exceed 1.
    return asymmetry, (jvp.square().sum(1) + vjp.square().sum(1)) / 2


def _signs(like: Tensor, seed: int, step: int) -> Tensor:
    return random_signs(like[None], seed=seed, step=step, stream=_PROBE_STREAM)[0]


def _tiny(like: Tensor) -> float:
    return torch.finfo(like.dtype).tiny
