"""What the interpreter lacks to be like a device: NaN in new memory, and products of bfloat16."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch


@contextlib.contextmanager
def as_on_a_device():
    """New tensors are full of NaN. The interpreter multiplies bfloat16 as if it were integers: here not."""
    from triton.language import float32
    from triton.runtime.interpreter import InterpreterBuilder

    new_empty, dot = torch.Tensor.new_empty, InterpreterBuilder.create_dot

    def poisoned(tensor, *sizes, **options):
        return new_empty(tensor, *sizes, **options).fill_(math.nan)

    def widened(builder, x, y, *rest):
        x, y = builder.cast_impl(x, float32), builder.cast_impl(y, float32)
        return dot(builder, x, y, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "new_empty", poisoned)
        patch.setattr(InterpreterBuilder, "create_dot", widened)
        yield
