"""Norms of groups of channels with scale, shift and silu, and their derivatives by hand, in plain torch.

x [N, C, S] has G groups of n = C/G S numbers each, with mean m and reciprocal deviation r = (variance + eps)^-1/2.
For RMS norm, which is not centred, m = 0. Then N(x) = (x - m) r, z = scale N(x) + shift, and y = silu(z), or z.
scale and shift are [M, C], where M divides N: each of their rows serves N/M neighbouring rows of x. Layer norm of
tokens [B, L, C] is the case N = B L, S = 1, G = 1, M = B.

With P(v) = v - mean(v) - N(x) mean(v N(x)) over a group, the derivative of N(x) along v is r P(v), which is its
own transpose. Without centring P has no mean(v). Results have the layout of x: channels slowest or fastest in
memory.
Source: Wu & He 2018, arXiv 1803.08494 (group norm). The derivatives are our own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast.ops._shared.dtypes import widened


def group_norm_silu(
    x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float, centred: bool, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (y like x, mean [N, G], rstd [N, G]). The statistics are float32, or float64 for float64 states."""
    rows = _grouped(widened(x), groups)
    mean = rows.mean(2) if centred else rows.new_zeros(rows.shape[:2])
    # in two passes, so that a large mean costs the variance no digits
    variance = (rows - mean[:, :, None]).square().mean(2)
    rstd = (variance + eps).rsqrt()
    normal = _normal(x, mean, rstd)
    z = _spread(scale, x) * normal + _spread(shift, x)
    return _laid(z * torch.sigmoid(z) if silu else z, x), mean, rstd


def group_norm_silu_backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    rstd: Tensor,
    centred: bool,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cotangents of (x, scale, shift) from the cotangent `grad` of y."""
    normal, a = _normal(x, mean, rstd), _spread(scale, x)
    u = widened(grad) * _slopes(a * normal + _spread(shift, x), silu)[0]
    to_x = _pull(a * u, normal, rstd, centred)
    return _laid(to_x, x), _gather(u * normal, scale), _gather(u, shift)


def group_norm_silu_double_backward(
    to_x: Tensor,
    to_scale: Tensor | None,
    to_shift: Tensor | None,
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    rstd: Tensor,
    centred: bool,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the cotangents of (grad, x, scale, shift) from those of what `group_norm_silu_backward` returns.

    With its cotangents (v, b, c), the inner product of that function's results is sum u z', where
    z' = scale t + b N(x) + c with t = r P(v) is the derivative of z along (v, b, c).
    """
    normal, a, v, g = _normal(x, mean, rstd), _spread(scale, x), widened(to_x), widened(grad)
    slope, bend = _slopes(a * normal + _spread(shift, x), silu)
    u = g * slope
    w, t = a * u, _pull(v, normal, rstd, centred)
    moved = a * t
    if to_scale is not None:
        moved = moved + _spread(to_scale, x) * normal
    if to_shift is not None:
        moved = moved + _spread(to_shift, x)
    q = g * bend * moved
    r = _each(rstd, x)
    along_w, along_v = _mean(w * normal, rstd), _mean(v * normal, rstd)
    to_normal = q * a - r * (along_v * w + along_w * v)
    if to_scale is not None:
        to_normal = to_normal + u * _spread(to_scale, x)
    # t depends on r too, and the derivative of r along v is -r² mean(v N(x))
    second = _pull(to_normal, normal, rstd, centred) - r * normal * _mean(w * t, rstd)
    gathered = _gather(q * normal + u * t, scale), _gather(q, shift)
    return _laid(slope * moved, x), _laid(second, x), *gathered


def _laid(tensor: Tensor, x: Tensor) -> Tensor:
    """Return the tensor in the dtype and the layout of x: channels slowest or fastest in memory."""
    # half precisions are computed in float32, so they are rounded only here
    cast = tensor.to(x.dtype)
    if not x.is_contiguous() and x.mT.is_contiguous():
        return cast.mT.contiguous().mT
    return cast.contiguous()


def _grouped(x: Tensor, groups: int) -> Tensor:
    """Return x [N, C, S] as [N, G, n]."""
    return x.reshape(x.shape[0], groups, x.shape[1] // groups * x.shape[2])


def _each(numbers: Tensor, x: Tensor) -> Tensor:
    """Repeat numbers of groups [N, G] for each of their channels, [N, C, 1]."""
    return numbers.repeat_interleave(x.shape[1] // numbers.shape[1], 1)[:, :, None]


def _spread(numbers: Tensor, x: Tensor) -> Tensor:
    """Repeat scale or shift [M, C] for each row that shares it, [N, C, 1]."""
    # an empty batch may have no row of scale, and there is still a quotient to take
    return widened(numbers).repeat_interleave(x.shape[0] // max(1, numbers.shape[0]), 0)[:, :, None]


def _gather(numbers: Tensor, like: Tensor) -> Tensor:
    """Sum numbers [N, C, S] over all that share a number of scale or shift [M, C]."""
    # rows that share a scale are neighbours
    shape = like.shape[0], numbers.shape[0] // max(1, like.shape[0]), *numbers.shape[1:]
    return numbers.reshape(shape).sum((1, 3)).to(like.dtype)


def _normal(x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """Return N(x)."""
    return (widened(x) - _each(mean, x)) * _each(rstd, x)


def _mean(numbers: Tensor, rstd: Tensor) -> Tensor:
    """Return the mean of numbers [N, C, S] over each group, repeated for its channels, [N, C, 1]."""
    return _each(_grouped(numbers, rstd.shape[1]).mean(2), numbers)


def _pull(v: Tensor, normal: Tensor, rstd: Tensor, centred: bool) -> Tensor:
    """Return r P(v)."""
    rest = v - normal * _mean(v * normal, rstd)
    return _each(rstd, v) * (rest - _mean(v, rstd) if centred else rest)


def _slopes(z: Tensor, silu: bool) -> tuple[Tensor, Tensor]:
    """Return the first and second derivative of silu at z, or of the identity."""
    if not silu:
        return torch.ones_like(z), torch.zeros_like(z)
    # written with the sigmoid and without an exponential, both are finite at every finite z
    s = torch.sigmoid(z)
    return s * (1 + z * (1 - s)), s * (1 - s) * (2 + z * (1 - 2 * s))
