"""Linear measurements H of states, [B, *shape] -> [B, *observation], for `LinearInverse`.

A measurement is a matrix, a mask of known elements, an average pooling, a blur, or a pair of functions (H, Hᵀ).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edmfast._internal.batch_invariant import batch_invariant_linear
from edmfast._internal.noise_levels import check_level
from edmfast._internal.numbers import as_float, as_int
from edmfast.models.calling.foreign import name_of

# A kernel of this radius takes 8.6 GB already, so a larger std is a mistake.
_MAX_RADIUS = 1 << 14
Map = Callable[[Tensor], Tensor]
Operator = Tensor | tuple[Map, Map] | Map
"""A matrix [M, D], a pair of functions (H, Hᵀ), or a differentiable module or function."""
_POOLS: dict[int, Any] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}
_CONVOLUTIONS: dict[int, Any] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


class Matrix(nn.Module):
    """A measurement that multiplies flattened states by a matrix [M, D], [B, *shape] -> [B, M]."""

    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        if matrix.dim() != 2:
            raise ValueError(f"the matrix of a measurement must be [M, D], given {[*matrix.shape]}")
        self.register_buffer("matrix", matrix.detach())

    def forward(self, x: Tensor) -> Tensor:
        # A plain product would give a particle other bits in another batch.
        return batch_invariant_linear(x.flatten(1), self.matrix.to(x.dtype))


class Inpainting(nn.Module):
    """A measurement that keeps the elements where a mask [*shape] is true, in their order: [B, M]."""

    known: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        if mask.dtype != torch.bool or not bool(mask.any()):
            raise ValueError("the mask of known elements must be bool, and some of them true")
        # Indices have a fixed number, where a mask would make the output's shape depend on data and
        # wait for the device.
        self.register_buffer("known", mask.flatten().nonzero()[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).index_select(1, self.known)


class AveragePooling(nn.Module):
    """A measurement that averages blocks of `factor` elements a side, [B, C, *space] -> [B, C, *space/factor]."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = as_int("factor", factor, least=1)

    def forward(self, x: Tensor) -> Tensor:
        space = x.shape[2:]
        if len(space) not in _POOLS or any(size % self.factor for size in space):
            raise ValueError(
                f"pooling by {self.factor} needs [B, C, *space] with one to three sizes that it divides, "
                f"given {[*x.shape]}"
            )
        pooled: Tensor = _POOLS[len(space)](x, self.factor)
        return pooled


class Blur(nn.Module):
    """A measurement that correlates every channel of x [B, C, *space] with a kernel of odd sizes.

    Beyond the edges x counts as 0, and the result has the shape of x.
    """

    kernel: Tensor

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        # Only an odd size has a centre, about which padding by half the size keeps the shape of x.
        if kernel.dim() not in _CONVOLUTIONS or not all(size % 2 for size in kernel.shape):
            raise ValueError(
                f"the kernel must have one to three odd sizes, given {[*kernel.shape]}"
            )
        self.register_buffer("kernel", kernel.detach())

    def forward(self, x: Tensor) -> Tensor:
        dims = self.kernel.dim()
        if x.dim() != dims + 2:
            raise ValueError(
                f"a kernel of {dims} sizes needs [B, C, *space] with as many, given {[*x.shape]}"
            )
        channels = x.shape[1]
        # An expanded view serves every channel without a copy of the kernel.
        kernel = self.kernel.to(x.dtype).expand(channels, 1, *self.kernel.shape)
        padding = [size // 2 for size in self.kernel.shape]
        blurred: Tensor = _CONVOLUTIONS[dims](x, kernel, padding=padding, groups=channels)
        return blurred


class Pair(nn.Module):
    """A measurement by a function H, with its adjoint Hᵀ as the derivative. Neither need be differentiable."""

    def __init__(self, forward: Map, adjoint: Map) -> None:
        super().__init__()
        self.maps = (forward, adjoint)

    def forward(self, x: Tensor) -> Tensor:
        return _apply(x, *self.maps)


class _Apply(torch.autograd.Function):
    # The map is linear, so the tangent of H x is H applied to the tangent.
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, forward: Map, adjoint: Map) -> Tensor:
        # A foreign function may change its argument in place.
        return forward(x.clone())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Map, Map], output: Tensor) -> None:
        ctx.maps, ctx.shape = inputs[1:], inputs[0].shape

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        forward, adjoint = ctx.maps
        return _apply(tangent, forward, adjoint)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None, None]:
        forward, adjoint = ctx.maps
        # The adjoint's derivative is H again, so second derivatives work too.
        gradient = _apply(cotangents[0], adjoint, forward)
        # Autograd would sum a gradient of some other shapes down to that of x without an error.
        if gradient.shape != ctx.shape:
            raise ValueError(
                f"the adjoint of an operator must return {[*ctx.shape]} like x: {name_of(adjoint)} returned "
                f"{[*gradient.shape]}"
            )
        return gradient, None, None


