"""`group_norm`, `layer_norm` and `rms_norm`: y = silu(scale (x - m) r + shift) in one pass, differentiable twice.

m is the mean of a group (0 for RMS norm), r its reciprocal deviation, and silu is optional. The formulas of the
derivatives are in `edmfast.ops.norms.reference`. Backward and double backward recompute all that is between x and
y, so the forward pass keeps only x and two numbers for each group. A third derivative raises.

All three are one operator, `group_norm_silu`, which takes x [N, C, S] with the channels slowest or fastest in
memory, and scale and shift [M, C]. Plain torch combines the weights of a layer and the numbers of a sample into
these two.

Sources: Wu & He 2018, arXiv 1803.08494 (group norm); Ba et al. 2016, arXiv 1607.06450 (layer norm); Zhang &
Sennrich 2019, arXiv 1910.07467 (RMS norm); Perez et al. 2018, arXiv 1709.07871 (scales and shifts of a sample).
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import torch
from torch import Tensor

from edmfast import _extension
from edmfast._internal.numbers import as_int
from edmfast.ops._shared.dtypes import arithmetic
from edmfast.ops.norms import reference
from edmfast.ops.norms.arguments import check, check_shapes, combined


def _like(x: Tensor) -> Tensor:
    """Return an empty tensor like x [N, C, S], with the channels slowest or fastest in memory as in x."""
    # the layout of x is kept, so that networks in channels_last need no copies
    n, c, s = x.shape
    if not x.is_contiguous() and x.mT.is_contiguous():
        return x.new_empty(n, s, c).mT
    return x.new_empty(n, c, s)


def _fake(
    x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float, centred: bool, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    mean, rstd = (x.new_empty(x.shape[0], groups, dtype=arithmetic(x.dtype)) for _ in range(2))
    return _like(x), mean, rstd


def _fake_backward(
    grad: Tensor, x: Tensor, scale: Tensor, shift: Tensor, *_: object
) -> tuple[Tensor, Tensor, Tensor]:
    # scale may be an expanded view, but the kernels write its gradient densely
    return _like(x), scale.new_empty(scale.shape), shift.new_empty(shift.shape)


def _fake_double_backward(
    to_x: Tensor,
    to_scale: Tensor | None,
    to_shift: Tensor | None,
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    *_: object,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _like(x), _like(x), scale.new_empty(scale.shape), shift.new_empty(shift.shape)


_extension.define(
    "group_norm_silu(Tensor x, Tensor scale, Tensor shift, int groups, float eps, bool centred, bool silu) "
    "-> (Tensor, Tensor, Tensor)",
    reference.group_norm_silu,
    _fake,
    triton="norms",
)
_extension.define(
    "group_norm_silu_backward(Tensor grad, Tensor x, Tensor scale, Tensor shift, Tensor mean, Tensor rstd, "
    "bool centred, bool silu) -> (Tensor, Tensor, Tensor)",
    reference.group_norm_silu_backward,
    _fake_backward,
    triton="norms",
)
_extension.define(
    "group_norm_silu_double_backward(Tensor to_x, Tensor? to_scale, Tensor? to_shift, Tensor grad, Tensor x, "
    "Tensor scale, Tensor shift, Tensor mean, Tensor rstd, bool centred, bool silu) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    reference.group_norm_silu_double_backward,
    _fake_double_backward,
    triton="norms",
)


def _norm(
    x: Tensor, numbers: tuple[Tensor, Tensor], groups: int, eps: float, centred: bool, silu: bool
) -> Tensor:
    """Return y of states [N, C, S], without the statistics."""
    y: Tensor = torch.ops.edmfast.group_norm_silu(x, *numbers, groups, eps, centred, silu)[0]
    return y


def _set_up(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, scale, shift, *_, centred, silu = inputs
    _, mean, rstd = output
    # callers get y alone
    ctx.mark_non_differentiable(mean, rstd)
    # an absent cotangent stays None, so that backward can leave its work out
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, scale, shift, mean, rstd)
    ctx.centred, ctx.silu = centred, silu


def _backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 7
    slopes = torch.ops.edmfast.group_norm_silu_backward(
        grad, *ctx.saved_tensors, ctx.centred, ctx.silu
    )
    return *slopes, None, None, None, None


def _set_up_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, centred, silu = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)
    ctx.centred, ctx.silu = centred, silu


def _double_backward(
    ctx: Any, to_x: Tensor | None, to_scale: Tensor | None, to_shift: Tensor | None
) -> tuple[Tensor | None, ...]:
    if to_x is None and to_scale is None and to_shift is None:
        return (None,) * 8
    grad, x, *rest = ctx.saved_tensors
    slopes = torch.ops.edmfast.group_norm_silu_double_backward(
        torch.zeros_like(x) if to_x is None else to_x,
        to_scale,
        to_shift,
        grad,
        x,
        *rest,
        ctx.centred,
        ctx.silu,
    )
    # mean and rstd are functions of x, and the formulas include the derivatives through them
    return *slopes, None, None, None, None


def _set_up_double_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    # the third derivative raises, so it needs nothing
    pass


def _triple_backward(ctx: Any, *_: Tensor | None) -> NoReturn:
    raise RuntimeError(
        "edmfast.ops.group_norm, layer_norm and rms_norm have derivatives up to the second order, "
        "a third one was requested"
    )


for _name, _derivative, _context in (
    ("group_norm_silu", _backward, _set_up),
    ("group_norm_silu_backward", _double_backward, _set_up_backward),
    ("group_norm_silu_double_backward", _triple_backward, _set_up_double_backward),
):
    _extension.differentiate(_name, _derivative, _context)


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    eps: float = 1e-5,
    silu: bool = False,
) -> Tensor:
    """Return z = (N(x) weight + bias) (1 + scale) + shift, like x, or z sigmoid(z) where silu is set.

    N(x) has mean 0 and variance 1 over each of `groups` groups of neighbouring channels of a sample.

    x: [B, C, *spatial], float16 or bfloat16 (both computed in float32), float32 or float64.
    weight, bias: [C], by default 1 and 0. scale, shift: [B, C] or [1, C], by default 0. Each may have any of these
        dtypes that is no wider than the one x is computed in.
    eps: added to the variance, in units of x².

    The result has the dtype of x, also under autocast, where torch's own group_norm returns float32. An x whose
    channels are fastest in memory (torch.channels_last) is not copied, and the result has the same layout. The
    bits of a sample depend neither on the other samples nor on the number of threads.

    Derivatives: first and second order in all tensors. A third derivative and forward mode raise RuntimeError.
    Raises TypeError for dtypes, ValueError for shapes, devices and an eps that is negative or not finite.
    Source: Wu & He 2018, arXiv 1803.08494.
    """
    groups = as_int("groups", groups)
    eps = check("group_norm", x, eps, weight=weight, bias=bias, scale=scale, shift=shift)
    # a batch may be empty, but a group without numbers has no mean
    if x.dim() < 2 or 0 in x.shape[1:]:
        raise ValueError(f"x must be [B, C, *spatial] of positive sizes, got {tuple(x.shape)}")
    channels = x.shape[1]
    if groups < 1 or channels % groups:
        raise ValueError(f"groups must divide the {channels} channels, got {groups}")
    check_shapes(x.shape[0], channels, weight=weight, bias=bias, scale=scale, shift=shift)
    numbers = combined(x, channels, weight, bias, scale, shift)
    # the operator takes three dimensions, and positions are one of them
    spatial = math.prod(x.shape[2:])
    if not x.is_contiguous() and _channels_last(x).is_contiguous():
        states = _channels_last(x).view(x.shape[0], spatial, channels).mT
        y = _norm(states, numbers, groups, eps, True, silu)
        return y.mT.reshape(_channels_last(x).shape).movedim(-1, 1)
    states = x.contiguous().view(x.shape[0], channels, spatial)
    y = _norm(states, numbers, groups, eps, True, silu)
    return y.reshape(x.shape)


def layer_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    eps: float = 1e-5,
    silu: bool = False,
) -> Tensor:
    """Return z = (N(x) weight + bias) (1 + scale) + shift, like x, or z sigmoid(z) where silu is set.

    N(x) has mean 0 and variance 1 over the C numbers of a token.

    x: [B, *tokens, C], float16 or bfloat16 (both computed in float32), float32 or float64.
    weight, bias: [C], by default 1 and 0. scale, shift: [B, C] or [1, C], the same for all tokens of a sample, by
        default 0. Each may have any of these dtypes that is no wider than the one x is computed in.
    eps: added to the variance, in units of x².

    The result has the dtype of x, also under autocast, where torch's own layer_norm returns float32. The bits of a
    token depend neither on the other tokens nor on the number of threads.

    Derivatives: first and second order in all tensors. A third derivative and forward mode raise RuntimeError.
    Raises TypeError for dtypes, ValueError for shapes, devices and an eps that is negative or not finite.
    Source: Ba et al. 2016, arXiv 1607.06450.
    """
    eps = check("layer_norm", x, eps, weight=weight, bias=bias, scale=scale, shift=shift)
    return _over_last(x, weight, bias, scale, shift, eps, True, silu)


def rms_norm(
    x: Tensor,
    weight: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    eps: float = 1e-6,
    silu: bool = False,
) -> Tensor:
    """Return z = x/sqrt(mean(x²) + eps) weight (1 + scale) + shift, like x, or z sigmoid(z) where silu is set.

    Shapes, dtypes, units, derivatives and errors are those of `layer_norm`.
    Source: Zhang & Sennrich 2019, arXiv 1910.07467.
    """
    eps = check("rms_norm", x, eps, weight=weight, scale=scale, shift=shift)
    return _over_last(x, weight, None, scale, shift, eps, False, silu)


def _over_last(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    centred: bool,
    silu: bool,
) -> Tensor:
    if x.dim() < 2 or 0 in x.shape[1:]:
        raise ValueError(f"x must be [B, *tokens, C] of positive sizes, got {tuple(x.shape)}")
    channels = x.shape[-1]
    check_shapes(x.shape[0], channels, weight=weight, bias=bias, scale=scale, shift=shift)
    numbers = combined(x, channels, weight, bias, scale, shift)
    # a token is a row with one group and one position
    states = x.reshape(math.prod(x.shape[:-1]), channels, 1).contiguous()
    y = _norm(states, numbers, 1, eps, centred, silu)
    return y.reshape(x.shape)


def _channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1)
