"""The building blocks of the U-Net, from [B, C, H, W] to [B, C', H, W], twice differentiable."""

from __future__ import annotations

import torch
from torch import nn

from edmfast._internal.rows import per_sample
from edmfast.models.backbones.convolution import Convolution
from edmfast.models.backbones.linear import Linear
from edmfast.models.backbones.normalisation import group_norm
from edmfast.models.backbones.self_attention import self_attention


class ResidualBlock(nn.Module):
    """A residual block, skip(x) + conv(silu(norm(conv(silu(norm(x))) + shift))).

    The shift is linear in the embedding. skip is a 1x1 convolution where C' differs from C, else the identity.
    entry: C. width: C'. groups: groups of both norms. embedding_width: numbers of the embedding.
    """

    def __init__(self, entry: int, width: int, groups: int, embedding_width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, entry)
        # the shift that follows acts as its bias
        self.conv1 = Convolution(entry, width, 3, padding=1, bias=False)
        self.shift = Linear(embedding_width, width)
        self.norm2 = nn.GroupNorm(groups, width)
        self.conv2 = Convolution(width, width, 3, padding=1)
        # only a change of the number of channels needs a convolution on this path
        self.skip = nn.Identity() if entry == width else Convolution(entry, width, 1, bias=False)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Return [B, C', H, W]. x: [B, C, H, W]. embedding: [B, embedding_width], or fewer equal rows."""
        shift = per_sample(self.shift(embedding), x.shape[0])[:, :, None, None]
        h = self.conv1(group_norm(x, self.norm1, silu=True)) + shift
        output: torch.Tensor = self.skip(x) + self.conv2(group_norm(h, self.norm2, silu=True))
        return output


class Attention(nn.Module):
    """Self-attention with one head, x + projection(softmax(q kᵀ/sqrt(C)) v) over the H·W positions."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width)
        self.qkv = Linear(width, 3 * width, bias=False)
        self.projection = Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a tensor like x [B, C, H, W]."""
        # the positions become a sequence for the attention
        tokens = group_norm(x, self.norm).flatten(2).transpose(1, 2)
        attended: torch.Tensor = self.projection(self_attention(self.qkv(tokens), heads=1))
        return x + attended.transpose(1, 2).reshape(x.shape)