def _apply(x: Tensor, forward: Map, adjoint: Map) -> Tensor:
    apply: Callable[..., Tensor] = _Apply.apply
    return apply(x, forward, adjoint)


def as_measurement(operator: Operator) -> Map:
    """Return an operator as a measurement: a matrix [M, D], a pair of functions, or a differentiable callable.

    Raises TypeError for anything else.
    """
    if isinstance(operator, Tensor):
        return Matrix(operator)
    if isinstance(operator, (tuple, list)) and len(operator) == 2 and all(map(callable, operator)):
        return Pair(*operator)
    if not callable(operator):
        raise TypeError(
            "operator must be a matrix [M, D], a pair of functions (H, adjoint) or a module, given "
            f"{type(operator).__name__}"
        )
    return operator


def inpainting(mask: Tensor) -> Inpainting:
    """Return the measurement of the known elements of a state; the observation is image[mask].

    Args:
        mask: bool [*shape], true where an element is known.

    Returns:
        A module [B, *shape] -> [B, M].

    Raises:
        ValueError: a mask of another dtype, or one without a true element.
    """
    return Inpainting(mask)


def super_resolution(factor: int) -> AveragePooling:
    """Return the measurement by average pooling.

    Args:
        factor: an integer of at least 1 that divides each of the one to three sizes of space.

    Returns:
        A module [B, C, *space] -> [B, C, *space/factor].

    Raises:
        TypeError: a factor that is no integer.
        ValueError: a factor below 1, and at a call sizes that it does not divide.
    """
    return AveragePooling(factor)


def deblurring(kernel: Tensor) -> Blur:
    """Return the measurement by blurring every channel; beyond the edges a state counts as 0.

    Args:
        kernel: one to three odd sizes, as many as space has, such as `gaussian_kernel` returns.

    Returns:
        A module [B, C, *space] -> [B, C, *space].

    Raises:
        ValueError: a kernel of other sizes, and at a call states with another number of sizes.
    """
    return Blur(kernel)


def gaussian_kernel(std: float, radius: int | None = None) -> Tensor:
    """Return a Gaussian kernel of sum 1.

    Args:
        std: the standard deviation in pixels, positive.
        radius: an integer of at least 0; by default 3 std, rounded up.

    Returns:
        float64 [2 radius + 1, 2 radius + 1].

    Raises:
        TypeError: a std or radius that is no number.
        ValueError: a std that is not positive or too large, or a negative radius.
    """
    std = as_float("std", std, positive=True, most=_MAX_RADIUS / 3)
    check_level("std", std)
    # Beyond 3 standard deviations lie 0.3 % of a Gaussian's mass in one dimension.
    radius = as_int("radius", math.ceil(3 * std) if radius is None else radius, least=0)
    row = torch.exp(-torch.arange(-radius, radius + 1, dtype=torch.float64).square() / (2 * std**2))
    row = row / row.sum()
    return row[:, None] * row[None]
