"""Normalisation of groups of channels with scale, shift and silu, and its derivatives, in plain torch, by hand.

x [N, C, S] has G groups of n = C/G S numbers each, with mean m and reciprocal deviation r = (variance + eps)^-1/2
(m = 0 where it is not centred: RMS norm); N(x) = (x - m) r, z = scale N(x) + shift, and y = silu(z), or z.
scale and shift are [M, C], M a divisor of N: N/M rows after one another share one of theirs. Layer norm of tokens
[B, L, C] is N = B L, S = 1, G = 1, M = B. With P(v) = v - mean(v) - N(x) mean(v N(x)) over a group, the derivative
of N(x) along v is r P(v), and its transpose the same; without centring P has no mean(v). States lie in memory
as x does: channels slowest, or fastest.
Source: Wu & He 2018, arXiv 1803.08494 (group norm), the derivatives by hand.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast.ops._shared.dtypes import widened


def group_norm_silu(
    x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float, centred: bool, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(y like x, mean [N, G], rstd [N, G]): statistics in float32, of float64 states in float64."""
    rows = _grouped(widened(x), groups)
    mean = rows.mean(2) if centred else rows.new_zeros(rows.shape[:2])
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
    """Cotangents of (x, scale, shift) from that of y."""
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
    """Cotangents of (grad, x, scale, shift) from those of what `group_norm_silu_backward` returns.

    That function's pairing with its cotangents (v, b, c) is sum u z', z' = scale t + b N(x) + c and
    t = r P(v): the derivative of z along (v, b, c).
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
    # r is in t too, and the derivative of r along v is -r² mean(v N(x))
    second = _pull(to_normal, normal, rstd, centred) - r * normal * _mean(w * t, rstd)
    gathered = _gather(q * normal + u * t, scale), _gather(q, shift)
    return _laid(slope * moved, x), _laid(second, x), *gathered


def _laid(tensor: Tensor, x: Tensor) -> Tensor:
    """Of x's dtype, channels slowest or fastest in memory, as x has them."""
    given = tensor.to(x.dtype)
    if not x.is_contiguous() and x.mT.is_contiguous():
        return given.mT.contiguous().mT
    return given.contiguous()


def _grouped(x: Tensor, groups: int) -> Tensor:
    return x.reshape(x.shape[0], groups, x.shape[1] // groups * x.shape[2])


def _each(numbers: Tensor, x: Tensor) -> Tensor:
    """[N, G] -> [N, C, 1]."""
    return numbers.repeat_interleave(x.shape[1] // numbers.shape[1], 1)[:, :, None]


def _spread(numbers: Tensor, x: Tensor) -> Tensor:
    """[M, C] -> [N, C, 1]."""
    return widened(numbers).repeat_interleave(x.shape[0] // max(1, numbers.shape[0]), 0)[:, :, None]


def _gather(numbers: Tensor, like: Tensor) -> Tensor:
    """Sums of numbers [N, C, S] for each of scale or shift [M, C]."""
    shape = like.shape[0], numbers.shape[0] // max(1, like.shape[0]), *numbers.shape[1:]
    return numbers.reshape(shape).sum((1, 3)).to(like.dtype)


def _normal(x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    return (widened(x) - _each(mean, x)) * _each(rstd, x)


def _mean(numbers: Tensor, rstd: Tensor) -> Tensor:
    """Over groups, [N, C, S] -> [N, C, 1]."""
    return _each(_grouped(numbers, rstd.shape[1]).mean(2), numbers)


def _pull(v: Tensor, normal: Tensor, rstd: Tensor, centred: bool) -> Tensor:
    """r P(v)."""
    rest = v - normal * _mean(v * normal, rstd)
    return _each(rstd, v) * (rest - _mean(v, rstd) if centred else rest)


def _slopes(z: Tensor, silu: bool) -> tuple[Tensor, Tensor]:
    """First and second derivative of silu, or of z itself."""
    if not silu:
        return torch.ones_like(z), torch.zeros_like(z)
    s = torch.sigmoid(z)
    return s * (1 + z * (1 - s)), s * (1 - s) * (2 + z * (1 - 2 * s))
