"""The kernels of residual perceptrons as they are launched, for one network and states of aligned rows."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from edmfast.ops.mlp_potential.triton_backward import backward_kernel
from edmfast.ops.mlp_potential.triton_forward import forward_kernel
from edmfast.ops.mlp_potential.triton_launch import configuration

_POINTERS = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
_STATES = (
    "x",
    "coefficients",
    "energy",
    "field",
    "grad_energy",
    "grad_field",
    "to_x",
    "to_numbers",
)
KERNELS = forward_kernel, backward_kernel
NETWORKS = [(2, 32, 2), (2, 64, 3), (64, 128, 4), (30, 32, 8), (39, 100, 5), (256, 256, 8)]
"""Elements, width and depth: two toys, the network of the benchmarks, a narrow one, one that needs masks, and the
largest there is."""
_FORMS = {"row shifts": (True, False), "row numbers": (False, True), "rows": (False, False)}
"""The forms of the forward kernel: they tell whether all rows share coefficients and shifts."""
_NETWORKS_OF_ROWS = [(2, 32, 2), (2, 64, 3), (64, 128, 4), (256, 256, 8)]


def arguments(
    kernel: Any,
    dtype: torch.dtype,
    elements: int,
    width: int,
    depth: int,
    precision: str | None = None,
    form: tuple[bool, bool] | None = None,
) -> tuple[dict[Any, Any], dict[str, Any], dict[str, Any], dict[Any, Any]]:
    """Return (constants, types, options, attributes) of a compilation.

    form: whether all rows share their coefficients, and their shifts; by default they share both in the forward
    kernel, and only coefficients in the backward kernel.
    """
    name = kernel.__name__.removesuffix("_kernel")
    numbers, shifts = form or (True, name == "forward")
    shared = numbers and shifts
    constants, options = configuration(name, dtype, elements, width, depth, precision, shared)
    constants |= {"SHARED_NUMBERS": numbers, "SHARED_SHIFTS": shifts}
    types: dict[str, Any] = {}
    attributes: dict[Any, Any] = {}
    for index, argument in enumerate(kernel.arg_names):
        if argument in constants or argument == "batch":
            continue
        types[argument] = "*fp32" if argument in _STATES else _POINTERS[dtype]
        attributes[(index,)] = [["tt.divisibility", 16]]
    return constants, types, options, attributes


def cases() -> dict[str, tuple[Any, ...]]:
    """Return named (kernel, constants, types, options, attributes) for every entry of the table of tiles."""
    precisions = (
        ("bfloat16", torch.bfloat16, None),
        ("float32", torch.float32, "tf32x3"),
        ("tf32", torch.float32, "tf32"),
    )
    named = {}
    for kernel, sizes, (title, dtype, own) in itertools.product(KERNELS, NETWORKS, precisions):
        name = "mlp " + kernel.__name__.removesuffix("_kernel")
        key = f"{name} {title} " + "x".join(map(str, sizes))
        named[key] = kernel, *arguments(kernel, dtype, *sizes, own)
    every = itertools.product(_FORMS.items(), _NETWORKS_OF_ROWS, precisions)
    for (form, shared), sizes, (title, dtype, own) in every:
        # bfloat16 and one TF32 product have the same tiles in every form, so that one form is enough
        if title == "float32" or form == "rows":
            key = f"mlp forward {form} {title} " + "x".join(map(str, sizes))
            named[key] = forward_kernel, *arguments(forward_kernel, dtype, *sizes, own, shared)
    return named
