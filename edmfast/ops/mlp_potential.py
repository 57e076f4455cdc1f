"""Energy and score of a residual perceptron in one operator: one NFE of a sampler, without a graph.

On the CPU a block of rows passes forward and back through all layers while its activations are in cache, by
torch's matrix products and one fused pass between two of them. Source of the adjoint: see
`edmfast.reference.mlp_potential`; Thornton et al. 2025, arXiv 2502.12786 (inner-product energies). No
derivative: inputs that require grad raise under grad mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from edmfast import _extension
from edmfast.reference import mlp_potential as reference

DTYPES = (torch.float32, torch.float64)


class Perceptron(NamedTuple):
    """Weights as in torch.nn.Linear: h -> layer h + shift, then h + silu of it, between entry and exit."""

    entry: Tensor
    """[W, d]"""
    entry_bias: Tensor
    """[W]"""
    layers: Sequence[Tensor]
    """[W, W] each"""
    exit: Tensor
    """[d, W]"""
    exit_bias: Tensor
    """[d]"""


def _fake(y: Tensor, weight: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return weight.new_empty(y.shape[:1]), y.new_empty(y.shape)


_extension.define(
    "mlp_potential(Tensor y, Tensor weight, Tensor shifts, Tensor coefficients, Tensor entry, Tensor entry_bias, "
    "Tensor[] layers, Tensor exit, Tensor exit_bias) -> (Tensor, Tensor)",
    reference.mlp_potential,
    _fake,
)


def mlp_potential(
    y: Tensor, weight: Tensor, shifts: Tensor, coefficients: Tensor, network: Perceptron
) -> tuple[Tensor, Tensor]:
    """(E [B] in nats, a grad(weight <h, y>) + b y, like y): |y|²/2 - weight <h(y), y> and a field.

    y: [B, *shape] of d numbers, float32 or float64, as is all else. weight: [B]. shifts: [B, depth·W], or
    [1, depth·W] for all rows. coefficients: (a, b) [B, 2]; with a = c_in and b = -c_in the field is the
    score. A row's numbers depend on its place in the batch as those of torch's matrix products do.

    Raises TypeError for dtypes, ValueError for shapes, RuntimeError for inputs that require grad.
    """
    tensors = (y, weight, shifts, coefficients, *network[:2], *network.layers, *network[3:])
    if y.dtype not in DTYPES or any(tensor.dtype != y.dtype for tensor in tensors):
        names = sorted({str(tensor.dtype) for tensor in tensors})
        raise TypeError(f"all must be float32 or all float64, got {names}")
    flat = y.flatten(1)
    _check(flat, weight, shifts, coefficients, network)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        raise RuntimeError("mlp_potential has no derivative: call it under torch.no_grad()")
    # detached: the threads of the CPU do not share the grad mode of this one
    numbers = (tensor.detach() for tensor in (flat, weight, shifts, coefficients))
    entry, entry_bias, layers, exit, exit_bias = network
    energy, field = torch.ops.edmfast.mlp_potential(
        *numbers,
        entry.detach(),
        entry_bias.detach(),
        [layer.detach() for layer in layers],
        exit.detach(),
        exit_bias.detach(),
    )
    return energy, field.view(y.shape)


def _check(
    y: Tensor, weight: Tensor, shifts: Tensor, coefficients: Tensor, network: Perceptron
) -> None:
    batch, elements = y.shape
    width, depth = network.entry.shape[0], len(network.layers)
    rows = shifts.shape[0] if shifts.dim() == 2 else -1
    wanted = [
        ("weight", weight, (batch,)),
        ("shifts", shifts, (1 if rows == 1 else batch, depth * width)),
        ("coefficients", coefficients, (batch, 2)),
        ("entry", network.entry, (width, elements)),
        ("entry_bias", network.entry_bias, (width,)),
        *((f"layer {i}", layer, (width, width)) for i, layer in enumerate(network.layers)),
        ("exit", network.exit, (elements, width)),
        ("exit_bias", network.exit_bias, (elements,)),
    ]
    for name, tensor, shape in wanted:
        if tensor.shape != shape:
            raise ValueError(f"{name} must be {[*shape]}, got {[*tensor.shape]}")
