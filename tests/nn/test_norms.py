"""Norm layers equal torch's in value and in both derivatives, and share its parameters and its forms of use."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edmfast import nn as fast


class TorchGroupNormSiLU(nn.GroupNorm):
    def forward(self, input):
        return F.silu(super().forward(input))


PAIRS = {
    "layer": (fast.LayerNorm, nn.LayerNorm, ((6,),), {}, (3, 4, 6)),
    "layer of two dimensions": (fast.LayerNorm, nn.LayerNorm, ((4, 6),), {}, (3, 4, 6)),
    "layer of a vector": (fast.LayerNorm, nn.LayerNorm, (6,), {}, (6,)),
    "layer without bias": (fast.LayerNorm, nn.LayerNorm, (6,), {"bias": False}, (3, 6)),
    "layer without weights": (
        fast.LayerNorm,
        nn.LayerNorm,
        (6,),
        {"elementwise_affine": False},
        (3, 6),
    ),
    "rms": (fast.RMSNorm, nn.RMSNorm, (6,), {}, (3, 4, 6)),
    "rms with eps": (fast.RMSNorm, nn.RMSNorm, (6,), {"eps": 1e-3}, (3, 6)),
    "rms without weights": (
        fast.RMSNorm,
        nn.RMSNorm,
        (6,),
        {"elementwise_affine": False},
        (3, 6),
    ),
    "group": (fast.GroupNorm, nn.GroupNorm, (2, 6), {}, (3, 6, 5)),
    "group silu": (fast.GroupNormSiLU, TorchGroupNormSiLU, (2, 6), {}, (3, 6, 4, 5)),
    "group silu without weights": (
        fast.GroupNormSiLU,
        TorchGroupNormSiLU,
        (3, 6),
        {"affine": False},
        (3, 6),
    ),
}


def pair(name, dtype=torch.float64):
    """Return our layer, torch's with the same random parameters, and an input."""
    ours, theirs, sizes, options, shape = PAIRS[name]
    torch.manual_seed(0)
    layers = ours(*sizes, **options, dtype=dtype), theirs(*sizes, **options, dtype=dtype)
    for parameter in layers[0].parameters():
        nn.init.normal_(parameter)
    layers[1].load_state_dict(layers[0].state_dict(), strict=True)
    return *layers, torch.randn(shape, dtype=dtype)


def orders(layer, x):
    """Return the value, the gradients, and the gradients of their squares."""
    leaves = [x.detach().requires_grad_(), *layer.parameters()]
    y = layer(leaves[0])
    first = torch.autograd.grad(y.sin().sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(slope.square().sum() for slope in first), leaves)
    return [y, *first, *second]


@pytest.mark.parametrize("name", PAIRS)
def test_a_layer_equals_torchs_to_second_order(name):
    ours, theirs, x = pair(name)
    for mine, wanted in zip(orders(ours, x), orders(theirs, x), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-9)


def test_derivatives_come_from_the_operator():
    layer, _, x = pair("layer")
    assert "layer_norm" not in type(layer(x.requires_grad_()).grad_fn).__name__
    with pytest.raises(RuntimeError, match="third one was requested"):
        value = layer(x).sin().sum()
        for _ in range(3):
            (slope,) = torch.autograd.grad(value, x, create_graph=True)
            value = slope.square().sum()


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dtype_and_precision_are_torchs(name, dtype):
    ours, theirs, x = pair(name, dtype)
    truth = copy.deepcopy(theirs).double()(x.double())
    mine, plain = ours(x), theirs(x)
    assert mine.dtype == plain.dtype
    error = (plain.double() - truth).abs().max()
    assert (mine.double() - truth).abs().max() <= 2 * error + 1e-6


@pytest.mark.parametrize("name", PAIRS)
def test_autocast_returns_the_dtype_of_torch(name):
    ours, theirs, x = pair(name, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for states in (x, x.bfloat16()):
            mine, plain = ours(states), theirs(states)
            assert mine.dtype == plain.dtype
            torch.testing.assert_close(mine, plain)


@pytest.mark.parametrize("name", PAIRS)
def test_functional_transforms_and_compile_equal_torchs(name):
    ours, theirs, x = pair(name)

    def slope(layer):
        return torch.func.grad(lambda states: layer(states).sin().sum())(x)

    torch.testing.assert_close(slope(ours), slope(theirs))
    tangents = [torch.func.jvp(layer, (x,), (x.cos(),))[1] for layer in (ours, theirs)]
    torch.testing.assert_close(*tangents)
    batch = torch.stack([x, 2 * x])
    torch.testing.assert_close(torch.func.vmap(ours)(batch), torch.func.vmap(theirs)(batch))
    torch.testing.assert_close(torch.compile(ours, fullgraph=True)(x), theirs(x))


@pytest.mark.parametrize("name", PAIRS)
def test_a_layer_is_copied_saved_and_described(name):
    ours, theirs, x = pair(name)
    wanted = ours(x)
    torch.testing.assert_close(copy.deepcopy(ours)(x), wanted, rtol=0, atol=0)
    torch.testing.assert_close(pickle.loads(pickle.dumps(ours))(x), wanted, rtol=0, atol=0)
    assert ours.extra_repr() == theirs.extra_repr()
    ours.reset_parameters()
    theirs.reset_parameters()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def test_empty_and_wrong_inputs_are_treated_as_torch_treats_them():
    assert fast.LayerNorm(6)(torch.zeros(0, 6)).shape == (0, 6)
    assert fast.GroupNorm(2, 6)(torch.zeros(0, 6, 2)).shape == (0, 6, 2)
    with pytest.raises(RuntimeError, match="normalized_shape"):
        fast.LayerNorm(6)(torch.zeros(2, 5))
    with pytest.raises(RuntimeError):
        fast.GroupNorm(2, 6)(torch.zeros(2, 4, 2))


def test_channels_last_stays_channels_last():
    layer = fast.GroupNormSiLU(2, 6)
    x = torch.randn(2, 6, 4, 4).to(memory_format=torch.channels_last)
    assert layer(x).is_contiguous(memory_format=torch.channels_last)
