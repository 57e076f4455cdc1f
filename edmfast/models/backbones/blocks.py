"""Building blocks of the U-Net, [B, C, H, W] to [B, C', H, W], twice differentiable."""

from __future__ import annotations

import torch
from torch import nn

from edmfast.models.backbones.activation import silu


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))) + embedding))), a 1x1 convolution where C' != C."""

    def __init__(self, entry: int, width: int, groups: int, embedding_width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, entry)
        self.conv1 = nn.Conv2d(entry, width, 3, padding=1, bias=False)
        self.shift = nn.Linear(embedding_width, width)
        self.norm2 = nn.GroupNorm(groups, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Identity() if entry == width else nn.Conv2d(entry, width, 1, bias=False)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        h = self.conv1(silu(self.norm1(x))) + self.shift(embedding)[:, :, None, None]
        return self.skip(x) + self.conv2(silu(self.norm2(h)))


class Attention(nn.Module):
    """x + projection(softmax(q kᵀ/sqrt(C)) v) over the H·W positions, one head.

    Plain matrix products, because fused attention has no second derivative.
    """

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.projection = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).chunk(3, 2)
        weights = torch.softmax(q @ k.transpose(1, 2) * x.shape[1] ** -0.5, 2)
        attended = self.projection(weights @ v)
        return x + attended.transpose(1, 2).reshape(x.shape)
