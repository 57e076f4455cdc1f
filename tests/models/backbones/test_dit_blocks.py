"""The parts of the transformer follow their formulas: positions, the modulated norm, attention and gelu."""

import math

import pytest
import torch
from torch.nn import functional as F

from edmfast.models.backbones.activation import gelu
from edmfast.models.backbones.dit_blocks import TransformerBlock, grid_positions, modulated_norm
from edmfast.models.backbones.self_attention import self_attention


def test_gelu_is_torchs_in_value_and_derivatives():
    x = torch.linspace(-40, 40, 101, dtype=torch.float64, requires_grad=True)
    for order in range(3):
        actual, expected = gelu(x), F.gelu(x, approximate="tanh")
        for _ in range(order):
            (actual,) = torch.autograd.grad(actual.sum(), x, create_graph=True)
            (expected,) = torch.autograd.grad(expected.sum(), x, create_graph=True)
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


def test_positions_are_waves_of_row_and_column():
    positions = grid_positions(2, 3, 8)
    assert positions.shape == (6, 8)
    row, column = 1, 2
    for wave, frequency in enumerate((1.0, 0.01)):
        expected = [f(p * frequency) for p in (row, column) for f in (math.sin, math.cos)]
        torch.testing.assert_close(positions[row * 3 + column, wave::2], torch.tensor(expected))
    assert len(positions.unique(dim=0)) == 6


@pytest.mark.parametrize(("length", "size"), [(8, 4), (5, 4), (8, 3), (7, 5), (1, 1)])
def test_self_attention_of_several_heads(length, size):
    """The formula holds also where positions and heads are padded to multiples of four."""
    torch.manual_seed(0)
    qkv = torch.randn(3, length, 3 * 2 * size, dtype=torch.float64)
    q, k, v = (t.reshape(3, length, 2, size).transpose(1, 2) for t in qkv.chunk(3, 2))
    plain = torch.softmax(q @ k.mT / math.sqrt(size), 3) @ v
    torch.testing.assert_close(self_attention(qkv, 2), plain.transpose(1, 2).flatten(2))


def test_modulated_norm():
    torch.manual_seed(0)
    x, shift, scale = torch.randn(2, 3, 8), torch.randn(2, 1, 8), torch.randn(2, 1, 8)
    normalised = (x - x.mean(2, keepdim=True)) / x.var(2, keepdim=True, correction=0).sqrt()
    torch.testing.assert_close(modulated_norm(x, shift, scale), normalised * (1 + scale) + shift)


def test_a_block_follows_the_stated_formula_and_gates_both_branches():
    torch.manual_seed(0)
    block = TransformerBlock(8, heads=2, hidden=12, embedding_width=5).double()
    x, embedding = torch.randn(2, 6, 8).double(), torch.randn(2, 5).double()
    s1, t1, g1, s2, t2, g2 = block.modulation(embedding)[:, None].chunk(6, 2)
    middle = x + g1 * block.projection(self_attention(block.qkv(modulated_norm(x, s1, t1)), 2))
    hidden = F.gelu(block.expand(modulated_norm(middle, s2, t2)), approximate="tanh")
    torch.testing.assert_close(block(x, embedding), middle + g2 * block.contract(hidden))
    torch.nn.init.zeros_(block.modulation.weight)
    torch.nn.init.zeros_(block.modulation.bias)
    assert torch.equal(block(x, embedding), x)
