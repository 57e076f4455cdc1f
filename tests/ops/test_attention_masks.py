"""Masks of single scores, additive masks and grouped queries equal torch's attention to second order."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from edmfast.ops import attention

B, H, L, M, D = 2, 4, 6, 9, 5


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masks():
    kept = normal(L, M, seed=3) > -0.5
    kept[:, 0] = True
    keys = torch.arange(M) < torch.tensor([[[[7]]], [[[4]]]])
    return {
        "none": None,
        "keys": keys,
        "one row of keys": keys[0, 0],
        "pairs": kept,
        "heads": kept & (normal(B, H, 1, M, seed=4) > -1) | (torch.arange(M) == 0),
        "bias": normal(L, M, seed=5),
        "bias of keys": normal(B, 1, 1, M, seed=6),
        "bias of heads": normal(1, H, L, M, seed=7),
        "excluding bias": normal(B, H, L, M, seed=8).masked_fill(~kept, -math.inf),
    }


def orders(function, *tensors):
    leaves = [t.detach().requires_grad_() if t.is_floating_point() else t for t in tensors]
    slots = [leaf for leaf in leaves if leaf.requires_grad]
    y = function(*leaves)
    first = torch.autograd.grad(y.sin().sum(), slots, create_graph=True)
    second = torch.autograd.grad(sum(slope.square().sum() for slope in first), slots)
    return [y, *first, *second]


def both(mask, heads=H, **options):
    """Compare three orders of ours and of torch's math path."""
    tensors = [normal(B, H, L, D), normal(B, heads, M, D, seed=1), normal(B, heads, M, 3, seed=2)]
    if mask is not None:
        tensors.append(mask)
    causal, grouped = options.get("causal", False), heads != H

    def ours(q, k, v, mask=None):
        return attention(q, k, v, attn_mask=mask, enable_gqa=grouped, **options)

    def theirs(q, k, v, mask=None):
        return scaled_dot_product_attention(
            q, k, v, mask, 0.0, causal, scale=options.get("scale"), enable_gqa=grouped
        )

    with sdpa_kernel(SDPBackend.MATH):
        wanted = orders(theirs, *tensors)
    for mine, truth in zip(orders(ours, *tensors), wanted, strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("heads", [1, 2, H])
@pytest.mark.parametrize("name", masks())
def test_masks_and_groups_equal_torchs_to_second_order(name, heads):
    both(masks()[name], heads)
    both(masks()[name], heads, scale=0.3)


@pytest.mark.parametrize("heads", [1, 2])
def test_causal_groups_equal_torchs_to_second_order(heads):
    both(None, heads, causal=True)


def test_a_mask_and_causality_and_a_mask_of_keys_hold_together():
    q, k, v = normal(B, H, M, D), normal(B, H, M, D, seed=1), normal(B, H, M, D, seed=2)
    kept, bias = masks()["keys"], normal(M, M, seed=9)
    mine = attention(q, k, v, causal=True, key_mask=kept[:, 0, 0], attn_mask=bias)
    excluded = ~(kept & torch.ones(M, M, dtype=torch.bool).tril())
    both_in_one = bias.masked_fill(excluded, -math.inf)
    torch.testing.assert_close(mine, scaled_dot_product_attention(q, k, v, both_in_one))
    inside = attention(q, k, v, causal=True, key_mask=kept[:, 0, 0])
    torch.testing.assert_close(attention(q, k, v, causal=True, attn_mask=kept), inside)


@pytest.mark.parametrize("excluding", [False, -math.inf])
def test_a_query_without_keys_gives_zero_and_has_no_gradient(excluding):
    mask = torch.ones(L, M, dtype=torch.bool) if excluding is False else torch.zeros(L, M).double()
    mask[2] = excluding
    q, k, v = (t.requires_grad_() for t in (normal(H, L, D), normal(H, M, D), normal(H, M, D)))
    out = attention(q, k, v, attn_mask=mask)
    assert (out[:, 2] == 0).all()
    (slope,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    assert (slope[:, 2] == 0).all()
    assert torch.autograd.grad(slope.square().sum(), k)[0].isfinite().all()


def test_grouped_queries_without_masks_copy_no_keys(monkeypatch):
    def refuse(*_):
        raise AssertionError("keys are copied")

    monkeypatch.setattr(torch.Tensor, "repeat_interleave", refuse)
    q, k = normal(B, H, L, D), normal(B, 2, M, D)
    assert attention(q, k, k, enable_gqa=True).shape == q.shape


def test_wrong_masks_and_groups_are_refused():
    q, k = normal(B, H, L, D), normal(B, H, M, D)
    with pytest.raises(ValueError, match="must broadcast"):
        attention(q, k, k, attn_mask=normal(L, M + 1))
    with pytest.raises(TypeError, match="attn_mask must be bool"):
        attention(q, k, k, attn_mask=torch.ones(L, M, dtype=torch.int64))
    with pytest.raises(ValueError, match="must divide"):
        attention(q, k[:, :3], k[:, :3], enable_gqa=True)
    with pytest.raises(ValueError, match="enable_gqa"):
        attention(q[0], k[0], k[0], enable_gqa=True)


@pytest.mark.parametrize("name", ["pairs", "bias", "keys"])
def test_compiled_and_half_precision_masks(name):
    q, k = normal(B, H, L, D).float(), normal(B, H, M, D).float()
    mask = masks()[name]

    def call(q, k):
        return attention(q, k, k, attn_mask=mask)

    torch.testing.assert_close(torch.compile(call, fullgraph=True)(q, k), call(q, k))
    truth = call(q.bfloat16().double(), k.bfloat16().double())
    narrow = call(q.bfloat16(), k.bfloat16())
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow, truth.bfloat16(), rtol=2**-7, atol=1e-6)
