"""The parts of the diffusion transformer: a block whose layer norms an embedding modulates, and positions.

N is the layer norm without weights. The shifts s, scales t and gates g are linear in the embedding:
  x' = x + g₁ attention(N(x) (1 + t₁) + s₁),  x" = x' + g₂ mlp(N(x') (1 + t₂) + s₂).
All of s, t and g start at zero ("adaLN-Zero"), so that a block starts as the identity. Twice differentiable.
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
    """A transformer block on tokens x [B, L, width], modulated by an embedding [B, embedding_width].

    heads: attention heads. hidden: width of the one hidden layer of the mlp.
    dropout: probability, in training mode, that a number which a branch adds is set to zero.
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
        """Return [B, L, width]; the embedding may have fewer, equal rows for one noise level."""
        modulation = per_sample(self.modulation(embedding), x.shape[0])[:, None].chunk(6, 2)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation
        qkv = self.qkv(modulated_norm(x, shift, scale))
        x = x + gate * self.dropout(self.projection(self_attention(qkv, self.heads)))
        hidden = gelu(self.expand(modulated_norm(x, mlp_shift, mlp_scale)))
        output: torch.Tensor = x + mlp_gate * self.dropout(self.contract(hidden))
        return output


def modulated_norm(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return N(x) (1 + scale) + shift over the last dimension of x [B, L, W].

    shift, scale: [B, 1, W] or [1, 1, W]. The operator computes in the dtype of x even under autocast, because
    the matrix product that follows would round float32 to that dtype anyway.
    """
    if operators_work():
        return layer_norm(x, scale=scale.squeeze(1), shift=shift.squeeze(1), eps=EPSILON)
    return _layer_norm(x) * (1 + scale) + shift


def _layer_norm(x: torch.Tensor) -> torch.Tensor:
    """Return x minus its mean and scaled to unit variance, over the last dimension.

    The formula is written out because torch's own layer_norm (2.13) gives a wrong forward-mode derivative of two
    reverse-mode ones, with errors up to 20 %.
    """
    # statistics in half precision would lose most digits of the variance
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    centred = wide - wide.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return (centred * (variance + EPSILON).rsqrt()).to(x.dtype)


def grid_positions(rows: int, columns: int, width: int) -> torch.Tensor:
    """Return the positions of a grid of tokens, [rows·columns, width], where width is a multiple of 4.

    The four quarters of a position are sin(r w), cos(r w), sin(c w) and cos(c w), with row r, column c and
    w_i = 10000^(-i/(width/4)). Tokens are ordered row by row, as images are flattened.

    Source: Vaswani et al. 2017, arXiv 1706.03762, applied to each of the two coordinates.
    """
    quarter = width // 4
    # float64 keeps positions exact before they are rounded once to the default dtype
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    angle = cells[:, :, None] * frequencies
    waves = torch.stack([angle.sin(), angle.cos()], 2)
    return waves.flatten(1).to(torch.get_default_dtype())
