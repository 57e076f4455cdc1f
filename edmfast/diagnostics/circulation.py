"""The circulation of a vector field around small rectangles, which by Stokes' theorem is zero for every gradient.

    circulation / area = (closed integral of <s, dl>) / area = mean of d_1 s_2 - d_2 s_1 inside,

where s_1 and s_2 are the components of s along the rectangle's sides. A rotation s = omega (-y, x) has the value
2 omega. Unlike the asymmetry of the Jacobian, the circulation needs no derivative of the field, and it measures
what the field does over a distance. Each side is integrated by Gauss-Legendre quadrature, and the nodes are
doubled until the value no longer changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from edmfast._internal.derivatives import refuse_run, without_gradients
from edmfast._internal.numbers import as_float, as_int, as_pair, as_seed
from edmfast.models.calling.condition_rows import check_condition_rows
from edmfast.models.calling.foreign import call_denoiser
from edmfast.models.preconditioning import expand_sigma
from edmfast.models.protocols import Denoiser
from edmfast.ops import standard_normal

_DIAGNOSTICS_STREAM = 5
_PLANE_STEP = 1 << 30
"""The counter's step for random planes, far from the steps of trajectories, whose noise is in the states."""
_FIRST_NODES = 2


class Circulation(NamedTuple):
    """The circulation around one rectangle per sample; all tensors are float64 [B].

    Attributes:
        value: the circulation over the area, in units of the field per unit of x.
        error: the change of the value from half as many nodes.
        strength: the mean of |<s, dl>| around the rectangle over its area, an upper bound of |value|.
    """

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
    """Measure the circulation of `field` around a rectangle centred at every sample of x.

    Source: Stokes' theorem, with Gauss-Legendre quadrature along the sides.

    Args:
        field: a function [n, *shape] -> [n, *shape] whose samples are independent.
        x: the centres [B, *shape].
        sides: the length of the sides in units of x, one number for both or a pair.
        directions: two orthonormal tensors [*shape] or [B, *shape] that span the plane. By default every sample
            has a random plane, that of sample k drawn from (seed, k) alone.
        seed: the seed of the random planes.
        tolerance: the nodes are doubled until the error of every sample is at most tolerance * strength.
        max_nodes: the largest number of nodes per side. Every doubling costs 4 nodes evaluations per sample.

    Returns:
        A `Circulation`, whose error is the one reached.

    Raises:
        TypeError: a number of the wrong type.
        ValueError: sides that are not positive, samples of fewer than two numbers, directions that are not
            orthonormal, or a field that returns another shape.
        RuntimeError: a derivative of the call is requested by torch.func or forward mode.
    """
    refuse_run("rectangle_circulation", field, x)
    # A tensor or array without dimensions is one number, and must not be unpacked as a pair.
    is_pair = isinstance(sides, (tuple, list)) or getattr(sides, "ndim", 0) > 0
    pair: Any = as_pair("sides", sides) if is_pair else (sides, sides)
    lengths = tuple(as_float("sides", side, positive=True) for side in pair)
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
        # Half as many nodes give the estimate of the error.
        error = (value - before).abs()
        # The error is measured against the strength and not the value, which is 0 for a gradient
        # field.
        if nodes * 2 > max_nodes or bool((error <= tolerance * strength).all()):
            return Circulation(value, error, strength)
        before = value


def score_circulation(
    model: Denoiser,
    x: Tensor,
    sigma: float | Tensor,
    *,
    sides: float | tuple[float, float] | None = None,
    condition: dict[str, Any] | None = None,
    **options: Any,
) -> Circulation:
    """Measure the circulation of a denoiser's score (D(x; sigma) - x) / sigma² around rectangles at x.

    Source: Stokes' theorem; see `rectangle_circulation`.

    Args:
        model: the denoiser, called as model(x, sigma [B], **condition) -> x_0.
        x: the centres [B, *shape].
        sigma: one positive noise level, in units of x.
        sides: the length of the sides in units of x, one number or a pair; by default sigma, the distance over
            which a score changes.
        condition: keyword conditions for the model, with one row per sample of x, or one for all.
        options: the other arguments of `rectangle_circulation`: directions, seed, tolerance and max_nodes.

    Returns:
        A `Circulation`, in units of the score per unit of x.

    Raises:
        TypeError: a number of the wrong type.
        ValueError: a sigma that is not positive, and as `rectangle_circulation` does.
        RuntimeError: a derivative of the call is requested by torch.func or forward mode.
    """
    level = as_float("sigma", sigma, positive=True)
    # an error of the repeated rows would name sizes that the caller did not pass
    check_condition_rows(model, condition or {}, len(x))

    def score(points: Tensor) -> Tensor:
        # The field is called with several points per sample, so levels and conditions are repeated
        # for them.
        levels = torch.full((len(points),), level, dtype=points.dtype, device=points.device)
        repeated = {
            name: _repeat(value, len(x), len(points)) for name, value in (condition or {}).items()
        }
        denoised = call_denoiser(model, points, levels, **repeated)
        return (denoised - points) / expand_sigma(levels, points) ** 2

    return rectangle_circulation(score, x, sides=level if sides is None else sides, **options)


