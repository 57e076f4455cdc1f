"""Linear measurements H of states, for `LinearInverse`: [B, *shape] -> [B, *observation], by matrices, masks,
pools, blurs, or a pair of functions (H, Hᵀ)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edmfast._internal.batch_invariant import batch_invariant_linear
from edmfast._internal.numbers import as_float, as_int, check_level
from edmfast.models.calling.foreign import name_of

_MAX_RADIUS = 1 << 14
Map = Callable[[Tensor], Tensor]
_POOLS: dict[int, Any] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}
_CONVOLUTIONS: dict[int, Any] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


class Matrix(nn.Module):
    """matrix [M, D] times x, flattened: [B, M]."""

    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        if matrix.dim() != 2:
            raise ValueError(f"the matrix of a measurement must be [M, D], given {[*matrix.shape]}")
        self.register_buffer("matrix", matrix.detach())

    def forward(self, x: Tensor) -> Tensor:
        return batch_invariant_linear(x.flatten(1), self.matrix.to(x.dtype))


class Inpainting(nn.Module):
    """The elements of x where a mask [*shape] is true, in their order: [B, M]."""

    known: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        if mask.dtype != torch.bool or not bool(mask.any()):
            raise ValueError("the mask of known elements must be bool, and some of them true")
        self.register_buffer("known", mask.flatten().nonzero()[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).index_select(1, self.known)


class AveragePooling(nn.Module):
    """Means over blocks of factor elements a side of x [B, C, *space]: [B, C, *space/factor]."""

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
        return _POOLS[len(space)](x, self.factor)


class Blur(nn.Module):
    """Correlation of every channel of x [B, C, *space] with a kernel of odd sizes, zeros beyond the edges."""

    kernel: Tensor

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
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
        kernel = self.kernel.to(x.dtype).expand(channels, 1, *self.kernel.shape)
        padding = [size // 2 for size in self.kernel.shape]
        return _CONVOLUTIONS[dims](x, kernel, padding=padding, groups=channels)


class Pair(nn.Module):
    """A function H and its adjoint Hᵀ, which serves as its derivative: neither need be differentiable."""

    def __init__(self, forward: Map, adjoint: Map) -> None:
        super().__init__()
        self.maps = (forward, adjoint)

    def forward(self, x: Tensor) -> Tensor:
        return _Apply.apply(x, *self.maps)


class _Apply(torch.autograd.Function):
    # a linear map: the tangent of H x is H of the tangent
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, there: Map, back: Map) -> Tensor:
        return there(x.clone())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Map, Map], output: Tensor) -> None:
        ctx.maps, ctx.shape = inputs[1:], inputs[0].shape

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        there, back = ctx.maps
        return _Apply.apply(tangent, there, back)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None, None]:
        there, back = ctx.maps
        found = _Apply.apply(cotangents[0], back, there)
        if found.shape != ctx.shape:
            raise ValueError(
                f"the adjoint of an operator must return {[*ctx.shape]} like x: {name_of(back)} returned "
                f"{[*found.shape]}"
            )
        return found, None, None


def as_measurement(operator: Any) -> Any:
    """From a matrix [M, D], a pair of functions, or a differentiable module or function. TypeError for others."""
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
    """The known elements, where mask [*shape] is true; the observation is image[mask]."""
    return Inpainting(mask)


def super_resolution(factor: int) -> AveragePooling:
    """Average pooling of [C, *space] by a factor."""
    return AveragePooling(factor)


def deblurring(kernel: Tensor) -> Blur:
    """Blurring of every channel by a kernel of odd sizes, zeros beyond the edges."""
    return Blur(kernel)


def gaussian_kernel(std: float, radius: int | None = None) -> Tensor:
    """A blur of standard deviation std in pixels, [2 radius + 1]² and of sum 1; radius: 3 std by default."""
    std = as_float("std", std, positive=True, most=_MAX_RADIUS / 3)
    check_level("std", std)
    radius = as_int("radius", math.ceil(3 * std) if radius is None else radius, least=0)
    row = torch.exp(-torch.arange(-radius, radius + 1, dtype=torch.float64).square() / (2 * std**2))
    row = row / row.sum()
    return row[:, None] * row[None]
