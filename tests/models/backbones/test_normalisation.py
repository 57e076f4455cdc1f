"""Norms of backbones use operators where these work and torch's formulas elsewhere, with the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from edmfast.models.backbones import dit_blocks, normalisation
from edmfast.models.backbones.dit_blocks import modulated_norm
from edmfast.models.backbones.normalisation import group_norm
from edmfast.models.backbones.unet_blocks import Attention, ResidualBlock


def layer():
    torch.manual_seed(0)
    made = nn.GroupNorm(2, 6, eps=1e-3).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made


def plainly(monkeypatch):
    for module in (normalisation, dit_blocks):
        monkeypatch.setattr(module, "operators_work", lambda: False)


@pytest.mark.parametrize("silu", [False, True])
def test_the_operator_is_the_formula(monkeypatch, silu):
    norm, x = layer(), torch.randn(3, 6, 4, 5, dtype=torch.float64, requires_grad=True)
    results = []
    for prepare in (lambda: None, lambda: plainly(monkeypatch)):
        prepare()
        y = group_norm(x, norm, silu=silu)
        (first,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        inputs = (x, norm.weight)
        results.append((y, first, *torch.autograd.grad(first.sin().sum(), inputs)))
    for value, wanted in zip(*results, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("samples", [1, 3])
def test_the_modulated_norm_is_the_formula(monkeypatch, samples):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    shift, scale = torch.randn(2, samples, 1, 8, dtype=torch.float64)
    result = modulated_norm(x, shift, scale)
    plainly(monkeypatch)
    torch.testing.assert_close(result, modulated_norm(x, shift, scale))


def test_a_trace_holds_the_operators_as_nodes():
    block, embedding = ResidualBlock(8, 8, 2, 4), torch.randn(3, 4)

    def slope(x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(block(x, embedding).sin().sum(), x)[0]

    graph = make_fx(slope)(torch.randn(3, 8, 4, 4))
    names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert names.count("edmfast.group_norm_silu.default") == 2
    assert names.count("edmfast.group_norm_silu_backward.default") == 2
    assert not any("native_group_norm" in name for name in names)


def test_formulas_are_used_where_operators_do_not_work():
    torch.manual_seed(0)
    block, x = Attention(8, 2), torch.randn(2, 8, 4, 4)
    norm = block.norm

    def silu_of_norm(x):
        return group_norm(x, norm, silu=True)

    wanted = silu_of_norm(x)
    torch.testing.assert_close(torch.vmap(silu_of_norm)(x[:, None]).squeeze(1), wanted)
    _, along = torch.func.jvp(silu_of_norm, (x,), (torch.ones_like(x),))
    assert along.shape == x.shape
    compiled = torch.compile(silu_of_norm, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), wanted)


def test_under_autocast_a_norm_keeps_the_dtype_of_its_input():
    norm, x = nn.GroupNorm(2, 8), torch.randn(2, 8, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert group_norm(x, norm).dtype == torch.float32
        assert group_norm(x.bfloat16(), norm).dtype == torch.bfloat16


def test_hooks_and_other_layers_are_called():
    x, norm = torch.randn(3, 6, 4, 5, dtype=torch.float64), layer()
    wanted = 2 * group_norm(x, norm)
    handle = norm.register_forward_hook(lambda module, inputs, output: 2 * output)
    torch.testing.assert_close(group_norm(x, norm), wanted)
    handle.remove()
    torch.testing.assert_close(group_norm(x, nn.Identity()), x)
