"""Test that the gate of the sampler's cases accepts right runs and stops wrong ones, and what the truth costs."""

import dataclasses

import pytest
import torch

from bench.cases import sampler as bench_sampler
from bench.cases import sampler_targets
from edmfast import smc
from edmfast.models.together import energy_score_and_curvature
from edmfast.smc.feynman_kac import evaluate

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def result():
    sigmas = torch.tensor(sampler_targets.levels(2), dtype=torch.float64)
    return bench_sampler.run(4096, 2, False, sigmas)


@pytest.fixture(scope="module")
def truth():
    return sampler_targets.truth(2, 4096)


def test_a_right_run_passes(result, truth):
    bench_sampler.check(result, truth)


def test_the_integrals_are_those_of_a_finer_run(truth):
    """A run with four times as many levels and no calibration reaches the same numbers another way."""
    model, few = sampler_targets.target(2, CPU), sampler_targets.levels(2)
    sigmas = torch.logspace(1, -1, 4 * len(few))
    run = smc.sample(model, (2,), sigmas, particles=2048, populations=8, weights="energy")
    integrals = sampler_targets.answer(run)
    error = integrals.std(0) / 8**0.5
    assert ((integrals.mean(0) - truth.value).abs() < 5 * error).all()


@pytest.mark.parametrize("mistake", ["log_z", "weights", "states"])
def test_a_wrong_run_is_stopped(result, truth, mistake):
    changes = {
        "log_z": {"log_z": result.log_z + 6 * truth.sd[0]},
        # This imitates a run that forgot a move's weight increment for one of the modes.
        "weights": {"log_weights": result.log_weights + (result.x[..., 0] > 0.9) * 0.5},
        "states": {"x": result.x.roll(1, 2) * torch.tensor([0.2, 1.0])},
    }
    with pytest.raises(AssertionError, match="standard deviations from the truth"):
        bench_sampler.check(dataclasses.replace(result, **changes[mistake]), truth)


@pytest.mark.parametrize("probe", [False, True])
def test_the_network_alone_is_called_as_often_as_the_run_calls_it(probe, monkeypatch):
    model, calls = sampler_targets.target(2, CPU), []
    real = type(model).energy_and_score

    def counted(self, x, sigma, **condition):
        calls.append((tuple(x.shape), float(sigma), False))
        return real(self, x, sigma, **condition)

    def probed(self, x, sigma, v):
        calls.append((tuple(x.shape), float(sigma), True))
        return energy_score_and_curvature(self, x, sigma, v)

    sampler_targets.calibration(2, CPU)
    monkeypatch.setattr(type(model), "energy_and_score", counted)
    for module in (bench_sampler, evaluate):
        monkeypatch.setattr(module, "energy_score_and_curvature", probed)
    sigmas = torch.tensor(sampler_targets.levels(2), dtype=torch.float64)
    bench_sampler.run(512, 2, probe, sigmas)
    ours, calls[:] = [*calls], []
    bench_sampler.network_alone(512, 2, probe, sigmas)
    assert ours == [(shape, pytest.approx(sigma), probed) for shape, sigma, probed in calls]
    assert sum(probed for *_, probed in ours) == probe * bench_sampler.STEPS
    assert len(ours) == bench_sampler.EVALUATIONS
