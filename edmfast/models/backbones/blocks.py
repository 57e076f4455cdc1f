"""Building blocks of the U-Net, [B, C, H, W] to [B, C', H, W], twice differentiable."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from edmfast.models.backbones.activation import silu
from edmfast.models.backbones.linear import Linear


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))) + embedding))), a 1x1 convolution where C' != C."""

    def __init__(self, entry: int, width: int, groups: int, embedding_width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, entry)
        self.conv1 = nn.Conv2d(entry, width, 3, padding=1, bias=False)
        self.shift = Linear(embedding_width, width)
        self.norm2 = nn.GroupNorm(groups, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Identity() if entry == width else nn.Conv2d(entry, width, 1, bias=False)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        h = self.conv1(silu(self.norm1(x))) + self.shift(embedding)[:, :, None, None]
        return self.skip(x) + self.conv2(silu(self.norm2(h)))


class Attention(nn.Module):
    """x + projection(softmax(q kᵀ/sqrt(C)) v) over the H·W positions, one head.

    Plain matrix products, because fused attention has no second derivative. On the CPU the positions
    are padded to a multiple of four, for the reason given in `Linear`.
    """

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width)
        self.qkv = Linear(width, 3 * width, bias=False)
        self.projection = Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        positions = tokens.shape[1]
        missing = -positions % 4 if x.device.type == "cpu" else 0
        q, k, v = self.qkv(F.pad(tokens, (0, 0, 0, missing))).chunk(3, 2)
        scores = q @ k.transpose(1, 2) * x.shape[1] ** -0.5
        if missing:
            scores = scores + F.pad(x.new_zeros(positions), (0, missing), value=-math.inf)
        attended = self.projection(torch.softmax(scores, 2) @ v)[:, :positions]
        return x + attended.transpose(1, 2).reshape(x.shape)
