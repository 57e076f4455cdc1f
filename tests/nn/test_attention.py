"""Attention equals torch.nn.MultiheadAttention in value and in both derivatives, with every mask."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from edmfast import nn as fast

B, L, S, W, HEADS = 2, 5, 7, 8, 2
GENERATOR = torch.Generator().manual_seed(0)
PADDING = torch.tensor([[False] * 5 + [True] * 2, [False] * 7])
PAIRS = torch.rand(L, S, generator=GENERATOR) > 0.7
PAIRS[:, 0] = False
BIAS = torch.randn(L, S, generator=GENERATOR, dtype=torch.float64)
BY_HEAD = torch.randn(B * HEADS, L, S, generator=GENERATOR, dtype=torch.float64)
MASKS = {
    "none": {},
    "padding": {"key_padding_mask": PADDING},
    "pairs": {"attn_mask": PAIRS},
    "bias": {"attn_mask": BIAS},
    "heads": {"attn_mask": BY_HEAD},
    "excluding bias": {"attn_mask": BIAS.masked_fill(PAIRS, -math.inf)},
    "floating padding": {
        "key_padding_mask": torch.zeros(B, S).double().masked_fill(PADDING, -math.inf)
    },
    "both": {"key_padding_mask": PADDING, "attn_mask": PAIRS},
    "both floating": {
        "key_padding_mask": torch.zeros(B, S).double().masked_fill(PADDING, -math.inf),
        "attn_mask": BIAS,
    },
}
LAYERS = {
    "plain": {},
    "without bias": {"bias": False},
    "other widths": {"kdim": 6, "vdim": 4},
    "length first": {"batch_first": False},
    "extended": {"add_bias_kv": True, "add_zero_attn": True},
}


def pair(dtype=torch.float64, seed=0, **options):
    torch.manual_seed(seed)
    options = {"batch_first": True, "dtype": dtype, **options}
    ours, theirs = (kind(W, HEADS, **options) for kind in (fast.Attention, nn.MultiheadAttention))
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.5)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def states(layer, dtype=torch.float64, seed=1):
    """Return query, key and value for a layer."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (B, L, W), (B, S, layer.kdim), (B, S, layer.vdim)
    tensors = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    return tensors if layer.batch_first else [tensor.transpose(0, 1) for tensor in tensors]


def orders(layer, tensors, cast=0, **options):
    """Return the value, the gradients, and the gradients of their squares; a floating mask has some too.

    cast: 1 evaluates the layer under autocast, and 2 its derivatives too.
    """
    if options.get("attn_mask") is not None and options["attn_mask"].dtype != torch.bool:
        options["attn_mask"] = options["attn_mask"].detach().requires_grad_()
    leaves = [*(tensor.detach().requires_grad_() for tensor in tensors), *layer.parameters()]
    used = [*leaves, *(m for m in options.values() if torch.is_tensor(m) and m.requires_grad)]
    lower = {"device_type": "cpu", "dtype": torch.bfloat16}
    with sdpa_kernel(SDPBackend.MATH), torch.autocast(**lower, enabled=cast > 1):
        with torch.autocast(**lower, enabled=cast > 0):
            y, weights = layer(*leaves[:3], need_weights=False, **options)
        assert weights is None
        first = torch.autograd.grad(y.sin().sum(), used, create_graph=True)
        second = torch.autograd.grad(sum(slope.square().sum() for slope in first), used)
    return [y, *first, *second]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_equals_torchs_to_second_order(layer, mask):
    ours, theirs = pair(**LAYERS[layer])
    tensors = states(ours)
    mine, wanted = (orders(one, tensors, **MASKS[mask]) for one in (ours, theirs))
    for value, truth in zip(mine, wanted, strict=True):
        torch.testing.assert_close(value, truth, rtol=1e-9, atol=1e-9)


