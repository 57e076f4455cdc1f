"""Products of float32 matrices by three TF32 products, as tensor cores take them, on the CPU.

TF32 keeps 11 significant bits of the 24 of float32. Triton ("tf32x3") takes a float32 number a as h + l: h is a
rounded to TF32, and l = a - h is exact. Tensor cores cut l to TF32. Then

a b ≈ l_a h_b + h_a l_b + h_a h_b.

The error of one product has three parts, with eps = 2^-23:

- l has at most 12 bits below the last one of h, and the cut loses one of them: at most eps |a|, so eps |a b|;
- the same for b: eps |a b|;
- l_a l_b is left out. Each is at most 2^-11 of its number: 2^-22 |a b| = 2 eps |a b|.

Together at most 4 eps |a b|, two bits more than the last one of float32. A tensor core then adds a few products
to a float32 number and cuts the sum, which loses less than eps of it. A sum of n products takes n/4 such additions
for each of the three products, so that

|error| <= (4 + 3 ceil(n/4)) eps sum_i |a_i b_i|.

`product` does exactly this. A formula in plain torch under `ThreeTF32` is the formula in the arithmetic of the
kernels: its distance from float64 is the error that their arithmetic must have, however it grows through softmax,
silu and two derivatives. So a test compares with this error in place of that of float32.
Source for the cuts: Fasi, Higham, Mikaitis and Pranesh 2021, "Numerical behavior of NVIDIA tensor cores".
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

EPS = 2.0**-23
STEP = 4
"""The number of products that a tensor core adds at once."""
_CUT = -(1 << 13)
"""A mask of the bits that TF32 keeps of a float32 number."""
OPERATORS = frozenset({"attention", "mlp_potential"})
"""The operators whose Triton kernels multiply matrices."""


def rounded(x: Tensor) -> Tensor:
    """Return float32 numbers rounded to TF32, halves away from zero."""
    return ((x.contiguous().view(torch.int32) + (1 << 12)) & _CUT).view(torch.float32)


def cut(x: Tensor) -> Tensor:
    """Return float32 numbers without the bits that TF32 lacks."""
    return (x.contiguous().view(torch.int32) & _CUT).view(torch.float32)


def _towards_zero(x: Tensor) -> Tensor:
    """Return float64 numbers cut to the bits of float32, in float64."""
    near = x.float()
    beyond = near.double().abs() > x.abs()
    return torch.where(beyond, torch.nextafter(near, torch.zeros_like(near)), near).double()


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b for float32 matrices [..., M, K] and [..., K, N] by three TF32 products."""
    parts = []
    for matrix in (a, b):
        high = rounded(matrix)
        parts.append((high.double(), cut(matrix - high).double()))
    (high_a, low_a), (high_b, low_b) = parts
    total = torch.zeros((), dtype=torch.float64)
    for left, right in ((low_a, high_b), (high_a, low_b), (high_a, high_b)):
        for start in range(0, a.shape[-1], STEP):
            piece = slice(start, start + STEP)
            total = _towards_zero(total + left[..., piece] @ right[..., piece, :])
    return total.expand(*a.shape[:-1], b.shape[-1]).float()


def bound(a: Tensor, b: Tensor) -> Tensor:
    """Return the largest error that each number of `product` can have, float64."""
    sizes = a.double().abs() @ b.double().abs()
    return (4 + 3 * -(-a.shape[-1] // STEP)) * EPS * sizes


class ThreeTF32(TorchDispatchMode):
    """A mode in which products of float32 matrices are three TF32 products, also in derivatives."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name, kwargs = function.overloadpacket.__name__, kwargs or {}
        matrices = args[-2:]
        if name not in ("mm", "bmm", "addmm", "baddbmm") or matrices[0].dtype != torch.float32:
            return function(*args, **kwargs)
        out = product(*matrices) * kwargs.get("alpha", 1)
        return out if name in ("mm", "bmm") else args[0] * kwargs.get("beta", 1) + out


@contextlib.contextmanager
def arithmetic_of(operator: str, dtype: torch.dtype, device: str) -> Iterator[None]:
    """Let plain torch compute a formula with the products that an operator takes on a device.

    On the CPU, in other dtypes, and for operators without products of matrices these are torch's own.
    """
    there = device != "cpu" and dtype == torch.float32 and operator in OPERATORS
    with ThreeTF32() if there else contextlib.nullcontext():
        yield
