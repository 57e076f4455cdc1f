"""`curvature` and `curvature_matched`: the curvature of a target by probes, and the proposal that follows it.

The curvature of a particle is tr(grad S)/(A d) for the score S of a target of exponent A in d dimensions. One
probe v with E[v vᵀ] = I estimates it by <v, (grad S) v>/(A d) (Hutchinson 1990). For a step from level s to u with
tau² = s² - u² the curvature-matched proposal has

drift = tau²/A, v_M = kappa tau²/A, v_L = tau²/A, with kappa = 1 + tau² c in [u²/(2 s²), 1],

where c is the mean curvature over the ancestors that a population moves from. All sums are float64. The mean is
taken in an order that depends on N alone. There is no derivative: inputs that require grad raise under grad mode,
and inputs with a tangent always do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast import _extension
from edmfast._internal.derivatives import refuse_derivatives
from edmfast._internal.numbers import as_float
from edmfast.ops._shared.dtypes import DTYPES
from edmfast.ops.curvature import reference


def _fake_curvature(
    products: Tensor, probes: Tensor, exponents: Tensor | None, exponent: float
) -> Tensor:
    return products.new_empty(products.shape[:2], dtype=torch.float64)


_extension.define(
    "curvature(Tensor products, Tensor probes, Tensor? exponents, float exponent) -> Tensor",
    reference.curvature,
    _fake_curvature,
    triton="curvature",
)


def _fake_matched(
    curvature: Tensor,
    ancestors: Tensor,
    exponents: Tensor | None,
    exponent: float,
    levels: Tensor,
) -> Tensor:
    return curvature.new_empty((curvature.shape[0], 3))


_extension.define(
    "curvature_matched(Tensor curvature, Tensor ancestors, Tensor? exponents, float exponent, Tensor levels) "
    "-> Tensor",
    reference.curvature_matched,
    _fake_matched,
    triton="curvature",
)


def curvature(products: Tensor, probes: Tensor, exponent: float | Tensor = 1.0) -> Tensor:
    """Return the curvature <v, (grad S) v>/(A d) of every particle, float64 [P, N], in units of 1/x².

    products: (grad S) v, [P, N, *shape], float16, bfloat16, float32 or float64. probes: v, like products, with
    mean 0 and covariance 1. exponent: A, a number, or float64 [P] with one for each population.

    Raises TypeError for dtypes, ValueError for shapes or devices, RuntimeError for inputs that require grad or
    carry a tangent.
    Source: Hutchinson 1990.
    """
    if products.dtype not in DTYPES or probes.dtype != products.dtype:
        raise TypeError(
            "products and probes must both be float16, bfloat16, float32 or float64, and of one dtype, got "
            f"{products.dtype} and {probes.dtype}"
        )
    if products.dim() < 2 or probes.shape != products.shape:
        raise ValueError(
            f"products and probes must be [P, N, *shape] of one shape, got {tuple(products.shape)} and "
            f"{tuple(probes.shape)}"
        )
    exponents, number = _split(exponent, products)
    _check_device(products, probes, exponents)
    refuse_derivatives("curvature", products, probes, exponents)
    populations, particles = products.shape[:2]
    elements = products[0, 0].numel() if products.numel() else 0
    shape = populations, particles, elements
    out: Tensor = torch.ops.edmfast.curvature(
        products.reshape(shape), probes.reshape(shape), exponents, number
    )
    return out


def curvature_matched(
    curvature: Tensor, ancestors: Tensor, levels: Tensor, exponent: float | Tensor = 1.0
) -> Tensor:
    """Return (drift, v_M, v_L) of the curvature-matched proposal, float64 [P, 3] for `propagate`.

    curvature: float64 [P, N], of every particle, as the function `curvature` returns it. ancestors: int32 [P, N],
    the particle that each slot moves from. levels: float64 [2] = (s, u) with s > u > 0, in units of x, on the
    device. exponent: A, a number, or float64 [P] with one for each population.

    An ancestor outside of 0 to N - 1 raises an error on the CPU and gives NaN on a GPU.
    Raises TypeError for dtypes, ValueError for shapes or devices, RuntimeError for inputs that require grad or
    carry a tangent.
    """
    tensors = {"curvature": curvature, "ancestors": ancestors, "levels": levels}
    dtypes = {"curvature": torch.float64, "ancestors": torch.int32, "levels": torch.float64}
    for name, tensor in tensors.items():
        if tensor.dtype != dtypes[name]:
            raise TypeError(f"{name} must be {dtypes[name]}, got {tensor.dtype}")
    if curvature.dim() != 2 or ancestors.shape != curvature.shape:
        raise ValueError(
            f"curvature and ancestors must be [P, N] of one shape, got {tuple(curvature.shape)} and "
            f"{tuple(ancestors.shape)}"
        )
    if curvature.shape[1] == 0 and curvature.shape[0] > 0:
        raise ValueError(f"curvature must be [P, N] with N >= 1, got {tuple(curvature.shape)}")
    if levels.shape != (2,):
        raise ValueError(f"levels must be (2,), got {tuple(levels.shape)}")
    exponents, number = _split(exponent, curvature)
    _check_device(curvature, ancestors, levels, exponents)
    refuse_derivatives("curvature_matched", curvature, levels, exponents)
    out: Tensor = torch.ops.edmfast.curvature_matched(
        curvature, ancestors, exponents, number, levels
    )
    return out


def _split(exponent: float | Tensor, like: Tensor) -> tuple[Tensor | None, float]:
    """Return (exponents [P] or None, the exponent of all populations where it is a number)."""
    if not isinstance(exponent, Tensor) or exponent.dim() == 0:
        return None, as_float("exponent", exponent)
    if exponent.dtype != torch.float64:
        raise TypeError(f"exponent must be float64, got {exponent.dtype}")
    if exponent.shape != like.shape[:1]:
        raise ValueError(
            f"exponent must be a number or [P] = ({len(like)},), got {tuple(exponent.shape)}"
        )
    return exponent, 1.0


def _check_device(like: Tensor, *tensors: Tensor | None) -> None:
    # the kernels would read memory of another device
    if any(tensor is not None and tensor.device != like.device for tensor in tensors):
        raise ValueError("all tensors must be on one device")
