"""Circulation of a vector field around small rectangles: zero for every gradient, by Stokes.

    curl over a rectangle = (closed integral of <s, dl>) / area = mean of d_1 s_2 - d_2 s_1 inside,

with s_1, s_2 the parts of s along the rectangle's sides; a rotation s = omega (-y, x) has 2 omega. Unlike
the asymmetry of the Jacobian this needs no derivative of the field, and it sees what a field does over a
distance. Each side is integrated by Gauss-Legendre nodes, doubled until the value stands still.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from edmfast._internal.derivatives import refuse_run, without_gradients
from edmfast._internal.numbers import as_float, as_int, as_pair, as_seed
from edmfast.models.calling.foreign import call_denoiser
from edmfast.models.preconditioning import expand_sigma
from edmfast.ops import standard_normal

_FREE_STREAM = 5
_PLANE_STEP = 1 << 30
"""Far from the steps of trajectories, whose noise is in the states."""
_FIRST_NODES = 2


class Circulation(NamedTuple):
    """Per sample, float64 [B]: value, circulation over area, in units of the field per unit of x; error, the
    change from half as many nodes; strength, the mean of |<s, dl>| around the rectangle over its area, which
    is the largest that value could be."""

    value: Tensor
    error: Tensor
    strength: Tensor


@without_gradients
def rectangle_circulation(
    field: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    sides: float | tuple[float, float],
    directions: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
    tolerance: float = 1e-6,
    max_nodes: int = 64,
) -> Circulation:
    """Circulation of `field` around a rectangle centred at every sample of x [B, *shape].

    Args:
        field: [n, *shape] -> [n, *shape], samples independent.
        sides: lengths in units of x, of both sides or of each.
        directions: two orthonormal tensors [*shape] or [B, *shape]; by default a random plane per sample,
            sample k's from (seed, k) alone.
        tolerance: nodes are doubled until no sample's error is above tolerance * strength, or max_nodes
            per side are reached; the error reached is in the result. 4 (nodes) evaluations per sample each
            time.

    Raises:
        ValueError: sides that are not positive, samples of fewer than two numbers, directions that are not
            orthonormal, or a field that returns another shape.
    """
    refuse_run("rectangle_circulation", field, x)
    many = isinstance(sides, (tuple, list)) or getattr(sides, "ndim", 0) > 0
    given: Any = as_pair("sides", sides) if many else (sides, sides)
    lengths = tuple(as_float("sides", side, positive=True) for side in given)
    seed, tolerance = as_seed(seed), as_float("tolerance", tolerance, least=0)
    max_nodes = as_int("max_nodes", max_nodes, least=1)
    flat = x.flatten(1)
    if flat.shape[1] < 2:
        raise ValueError(f"a rectangle needs two dimensions, got samples of shape {[*x.shape[1:]]}")
    plane = _random_plane(flat, seed) if directions is None else _check_plane(directions, x)

    def measure(nodes: int) -> tuple[Tensor, Tensor]:
        return _integrate(field, x, plane, lengths, nodes)

    nodes = _FIRST_NODES
    before, _ = measure(nodes)
    while True:
        nodes *= 2
        value, strength = measure(nodes)
        error = (value - before).abs()
        if nodes * 2 > max_nodes or bool((error <= tolerance * strength).all()):
            return Circulation(value, error, strength)
        before = value


def score_circulation(
    model: Callable[..., Tensor],
    x: Tensor,
    sigma: float | Tensor,
    *,
    sides: float | tuple[float, float] | None = None,
    condition: dict[str, Any] | None = None,
    **options: Any,
) -> Circulation:
    """`rectangle_circulation` of a denoiser's score (D(x; sigma) - x) / sigma² at x [B, *shape].

    sigma: one positive level. sides: sigma by default, the distance over which a score changes. options:
    as there. Errors as there, and ValueError for a sigma that is not positive.
    """
    level = as_float("sigma", sigma, positive=True)

    def score(points: Tensor) -> Tensor:
        levels = torch.full((len(points),), level, dtype=points.dtype, device=points.device)
        given = {
            name: _repeat(value, len(x), len(points)) for name, value in (condition or {}).items()
        }
        denoised = call_denoiser(model, points, levels, **given)
        return (denoised - points) / expand_sigma(levels, points) ** 2

    return rectangle_circulation(score, x, sides=level if sides is None else sides, **options)


def _repeat(value: Any, batch: int, points: int) -> Any:
    """A condition of B samples for all points around them, which come sample by sample."""
    per_sample = isinstance(value, Tensor) and value.dim() > 0 and len(value) == batch
    return value.repeat_interleave(points // batch, 0) if per_sample else value


def _integrate(
    field: Callable[[Tensor], Tensor],
    x: Tensor,
    plane: Tensor,
    lengths: tuple[float, ...],
    nodes: int,
) -> tuple[Tensor, Tensor]:
    """(circulation, strength) over area [B]; plane: float64 [2, B, d]."""
    at, share = (
        torch.from_numpy(part).to(x.device) for part in np.polynomial.legendre.leggauss(nodes)
    )
    a, b = lengths[0] / 2, lengths[1] / 2
    ones = torch.ones_like(at)
    # around the rectangle: bottom, right, top, left; coordinates along the two directions
    first = torch.cat([a * at, a * ones, -a * at, -a * ones])
    second = torch.cat([-b * ones, b * at, b * ones, -b * at])
    along = torch.cat([a * share, 0 * share, -a * share, 0 * share])
    across = torch.cat([0 * share, b * share, 0 * share, -b * share])
    offsets = first[:, None] * plane[0][:, None] + second[:, None] * plane[1][:, None]
    points = (x.flatten(1).double()[:, None] + offsets).to(x.dtype)
    value = field(points.reshape(-1, *x.shape[1:]))
    if value.shape != (len(x) * 4 * nodes, *x.shape[1:]):
        raise ValueError(
            f"the field must keep the shape [n, {[*x.shape[1:]]}], got {[*value.shape]}"
        )
    value = value.reshape(len(x), 4 * nodes, plane.shape[2]).double()
    parts = torch.einsum("bnd,kbd->bnk", value, plane)
    steps = parts[..., 0] * along + parts[..., 1] * across
    area = lengths[0] * lengths[1]
    return steps.sum(1) / area, steps.abs().sum(1) / area


def _random_plane(flat: Tensor, seed: int) -> Tensor:
    batch, dim = flat.shape
    like = flat.new_empty(1, batch, 2 * dim, dtype=torch.float64)
    normals = standard_normal(like, seed=seed, step=_PLANE_STEP, stream=_FREE_STREAM)[0]
    first, second = normals.reshape(batch, 2, dim).unbind(1)
    first = first / first.norm(dim=1, keepdim=True)
    second = second - (second * first).sum(1, keepdim=True) * first
    return torch.stack([first, second / second.norm(dim=1, keepdim=True)])


def _check_plane(directions: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    plane = torch.stack([d.to(x.device).double().expand(x.shape).flatten(1) for d in directions])
    gram = torch.einsum("ibd,jbd->bij", plane, plane)
    if not torch.allclose(gram, torch.eye(2, dtype=torch.float64, device=x.device), atol=1e-6):
        raise ValueError("directions must be two orthonormal tensors of the shape of a sample")
    return plane
