"""Is a vector field a gradient? The asymmetry of its Jacobian J, by random probes.

    Asym = tr(J J^T) - tr(J^2) = |J - J^T|^2 / 2,   NAsym = Asym / (2 tr(J J^T)) in [0, 1].

NAsym is the share of the antisymmetric part in the squared norm of J: 0 for a gradient field (every
energy model), 1 for a pure rotation. With a probe v of independent signs, one vector-Jacobian
product J^T v and one Jacobian-vector product J v (by a second reverse pass) give
E|J v|^2 = E|J^T v|^2 = tr(J J^T) and E<J v, J^T v> = tr(J^2); so |J v - J^T v|^2 / 2 estimates Asym
and is never negative; for a symmetric J it is 0 up to rounding. Sources: Hutchinson 1990; Chao et
al. 2023, "On investigating the conservative property of score-based generative models",
arXiv 2209.12753.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.derivatives import refuse_run
from edmfast._internal.numbers import as_float, as_int, as_seed, check_level
from edmfast.models.calling.foreign import call_denoiser
from edmfast.models.calling.second_order import second_derivatives
from edmfast.models.preconditioning import expand_sigma
from edmfast.ops import standard_normal

_PROBE_STREAM = 2


@dataclass(frozen=True)
class Asymmetry:
    """Estimates per sample: asymmetry [B] = |J - J^T|^2 / 2, squared_norm [B] = tr(J J^T)."""

    asymmetry: Tensor
    squared_norm: Tensor

    @property
    def normalised(self) -> Tensor:
        """NAsym per sample, [B] in [0, 1]; 0 where the Jacobian is 0."""
        scale = 2 * self.squared_norm
        return torch.where(scale > 0, self.asymmetry / scale.clamp_min(_tiny(scale)), 0 * scale)

    @property
    def overall(self) -> float:
        """NAsym of the batch, the ratio of the two means: less noisy than a mean of ratios."""
        total = float(self.squared_norm.sum())
        return float(self.asymmetry.sum()) / (2 * total) if total else 0.0


def field_asymmetry(
    field: Callable[[Tensor], Tensor], x: Tensor, *, probes: int = 1, seed: int = 0
) -> Asymmetry:
    """Estimates the asymmetry of `field` at every sample of x [B, *shape].

    Args:
        field: [B, *shape] -> [B, *shape], samples independent, twice differentiable in reverse.
        x: where; probes: per sample; seed: of the probes (sample k's depend on k alone).

    Raises:
        ValueError: probes < 1, or a field that returns another shape or is not differentiable.
    """
    refuse_run("field_asymmetry", field, x)
    probes, seed = as_int("probes", probes, least=1), as_seed(seed)
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


def score_asymmetry(
    model: Callable[..., Tensor],
    x: Tensor,
    sigma: float | Tensor,
    *,
    probes: int = 1,
    seed: int = 0,
    **condition: Any,
) -> Asymmetry:
    """`field_asymmetry` of a denoiser's score (D(x; sigma) - x) / sigma^2 at x [B, *shape].

    sigma is a positive float, [] or [B], passed to the model as [B]. Errors as there.
    """
    if not isinstance(sigma, Tensor) or sigma.dim() == 0:
        sigma = as_float("sigma", sigma, positive=True)
        check_level("sigma", sigma, x.dtype)
    levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(x.shape[0])
    if not (levels > 0).all():
        raise ValueError(f"sigma must be positive, got {float(levels.min())}")
    variance = expand_sigma(levels, x) ** 2

    def score(point: Tensor) -> Tensor:
        return (call_denoiser(model, point, levels, **condition) - point) / variance

    return field_asymmetry(score, x, probes=probes, seed=seed)


def _probe(value: Tensor, point: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    # J^T w is linear in w: differentiating <J^T w, v> with respect to w gives J v, whatever w is.
    dual = probe.clone().requires_grad_(True)
    (back,) = torch.autograd.grad(value, point, dual, create_graph=True)
    with second_derivatives():
        (ahead,) = torch.autograd.grad(back, dual, probe, retain_graph=True)
    back, ahead = back.detach().flatten(1), ahead.flatten(1)
    asymmetry = (ahead - back).square().sum(1) / 2
    return asymmetry, (ahead.square().sum(1) + back.square().sum(1)) / 2


def _signs(like: Tensor, seed: int, step: int) -> Tensor:
    normals = standard_normal(like[None], seed=seed, step=step, stream=_PROBE_STREAM)[0]
    return torch.ones_like(normals).copysign(normals)


def _tiny(like: Tensor) -> float:
    return torch.finfo(like.dtype).tiny
