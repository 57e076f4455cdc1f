"""`attention`: ``O = softmax(scale Q Kᵀ) V``, differentiable twice in memory linear in its length.

Masks of single scores and additive ones are plain formulas in `edmfast.ops.attention.composition`.

The formulas of the derivatives are in `edmfast.ops.attention.reference`. Each order recomputes the probabilities
block by block from Q, K and the log-sum-exp of the rows, so no tensor of size L x M is kept. Training an energy
that holds attention needs the double backward, for which torch has no fused kernel (pytorch issue 116350).

Forward, backward and double backward are three operators, and a fourth returns O with its forward-mode tangent. A
third derivative raises. They take q [B, H, L, D],
k [B, H, M, D], v [B, H, M, E] and key_mask [B, M] of any strides, so q, k and v of a network that holds positions
before heads are passed as views.

Sources: Vaswani et al. 2017, arXiv 1706.03762; Dao et al. 2022, arXiv 2205.14135 (recomputation by blocks).
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import torch
from torch import Tensor

from edmfast import _extension
from edmfast._internal.derivatives import carries_tangent, refuse_transforms
from edmfast._internal.numbers import as_float
from edmfast.ops._shared.dtypes import DTYPES, arithmetic
from edmfast.ops.attention import cpu, reference
from edmfast.ops.attention.composition import composed
from edmfast.ops.attention.forward_mode import attention_along
from edmfast.ops.attention.masks import as_key_mask, check_mask, group_queries


def _new(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    return like.new_empty(shape or like.shape, dtype=dtype or like.dtype)


def _fake(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    # the log-sum-exp keeps the dtype of the arithmetic, since every derivative starts from it
    dtype = arithmetic(q.dtype)
    return _new(q, *q.shape[:3], v.shape[3]), _new(q, *q.shape[:3], dtype=dtype)


def _fake_jvp(
    q_tangent: Tensor | None,
    k_tangent: Tensor | None,
    v_tangent: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *_: object,
) -> tuple[Tensor, Tensor]:
    shape = *q.shape[:3], v.shape[3]
    return _new(q, *shape), _new(q, *shape)


def _fake_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, ...]:
    return _new(q), _new(k), _new(v)


def _fake_double_backward(
    a: Tensor, b: Tensor, c: Tensor, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: object
) -> tuple[Tensor, ...]:
    return _new(grad), _new(q), _new(k), _new(v)


_extension.define(
    "attention(Tensor q, Tensor k, Tensor v, Tensor? key_mask, float scale, bool causal) "
    "-> (Tensor, Tensor)",
    reference.attention,
    _fake,
    cpu=cpu.attention,
    triton="attention",
)
_extension.define(
    "attention_jvp(Tensor? q_tangent, Tensor? k_tangent, Tensor? v_tangent, Tensor q, Tensor k, Tensor v, "
    "Tensor? key_mask, float scale, bool causal) -> (Tensor, Tensor)",
    reference.attention_jvp,
    _fake_jvp,
    triton="attention",
)
_extension.define(
    "attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
    "Tensor? key_mask, float scale, bool causal) -> (Tensor, Tensor, Tensor)",
    reference.attention_backward,
    _fake_backward,
    cpu=cpu.attention_backward,
    triton="attention",
)
_extension.define(
    "attention_double_backward(Tensor a, Tensor b, Tensor c, Tensor grad, Tensor q, Tensor k, Tensor v, "
    "Tensor out, Tensor lse, Tensor? key_mask, float scale, bool causal) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    reference.attention_double_backward,
    _fake_double_backward,
    triton="attention",
)


def _save(ctx: Any, inputs: tuple[Any, ...], tensors: tuple[Tensor | None, ...]) -> None:
    ctx.save_for_backward(*tensors)
    ctx.scale, ctx.causal = inputs[-2:]
    # an absent cotangent stays None, so that autograd makes no zeros that are not needed
    ctx.set_materialize_grads(False)


def _or_zeros(cotangent: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if cotangent is None else cotangent


def _set_up(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, key_mask = inputs[:4]
    # no caller differentiates the log-sum-exp, and the formulas have no term for its cotangent
    ctx.mark_non_differentiable(output[1])
    _save(ctx, inputs, (q, k, v, *output, key_mask))


def _backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, out, lse, key_mask = ctx.saved_tensors
    if grad is None:
        return (None,) * 6
    slopes = torch.ops.edmfast.attention_backward(
        grad, q, k, v, out, lse, key_mask, ctx.scale, ctx.causal
    )
    return (*slopes, None, None, None)


def _set_up_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _save(ctx, inputs, inputs[:7])


def _double_backward(
    ctx: Any, a: Tensor | None, b: Tensor | None, c: Tensor | None
) -> tuple[Tensor | None, ...]:
    grad, q, k, v, out, lse, key_mask = ctx.saved_tensors
    cotangents = _or_zeros(a, q), _or_zeros(b, k), _or_zeros(c, v)
    slopes = torch.ops.edmfast.attention_double_backward(
        *cotangents, grad, q, k, v, out, lse, key_mask, ctx.scale, ctx.causal
    )
    # out and lse are functions of q, k and v, and the formulas include the derivatives through them
    return (*slopes, None, None, None, None, None)


def _set_up_nothing(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    # a derivative that raises needs nothing
    pass


def _backward_of_jvp(ctx: Any, *_: Tensor | None) -> NoReturn:
    raise RuntimeError(
        "the operator attention_jvp has no derivative: call edmfast.ops.attention, which uses plain formulas "
        "where one is needed"
    )


def _triple_backward(ctx: Any, *_: Tensor | None) -> NoReturn:
    raise RuntimeError(
        "edmfast.ops.attention has derivatives up to the second order, a third one was requested"
    )


for _name, _derivative, _context in (
    ("attention", _backward, _set_up),
    ("attention_backward", _double_backward, _set_up_backward),
    ("attention_double_backward", _triple_backward, _set_up_nothing),
    ("attention_jvp", _backward_of_jvp, _set_up_nothing),
):
    _extension.differentiate(_name, _derivative, _context)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    causal: bool = False,
    key_mask: Tensor | None = None,
    *,
    attn_mask: Tensor | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return softmax(scale q kᵀ + attn_mask) v, [..., L, E], in the dtype of q.

    q: [..., L, D]; k: [..., M, D]; v: [..., M, E]. All have the same leading dimensions, at least one, and one
        dtype: float16 or bfloat16 (both computed in float32), float32 or float64.
    scale: the factor of the scores, 1/sqrt(D) by default.
    causal: query i attends to keys 0..i, as with `is_causal` of torch's scaled_dot_product_attention.
    key_mask: bool [B, M] with B the first of the leading dimensions, True where a key may be attended to.
    attn_mask: broadcasts to [..., L, M]. A bool mask is True where a query may attend to a key. A floating one is
        added to the scores, where -inf excludes a key; it has derivatives of its own.
    enable_gqa: k and v may have fewer heads than q in the third dimension from the end, as with torch's
        scaled_dot_product_attention. Neighbouring heads of q share one head of k and v.

    A mask that differs between the queries or heads of a batch entry, and a floating one, are computed by plain
    formulas, whose memory grows with L M for each head and which have derivatives of any order in every mode. All
    other calls run the operators, in memory linear in L and M. Grouped queries copy k and v once for each head
    of q if they are causal or have any attn_mask, and otherwise copy neither.

    A query that may attend to no key gives 0 and has no gradient. Under autocast every input but float64 is
    computed in the lower precision.

    Derivatives: first and second order in q, k and v, and one order in forward mode, where one operator returns O
    and its tangent. Plain formulas, whose memory grows with L M, give gradients of tangents, tangents of tangents,
    and forward mode inside vmap. They also run in forward mode where grad mode is on and an input requires grad. A
    third derivative, and reverse mode of torch.func without forward mode, raise RuntimeError.
    Raises TypeError for dtypes, ValueError for shapes, devices or a scale that is not finite.
    Sources: Vaswani et al. 2017, arXiv 1706.03762; Dao et al. 2022, arXiv 2205.14135.
    """
    if torch.is_autocast_enabled(q.device.type):
        q, k, v = (_autocast(tensor) for tensor in (q, k, v))
    heads_of_q = q.shape[:-1]
    if enable_gqa:
        q, k, v = group_queries(q, k, v, not causal and attn_mask is None)
    _check(q, k, v, key_mask)
    # a tensor would pass as a number, and its derivative would be lost
    if isinstance(scale, Tensor) and (scale.dim() > 0 or scale.requires_grad):
        raise TypeError("scale must be a number, for which there is no derivative, got a tensor")
    if scale is None:
        # heads of no width have scores of 0 whatever the scale
        scale = 1.0 / math.sqrt(max(1, q.shape[-1]))
    scale = as_float("scale", scale)
    if attn_mask is not None:
        check_mask(attn_mask, q, k)
        keys = as_key_mask(attn_mask, q, k)
        if keys is None:
            with torch.autocast(q.device.type, enabled=False):
                return composed(q, k, v, key_mask, scale, causal, attn_mask)
        key_mask = keys if key_mask is None else keys & key_mask
    return _attend(q, k, v, key_mask, scale, causal).reshape(*heads_of_q, v.shape[-1])


