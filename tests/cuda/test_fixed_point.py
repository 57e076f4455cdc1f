"""The two ways of resampling's integer arithmetic agree, since machines take one or the other."""

from __future__ import annotations

import ctypes
import math
import random

import pytest
import torch


@pytest.fixture(scope="module")
def library(emulated):
    results = emulated("fixed_point_emulated")
    for function in (
        results.differing_slots,
        results.differing_weights,
        results.wrong_quick_slots,
    ):
        function.restype = ctypes.c_int64
    results.same_squares.restype = ctypes.c_bool
    return results


def pointer(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


@pytest.mark.parametrize("particles", [1, 7, 2**10, 10**6 + 3, 2**31 - 1, 2**31])
@pytest.mark.parametrize("total", [1, 2**31, 2**53 + 1, 2**61 + 12345, 2**62])
def test_slots(library, particles, total):
    draws = random.Random(particles ^ total)
    sums = [0, total - 1, total, *(draws.randrange(total + 1) for _ in range(5000))]
    inputs = torch.tensor(sums, dtype=torch.int64)
    for uniform in (0.0, 0.3, 1 - 2.0**-53):
        numbers = map(ctypes.c_int64, (len(sums), particles, total))
        assert library.differing_slots(pointer(inputs), *numbers, ctypes.c_double(uniform)) == 0


@pytest.mark.parametrize("particles", [1, 7, 2**13 + 1, 10**6 + 3, 2**31 - 1, 2**31])
@pytest.mark.parametrize("total", [1, 2**31, 2**53 + 1, 2**61 + 12345, 2**62])
def test_quick_slots(library, particles, total):
    draws = random.Random(particles ^ total)
    # also sums at and beside the boundaries of slots, which estimates alone cannot place
    slots = [draws.randrange(particles + 1) for _ in range(500)]
    edges = [k * total // particles + off for k in slots for off in (-1, 0, 1)]
    drawn = [draws.randrange(total + 1) for _ in range(5000)]
    sums = [0, total - 1, total, *(min(max(edge, 0), total) for edge in edges), *drawn]
    inputs = torch.tensor(sums, dtype=torch.int64)
    for uniform in (0.0, 0.3, 1 - 2.0**-53, -1.0, 2.0, math.nan):
        unsure = ctypes.c_int64(0)
        numbers = map(ctypes.c_int64, (len(sums), particles, total))
        arguments = (*numbers, ctypes.c_double(uniform), ctypes.byref(unsure))
        assert library.wrong_quick_slots(pointer(inputs), *arguments) == 0
        if total > 2**50 and particles > 2**13 and uniform != 0.0:
            assert unsure.value < 0.7 * len(sums)


@pytest.mark.parametrize("particles", [1, 3, 8, 2**13 + 1, 2**20])
def test_sums_of_squares(library, particles):
    bits = 62 - (particles - 1).bit_length()
    draws = random.Random(particles)
    for weights in (
        [2**bits] * min(particles, 10_000),
        [draws.randrange(2**bits + 1) for _ in range(min(particles, 10_000))],
    ):
        inputs = torch.tensor(weights, dtype=torch.int64)
        count = ctypes.c_int64(len(weights))
        assert library.same_squares(pointer(inputs), count, ctypes.c_int(bits))


@pytest.mark.parametrize("bits", [31, 42, 52, 62])
def test_weights(library, bits):
    generator = torch.Generator().manual_seed(bits)
    drawn = -50 * torch.rand(20_000, dtype=torch.float64, generator=generator)
    special = torch.tensor([0.0, -0.0, -1e-300, -43.7, -700.0, -math.inf, math.nan])
    inputs = torch.cat([drawn, special.double()])
    count = ctypes.c_int64(len(inputs))
    assert library.differing_weights(pointer(inputs), count, ctypes.c_int(bits)) == 0
