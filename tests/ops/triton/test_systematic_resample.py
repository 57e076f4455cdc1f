"""Triton resampling has the bits of the plain reference."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.ops import Resampled
from edmfast.ops.systematic_resample import reference

resample = pytest.importorskip("edmfast.ops.systematic_resample.triton_ops", exc_type=ImportError)

INF, NAN = math.inf, math.nan


def check(run, log_weights, uniform, threshold=1.0):
    """Check that two results have the same bits, the log-mean up to a unit in the last place."""
    inputs = log_weights, uniform, threshold
    ours = Resampled(*run(resample.systematic_resample, *inputs))
    truth = Resampled(*reference.systematic_resample(*inputs))
    for name in ("ancestors", "ess", "resampled", "degenerate"):
        a, b = getattr(ours, name), getattr(truth, name)
        assert torch.equal(a, b), name
        assert a.dtype == b.dtype, name
    torch.testing.assert_close(ours.log_mean, truth.log_mean, rtol=4e-16, atol=4e-16)
    return ours


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 300.0])
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 2), (3, 7), (5, 64), (2, 1023), (1, 4096), (2, 4097), (1, 6151)], ids=str
)
def test_same_bits(run, generator, shape, scale, dtype):
    log_weights = scale * torch.randn(shape, dtype=dtype, generator=generator) + 1e3 * scale
    uniform = torch.rand(shape[0], dtype=torch.float64, generator=generator)
    for threshold in (0.3, 1.0):
        check(run, log_weights, uniform, threshold)


@pytest.mark.parametrize("value", [0.0, -0.0, -1.0, 1.0 - 2**-53, 1.0, INF, 2**-60, NAN])
@pytest.mark.parametrize("particles", [1000, 4100])
def test_the_ends_of_the_uniform(run, generator, value, particles):
    log_weights = torch.randn(2, particles, generator=generator)
    check(run, log_weights, torch.full((2,), value, dtype=torch.float64))


@pytest.mark.parametrize("particles", [2, 17, 1000, 4100])
@pytest.mark.parametrize("heavy", [0, 1, -1])
def test_one_particle_holds_everything(run, particles, heavy):
    log_weights = torch.full((1, particles), -1e4)
    log_weights[0, heavy] = 5.0
    result = check(run, log_weights, torch.tensor([0.999], dtype=torch.float64))
    assert (result.ancestors == heavy % particles).all()


@pytest.mark.parametrize("particles", [5, 4100])
def test_bad_weights(run, generator, particles):
    log_weights = torch.randn(8, particles, generator=generator)
    log_weights[1, 2] = NAN
    log_weights[2, ::2] = INF
    log_weights[3] = -INF
    log_weights[4] = NAN
    log_weights[5, 1:] = -INF
    log_weights[6, :3] = torch.tensor([NAN, INF, -INF])
    log_weights[7] = torch.where(torch.arange(particles) % 2 == 0, NAN, -INF)
    uniform = torch.rand(8, dtype=torch.float64, generator=generator)
    for threshold in (0.0, 1.0):
        check(run, log_weights, uniform, threshold)


def test_thresholds_are_exact(run):
    """0.1 N differs in float32, and an effective sample size between the two values decides by float64."""
    log_weights = torch.zeros(1, 30)
    log_weights[0, 3:] = -INF
    for threshold in (0.1, math.nextafter(0.1, 1.0), math.nextafter(0.1, 0.0)):
        check(run, log_weights, torch.tensor([0.5], dtype=torch.float64), threshold)


@pytest.mark.parametrize("particles", [24, 4100])
def test_any_strides(run, generator, particles):
    log_weights = torch.randn(particles, 2, generator=generator).t()
    check(run, log_weights, torch.rand(4, dtype=torch.float64, generator=generator)[::2])


def test_no_population(run):
    shapes = [
        t.shape
        for t in run(resample.systematic_resample, torch.empty(0, 5), torch.empty(0).double(), 1.0)
    ]
    assert shapes == [(0, 5), (0,), (0,), (0,), (0,)]
