"""Starting weights of EDM's U-Nets.

DDPM++ and NCSN++ draw weights as Glorot & Bengio 2010 and set biases to 0. Queries, keys and values each have a
tenth of that variance. The second convolution of a block and the projection of its attention are multiplied by
1e-5, so that a block starts near its skip (Song et al. 2021, arXiv 2011.13456). ADM keeps the start that torch
gives its layers (He et al. 2015), draws label weights from N(0, 1) as an embedding table does, and sets the second
convolution of a block and the projection to 0 (Dhariwal & Nichol 2021, arXiv 2105.05233).

In both the last convolutions are exactly 0, so that an inner-product energy starts as the Gaussian one.
"""

from __future__ import annotations

import math

from torch import nn

from edmfast.models.backbones.edm.block import Block

TINY = 1e-5


def start_song(network: nn.Module) -> None:
    """Draw the weights of a SongUNet."""
    for layer in network.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            _glorot(layer, 1.0)
    for block in network.modules():
        if isinstance(block, Block):
            _glorot(block.conv1, TINY)
            if block.heads:
                # its fan out counts queries, keys and values together, which halves the variance that
                # Glorot & Bengio give each of them, so that a fifth is left of it
                _glorot(block.qkv, math.sqrt(0.2))
                _glorot(block.proj, TINY)
    for name, layer in network.named_modules():
        if name.endswith("aux_conv"):
            _zero(layer)


def start_dhariwal(network: nn.Module) -> None:
    """Draw the weights of a DhariwalUNet, whose layers have torch's own start already."""
    for name, layer in network.named_modules():
        if isinstance(layer, Block):
            _zero(layer.conv1)
            if layer.heads:
                _zero(layer.proj)
        elif name == "map_label":
            assert isinstance(layer, nn.Linear)
            nn.init.normal_(layer.weight)
        elif name == "out_conv":
            _zero(layer)


def _glorot(layer: nn.Linear | nn.Conv2d, factor: float) -> None:
    nn.init.xavier_uniform_(layer.weight, gain=factor)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
