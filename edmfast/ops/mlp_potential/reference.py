"""Energies and scores of residual perceptrons, and their derivatives by hand, in plain torch.

For each of K networks, with the four numbers (c, w, a, b) of a row:
y = c x, h_0 = W_in y + b_in, z_l = W_l h_l + e_l, h_{l+1} = h_l + silu(z_l), h = W_out h_L + b_out.
With the cotangent u = w y of h: g_L = W_outᵀ u, g_l = g_{l+1} + W_lᵀ (silu'(z_l) g_{l+1}), p = W_inᵀ g_0 = J_hᵀ u.
So E = |y|²/2 - w <h, y>, grad_y(w <h, y>) = w h + p, and the field is F = a (w h + p) + b y.

Derivatives. Along y' = a v: h'_0 = W_in y', z'_l = W_l h'_l, h'_{l+1} = h'_l + silu'(z_l) z'_l, h' = W_out h'_L,
so e E + <v, F> = e |y|²/2 + b <v, y> + <n, h> + <u, h'> with n = w (a v - e y). The cotangents of the h'_l are the
g_l again, and those of the h_l are m_L = W_outᵀ n, q_l = silu'(z_l) m_{l+1} + silu"(z_l) z'_l g_{l+1},
m_l = m_{l+1} + W_lᵀ q_l. The gradient of W_l is (silu'(z_l) g_{l+1}) ⊗ h'_l + q_l ⊗ h_l: one product of matrices
with twice the rows.

The second derivative along one direction needs no second tangent: with u = w y,
<u, h"> = sum_l <g_{l+1}, silu"(z_l) (z'_l)²>, since g_{l+1} carries what layer l adds to h" to the end. With
y' = v, vᵀ (dF/dx) v = c (a (<u, h"> + 2 w <h', v>) + b |v|²). That is three passes through the network, and the
backward takes four.
Source: Thornton et al. 2025, arXiv 2502.12786 (inner-product energies). The adjoints are our own.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mlp_potential(
    x: Tensor,
    coefficients: Tensor,
    shifts: list[Tensor],
    entry: list[Tensor],
    entry_bias: list[Tensor],
    layers: list[Tensor],
    exit: list[Tensor],
    exit_bias: list[Tensor],
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (E [K, B], F [K, B, d], an empty tensor for activations that the backward may use).

    x [B, d]; coefficients (c, w, a, b) [K, B or 1, 4]; shifts e [B or 1, depth·W], entry [W, d], layers [W, W] and
    exit [d, W] as in torch.nn.Linear, K of each (layers: K·depth).
    """
    energies, fields = [], []
    for k, net in enumerate(_networks(entry, entry_bias, layers, exit, exit_bias)):
        c, w, a, b = _columns(coefficients[k])
        y = c * x
        hidden, slopes, _ = _forward(net, y, shifts[k])
        h = hidden[-1] @ net[3].T + net[4]
        # the two terms may nearly cancel, so they are summed and subtracted in float64
        squares, inner = (y.double() ** 2).sum(1), (h.double() * y.double()).sum(1)
        energies.append((0.5 * squares - w[:, 0].double() * inner).to(x.dtype))
        pulled = _pull(net, w * y, slopes)[0] @ net[0]
        fields.append(a * (w * h + pulled) + b * y)
    return torch.stack(energies), torch.stack(fields), x.new_empty(0)


def mlp_potential_backward(
    grad_energy: Tensor,
    grad_field: Tensor,
    x: Tensor,
    coefficients: Tensor,
    shifts: list[Tensor],
    entry: list[Tensor],
    entry_bias: list[Tensor],
    layers: list[Tensor],
    exit: list[Tensor],
    exit_bias: list[Tensor],
    saved: Tensor,
    inputs: bool,
    weights: bool,
) -> tuple[Tensor, ...]:
    """Return the cotangents of x and coefficients, and those of the weights, each as one tensor [K, ...].

    The weights are shifts, entry, entry_bias, layers [K, depth, W, W], exit and exit_bias. The first two are empty
    unless `inputs` is set, the others unless `weights` is.
    """
    to_x, columns, gradients = x.new_zeros(x.shape), [], []
    for k, net in enumerate(_networks(entry, entry_bias, layers, exit, exit_bias)):
        W_in, _, middle, W_out, b_out = net
        c, w, a, b = _columns(coefficients[k])
        e, v = grad_energy[k][:, None], grad_field[k]
        y = c * x
        hidden, slopes, bends = _forward(net, y, shifts[k])
        pulled = _pull(net, w * y, slopes)
        moved, steps = [a * v @ W_in.T], []
        for layer, slope in zip(middle, slopes, strict=True):
            steps.append(moved[-1] @ layer.T)
            moved.append(moved[-1] + slope * steps[-1])
        n = w * (a * v - e * y)
        m, q = n @ W_out, []
        for i in reversed(range(len(middle))):
            q.append(slopes[i] * m + bends[i] * steps[i] * pulled[i + 1])
            m = m + q[-1] @ middle[i]
        q.reverse()
        if inputs:
            h, along = hidden[-1] @ W_out.T + b_out, moved[-1] @ W_out.T
            to_y = e * y + b * v + w * (along - e * h) + m @ W_in
            to_x += c * to_y
            to_w = ((a * v - e * y) * h + along * y).sum(1)
            to_a = (v * (w * h + pulled[0] @ W_in)).sum(1)
            columns.append(torch.stack([(x * to_y).sum(1), to_w, to_a, (v * y).sum(1)], 1))
        if weights:
            # hidden and moved also hold the last state, which no layer follows
            pairs = zip(q, hidden, slopes, pulled[1:], moved, strict=False)
            squares = [qs.T @ h + (slope * g).T @ t for qs, h, slope, g, t in pairs]
            gradients.append(
                (
                    torch.cat(q, 1) if q else x.new_empty(len(x), 0),
                    m.T @ y + pulled[0].T @ (a * v),
                    m.sum(0),
                    torch.stack(squares) if squares else x.new_empty(0, *W_in.shape[:1] * 2),
                    n.T @ hidden[-1] + (w * y).T @ moved[-1],
                    n.sum(0),
                )
            )
    # each output is a tensor of its own, since outputs may not share memory
    nothing = [x.new_empty(0) for _ in range(8)]
    first = to_x, torch.stack(columns) if columns else nothing[1]
    if coefficients.shape[1] != len(x) and inputs:
        first = to_x, first[1].sum(1, keepdim=True)
    rest = [torch.stack(list(each)) for each in zip(*gradients, strict=True)] or nothing[2:]
    if weights and shifts[0].shape[0] != len(x):
        rest[0] = rest[0].sum(1, keepdim=True)
    return (*(first if inputs else nothing[:2]), *rest)


