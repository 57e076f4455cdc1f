"""The CUDA kernels of resampling and weighing, run thread by thread on the host, have the bits of the CPU."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch

from edmfast.ops import Weights, rng_state, systematic_resample, weigh_and_resample

pytestmark = pytest.mark.usefixtures("order")
INF, NAN = math.inf, math.nan
POISON = -7


@pytest.fixture(scope="module")
def library(emulated):
    return emulated("resample_emulated")


def pointer(tensor):
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())


def pointers(tensors):
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def empty(*shape, dtype):
    return torch.full(shape, POISON, dtype=dtype) if dtype != torch.bool else torch.ones(shape) > 0


def resample(library, log_weights, uniform, threshold, large):
    p, n = log_weights.shape
    outputs = (
        empty(p, n, dtype=torch.int32),
        empty(p, dtype=torch.float64),
        empty(p, dtype=torch.float64),
        empty(p, dtype=torch.bool),
        empty(p, dtype=torch.int32),
    )
    numbers = ctypes.c_double(threshold), ctypes.c_int64(p), ctypes.c_int64(n), ctypes.c_int(large)
    library.resample(pointer(log_weights), pointer(uniform), *numbers, *map(pointer, outputs))
    return outputs


def weigh(library, before, ratio, now, past, exponents, rng, add, threshold, large):
    p, n = ratio.shape
    outputs = Weights(
        empty(p, n, dtype=torch.float64),
        empty(p, dtype=torch.float64),
        empty(p, n, dtype=torch.int32),
        empty(p, n, dtype=torch.int32),
        empty(p, dtype=torch.float64),
        empty(p, dtype=torch.float64),
        empty(p, dtype=torch.bool),
        empty(p, dtype=torch.int32),
        empty(p, dtype=torch.float64),
        empty(p, dtype=torch.int64),
    )
    state = (before.log_weights, before.log_z, before.ancestors, before.root, before.resampled)
    library.weigh(
        *map(pointer, (*state, before.degenerate, ratio)),
        pointers(now),
        pointers(past),
        pointer(exponents),
        pointer(rng),
        ctypes.c_int(add),
        ctypes.c_double(threshold),
        *(ctypes.c_int64(number) for number in (3, p, n)),
        ctypes.c_int(len(now)),
        ctypes.c_int(large),
        *map(pointer, outputs),
    )
    return outputs


def same(ours, theirs):
    return bool(((ours == theirs) | ((ours != ours) & (theirs != theirs))).all())


SMALL = [(3, 1), (9, 5), (17, 32), (2, 33), (3, 100), (1, 1024), (2, 2500)]
# many blocks for a population, and the tiles that each of them sums
LARGE = [((2, 100), 1), ((1, 2048), 4), ((2, 2049), 4), ((1, 9000), 1), ((1, 11_000), 4)]


def weights_of(kind, shape, generator):
    log_weights = torch.randn(shape, generator=generator)
    if kind == "one holds all":
        log_weights[:, shape[1] // 2] += 200.0
    elif kind == "zeros":
        # a maximum of -0.0, as the first of equal numbers, is that of 0.0 too
        zeros = torch.where(torch.arange(shape[1]) % 2 == 0, -0.0, 0.0)
        log_weights = torch.where(log_weights > 1.0, -1.0, zeros)
    elif kind == "bad":
        log_weights[0, 0] = NAN
        log_weights[-1] = -INF
        if shape[0] > 2:
            log_weights[1, -1] = INF
    elif kind == "two hold all":
        log_weights[:, : shape[1] // 3] -= 300.0
        log_weights[:, -1] += 100.0
        log_weights[:, shape[1] // 3] += 100.0
    return log_weights


@pytest.mark.parametrize("kind", ["plain", "one holds all", "two hold all", "zeros", "bad"])
@pytest.mark.parametrize(("shape", "large"), [(s, 0) for s in SMALL] + LARGE)
def test_resample(library, generator, shape, large, kind):
    log_weights = weights_of(kind, shape, generator)
    uniform = torch.rand(shape[0], dtype=torch.float64, generator=generator)
    for threshold in (1.0, 0.5):
        ours = resample(library, log_weights, uniform, threshold, large)
        theirs = systematic_resample(log_weights, uniform, ess_threshold=threshold)
        for name, a, b in zip(theirs._fields, ours, theirs, strict=True):
            assert same(a, b), name


@pytest.mark.parametrize("models", [0, 1, 8])
@pytest.mark.parametrize(("shape", "large"), [(s, 0) for s in SMALL] + LARGE)
def test_weigh(library, generator, shape, large, models):
    start = torch.randn(shape, dtype=torch.float64, generator=generator)
    start[::2] *= 0.1
    start[-1, 0] = -INF
    before = weigh_and_resample(
        Weights.start(*shape), start, [], [], rng_state(1, 0), ess_threshold=0.4
    )
    ratio, *energies = torch.randn(2 * models + 1, *shape, generator=generator)
    now, past = energies[:models], energies[models:]
    ratio[-1, shape[1] // 2] = INF
    for energy in energies[:1]:
        energy[0, -1], energy[-1, 0] = INF, NAN
    exponents = torch.rand(shape[0], models, dtype=torch.float64, generator=generator)
    rng = rng_state(2**63 + 11, 5)
    for power, add in ((exponents, True), (None, True), (exponents, False)):
        ours = weigh(library, before, ratio, now, past, power, rng, add, 0.6, large)
        theirs = weigh_and_resample(
            before,
            ratio,
            now,
            past,
            rng,
            exponents=power,
            weigh=add,
            ess_threshold=0.6,
            first_population=3,
        )
        for name, a, b in zip(Weights._fields, ours, theirs, strict=True):
            if name == "increment_sd":
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, equal_nan=True)
            else:
                assert same(a, b), name


@pytest.mark.parametrize("kind", ["plain", "one holds all", "two hold all", "gaps", "bad"])
@pytest.mark.parametrize(
    ("shape", "large"),
    [((9, 5), 0), ((2, 2500), 0), ((3, 100), 1), ((2, 14_000), 1), ((1, 9001), 4)],
)
def test_survivors(library, generator, shape, large, kind):
    """The count of different roots crosses tiles, also empty ones and those that own many slots."""
    start = weights_of(kind, shape, generator)
    if kind == "gaps":  # the heavy particles are far apart
        start[:] = -500.0
        start[:, :: shape[1] // 3] = torch.randn(
            start[:, :: shape[1] // 3].shape, generator=generator
        )
    ratio = start.double()
    # few families, so that neighbours are often of the same one
    families = torch.randint(0, 1 + shape[1] // 2, shape, generator=generator, dtype=torch.int32)
    before = Weights.start(*shape)._replace(root=families.sort(1).values)
    for threshold in (1.0, 0.0):
        rng = rng_state(5, 2)
        ours = weigh(library, before, start, [], [], None, rng, True, threshold, large)
        alive = torch.tensor([len(row.unique()) for row in ours.root])
        assert torch.equal(ours.survivors, alive)
        theirs = weigh_and_resample(
            before, ratio, [], [], rng, ess_threshold=threshold, first_population=3
        )
        assert torch.equal(ours.root, theirs.root)
        assert torch.equal(theirs.survivors, alive)
