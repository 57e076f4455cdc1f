"""Test normals from a counter: their bits, their layout, their distribution, and what they do not depend on."""

from __future__ import annotations

import itertools
import math
import sys
import threading
import time

import numpy as np
import pytest
import torch
from scipy import stats

from edmfast.ops import rng_state, standard_normal, systematic_resample
from edmfast.ops.noise import reference

MASK = 0xFFFFFFFF


def words(counter, seed):
    """Compute Philox4x32-10 on Python's integers."""
    a, b, c, d = counter
    keys = seed & MASK, (seed >> 32) & MASK
    for i in range(10):
        k0, k1 = (keys[0] + i * 0x9E3779B9) & MASK, (keys[1] + i * 0xBB67AE85) & MASK
        p, q = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (q >> 32) ^ b ^ k0, q & MASK, (p >> 32) ^ d ^ k1, p & MASK
    return a, b, c, d


def float64_box_muller(radius_bits, angle_bits):
    """Compute Box-Muller in float64, after the uniform, which has float32 resolution by definition."""
    u = float(
        np.float32(np.float32(radius_bits >> 1) * np.float32(2.0**-31)) + np.float32(2.0**-32)
    )
    signed = angle_bits - 2**32 if angle_bits >= 2**31 else angle_bits
    angle = math.pi * signed * 2.0**-31
    radius = math.sqrt(-2 * math.log(u))
    return radius * math.cos(angle), radius * math.sin(angle)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((MASK, MASK, MASK, MASK), -1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers_of_philox(counter, key, expected):
    results = reference.philox(tuple(torch.tensor(word) for word in counter), torch.tensor(key))
    assert " ".join(f"{int(word):08x}" for word in results) == expected
    assert " ".join(f"{word:08x}" for word in words(counter, key & (2**64 - 1))) == expected


@pytest.mark.parametrize("elements", [1, 2, 3, 4, 7, 1030])
def test_layout_and_accuracy_against_float64(elements):
    seed, step, stream = 2**63 + 12345, 7, 5
    like = torch.empty(2, 3, elements, dtype=torch.float64)
    results = standard_normal(
        like, seed=seed, step=step, stream=stream, first_population=11, first_particle=2**31
    )
    blocks = (elements + 3) // 4
    for p, n, b in itertools.product(range(2), range(3), range(blocks)):
        w = words((b, step, 2**31 + n, stream << 28 | 11 + p), seed)
        expected = [*float64_box_muller(w[0], w[1]), *float64_box_muller(w[2], w[3])]
        for j, value in enumerate(expected):
            if (e := j * blocks + b) < elements:
                assert results[p, n, e].item() == pytest.approx(value, abs=1e-6, rel=1e-6)


@pytest.mark.parametrize("angle", [0, 1, 2**30, 2**31 - 1, 2**31, 2**31 + 2**30, MASK])
@pytest.mark.parametrize("radius", [0, 1, 2, 2**31, MASK - 128, MASK])
def test_extreme_words(radius, angle):
    """The radius is finite for the least uniform and 0 for the largest, and the angle keeps its quadrant."""
    pair = reference.box_muller(torch.tensor([radius]), torch.tensor([angle]))
    wanted = float64_box_muller(radius, angle)
    assert [value.item() for value in pair] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (2, 5, 2), (3, 300, 1), (1, 7, 4099), (2, 100, 64), (1, 3, 1025)], ids=str
)
def test_same_bits_as_reference(compiled, shape, dtype):
    like = torch.empty(shape, dtype=dtype)
    for seed, step, stream, population in [(0, 0, 0, 0), (-3, 2**32 - 1, 15, 2**28 - 9)]:
        rng = rng_state(seed, step)
        ours = torch.ops.edmfast.noise(like, rng, stream, population, 9)
        assert torch.equal(ours, reference.noise(like, rng, stream, population, 9))


