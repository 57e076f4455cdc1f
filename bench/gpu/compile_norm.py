"""The kernels of the norms as they are launched, with tiles from the function that the launch uses.

Tensors are aligned, and strides that are multiples of 16 are known to be so.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch

from edmfast.ops.norms import triton_launch as sizes
from edmfast.ops.norms.triton_backward import backward_kernel
from edmfast.ops.norms.triton_double_backward import double_backward_kernel
from edmfast.ops.norms.triton_forward import forward_kernel

KERNELS = forward_kernel, backward_kernel, double_backward_kernel
DTYPES = torch.bfloat16, torch.float32, torch.float64
_ALIGNED = [["tt.divisibility", 16]]
_POINTERS = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.float64: "*fp64"}
_LIKE_X = {"x", "y", "grad", "to_x", "v", "to_grad", "second"}
_SIZES = {"shared", "groups", "positions"}


class Shape(NamedTuple):
    """Rows [groups · width, positions]; `shared` rows have the same scale."""

    rows: int
    shared: int
    groups: int
    width: int
    positions: int
    channels_last: bool = False


# the last two say whether the norm is centred and has SiLU
SHAPES = {
    "feature maps": (Shape(32, 1, 32, 4, 1024), True, True),
    "feature maps channels_last": (Shape(32, 1, 32, 4, 1024, True), True, False),
    "feature maps 16": (Shape(64, 64, 32, 16, 256), True, True),
    "feature maps 31": (Shape(64, 64, 32, 8, 961), True, True),
    "middle groups": (Shape(32, 1, 8, 8, 1024), True, True),
    "large groups": (Shape(4, 4, 8, 16, 4096), True, False),
    "large groups channels_last": (Shape(4, 1, 8, 16, 4096, True), True, True),
    "small groups": (Shape(4096, 4096, 8, 4, 16), False, True),
    "tokens 96": (Shape(32768, 256, 1, 96, 1), True, False),
    "tokens 512": (Shape(32768, 256, 1, 512, 1), False, False),
    "tokens 2048": (Shape(32768, 256, 1, 2048, 1), True, False),
}


def arguments(
    kernel: Any, dtype: torch.dtype, shape: Shape, stage: str, centred: bool, silu: bool
) -> tuple[dict[Any, Any], dict[str, Any], dict[str, Any], dict[Any, Any]]:
    """Return (constants, types, options, attributes) of a compilation."""
    name = kernel.__name__.removesuffix("_kernel")
    tiles = sizes.tiling(name, dtype, *shape)
    constants: dict[Any, Any] = {}
    constants |= sizes.constants(kernel, stage, tiles, shape.width, centred, silu)
    names = kernel.arg_names
    wide = "*fp64" if dtype == torch.float64 else "*fp32"
    types: dict[str, Any] = {"eps": "fp64", "strides": ("i32", "i32", "i32")}
    attributes: dict[Any, Any] = {}
    side_by_side = 2 if shape.positions > 1 and not shape.channels_last else 1
    types["strides"] = tuple("constexpr" if i == side_by_side else "i32" for i in range(3))
    place = names.index("strides")
    constants[place, side_by_side] = 1
    aligned = shape.positions == 1 or shape.channels_last or shape.positions % 16 == 0
    attributes |= {(place, i): _ALIGNED for i in range(3) if i != side_by_side and aligned}
    if stage == "held":
        constants["sums"] = None
    if shape.positions == 1:
        constants["positions"] = 1
    else:
        attributes |= {(names.index("positions"),): _ALIGNED} if aligned else {}
    for index, argument in enumerate(names):
        if argument in constants or argument in types or argument in _SIZES:
            continue
        types[argument] = _POINTERS[dtype] if argument in _LIKE_X else wide
        attributes[(index,)] = _ALIGNED
    return constants, types, sizes.options(tiles), attributes


def cases(every_flag: bool = False) -> dict[str, tuple[Any, ...]]:
    """Return named (kernel, constants, types, options, attributes).

    Every stage of every shape is there; in float64, only shapes that fill a program. If asked for, each shape
    comes in all four combinations of its options.
    """
    named = {}
    for kernel, dtype, title in itertools.product(KERNELS, DTYPES, SHAPES):
        if dtype == torch.float64 and title not in ("feature maps", "tokens 2048"):
            continue
        shape, *usual = SHAPES[title]
        order = kernel.__name__.removesuffix("_kernel")
        name = f"norm {order.replace('_', ' ')} {title} {str(dtype).removeprefix('torch.')}"
        for stage in sizes.stages(sizes.tiling(order, dtype, *shape)):
            for flags in itertools.product((True, False), repeat=2) if every_flag else [usual]:
                key = f"{name} {stage}" + (f" {flags}" if every_flag else "")
                named[key] = (kernel, *arguments(kernel, dtype, shape, stage, *flags))
    return named
