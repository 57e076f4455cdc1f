"""Replaced layers leave a network's results, parameters and state dict as they were."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from edmfast import nn as fast


class ResnetBlock(nn.Module):
    """A block of a U-Net as diffusers writes it: norms, one shared activation, and attention over positions."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(2, 8), nn.GroupNorm(4, 8)
        self.conv1, self.conv2 = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.nonlinearity = nn.SiLU()
        self.group_norm = nn.GroupNorm(2, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Sequential(nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 8, 1))

    def forward(self, x):
        h = self.conv1(self.nonlinearity(self.norm1(x)))
        x = x + self.conv2(self.nonlinearity(self.norm2(h)))
        tokens = self.group_norm(x).flatten(2).mT
        attended = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(x + attended.mT.reshape(x.shape))


def encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8), enable_nested_tensor=False)


NETWORKS = {"encoder": (encoder, (2, 5, 8)), "block": (ResnetBlock, (2, 8, 4, 4))}


def orders(network, x):
    x = x.detach().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        y = network(x)
        (slope,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        second = torch.autograd.grad(
            slope.square().sum(), [x, *network.parameters()], allow_unused=True
        )
    return [y, slope, *(value for value in second if value is not None)]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_the_same_to_second_order(name):
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    network, x = make().double(), torch.randn(shape, dtype=torch.float64)
    replaced = fast.replace_layers(copy.deepcopy(network))
    replaced.load_state_dict(network.state_dict(), strict=True)
    assert replaced.state_dict().keys() == network.state_dict().keys()
    for mine, wanted in zip(orders(replaced, x), orders(network, x), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-9)


def test_every_layer_of_torch_is_replaced_in_place_once():
    block = ResnetBlock()
    parameters = dict(block.named_parameters())
    assert fast.replace_layers(block) is block
    kinds = {name: type(part) for name, part in block.named_modules()}
    assert kinds["norm1"] is fast.GroupNorm
    assert kinds["attention"] is fast.Attention
    assert (kinds["head.0"], kinds["head.1"]) == (fast.GroupNormSiLU, nn.Identity)
    fast.replace_layers(block)
    assert kinds == {name: type(part) for name, part in block.named_modules()}
    assert all(parameters[name] is parameter for name, parameter in block.named_parameters())
    assert type(fast.replace_layers(nn.RMSNorm(4))) is fast.RMSNorm


def test_layers_that_do_more_than_torchs_are_left():
    class Own(nn.LayerNorm):
        pass

    assert type(fast.replace_layers(Own(4))) is Own
    layer = nn.LayerNorm(4)
    layer.forward = lambda x: x
    assert type(fast.replace_layers(layer)) is nn.LayerNorm
    chain = nn.Sequential(nn.GroupNorm(2, 4), nn.SiLU())
    chain[0].register_forward_hook(lambda *_: None)
    assert [type(part) for part in fast.replace_layers(chain)] == [fast.GroupNorm, nn.SiLU]
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        fast.replace_layers(4)


def test_a_norm_used_elsewhere_keeps_its_own_meaning():
    norm = nn.GroupNorm(2, 4)
    network = nn.ModuleList([nn.Sequential(norm, nn.SiLU()), norm])
    x = torch.randn(2, 4, 3)
    wanted = [part(x) for part in network]
    fast.replace_layers(network)
    for part, value in zip(network, wanted, strict=True):
        torch.testing.assert_close(part(x), value)
