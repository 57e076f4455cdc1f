"""Attention and its two derivatives on a GPU by Triton, in memory linear in the length.

Tiles of P and of all that is made of it live in registers and are computed anew by every pass, with
sums in float32; products of half precisions round such tiles to them first. What the kernels have no
blocks for, float64 and heads wider than 128 (or of no width), runs on the reference.
Sources: Dao et al. 2022, arXiv 2205.14135; Dao 2023, arXiv 2307.08691.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from edmfast.ops.attention import reference
from edmfast.ops.attention import triton_backward as _attention_backward
from edmfast.ops.attention import triton_double_backward as _attention_double
from edmfast.ops.attention import triton_forward as _attention_forward
from edmfast.ops.attention.checks import check_backward, check_double_backward, check_forward

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_WIDEST = 128


def _where_it_fits(kernels: Callable[..., Any], check: Callable[..., None]) -> Callable[..., Any]:
    fallback = getattr(reference, kernels.__name__)

    @functools.wraps(kernels)
    def choose(*arguments: Any) -> Any:
        check(*arguments[:-2])  # all but the scale and whether it is causal
        tensors = [x for x in arguments if isinstance(x, torch.Tensor) and x.dim() == 4]
        widths = {tensor.shape[3] for tensor in tensors}
        fits = tensors[0].dtype in _DTYPES and min(widths) > 0 and max(widths) <= _WIDEST
        return (kernels if fits else fallback)(*arguments)

    return choose


attention = _where_it_fits(_attention_forward.attention, check_forward)
attention_backward = _where_it_fits(_attention_backward.attention_backward, check_backward)
attention_double_backward = _where_it_fits(
    _attention_double.attention_double_backward, check_double_backward
)
