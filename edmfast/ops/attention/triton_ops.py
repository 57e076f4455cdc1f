"""Host side of attention and its derivatives on a GPU by Triton, in memory linear in the length.

Tiles of P, and of what is computed from P, live in registers. Every pass recomputes them, with sums in float32. A
product with a half precision rounds such a tile to that precision first. float64 and heads wider than 128 (or of
no width) run on the reference, since the kernels have no blocks for them.
Sources: Dao et al. 2022, arXiv 2205.14135; Dao 2023, arXiv 2307.08691.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from edmfast.ops.attention import (
    reference,
    triton_backward,
    triton_double_backward,
    triton_forward,
    triton_jvp,
)
from edmfast.ops.attention.checks import (
    check_backward,
    check_double_backward,
    check_forward,
    check_jvp,
)

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_WIDEST = 128


def _where_it_fits(kernels: Callable[..., Any], check: Callable[..., None]) -> Callable[..., Any]:
    """Return a function that runs the kernels where they have blocks, and the reference elsewhere."""
    fallback = getattr(reference, kernels.__name__)

    @functools.wraps(kernels)
    def choose(*arguments: Any) -> Any:
        *operands, _scale, _causal = arguments
        check(*operands)
        # row sums have three dimensions and masks two, so these are the operands with a width
        tensors = [x for x in arguments if isinstance(x, torch.Tensor) and x.dim() == 4]
        widths = {tensor.shape[3] for tensor in tensors}
        fits = tensors[0].dtype in _DTYPES and min(widths) > 0 and max(widths) <= _WIDEST
        return (kernels if fits else fallback)(*arguments)

    return choose


attention = _where_it_fits(triton_forward.attention, check_forward)
attention_jvp = _where_it_fits(triton_jvp.attention_jvp, check_jvp)
attention_backward = _where_it_fits(triton_backward.attention_backward, check_backward)
attention_double_backward = _where_it_fits(
    triton_double_backward.attention_double_backward, check_double_backward
)
