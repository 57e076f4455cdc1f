"""Patched models that were written for torch's attention have a second derivative."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edmfast.models import patch_attention


def multi_head(x, module, mask=None, **options):
    return module(x, x, x, need_weights=False, key_padding_mask=mask, **options)[0]


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.MultiheadAttention(16, 4, batch_first=True)


@pytest.fixture
def x():
    return torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()


def second_derivative(function, x):
    (first,) = torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
    return torch.autograd.grad(first.sin().sum(), x)[0]


@pytest.mark.parametrize("masked", [False, True])
def test_multi_head_attention(module, x, masked):
    mask = None
    if masked:
        mask = torch.zeros(2, 5, dtype=torch.bool)
        mask[0, 3:] = True
    before = multi_head(x, module, mask)
    with pytest.raises(RuntimeError, match="not implemented"):
        second_derivative(lambda x: multi_head(x, module, mask), x)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        wanted = second_derivative(lambda x: multi_head(x, module, mask), x)
    assert patch_attention(module) is module
    torch.testing.assert_close(multi_head(x, module, mask), before)
    result = second_derivative(lambda x: multi_head(x, module, mask), x)
    torch.testing.assert_close(result, wanted, rtol=1e-4, atol=1e-5)


def test_diffusers_attention(x):
    pytest.importorskip("diffusers")
    from diffusers.models.attention_processor import Attention

    torch.manual_seed(0)
    block = Attention(16, heads=2, dim_head=8)
    before = block(x)
    patch_attention(block)
    torch.testing.assert_close(block(x), before)
    assert second_derivative(block, x).isfinite().all()


class Attend(nn.Module):
    def forward(self, *inputs, **options):
        return F.scaled_dot_product_attention(*inputs, **options)


@pytest.mark.parametrize("lead", [(), (2,), (2, 3), (2, 2, 3)], ids=str)
@pytest.mark.parametrize("kind", ["none", "keys", "batch", "heads"])
def test_masks_of_any_leading_dimensions(lead, kind):
    generator = torch.Generator().manual_seed(2)
    q, k, v = torch.randn(3, *lead, 5, 4, generator=generator)
    k, v = k[..., :3, :], v[..., :3, :]
    mask = None
    if kind != "none":
        mask_lead = {"keys": (), "batch": (*lead[:1], *[1] * (len(lead) - 1)), "heads": lead}[kind]
        mask = torch.rand(*mask_lead, 1, 3, generator=generator) < 0.6
        mask[..., 0] = True
    result = patch_attention(Attend())(q, k, v, attn_mask=mask)
    torch.testing.assert_close(result, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


@pytest.mark.parametrize("excluded", [-torch.inf, -10000.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_floating_masks_that_exclude_keys(excluded, dtype):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 4, 8, generator=generator).to(dtype) for _ in range(3))
    mask = torch.zeros(2, 1, 1, 4, dtype=dtype)
    mask[0, ..., 2:] = excluded
    result = patch_attention(Attend())(q, k, v, attn_mask=mask)
    wide = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), mask.double())
    plain = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    # twice the error of plain attention in that precision, which is 0 where both round alike
    allowed = 2 * (plain.double() - wide).abs().max() + 1e-12
    assert (result.double() - wide).abs().max() <= allowed


@pytest.mark.parametrize(("mask_lead", "shape"), [((2, 1), (2, 3)), ((2, 3), (6, 1))])
def test_heads_are_merged_only_where_their_masks_differ(monkeypatch, mask_lead, shape):
    seen = []
    monkeypatch.setattr(
        "edmfast.models.patching.attention.attention",
        lambda *inputs: (seen.append(inputs[0]), inputs[0])[1],
    )
    q = torch.randn(2, 5, 3, 4).transpose(1, 2)
    mask = torch.rand(*mask_lead, 1, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    patch_attention(Attend())(q, q, q, attn_mask=mask)
    assert seen[0].shape[:2] == shape
    assert (seen[0].data_ptr() == q.data_ptr()) == (shape == (2, 3))


def test_only_the_patched_module_is_redirected(module, x):
    original = F.scaled_dot_product_attention
    patch_attention(module)
    multi_head(x, module)
    assert F.scaled_dot_product_attention is original
    broken = nn.Module()
    broken.forward = lambda: F.scaled_dot_product_attention(None, None, None)
    with pytest.raises(AttributeError):
        patch_attention(broken)()
    assert F.scaled_dot_product_attention is original


def test_other_threads_keep_torch_s_attention():
    inside, leave, seen = threading.Event(), threading.Event(), []

    class Waiting(nn.Module):
        def forward(self, q):
            inside.set()
            assert leave.wait(10)
            return F.scaled_dot_product_attention(q, q, q)

    q = torch.randn(1, 3, 4, requires_grad=True)
    module = patch_attention(Waiting())
    thread = threading.Thread(target=lambda: seen.append(module(q)))
    thread.start()
    assert inside.wait(10)
    other = F.scaled_dot_product_attention(q, q, q, dropout_p=0.0)
    leave.set()
    thread.join()
    assert "edmfast" not in str(type(other.grad_fn))
    torch.testing.assert_close(seen[0], other)


def test_patching_twice_is_patching_once(module):
    forward = patch_attention(module).forward
    assert patch_attention(module).forward is forward


@pytest.mark.parametrize(
    "options",
    [
        {"attn_mask": torch.zeros(3, 3)},
        {"attn_mask": torch.full((1, 3), 0.5)},
        {"attn_mask": torch.full((1, 3), -10000.0)},
        {"dropout_p": 0.5},
        {"enable_gqa": True},
    ],
)
def test_what_is_refused(options):
    class Block(nn.Module):
        def forward(self, q):
            return F.scaled_dot_product_attention(q, q, q, **options)

    with pytest.raises(ValueError, match="patched attention"):
        patch_attention(Block())(torch.zeros(2, 3, 4))


def test_a_copy_of_a_patched_module_attends_with_its_own_weights():
    torch.manual_seed(0)
    module = patch_attention(torch.nn.MultiheadAttention(8, 2, batch_first=True))
    twin = pickle.loads(pickle.dumps(copy.deepcopy(module)))
    x = torch.randn(1, 3, 8)
    assert torch.equal(twin(x, x, x, need_weights=False)[0], module(x, x, x, need_weights=False)[0])
    for parameter in twin.parameters():
        torch.nn.init.zeros_(parameter)
    assert not twin(x, x, x, need_weights=False)[0].any()
    assert module(x, x, x, need_weights=False)[0].any()
    assert patch_attention(twin).forward is twin.forward
