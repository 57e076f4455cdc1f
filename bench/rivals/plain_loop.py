"""Call the hand-written loop `plain_loop.cpp`, compiled on first use, through ctypes."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = (
    "-O3",
    "-march=native",
    "-std=c++17",
    "-shared",
    "-fPIC",
    # fused multiply-adds would give other bits than those of the library
    "-ffp-contract=off",
    "-fopenmp-simd",
)
MATH_FLAGS = ("-fno-math-errno", "-fno-trapping-math")


def compiler() -> str | None:
    """Return $CXX, or the first of the usual compilers that exists."""
    names = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    return next((path for name in names if name and (path := shutil.which(name))), None)


@functools.cache
def _function() -> Callable[..., None]:
    command = compiler()
    if command is None:
        raise RuntimeError("no C++ compiler found")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "plain_loop.so"
        subprocess.run(
            [command, *FLAGS, *MATH_FLAGS, str(SOURCE), "-o", str(library)],
            check=True,
            capture_output=True,
        )
        # a loaded library stays in memory when its file is gone
        function = ctypes.CDLL(str(library)).plain_resample
    function.restype = None
    # without these types ctypes would pass addresses as 32-bit integers
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [pointer, pointer, size, size, pointer, pointer, pointer]
    return function


def plain_resample(log_weights: Tensor, uniform: Tensor) -> Tensor:
    """Map contiguous float32 [P, N] and float64 [P] on the CPU to ancestors int32 [P, N]."""
    populations, particles = log_weights.shape
    ancestors = torch.empty(log_weights.shape, dtype=torch.int32)
    ess, log_mean = torch.empty(2, populations, dtype=torch.float64)
    _function()(
        log_weights.data_ptr(),
        uniform.data_ptr(),
        populations,
        particles,
        ancestors.data_ptr(),
        ess.data_ptr(),
        log_mean.data_ptr(),
    )
    return ancestors
