"""Parts of a diffusion transformer: a block whose layer norms an embedding steers, and positions.

With N the layer norm without weights, s, t, g shifts, scales and gates linear in the embedding:
  x' = x + g₁ attention(N(x) (1 + t₁) + s₁),  x" = x' + g₂ mlp(N(x') (1 + t₂) + s₂)
All of s, t, g start at zero ("adaLN-Zero"), so a block starts as the identity. Twice differentiable.
Source: Peebles & Xie 2023, arXiv 2212.09748.
"""

from __future__ import annotations

import torch
from torch import nn

from edmfast._internal.dispatch import operators_work
from edmfast._internal.rows import per_sample
from edmfast.models.backbones.activation import gelu
from edmfast.models.backbones.linear import Linear
from edmfast.models.backbones.self_attention import self_attention
from edmfast.ops import layer_norm

EPSILON = 1e-6


class TransformerBlock(nn.Module):
    """x [B, L, width], embedding [B, embedding_width] -> [B, L, width].

    hidden: width of the one hidden layer of the mlp. dropout: probability, in training mode, that a
    number of what a branch adds is left out.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, embedding_width: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = Linear(embedding_width, 6 * width)
        self.qkv = Linear(width, 3 * width)
        self.projection = Linear(width, width)
        self.expand = Linear(width, hidden)
        self.contract = Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        steering = per_sample(self.modulation(embedding), x.shape[0])[:, None].chunk(6, 2)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = steering
        qkv = self.qkv(modulated_norm(x, shift, scale))
        x = x + gate * self.dropout(self.projection(self_attention(qkv, self.heads)))
        hidden = gelu(self.expand(modulated_norm(x, mlp_shift, mlp_scale)))
        return x + mlp_gate * self.dropout(self.contract(hidden))


def modulated_norm(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """N(x) (1 + scale) + shift over the last dimension of x [B, L, W]; shift, scale [B or 1, 1, W]. By the
    operator of x's dtype, under autocast too: a matrix product follows, which would round to it anyway."""
    if operators_work():
        return layer_norm(x, scale=scale.squeeze(1), shift=shift.squeeze(1), eps=EPSILON)
    return _layer_norm(x) * (1 + scale) + shift


def _layer_norm(x: torch.Tensor) -> torch.Tensor:
    """Return x without its mean and scaled to unit variance, over the last dimension.

    Written out: through torch's own layer_norm (2.13) a forward-mode derivative of two reverse-mode ones is wrong,
    by as much as 20 %.
    """
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    centred = wide - wide.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return (centred * (variance + EPSILON).rsqrt()).to(x.dtype)


def grid_positions(rows: int, columns: int, width: int) -> torch.Tensor:
    """[rows·columns, width], width a multiple of 4: quarters sin(r w), cos(r w), sin(c w), cos(c w).

    r, c number row and column; w_i = 10000^(-i/(width/4)). Row by row, as images are flattened.
    Source: Vaswani et al. 2017, arXiv 1706.03762, for each of the two coordinates.
    """
    quarter = width // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    angle = cells[:, :, None] * frequencies
    waves = torch.stack([angle.sin(), angle.cos()], 2)
    return waves.flatten(1).to(torch.get_default_dtype())
