"""The CUDA kernels of signs, curvature and curvature_matched, run on the host, have the bits of the CPU.

Dot products are taken in another order; they are compared where all their terms are whole numbers.
"""

from __future__ import annotations

import ctypes

import pytest
import torch

from edmfast.ops import curvature, curvature_matched, random_signs, rng_state

pytestmark = pytest.mark.usefixtures("order")
F64 = torch.float64
LEVELS = torch.tensor([1.3, 0.9], dtype=F64)


def pointer(tensor):
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())


def longs(*numbers):
    return (ctypes.c_int64 * len(numbers))(*numbers)


@pytest.fixture(scope="module")
def signs_library(emulated):
    return emulated("signs_emulated")


@pytest.fixture(scope="module")
def curvature_library(emulated):
    return emulated("curvature_emulated")


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 30, 3, 5), (2, 3, 16, 33)], ids=str)
@pytest.mark.parametrize("coloured", [False, True])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("step", [6, 7])
def test_signs(signs_library, step, count, coloured, shape, dtype):
    like = torch.empty(shape, dtype=dtype)
    populations, particles, rows, columns = shape
    out = torch.full((populations, particles, count, rows, columns), torch.nan, dtype=dtype)
    rng = rng_state(2**63 + 5, step)
    name = (
        str(dtype).removeprefix("torch.").replace("float32", "float").replace("float64", "double")
    )
    image = (rows, columns) if coloured else (0, 0)
    sizes = longs(populations, particles, rows * columns, count, *image)
    getattr(signs_library, f"signs_{name}")(
        pointer(rng), pointer(out), sizes, longs(9, 4, 2**32 - 40)
    )
    wanted = random_signs(
        like,
        count=count,
        coloured=coloured,
        rng=rng,
        stream=9,
        first_population=4,
        first_particle=2**32 - 40,
    )
    assert torch.equal(out, wanted)


def powers(generator, populations):
    return torch.rand(populations, generator=generator, dtype=F64) + 0.5, 1.7


@pytest.mark.parametrize("team", [1, 32, 256])
@pytest.mark.parametrize("d", [0, 1, 300])
def test_curvature(curvature_library, generator, d, team):
    products = torch.randint(-9, 10, (3, 5, d), generator=generator).float()
    probes = torch.randint(0, 2, (3, 5, d), generator=generator).float() * 2 - 1
    for exponent in powers(generator, 3):
        each = isinstance(exponent, torch.Tensor)
        out = torch.full((3, 5), torch.nan, dtype=F64)
        curvature_library.curvature(
            *map(pointer, (products, probes, exponent if each else None)),
            ctypes.c_double(1.0 if each else exponent),
            pointer(out),
            *map(ctypes.c_int64, (3, 5, d)),
            ctypes.c_int(team),
        )
        assert torch.equal(out, curvature(products, probes, exponent))


@pytest.mark.parametrize(
    ("shape", "folds"),
    [
        ((3, 1), 0),
        ((2, 2), 0),
        ((2, 33), 0),
        ((1, 1023), 0),
        ((2, 1025), 0),
        ((1, 8191), 0),
        ((1, 32_768), 0),
        ((2, 1), 1),
        ((2, 31), 1),
        ((3, 2049), 1),
        ((1, 40_001), 1),
        ((1, 70_003), 2),
    ],
)
def test_matched(curvature_library, generator, shape, folds):
    values = torch.randn(shape, generator=generator, dtype=F64) - 0.3
    ancestors = torch.randint(0, shape[1], shape, generator=generator, dtype=torch.int32)
    for exponent in powers(generator, shape[0]):
        out = matched(curvature_library, values, ancestors, exponent, folds)
        assert torch.equal(out, curvature_matched(values, ancestors, LEVELS, exponent))


def matched(library, values, ancestors, exponent, folds):
    each = isinstance(exponent, torch.Tensor)
    out = torch.full((len(values), 3), torch.nan, dtype=F64)
    library.curvature_matched(
        *map(pointer, (values, ancestors, exponent if each else None)),
        ctypes.c_double(1.0 if each else exponent),
        *map(pointer, (LEVELS, out)),
        *map(ctypes.c_int64, values.shape),
        ctypes.c_int(folds),
    )
    return out


@pytest.mark.parametrize("value", [-1, 7, 2**31 - 1, -(2**31)])
def test_nothing_is_read_through_an_ancestor_that_names_no_particle(curvature_library, value):
    ancestors = torch.arange(7, dtype=torch.int32).repeat(2, 1)
    ancestors[1, 3] = value
    out = matched(curvature_library, torch.zeros(2, 7, dtype=F64), ancestors, 1.0, 0)
    assert out.isnan().nonzero().tolist() == [[1, 1]]
