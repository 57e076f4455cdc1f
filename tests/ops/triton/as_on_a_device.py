"""Make the interpreter behave as a device: NaN in new memory, bfloat16 that is rounded and multiplied."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
import torch


@contextlib.contextmanager
def as_on_a_device():
    """Fill new tensors with NaN, and correct the interpreter's bfloat16.

    The interpreter truncates to bfloat16 and multiplies its bits as integers.
    """
    from triton.language import bfloat16, float32
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    new_empty, dot = torch.Tensor.new_empty, InterpreterBuilder.create_dot
    cast = InterpreterBuilder.cast_impl

    def poisoned(tensor, *sizes, **options):
        return new_empty(tensor, *sizes, **options).fill_(math.nan)

    def widened(builder, x, y, *rest):
        x, y = builder.cast_impl(x, float32), builder.cast_impl(y, float32)
        return dot(builder, x, y, *rest)

    def rounded(builder, x, to):
        if x.dtype.scalar != float32 or to.scalar != bfloat16:
            return cast(builder, x, to)
        halves = torch.from_numpy(np.ascontiguousarray(x.data)).to(torch.bfloat16)
        return TensorHandle(halves.view(torch.int16).numpy().view(np.uint16), to.scalar)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "new_empty", poisoned)
        patch.setattr(InterpreterBuilder, "create_dot", widened)
        patch.setattr(InterpreterBuilder, "cast_impl", rounded)
        yield
