"""Energy and score of a residual perceptron with its inner-product potential, in plain torch, by hand.

h_0 = W_in y + b_in, z_l = W_l h_l + e_l, h_{l+1} = h_l + silu(z_l), h = W_out h_L + b_out. With the cotangent
u = w y of h: g_L = W_outᵀ u, g_l = g_{l+1} + W_lᵀ (silu'(z_l) g_{l+1}), p = W_inᵀ g_0 = J_hᵀ u. So
E = |y|²/2 - w <h, y> and grad(w <h, y>) = w h + p.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mlp_potential(
    y: Tensor,
    weight: Tensor,
    shifts: Tensor,
    coefficients: Tensor,
    entry: Tensor,
    entry_bias: Tensor,
    layers: list[Tensor],
    exit: Tensor,
    exit_bias: Tensor,
) -> tuple[Tensor, Tensor]:
    """(E [B], a (w h + p) + b y [B, d]): y [B, d]; w [B]; shifts e [B or 1, depth·W]; (a, b) [B, 2];
    entry [W, d], layers [W, W] each, exit [d, W] as in torch.nn.Linear."""
    hidden = y @ entry.T + entry_bias
    slopes = []
    for layer, shift in zip(layers, shifts.chunk(max(1, len(layers)), 1), strict=False):
        z = hidden @ layer.T + shift
        s = torch.sigmoid(z)
        hidden = hidden + z * s
        slopes.append(s + z * s * (1 - s))
    h = hidden @ exit.T + exit_bias
    w = weight[:, None]
    energy = 0.5 * (y.double() ** 2).sum(1) - weight.double() * (h.double() * y.double()).sum(1)
    g = (w * y) @ exit
    for layer, slope in zip(reversed(layers), reversed(slopes), strict=True):
        g = g + (g * slope) @ layer
    a, b = coefficients[:, :1], coefficients[:, 1:]
    return energy.to(y.dtype), a * (w * h + g @ entry) + b * y
