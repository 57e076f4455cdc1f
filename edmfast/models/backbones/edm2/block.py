"""The residual block of EDM2, in which every sum keeps the variance, with modulation and cosine attention.

  encoder: x = norm(skip(resample(x)))      decoder: x = resample(x), whose skip comes with the sum
  r = conv1(dropout(mp_silu(conv0(mp_silu(x)) (1 + gain affine(e)))))
  x = mp_sum(skip(x), r, t_res)
  x = mp_sum(x, proj(attention(norm(q), norm(k), norm(v))), t_attn)      where the block has attention
  y = clamp(x, -c, c)

norm divides the vector of each pixel, or of each head and pixel, by its root mean square. So attention weighs by
the softmax of sqrt(d) times a cosine, for d numbers per head.

Source: Karras et al. 2024, arXiv 2312.02696, appendix B.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edmfast._internal.rows import per_sample
from edmfast.models.backbones.edm2.functions import mp_silu, mp_sum, normalised
from edmfast.models.backbones.edm2.layers import MPConv2d, MPLinear
from edmfast.models.backbones.self_attention import self_attention
from edmfast.models.backbones.unet import doubled


class BlockKind(NamedTuple):
    """The numbers in which the blocks of a network agree; see `EDM2UNet`."""

    embedding: int
    """Numbers of the embedding e."""
    channels_per_head: int
    dropout: float
    res_balance: float
    attn_balance: float
    clip_act: float | None


class Block(nn.Module):
    """A residual block from [B, C, H, W] to [B, C', H', W'].

    in_channels: C. out_channels: C'. decoder: the block is one of the decoder. resample: "down" or "up" halves or
    doubles H and W; None keeps them. attention: end with self-attention over the pixels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kind: BlockKind,
        *,
        decoder: bool = False,
        resample: str | None = None,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kind, self.decoder, self.resample = kind, decoder, resample
        self.emb_gain = nn.Parameter(torch.zeros([]))
        # a block of the encoder has applied its skip before the residual branch
        self.conv_res0 = MPConv2d(in_channels if decoder else out_channels, out_channels, 3)
        self.emb_linear = MPLinear(kind.embedding, out_channels)
        self.dropout = nn.Dropout(kind.dropout)
        self.conv_res1 = MPConv2d(out_channels, out_channels, 3)
        mixes = in_channels != out_channels
        self.conv_skip = MPConv2d(in_channels, out_channels, 1) if mixes else None
        self.heads = _heads(out_channels, kind.channels_per_head) if attention else 0
        if self.heads:
            order = self.heads, -1, 3
            self.attn_qkv = MPLinear(out_channels, 3 * out_channels, (1, 1), order)
            self.attn_proj = MPLinear(out_channels, out_channels, (1, 1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return [B, C', H', W']. x: [B, C, H, W]. embedding: [B, E], or fewer equal rows."""
        kind = self.kind
        if self.resample == "down":
            x = F.avg_pool2d(x, 2)
        elif self.resample == "up":
            x = doubled(x)
        skip = x if self.conv_skip is None else self.conv_skip(x)
        if not self.decoder:
            x = skip = normalised(skip, 1)
        modulation = per_sample(self.emb_linear(embedding, self.emb_gain), x.shape[0]) + 1
        h = mp_silu(self.conv_res0(mp_silu(x)) * modulation[:, :, None, None])
        x = mp_sum(skip, self.conv_res1(self.dropout(h)), kind.res_balance)
        if self.heads:
            x = mp_sum(x, self._attended(x), kind.attn_balance)
        # half precision would overflow at larger numbers
        return x if kind.clip_act is None else x.clamp(-kind.clip_act, kind.clip_act)

    def _attended(self, x: Tensor) -> Tensor:
        # the pixels become a sequence for the attention
        tokens = x.flatten(2).transpose(1, 2)
        qkv = self.attn_qkv(tokens).unflatten(2, (3 * self.heads, -1))
        attended: Tensor = self.attn_proj(self_attention(normalised(qkv, 3).flatten(2), self.heads))
        return attended.transpose(1, 2).reshape(x.shape)


def _heads(channels: int, channels_per_head: int) -> int:
    heads, rest = divmod(channels, channels_per_head)
    if rest:
        raise ValueError(
            f"a block with attention must have a multiple of channels_per_head={channels_per_head} channels, "
            f"given {channels}: change model_channels, channel_mult or channels_per_head"
        )
    return heads
