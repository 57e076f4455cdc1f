"""Attention with its first and second derivatives in plain torch, one block of queries at a time.

With S = c Q Kᵀ, P = softmax(S), O = P V: dP = dO Vᵀ, δ = rowsum(dO ∘ O), dS = P ∘ (dP - δ),
dQ = c dS K, dK = c dSᵀ Q, dV = Pᵀ dO. For cotangents A, B, C of dQ, dK, dV and T = c (A Kᵀ + Q Bᵀ),
R = dO Cᵀ, row sums t = Σ P ∘ T and g = Σ P ∘ (dP ∘ T + R) - 2 δ t:
  gQ = c (dS₂ K + dS B), gK = c (dS₂ᵀ Q + dSᵀ A), gV = Ṗᵀ dO, g_dO = Ṗ V + P C
with Ṗ = P ∘ (T - t), dS₂ = P ∘ (dP ∘ T - t dP - δ T + R - g).
Forward mode: along Q', K', V' the tangent of S is T = c (Q' Kᵀ + Q K'ᵀ), so that O' = (P ∘ (T - t)) V + P V' with
the row sums t = Σ P ∘ T.
The memory is that of one block of rows of P, whatever the number of queries. A row without a key to attend to has
output 0, log-sum-exp -inf and no derivative.

Shapes: q [B, H, L, d], k [B, H, M, d], v [B, H, M, e]; key_mask bool [B, M], True where a key may be attended to.
causal: query i attends to keys 0..i. Source: Dao et al. 2022, arXiv 2205.14135 (recomputation by blocks).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from edmfast.ops._shared.dtypes import arithmetic
from edmfast.ops.attention.checks import (
    check_backward,
    check_double_backward,
    check_forward,
    check_jvp,
)

# numbers in a block of P, which then stays in the second-level cache
_BLOCK = 1 << 18


def _blocks(q: Tensor, k: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield slices of heads and of queries. The rows of a block do not depend on the number of heads."""
    heads, queries, keys = len(q), q.shape[1], max(1, k.shape[1])
    # at least 16 rows, so that a matrix product is worth its call
    rows = max(1, min(queries, max(16, _BLOCK // keys)))
    group = max(1, _BLOCK // (rows * keys))
    for head in range(0, heads, group):
        for row in range(0, queries, rows):
            yield slice(head, head + group), slice(row, min(row + rows, queries))


def _scores(
    q: Tensor, k: Tensor, first: int, scale: float, causal: bool, key_mask: Tensor | None
) -> Tensor:
    """Return S of a block of queries that starts at query `first`, -inf where a key may not be attended to."""
    scores = q @ k.mT
    # in place, because a block of scores is the largest tensor here
    scores.mul_(scale)
    if key_mask is not None:
        # masks come after the scale, because -inf times a scale of 0 or less is not -inf
        scores.masked_fill_(~key_mask[:, None], -math.inf)
    if causal:
        last = torch.arange(first, first + q.shape[1], device=q.device)[:, None]
        scores.masked_fill_(torch.arange(k.shape[1], device=q.device) > last, -math.inf)
    return scores


def _by_head(tensor: Tensor, lead: torch.Size) -> Tensor:
    """Return [B, H, ...] from [B H, ...], where lead = (B, H)."""
    return tensor.reshape(*lead, *tensor.shape[1:])


def _mask_by_head(key_mask: Tensor | None, like: Tensor) -> Tensor | None:
    """Return the key mask repeated for each head, bool [B H, M]."""
    if key_mask is None:
        return None
    return key_mask[:, None].expand(*like.shape[:2], -1).flatten(0, 1)


def _mask_of(key_mask: Tensor | None, heads: slice) -> Tensor | None:
    return None if key_mask is None else key_mask[heads]


def attention(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    """Return (O [B, H, L, e] like q, log-sum-exp [B, H, L] of the rows of S, float32 for half precisions)."""
    check_forward(q, k, v, key_mask)
    lead, dtype = q.shape[:2], arithmetic(q.dtype)
    key_mask = _mask_by_head(key_mask, q)
    q, k, v = (tensor.flatten(0, 1) for tensor in (q, k, v))
    out = q.new_empty(*q.shape[:2], v.shape[2])
    lse = q.new_empty(q.shape[:2], dtype=dtype)
    for heads, rows in _blocks(q, k):
        keys, values = k[heads].to(dtype), v[heads].to(dtype)
        scores = _scores(
            q[heads, rows].to(dtype), keys, rows.start, scale, causal, _mask_of(key_mask, heads)
        )
        sums = scores.logsumexp(2, keepdim=True)
        lse[heads, rows] = sums[..., 0]
        # a row without keys gives exp(-inf - inf) = 0
        scores.sub_(sums.masked_fill(sums == -math.inf, math.inf)).exp_()
        out[heads, rows] = (scores @ values).to(out.dtype)
    return _by_head(out, lead), _by_head(lse, lead)


def attention_jvp(
    q_tangent: Tensor | None,
    k_tangent: Tensor | None,
    v_tangent: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_mask: Tensor | None,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """Return (O [B, H, L, e] like q, its tangent along those of q, k and v). A tangent of None is zero."""
    check_jvp(q_tangent, k_tangent, v_tangent, q, k, v, key_mask)
    lead, dtype = q.shape[:2], arithmetic(q.dtype)
    key_mask = _mask_by_head(key_mask, q)
    along_q, along_k, along_v = (
        None if tangent is None else tangent.flatten(0, 1)
        for tangent in (q_tangent, k_tangent, v_tangent)
    )
    q, k, v = (tensor.flatten(0, 1) for tensor in (q, k, v))
    out, moved = (q.new_empty(*q.shape[:2], v.shape[2]) for _ in range(2))
    for heads, rows in _blocks(q, k):
        queries, keys, values = q[heads, rows].to(dtype), k[heads].to(dtype), v[heads].to(dtype)
        mask = _mask_of(key_mask, heads)
        p = _scores(queries, keys, rows.start, scale, causal, mask)
        sums = p.logsumexp(2, keepdim=True)
        # a row without keys gives exp(-inf - inf) = 0
        p.sub_(sums.masked_fill(sums == -math.inf, math.inf)).exp_()
        tangent = torch.zeros_like(p)
        if along_q is not None:
            tangent.add_(along_q[heads, rows].to(dtype) @ keys.mT)
        if along_k is not None:
            tangent.add_(queries @ along_k[heads].to(dtype).mT)
        tangent.mul_(scale)
        tangent.sub_(torch.einsum("nij,nij->ni", p, tangent)[..., None]).mul_(p)
        change = tangent @ values
        if along_v is not None:
            change.add_(p @ along_v[heads].to(dtype))
        out[heads, rows], moved[heads, rows] = (p @ values).to(q.dtype), change.to(q.dtype)
    return _by_head(out, lead), _by_head(moved, lead)


def _recomputed(
    scores: Tensor, lse: Tensor, cotangent: Tensor, out: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (P, in the memory of S; δ [.., rows, 1]) of a block."""
    p = scores.sub_(lse.masked_fill(lse == -math.inf, math.inf)[..., None]).exp_()
    return p, (cotangent * out.to(cotangent.dtype)).sum(2, keepdim=True)


def attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    key_mask: Tensor | None,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (dQ, dK, dV) for the cotangent `grad` of O."""
    check_backward(grad, q, k, v, out, lse, key_mask)
    lead, dtype = q.shape[:2], arithmetic(q.dtype)
    key_mask = _mask_by_head(key_mask, q)
    grad, q, k, v, out, lse = (tensor.flatten(0, 1) for tensor in (grad, q, k, v, out, lse))
    dq = q.new_empty(q.shape)
    # sums over blocks of queries keep the dtype of the arithmetic and are rounded once, at the end
    dk, dv = k.new_zeros(k.shape, dtype=dtype), v.new_zeros(v.shape, dtype=dtype)
    for heads, rows in _blocks(q, k):
        keys, values = k[heads].to(dtype), v[heads].to(dtype)
        queries, cotangent = q[heads, rows].to(dtype), grad[heads, rows].to(dtype)
        mask = _mask_of(key_mask, heads)
        scores = _scores(queries, keys, rows.start, scale, causal, mask)
        p, delta = _recomputed(scores, lse[heads, rows], cotangent, out[heads, rows])
        dv[heads] += p.mT @ cotangent
        ds = (cotangent @ values.mT).sub_(delta).mul_(p)
        dq[heads, rows] = (ds @ keys).mul_(scale).to(q.dtype)
        dk[heads] += (ds.mT @ queries).mul_(scale)
    dk, dv = dk.to(k.dtype), dv.to(v.dtype)
    return _by_head(dq, lead), _by_head(dk, lead), _by_head(dv, lead)


def attention_double_backward(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    key_mask: Tensor | None,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (g_dO, gQ, gK, gV) for the cotangents a, b, c of dQ, dK, dV."""
    check_double_backward(a, b, c, grad, q, k, v, out, lse, key_mask)
    lead, dtype = q.shape[:2], arithmetic(q.dtype)
    key_mask = _mask_by_head(key_mask, q)
    a, b, c, grad, q, k, v, out, lse = (
        tensor.flatten(0, 1) for tensor in (a, b, c, grad, q, k, v, out, lse)
    )
    gq, g_grad = q.new_empty(q.shape), grad.new_empty(grad.shape)
    gk, gv = k.new_zeros(k.shape, dtype=dtype), v.new_zeros(v.shape, dtype=dtype)
    for heads, rows in _blocks(q, k):
        keys, values = k[heads].to(dtype), v[heads].to(dtype)
        b_keys, c_values = b[heads].to(dtype), c[heads].to(dtype)
        queries, cotangent = q[heads, rows].to(dtype), grad[heads, rows].to(dtype)
        a_queries = a[heads, rows].to(dtype)
        mask = _mask_of(key_mask, heads)
        scores = _scores(queries, keys, rows.start, scale, causal, mask)
        p, delta = _recomputed(scores, lse[heads, rows], cotangent, out[heads, rows])
        dp = cotangent @ values.mT
        tangent = a_queries @ keys.mT
        tangent.add_(queries @ b_keys.mT).mul_(scale)
        r = cotangent @ c_values.mT
        t = torch.einsum("nij,nij->ni", p, tangent)[..., None]
        off = dp.sub_(delta)  # only dP - δ is needed from here on
        # dP T - t dP - δ T + R = (dP - δ)(T - t) + R - δ t
        tangent.sub_(t)
        ds2 = r.addcmul_(off, tangent)
        ds2.sub_(torch.einsum("nij,nij->ni", p, ds2)[..., None]).mul_(p)
        ds = off.mul_(p)
        moved = tangent.mul_(p)
        gq[heads, rows] = (ds2 @ keys).add_(ds @ b_keys).mul_(scale).to(q.dtype)
        gk[heads] += (ds2.mT @ queries).add_(ds.mT @ a_queries).mul_(scale)
        gv[heads] += moved.mT @ cotangent
        g_grad[heads, rows] = (moved @ values).add_(p @ c_values).to(grad.dtype)
    gk, gv = gk.to(k.dtype), gv.to(v.dtype)
    return _by_head(g_grad, lead), _by_head(gq, lead), _by_head(gk, lead), _by_head(gv, lead)
