"""The CUDA kernels of noise, propagate, score_gram and reversal have the bits of the CPU.

They run thread by thread on the host. Sums of floats are taken in another order. They are compared where all
their terms are whole numbers, or to rounding.
"""

from __future__ import annotations

import ctypes

import pytest
import torch

from edmfast.ops import propagate, reversal, rng_state, score_gram, standard_normal

pytestmark = pytest.mark.usefixtures("order")
FIRST = {"first_population": 4, "first_particle": 2**20}


def pointer(tensor):
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())


def longs(*numbers):
    return (ctypes.c_int64(number) for number in numbers)


def poisoned(*shape, dtype):
    return torch.full(shape, torch.nan, dtype=dtype)


@pytest.fixture(scope="module")
def noise_library(emulated):
    return emulated("noise_emulated")


@pytest.fixture(scope="module")
def propagate_library(emulated):
    return emulated("propagate_emulated")


@pytest.fixture(scope="module")
def reversal_library(emulated):
    return emulated("reversal_emulated")


@pytest.fixture(scope="module")
def gram_library(emulated):
    return emulated("score_gram_emulated")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 2), (3, 50, 7), (2, 3, 513)])
def test_noise(noise_library, shape, dtype):
    rng = rng_state(2**63 + 5, 7)
    out = poisoned(*shape, dtype=dtype)
    run = noise_library.noise_float if dtype == torch.float32 else noise_library.noise_double
    run(pointer(rng), pointer(out), *longs(9, *FIRST.values(), *shape))
    assert torch.equal(out, standard_normal(out, rng=rng, stream=9, **FIRST))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("team", [1, 4, 32, 256])
@pytest.mark.parametrize(
    ("models", "masked", "each"),
    [(1, False, True), (2, False, False), (3, False, True), (1, True, False), (8, True, True)],
)
@pytest.mark.parametrize(("d", "packs"), [(1, False), (150, False), (152, True), (1304, True)])
def test_propagate(propagate_library, generator, d, packs, models, masked, each, team, dtype):
    shape = 2, 7, d
    x, *scores = torch.randn(models + 1, *shape, generator=generator, dtype=dtype)
    ancestors = torch.randint(0, 7, shape[:2], generator=generator, dtype=torch.int32)
    rows = (2, 7) if each else (2,)
    numbers = torch.rand(*rows, models + 2, generator=generator, dtype=torch.float64) + 0.1
    mask = torch.rand(2, d, generator=generator) < 0.6 if masked else None
    rng = rng_state(12, 3)
    moved, ratio = poisoned(*shape, dtype=dtype), poisoned(2, 7, dtype=dtype)
    library = propagate_library
    run = library.propagate_float if dtype == torch.float32 else library.propagate_double
    run(
        pointer(x),
        (ctypes.c_void_p * models)(*(score.data_ptr() for score in scores)),
        ctypes.c_int(models),
        *map(pointer, (ancestors, numbers)),
        ctypes.c_bool(each),
        *map(pointer, (mask, rng, moved, ratio)),
        *longs(*FIRST.values(), *shape),
        ctypes.c_int(team),
        ctypes.c_bool(packs),
    )
    wanted, wanted_ratio = propagate(x, scores, ancestors, numbers, rng, mask=mask, **FIRST)
    assert torch.equal(moved, wanted)
    scale = torch.finfo(dtype).eps * (10 * d + wanted_ratio.abs())
    assert ((ratio - wanted_ratio).abs() <= 4 * scale * models).all()


@pytest.mark.parametrize("team", [1, 32, 256])
@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("d", [1, 300])
def test_score_gram(gram_library, generator, d, count, team):
    scores = torch.randint(-9, 10, (count, 2, 3, d), generator=generator).float()
    displacement = torch.randint(-9, 10, (2, 3, d), generator=generator).float()
    for moved in (displacement, None):
        gram = poisoned(2, 3, count, count, dtype=torch.float64)
        along = poisoned(2, 3, count, dtype=torch.float64)
        tensors = map(pointer, (scores, moved, gram, along))
        gram_library.score_gram(*tensors, *longs(6, d), ctypes.c_int(count), ctypes.c_int(team))
        wanted, wanted_along = score_gram(scores, moved)
        assert torch.equal(gram, wanted)
        assert moved is None or torch.equal(along, wanted_along)


def many(tensors):
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


@pytest.mark.parametrize("team", [1, 32, 256])
@pytest.mark.parametrize("models", [1, 2, 3, 8])
@pytest.mark.parametrize("d", [1, 150])
def test_reversal(reversal_library, generator, d, models, team):
    """Rows beyond the last, given traces, estimated ones, and a particle whose models share one curvature."""
    scores = [*torch.randn(models, 2, 5, d, generator=generator)]
    probes = torch.randn(2, 5, 3, d, generator=generator)
    products = [*(-0.7 * torch.rand(models, 2, 5, 3, d, generator=generator) * probes)]
    exponents = torch.rand(2, models, generator=generator, dtype=torch.float64) + 0.5
    exponents[:, 1:] *= -0.04
    levels = torch.tensor([1.0, 0.7], dtype=torch.float64)
    traces = torch.stack([(p.double() * probes.double()).sum((2, 3)) / 3 for p in products])
    if models == 2:
        # P is -1.9 and A is 1
        exponents[1] = torch.tensor([3.0, -2.0])
        traces[:, 1, 2] = d / 0.51 * torch.tensor([-0.2, -0.5])
    for given in ({"traces": traces}, {"products": products, "probes": probes}):
        coefficients = poisoned(2, 5, models + 2, dtype=torch.float64)
        log_weights = poisoned(2, 5, dtype=torch.float64)
        by_probes = "probes" in given
        reversal_library.reversal(
            many(scores),
            *map(pointer, (exponents, levels, given.get("traces"))),
            many(products) if by_probes else None,
            *map(pointer, (given.get("probes"), coefficients, log_weights)),
            *longs(2, 5, d, 3 if by_probes else 0),
            ctypes.c_int(models),
            ctypes.c_int(team),
        )
        wanted = reversal(scores, exponents, levels, **given)
        torch.testing.assert_close((coefficients, log_weights), wanted, rtol=1e-12, atol=1e-12 * d)
        if models == 2 and not by_probes:
            torch.testing.assert_close(coefficients[1, 2, 0], levels.square().diff().neg()[0] * 3)


@pytest.mark.parametrize("team", [1, 32, 256])
@pytest.mark.parametrize("value", [-1, 7, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("each", [False, True])
def test_nothing_is_read_through_an_ancestor_that_names_no_particle(
    propagate_library, generator, each, value, team
):
    x, score = torch.randn(2, 2, 7, 5, generator=generator)
    ancestors = torch.arange(7, dtype=torch.int32).repeat(2, 1)
    ancestors[1, 3] = value
    numbers = torch.ones(*((2, 7) if each else (2,)), 3, dtype=torch.float64)
    moved, ratio = poisoned(2, 7, 5, dtype=torch.float32), poisoned(2, 7, dtype=torch.float32)
    propagate_library.propagate_float(
        pointer(x),
        (ctypes.c_void_p * 1)(score.data_ptr()),
        ctypes.c_int(1),
        *map(pointer, (ancestors, numbers)),
        ctypes.c_bool(each),
        *map(pointer, (None, rng_state(1, 2), moved, ratio)),
        *longs(*FIRST.values(), 2, 7, 5),
        ctypes.c_int(team),
        ctypes.c_bool(False),
    )
    # the weights report the NaN
    assert ratio.isnan().nonzero().tolist() == [[1, 3]]
    assert not moved.isnan().any()