def _attend(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, scale: float, causal: bool
) -> Tensor:
    """Return attention by the operators, for arguments that have been checked."""
    if carries_tangent(q, k, v):
        return attention_along(q, k, v, key_mask, scale, causal)
    refuse_transforms("attention", q, k, v)
    # the operators take four dimensions, [batch, heads, positions, width], with any strides
    lead = q.shape[0], math.prod(q.shape[1:-2])
    heads = [tensor.reshape(*lead, *tensor.shape[-2:]) for tensor in (q, k, v)]
    out: Tensor
    out, _ = torch.ops.edmfast.attention(*heads, key_mask, scale, causal)
    return out.reshape(*q.shape[:-1], v.shape[-1])


def _autocast(tensor: Tensor) -> Tensor:
    """Return the tensor in the lower precision, unless it is float64, as torch's own attention does."""
    wide = tensor.dtype == torch.float64 or not tensor.is_floating_point()
    return tensor if wide else tensor.to(torch.get_autocast_dtype(tensor.device.type))


def _check(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> None:
    if q.dtype not in DTYPES or {k.dtype, v.dtype} != {q.dtype}:
        raise TypeError(
            "q, k and v must share one of float16, bfloat16, float32, float64, "
            f"got {q.dtype}, {k.dtype}, {v.dtype}"
        )
    lead = q.shape[:-2]
    fits = (
        min(q.dim(), k.dim(), v.dim()) >= 3
        and k.shape[:-2] == lead == v.shape[:-2]
        and k.shape[-1] == q.shape[-1]
        and v.shape[-2] == k.shape[-2]
    )
    if not fits:
        shapes = [tuple(tensor.shape) for tensor in (q, k, v)]
        raise ValueError(f"q, k, v must be [..., L, D], [..., M, D], [..., M, E], got {shapes}")
    if key_mask is not None and key_mask.dtype != torch.bool:
        raise TypeError(f"key_mask must be bool, got {key_mask.dtype}")
    if key_mask is not None and key_mask.shape != (lead[0], k.shape[-2]):
        raise ValueError(
            f"key_mask must be [{lead[0]}, {k.shape[-2]}], got {tuple(key_mask.shape)}"
        )
    tensors = (q, k, v) if key_mask is None else (q, k, v, key_mask)
    if len({tensor.device for tensor in tensors}) > 1:
        raise ValueError("q, k, v and key_mask must be on one device")
