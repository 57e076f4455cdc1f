"""Attention's kernels as they are launched, with blocks from the function that the launch uses.

The tensors are as in models: aligned, with the elements and the rows of a head side by side in memory. The last
stride is then known to be 1, and where the width is a multiple of 16 the others are known to be so too.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from edmfast.ops.attention import triton_backward as backward
from edmfast.ops.attention import triton_double_backward as double
from edmfast.ops.attention.triton_forward import forward_kernel
from edmfast.ops.attention.triton_jvp import jvp_kernel
from edmfast.ops.attention.triton_launch import configuration
from edmfast.ops.attention.triton_row_sums import row_sums_kernel

KERNELS = (
    forward_kernel,
    jvp_kernel,
    backward.query_gradient_kernel,
    backward.key_gradients_kernel,
    row_sums_kernel,
    double.query_second_kernel,
    double.key_second_kernel,
)
_POINTERS = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
_ROWS = {"lse", "delta", "t", "g"}
_ALIGNED = [["tt.divisibility", 16]]


def arguments(
    kernel: Any, dtype: torch.dtype, width: int, causal: bool, masked: bool, capability: int
) -> tuple[dict[Any, Any], dict[str, Any], dict[str, Any], dict[Any, Any]]:
    """Return (constants, types, options, attributes) of a compilation."""
    name = kernel.__name__.removesuffix("_kernel")
    unit = math.gcd(16 // dtype.itemsize, width)
    sizes, options = configuration(name, dtype, width, width, causal, unit, capability)
    constants: dict[Any, Any] = dict(sizes)
    types: dict[str, Any] = {"scale": "fp32"}
    attributes: dict[Any, Any] = {}
    for index, argument in enumerate(kernel.arg_names):
        if argument in types or argument in sizes or argument in ("heads", "queries", "keys"):
            continue
        if argument == "mask" and not masked:
            constants[argument] = None
            continue
        pointer, strides = _POINTERS[dtype], 4
        if argument in _ROWS:
            pointer, strides = "*fp32", 3
        if argument == "mask":
            pointer, strides = "*u1", 2
        types[argument] = (pointer, *["i32"] * (strides - 1), "constexpr")
        constants[index, strides] = 1
        known = strides if width // unit % 16 == 0 else 1
        attributes |= {(index, i): _ALIGNED for i in range(known)}
    return constants, types, options, attributes


def cases(capability: int) -> dict[str, tuple[Any, ...]]:
    """Return named (kernel, constants, types, options, attributes) for a compute capability such as 90.

    Kernels without a mask of keys have two loops, of which the second checks which scores count; those with a
    mask have only that one.
    """
    named = {}
    for kernel in KERNELS:
        name = "attention " + kernel.__name__.removesuffix("_kernel").replace("_", " ")
        for dtype in (torch.bfloat16, torch.float32):
            for width in (64, 128):
                key = f"{name} {str(dtype).removeprefix('torch.')} {width}"
                named[key] = (kernel, *arguments(kernel, dtype, width, True, False, capability))
        constants, *rest = arguments(kernel, torch.float32, 128, True, True, capability)
        named[f"{name} tf32 128 masked"] = (kernel, constants | {"PRECISION": "tf32"}, *rest)
        half = arguments(kernel, torch.float16, 40, False, True, capability)
        named[f"{name} float16 40 masked"] = (kernel, *half)
    return named
