"""The residual block of EDM's U-Nets, with an embedding that shifts or modulates it, and with self-attention.

  h = conv0(silu(norm0(x))), where conv0 may halve or double the image
  h = silu(norm1(h + affine(e)))                      DDPM++ and NCSN++
  h = silu(norm1(h) (1 + scale) + shift),  (scale, shift) = affine(e)     ADM
  y = s (skip(x) + conv1(dropout(h)))
  y = s (y + proj(attention(qkv(norm2(y)))))          where the block has attention

s is sqrt(1/2) in DDPM++ and NCSN++, and 1 in ADM. Group norms have min(32, C/4) groups.
Sources: Song et al. 2021, arXiv 2011.13456, appendix H; Dhariwal & Nichol 2021, arXiv 2105.05233;
Karras et al. 2022, arXiv 2206.00364, appendix F.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from edmfast._internal.batch_invariant import batch_invariant_linear
from edmfast._internal.rows import per_sample
from edmfast.models.backbones.convolution import Convolution
from edmfast.models.backbones.edm.resampling import Filter, FilteredConvolution
from edmfast.models.backbones.linear import Linear
from edmfast.models.backbones.normalisation import group_norm
from edmfast.models.backbones.self_attention import self_attention


class BlockKind(NamedTuple):
    """The numbers in which the blocks of one architecture agree."""

    embedding: int
    """Numbers of the embedding e."""
    dropout: float
    """Probability that a number is set to zero before the second convolution, in training mode."""
    modulated: bool
    """True where e scales and shifts after the second norm. Otherwise it shifts before that norm."""
    factor: float
    """s, by which sums are multiplied."""
    epsilon: float
    """The number added to the variances of the norms."""
    resample_filter: Sequence[float]
    """Numbers of the filter that halves and doubles."""
    always_mixes: bool
    """True where a block that halves or doubles has a 1x1 convolution on its skip even if C stays."""
    head_channels: int | None
    """Channels of an attention head; None for one head."""


def group_count(channels: int) -> int:
    """Return the number of groups of a norm: min(32, C/4), so that a group has at least four channels.

    Raises ValueError where it does not divide C.
    """
    groups = max(1, min(32, channels // 4))
    if channels % groups:
        raise ValueError(
            f"model_channels times each of channel_mult must be multiples of the {groups} groups of a norm, "
            f"given {channels} channels"
        )
    return groups


def norm(channels: int, epsilon: float) -> nn.GroupNorm:
    """Return a group norm of C channels with `group_count` groups."""
    return nn.GroupNorm(group_count(channels), channels, eps=epsilon)


class Block(nn.Module):
    """A residual block from [B, C, H, W] to [B, C', H', W'].

    in_channels: C. out_channels: C'. resample: "down" or "up" halves or doubles H and W; None keeps them.
    attention: end with self-attention over the pixels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kind: BlockKind,
        *,
        resample: str | None = None,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.modulated, self.factor = kind.modulated, kind.factor
        self.norm0 = norm(in_channels, kind.epsilon)
        self.conv0 = _convolution(in_channels, out_channels, 3, kind, resample)
        self.affine = Linear(kind.embedding, out_channels * (1 + kind.modulated))
        self.norm1 = norm(out_channels, kind.epsilon)
        self.dropout = nn.Dropout(kind.dropout)
        self.conv1 = Convolution(out_channels, out_channels, 3, padding=1)
        self.skip: nn.Module = nn.Identity()
        if in_channels != out_channels or (resample is not None and kind.always_mixes):
            self.skip = _convolution(in_channels, out_channels, 1, kind, resample)
        elif resample is not None:
            self.skip = Filter(kind.resample_filter, resample)
        self.heads = _heads(out_channels, kind) if attention else 0
        if self.heads:
            self.norm2 = norm(out_channels, kind.epsilon)
            self.qkv = TokenLinear(out_channels, 3 * out_channels, (self.heads, -1, 3))
            self.proj = TokenLinear(out_channels, out_channels)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Return [B, C', H', W']. x: [B, C, H, W]. embedding: [B, E], or fewer equal rows."""
        numbers = per_sample(self.affine(embedding), x.shape[0])
        h = self.conv0(group_norm(x, self.norm0, silu=True))
        if self.modulated:
            scale, shift = numbers.chunk(2, 1)
            h = group_norm(h, self.norm1, silu=True, scale=scale, shift=shift)
        else:
            h = group_norm(h + numbers[:, :, None, None], self.norm1, silu=True)
        y = self._sum(self.skip(x), self.conv1(self.dropout(h)))
        return self._sum(y, self._attended(y)) if self.heads else y

    def _sum(self, x: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
        total = x + branch
        return total if self.factor == 1 else total * self.factor

    def _attended(self, x: torch.Tensor) -> torch.Tensor:
        # the pixels become a sequence for the attention
        tokens = group_norm(x, self.norm2).flatten(2).transpose(1, 2)
        attended: torch.Tensor = self.proj(self_attention(self.qkv(tokens), self.heads))
        return attended.transpose(1, 2).reshape(x.shape)


class TokenLinear(nn.Conv2d):
    """A 1x1 convolution that is applied to tokens [B, L, C] as a linear layer, with the state of nn.Conv2d.

    order: the shape (heads, d, 3) of the output's channels as the weight holds them. The layer returns them in the
        order (3, heads, d), as `self_attention` takes them. None keeps their order.
    """

    def __init__(
        self, in_channels: int, out_channels: int, order: tuple[int, ...] | None = None
    ) -> None:
        super().__init__(in_channels, out_channels, 1)
        self.order = order

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return [B, L, C'] for tokens [B, L, C]."""
        weight, bias = self.weight.flatten(1), self.bias
        assert bias is not None
        if self.order is not None:
            # weights are fewer numbers than tokens, so it is they that are permuted
            weight = weight.unflatten(0, self.order).permute(2, 0, 1, 3).flatten(0, 2)
            bias = bias.unflatten(0, self.order).permute(2, 0, 1).flatten()
        return batch_invariant_linear(tokens, weight, bias)


def _convolution(
    in_channels: int, out_channels: int, kernel: int, kind: BlockKind, resample: str | None
) -> nn.Conv2d:
    if resample is None:
        return Convolution(in_channels, out_channels, kernel, padding=kernel // 2)
    return FilteredConvolution(in_channels, out_channels, kernel, kind.resample_filter, resample)


def _heads(channels: int, kind: BlockKind) -> int:
    heads = 1 if kind.head_channels is None else max(1, channels // kind.head_channels)
    if channels % heads:
        raise ValueError(
            f"a block with attention must have a multiple of {kind.head_channels} channels, given {channels}"
        )
    return heads


SQRT_HALF = math.sqrt(0.5)
