"""A kernel of one loop, which shows whether Triton's interpreter runs with the present NumPy.

The interpreter of Triton 3.6 takes the bound of a loop as int(array) of an array of one element. NumPy 2.5 refuses
this for arrays that have a dimension, after years of warnings; later versions of Triton drop the dimension first.
"""

# mypy: allow-untyped-defs, allow-untyped-decorators
from __future__ import annotations

import re

import numpy as np
import torch
import triton
import triton.language as tl


@triton.jit
def count_kernel(out, length):
    for i in range(length):
        tl.store(out + i, i)


def reason_of(error: BaseException) -> str:
    """Return why the interpreter cannot run where the error says it, and raise any other error."""
    if not re.search(r"0-dimensional arrays|array with ndim > 0", str(error)):
        raise error
    return (
        f"the interpreter of Triton {triton.__version__} makes numbers of arrays of one element, which NumPy "
        f"{np.__version__} refuses: a later Triton, or NumPy below 2.5, runs these tests"
    )


def why_not() -> str:
    """Return why the interpreter cannot run here, or an empty text. It must be on in this process."""
    out = torch.full((3,), -1, dtype=torch.int32)
    try:
        count_kernel[(1,)](out, 3)
    except Exception as error:
        return reason_of(error)
    assert out.tolist() == [0, 1, 2]
    return ""
