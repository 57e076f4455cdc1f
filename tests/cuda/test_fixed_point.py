"""The integer arithmetic of resampling in its two ways: machines must agree whichever of them they take."""

from __future__ import annotations

import ctypes
import math
import random

import pytest
import torch


@pytest.fixture(scope="module")
def library(emulated):
    found = emulated("fixed_point_emulated")
    for function in (found.differing_slots, found.differing_weights):
        function.restype = ctypes.c_int64
    return found


def pointer(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


@pytest.mark.parametrize("particles", [1, 7, 2**10, 10**6 + 3, 2**31 - 1, 2**31])
@pytest.mark.parametrize("total", [1, 2**31, 2**53 + 1, 2**61 + 12345, 2**62])
def test_slots(library, particles, total):
    draws = random.Random(particles ^ total)
    sums = [0, total - 1, total, *(draws.randrange(total + 1) for _ in range(5000))]
    given = torch.tensor(sums, dtype=torch.int64)
    for uniform in (0.0, 0.3, 1 - 2.0**-53):
        numbers = map(ctypes.c_int64, (len(sums), particles, total))
        assert library.differing_slots(pointer(given), *numbers, ctypes.c_double(uniform)) == 0


@pytest.mark.parametrize("bits", [31, 42, 52, 62])
def test_weights(library, bits):
    generator = torch.Generator().manual_seed(bits)
    drawn = -50 * torch.rand(20_000, dtype=torch.float64, generator=generator)
    special = torch.tensor([0.0, -0.0, -1e-300, -43.7, -700.0, -math.inf, math.nan])
    given = torch.cat([drawn, special.double()])
    count = ctypes.c_int64(len(given))
    assert library.differing_weights(pointer(given), count, ctypes.c_int(bits)) == 0