def test_causal_self_attention_equals_torchs_to_second_order():
    ours, theirs = pair()
    x = states(ours)[0]
    mask = nn.Transformer.generate_square_subsequent_mask(L, dtype=torch.bool)
    options = {"attn_mask": mask, "is_causal": True}
    for value, truth in zip(
        orders(ours, [x] * 3, **options), orders(theirs, [x] * 3, **options), strict=True
    ):
        torch.testing.assert_close(value, truth, rtol=1e-9, atol=1e-9)
    with pytest.raises(RuntimeError, match="attn_mask"):
        ours(x, x, x, need_weights=False, is_causal=True)


def test_one_tensor_is_projected_by_one_product():
    ours, theirs = pair()
    x = states(ours)[0].requires_grad_()
    mine, plain = (layer(x, x, x, need_weights=False)[0] for layer in (ours, theirs))
    torch.testing.assert_close(mine, plain)
    slopes = [torch.autograd.grad(y.sin().sum(), x)[0] for y in (mine, plain)]
    torch.testing.assert_close(*slopes)


def test_weights_unbatched_states_and_dropout_are_torchs():
    ours, theirs = pair()
    tensors = states(ours)
    for mine, plain in zip(ours(*tensors), theirs(*tensors), strict=True):
        torch.testing.assert_close(mine, plain)
    rows = [tensor[0] for tensor in tensors]
    options = {"need_weights": False, "key_padding_mask": PADDING[0]}
    torch.testing.assert_close(ours(*rows, **options)[0], theirs(*rows, **options)[0])
    dropping = [layer(*tensors, need_weights=False)[0] for layer in pair(dropout=1.0)]
    torch.testing.assert_close(*dropping)


def test_second_derivatives_need_no_choice_of_a_backend():
    ours, _ = pair(torch.float32)
    x = states(ours, torch.float32)[0].requires_grad_()
    (slope,) = torch.autograd.grad(ours(x, x, x, need_weights=False)[0].sum(), x, create_graph=True)
    torch.autograd.grad(slope.square().sum(), x)


def relative_error(value, truth):
    return ((value.detach().double() - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize("mask", ["none", "bias", "padding"])
@pytest.mark.parametrize("inside", [False, True])
def test_autocast_is_as_accurate_as_torchs(mask, inside):
    """inside: derivatives are taken under autocast too, as in a network that computes its own score."""
    options = {n: m.float() if m.is_floating_point() else m for n, m in MASKS[mask].items()}
    wide = {n: m.double() if m.is_floating_point() else m for n, m in options.items()}
    errors = 0
    # single entries of one draw may be lucky for either, so that errors are summed over several draws
    for seed in range(8):
        ours, theirs = pair(torch.float32, seed=seed)
        tensors = states(ours, torch.float32, seed=seed + 100)
        exact = orders(copy.deepcopy(theirs).double(), [t.double() for t in tensors], **wide)
        mine, plain = (orders(one, tensors, cast=1 + inside, **options) for one in (ours, theirs))
        assert [value.dtype for value in mine] == [value.dtype for value in plain]
        errors = errors + torch.tensor(
            [
                [relative_error(value, truth) for value in (a, b)]
                for a, b, truth in zip(mine, plain, exact, strict=True)
            ]
        )
    assert (errors[:, 0] <= 2 * errors[:, 1]).all()


def test_functional_transforms_and_compile_equal_torchs():
    ours, theirs = pair()
    q, k, v = states(ours)

    def slope(layer):
        with sdpa_kernel(SDPBackend.MATH):
            return torch.func.grad(lambda x: layer(x, k, v, need_weights=False)[0].sin().sum())(q)

    torch.testing.assert_close(slope(ours), slope(theirs))
    compiled = torch.compile(ours, fullgraph=True)(q, k, v, need_weights=False)[0]
    torch.testing.assert_close(compiled, theirs(q, k, v, need_weights=False)[0])


def test_a_layer_is_copied_saved_and_described():
    ours, theirs = pair()
    tensors = states(ours)
    wanted = ours(*tensors, need_weights=False)[0]
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        torch.testing.assert_close(twin(*tensors, need_weights=False)[0], wanted, rtol=0, atol=0)
    assert ours.extra_repr() == theirs.extra_repr()