def mlp_potential_probe(
    x: Tensor,
    v: Tensor,
    coefficients: Tensor,
    shifts: list[Tensor],
    entry: list[Tensor],
    entry_bias: list[Tensor],
    layers: list[Tensor],
    exit: list[Tensor],
    exit_bias: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (E [K, B], F [K, B, d], vᵀ (dF/dx) v float64 [K, B]) along v [B, d].

    The other arguments are those of `mlp_potential`.
    """
    lists = shifts, entry, entry_bias, layers, exit, exit_bias
    energies, fields, _ = mlp_potential(x, coefficients, *lists, False)
    bent = []
    for k, net in enumerate(_networks(entry, entry_bias, layers, exit, exit_bias)):
        c, w, a, b = _columns(coefficients[k])
        _, slopes, bends = _forward(net, c * x, shifts[k])
        pulled = _pull(net, w * (c * x), slopes)
        moved, total = v @ net[0].T, x.new_zeros(len(x), dtype=torch.float64)
        for layer, slope, bend, g in zip(net[2], slopes, bends, pulled[1:], strict=True):
            step = moved @ layer.T
            moved = moved + slope * step
            total = total + (g.double() * (bend * step * step).double()).sum(1)
        along = ((moved @ net[3].T).double() * v.double()).sum(1)
        c, w, a, b = (number[:, 0].double() for number in (c, w, a, b))
        bent.append(c * (a * (total + 2 * w * along) + b * v.double().square().sum(1)))
    return energies, fields, torch.stack(bent)


Network = tuple[Tensor, Tensor, list[Tensor], Tensor, Tensor]


def _networks(
    entry: list[Tensor],
    entry_bias: list[Tensor],
    layers: list[Tensor],
    exit: list[Tensor],
    exit_bias: list[Tensor],
) -> list[Network]:
    """Return the weights sorted by network."""
    depth = len(layers) // len(entry)
    middles = [layers[k * depth : (k + 1) * depth] for k in range(len(entry))]
    return [*zip(entry, entry_bias, middles, exit, exit_bias, strict=True)]


def _columns(coefficients: Tensor) -> list[Tensor]:
    """Return c, w, a and b as columns."""
    return [column[:, None] for column in coefficients.unbind(1)]


def _forward(
    net: Network, y: Tensor, shifts: Tensor
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return (h_0 … h_L, silu'(z_l) of each layer, silu"(z_l) of each layer)."""
    entry, entry_bias, layers, _, _ = net
    hidden, slopes, bends = [y @ entry.T + entry_bias], [], []
    # a network without layers has shifts without columns, and chunk makes at least one piece
    for layer, shift in zip(layers, shifts.chunk(max(1, len(layers)), 1), strict=False):
        z = hidden[-1] @ layer.T + shift
        s = torch.sigmoid(z)
        hidden.append(hidden[-1] + z * s)
        slopes.append(s + z * s * (1 - s))
        bends.append(s * (1 - s) * (2 + z * (1 - 2 * s)))
    return hidden, slopes, bends


def _pull(net: Network, u: Tensor, slopes: list[Tensor]) -> list[Tensor]:
    """Return g_0 … g_L for the cotangent u."""
    g = [u @ net[3]]
    for layer, slope in zip(reversed(net[2]), reversed(slopes), strict=True):
        g.append(g[-1] + (g[-1] * slope) @ layer)
    return g[::-1]