def test_samples_do_not_depend_on_the_batch():
    whole = standard_normal(torch.empty(4, 70, 3, 5), seed=1, step=2, stream=3)
    for p, n in [(0, 0), (1, 69), (3, 13)]:
        alone = standard_normal(
            torch.empty(1, 1, 3, 5), seed=1, step=2, stream=3, first_population=p, first_particle=n
        )
        assert torch.equal(alone[0, 0], whole[p, n])


def test_threads_do_not_matter(with_threads):
    like = torch.empty(3, 5000, 5)
    with with_threads(1):
        normals = standard_normal(like, seed=1, step=2)
    with with_threads(2):
        assert torch.equal(normals, standard_normal(like, seed=1, step=2))


def test_law_is_standard_normal():
    z = standard_normal(torch.empty(1, 1000, 1000), seed=3, step=1).double().flatten().numpy()
    n = z.size
    assert abs(z.mean()) < 4 / math.sqrt(n)
    assert abs(z.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs(stats.skew(z)) < 4 * math.sqrt(6 / n)
    assert abs(stats.kurtosis(z)) < 4 * math.sqrt(24 / n)
    assert stats.kstest(z, "norm").pvalue > 1e-3
    beyond = np.abs(z) > 4
    assert abs(beyond.sum() - n * 6.334e-5) < 4 * math.sqrt(n * 6.334e-5)
    assert np.abs(z).max() < 6.67


@pytest.mark.parametrize("other", ["element", "particle", "population", "step", "stream", "seed"])
def test_neighbours_are_uncorrelated(other):
    like, name = torch.empty(2, 500, 200), {"seed": 5, "step": 6, "stream": 1}
    z = standard_normal(like, **name)
    if other in name:
        a, b = z, standard_normal(like, **(name | {other: name[other] + 1}))
    else:
        axis = {"population": 0, "particle": 1, "element": 2}[other]
        a, b = z.narrow(axis, 0, z.shape[axis] - 1), z.narrow(axis, 1, z.shape[axis] - 1)
    for f in (lambda t: t, torch.square):
        correlation = np.corrcoef(f(a).double().flatten(), f(b).double().flatten())[0, 1]
        assert abs(correlation) < 4.5 / math.sqrt(a.numel())


def test_partners_of_a_block_are_uncorrelated():
    """The four normals of one counter, two of each Box-Muller pair, lie a quarter of a sample apart."""
    z = (
        standard_normal(torch.empty(1, 1000, 1000), seed=5, step=6)[0]
        .double()
        .unflatten(1, (4, -1))
    )
    for i, j in itertools.combinations(range(4), 2):
        for f, g in itertools.product((lambda t: t, torch.square, torch.abs), repeat=2):
            pair = torch.stack([f(z[:, i]).flatten(), g(z[:, j]).flatten()])
            assert abs(torch.corrcoef(pair)[0, 1]) < 4.5 / math.sqrt(pair.shape[1])


@pytest.mark.parametrize("axis", ["element", "particle", "population", "step", "stream", "seed"])
def test_squares_along_an_axis_follow_chi_square(axis):
    """Dependence of any order among 16 neighbours would widen or narrow the distribution of their sum."""
    fixed = {"seed": 5, "step": 6, "stream": 1}
    if axis in fixed:
        like = torch.empty(1, 1000, 20)
        first = 0 if axis == "stream" else 100
        names = [fixed | {axis: first + k} for k in range(16)]
        z = torch.stack([standard_normal(like, **name) for name in names], -1)
    else:
        z = standard_normal(torch.empty(320, 16, 64), **fixed)
        dimension = {"population": 0, "particle": 1, "element": 2}[axis]
        z = z.unflatten(dimension, (-1, 16)).movedim(dimension + 1, -1)
    sums = z.double().square().sum(-1).flatten().numpy()
    assert sums.size >= 20_000
    assert stats.kstest(sums, stats.chi2(16).cdf).pvalue > 1e-3
    means = z.double().mean(-1).flatten().numpy() * 4
    assert stats.kstest(means, "norm").pvalue > 1e-3


def test_words_of_the_counter_do_not_stand_for_each_other():
    """Steps, particles, populations and streams have words of their own, and so have the halves of a seed."""
    like = torch.empty(1, 1, 64)
    names = [{name: 3} for name in ("step", "stream", "first_population", "first_particle")]
    names += [{"seed": 3}, {"seed": 3 << 32}, {"seed": -3}, {}]
    blocks = [standard_normal(like, **({"seed": 0, "step": 0} | name)).flatten() for name in names]
    values = torch.cat(blocks)
    # a float32 value may come twice by chance; a whole block of four may not
    assert len(values.unfold(0, 4, 1).unique(dim=0)) == len(values) - 3


def test_uniforms_of_the_populations():
    rng = torch.stack([rng_state(4, step) for step in range(100)])
    u = reference.uniform(rng, 300, first_population=10)
    assert u.shape == (100, 300)
    assert u.min() >= 0
    assert u.max() < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3
    assert torch.equal(reference.uniform(rng[7], 1, first_population=42)[0], u[7, 32])


def test_shapes_dtypes_and_memory():
    like = torch.empty(2, 6, 3, 4).transpose(2, 3)
    z = standard_normal(like, seed=0, step=0)
    assert z.shape == like.shape
    assert torch.equal(z, standard_normal(torch.empty(like.shape), seed=0, step=0))
    wide = standard_normal(like.double(), seed=0, step=0)
    assert torch.equal(wide, z.double())
    half = standard_normal(like.bfloat16(), seed=0, step=0)
    assert torch.equal(half, z.bfloat16())
    for shape in [(0, 3, 2), (2, 0, 2), (2, 3, 0)]:
        assert standard_normal(torch.empty(shape), seed=0, step=0).shape == shape
    assert standard_normal(torch.empty(2, 3), seed=0, step=0).shape == (2, 3)


@pytest.mark.parametrize(
    ("like", "changes", "error", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.int32), {}, TypeError, "floating point.*int32"),
        ((5, 2), {}, TypeError, "like must be a tensor"),
        (torch.zeros(3), {}, ValueError, r"\[P, N.*\(3,\)"),
        (torch.zeros(2, 3), {"stream": 16}, ValueError, "stream.*16"),
        (torch.zeros(2, 3), {"stream": -1}, ValueError, "stream.*-1"),
        (torch.zeros(2, 3), {"seed": 2**64}, ValueError, "64 bits"),
        (torch.zeros(2, 3), {"seed": -(2**63) - 1}, ValueError, "64 bits"),
    ],
)
def test_errors(like, changes, error, message):
    with pytest.raises(error, match=message):
        standard_normal(like, **({"seed": 0, "step": 0} | changes))