def _repeat(value: Any, batch: int, points: int) -> Any:
    """Return a condition with one row per sample repeated for the points of each sample; any other as it is."""
    has_rows = isinstance(value, Tensor) and value.dim() > 0 and len(value) == batch
    return value.repeat_interleave(points // batch, 0) if has_rows else value


def _integrate(
    field: Callable[[Tensor], Tensor],
    x: Tensor,
    plane: Tensor,
    lengths: tuple[float, ...],
    nodes: int,
) -> tuple[Tensor, Tensor]:
    """Return (circulation, strength) over the area, each [B]. plane: float64 [2, B, d]."""
    # Gauss-Legendre nodes leave out the corners, where two sides meet with different directions.
    node, weight = (
        torch.from_numpy(part).to(x.device) for part in np.polynomial.legendre.leggauss(nodes)
    )
    a, b = lengths[0] / 2, lengths[1] / 2
    ones = torch.ones_like(node)
    # The points go around the rectangle: bottom, right, top, left. These are their coordinates in the plane.
    first = torch.cat([a * node, a * ones, -a * node, -a * ones])
    second = torch.cat([-b * ones, b * node, b * ones, -b * node])
    along = torch.cat([a * weight, 0 * weight, -a * weight, 0 * weight])
    across = torch.cat([0 * weight, b * weight, 0 * weight, -b * weight])
    offsets = first[:, None] * plane[0][:, None] + second[:, None] * plane[1][:, None]
    # In float64, because a rectangle may be small beside the coordinates of its centre.
    points = (x.flatten(1).double()[:, None] + offsets).to(x.dtype)
    value = field(points.reshape(-1, *x.shape[1:]))
    if value.shape != (len(x) * 4 * nodes, *x.shape[1:]):
        raise ValueError(
            f"the field must keep the shape [n, {[*x.shape[1:]]}], got {[*value.shape]}"
        )
    value = value.reshape(len(x), 4 * nodes, plane.shape[2]).double()
    # Products are summed in float64, because the contributions of opposite sides nearly cancel.
    parts = torch.einsum("bnd,kbd->bnk", value, plane)
    steps = parts[..., 0] * along + parts[..., 1] * across
    area = lengths[0] * lengths[1]
    # The nodes of one side span [-1, 1], so half a side's length has scaled the weights already.
    return steps.sum(1) / area, steps.abs().sum(1) / area


def _random_plane(flat: Tensor, seed: int) -> Tensor:
    batch, dim = flat.shape
    # Both directions come from one draw per sample, so a plane depends on (seed, k) alone.
    like = flat.new_empty(1, batch, 2 * dim, dtype=torch.float64)
    normals = standard_normal(like, seed=seed, step=_PLANE_STEP, stream=_DIAGNOSTICS_STREAM)[0]
    first, second = normals.reshape(batch, 2, dim).unbind(1)
    first = first / first.norm(dim=1, keepdim=True)
    # Gram-Schmidt of two independent normals gives a plane whose direction is uniform.
    second = second - (second * first).sum(1, keepdim=True) * first
    return torch.stack([first, second / second.norm(dim=1, keepdim=True)])


def _check_plane(directions: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    plane = torch.stack([d.to(x.device).double().expand(x.shape).flatten(1) for d in directions])
    gram = torch.einsum("ibd,jbd->bij", plane, plane)
    if not torch.allclose(gram, torch.eye(2, dtype=torch.float64, device=x.device), atol=1e-6):
        raise ValueError("directions must be two orthonormal tensors of the shape of a sample")
    return plane