def test_opcheck():
    for shape in [(1, 1, 1), (2, 3, 5)]:
        arguments = (torch.empty(shape), rng_state(1, 2), 0, 0, 0)
        torch.library.opcheck(torch.ops.edmfast.noise.default, arguments)


def test_compiles_without_a_break():
    def run(x):
        return x + standard_normal(x, seed=1, step=2)

    x = torch.zeros(2, 3, 4)
    assert torch.equal(torch.compile(run, fullgraph=True, backend="aot_eager")(x), run(x))


def large_noise():
    standard_normal(torch.empty(1, 20_000, 1000), seed=0, step=0)


def large_resample():
    systematic_resample(torch.zeros(1, 1).expand(1, 10_000_000), torch.tensor([0.5]))


@pytest.mark.parametrize("call", [large_noise, large_resample])
def test_python_threads_run_during_a_call(compiled, with_threads, call):
    """This thread runs at moments when the other one is in the middle of its call."""
    span, moments = [], []

    def work():
        span.append(time.perf_counter())
        call()
        span.append(time.perf_counter())

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        with with_threads(1):
            worker = threading.Thread(target=work)
            worker.start()
            while worker.is_alive():
                moments.append(time.perf_counter())
                time.sleep(1e-4)
    finally:
        sys.setswitchinterval(before)
    quarter = (span[1] - span[0]) / 4
    assert any(span[0] + quarter < moment < span[1] - quarter for moment in moments)
