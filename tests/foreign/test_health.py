"""A run whose states become NaN or infinite warns, with and without weights."""

import math
import warnings

import pytest
import torch

from edmfast import Mixture, Product, Tempered, Tilted, analytic, sampling, smc
from tests.grouped import grouped

LEVELS = [10.0, 3.0, 1.0, 0.3, 0.1]
GAUSSIAN = analytic.GaussianMixture(means=[[0.0, 0.0]], stds=[1.0])


def nan(x, sigma):
    return x * math.nan


def nan_for_some(x, sigma):
    """Return the denoised states, with the first particle infinite from the second noise level on."""
    result = x / (1 + sigma[:, None] ** 2)
    if float(sigma[0]) < 5:
        result[0] = math.inf
    return result


TARGETS = {
    "plain": nan,
    "some": nan_for_some,
    "Tempered": Tempered(nan, 2.0),
    "SuperDiff OR": Mixture([nan, GAUSSIAN.denoise]),
    "SuperDiff AND": Product([nan, GAUSSIAN.denoise]),
}


@pytest.mark.parametrize("name", TARGETS)
def test_runs(name):
    options = {"particles": 8, "proposal": "superdiff" if name == "SuperDiff AND" else None}
    with pytest.warns(smc.DegenerateWeightsWarning, match="states that are not finite in 1 of 1"):
        result = smc.sample(TARGETS[name], (2,), LEVELS, **grouped(**options))
    assert int(result.degenerate[0]) & 8
    with pytest.raises(RuntimeError, match="not finite"):
        smc.sample(TARGETS[name], (2,), LEVELS, **grouped(on_degenerate="raise", **options))


@pytest.mark.parametrize("method", ["fk", "svdd", "best_of_n"])
def test_steering(method):
    with pytest.raises(RuntimeError, match="not finite"):
        smc.steer(
            nan,
            lambda x: x[:, 0],
            (2,),
            LEVELS,
            method=method,
            options=smc.RunOptions(on_degenerate="raise"),
            prompts=2,
        )


def test_healthy_runs_do_not_warn():
    def wall(x):
        return torch.where(x[:, 0] > 0, 0.0, -math.inf)

    with warnings.catch_warnings():
        warnings.simplefilter("error", smc.DegenerateWeightsWarning)
        result = smc.sample(GAUSSIAN.denoise, (2,), LEVELS, particles=8)
        assert not result.degenerate.any()
        target = Tilted(GAUSSIAN, wall, 1.0, ramp=None, of="state")
        assert not (smc.sample(target, (2,), [1.0, 0.5], particles=64).degenerate & 8).any()


SAMPLERS = [
    sampling.sample_euler,
    sampling.sample_heun,
    sampling.sample_dpmpp_2m,
    sampling.sample_euler_ancestral,
]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_plain_samplers(sampler):
    x = 10 * torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    with pytest.warns(sampling.NonFiniteWarning, match="1 of 4 samples are not finite"):
        sampler(nan_for_some, x, torch.tensor(LEVELS))
    for function in (sampling.edm_sampler, sampling.edm2_sampler):
        with pytest.warns(sampling.NonFiniteWarning, match="4 of 4"):
            function(nan, x / 10, num_steps=3)


class Wrap(torch.nn.Module):
    """A foreign target around one of ours."""

    exponent = 1.0

    def __init__(self, target):
        super().__init__()
        self.target = target

    def energy_and_score(self, x, sigma):
        return self.target.energy_and_score(x, sigma)


class Held:
    """A foreign target around one of ours that is not a module."""

    exponent = 1.0

    def __init__(self, target):
        self.targets = [target]

    def energy_and_score(self, x, sigma):
        return self.targets[0].energy_and_score(x, sigma)


def reward(x):
    return x[:, 0]


AROUND = {
    "itself": lambda target: target,
    "product": lambda target: Product([target]),
    "tempered": lambda target: Tempered(target, 2.0),
    "mixture": lambda target: Mixture([target, GAUSSIAN]),
    "tilted": lambda target: Tilted(target, reward, 1.0, gradient="exact", ramp=None),
    "twice": lambda target: Product([Wrap(Product([target]))]),
}


@pytest.mark.parametrize("wrap", [Wrap, Held])
@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_an_inexact_score_is_seen_through_wrappers(around, wrap):
    unadjusted = {"particles": 4, "correctors": smc.ULA()}
    inexact = around(wrap(Tilted(GAUSSIAN, reward, 1.0, ramp=None)))
    with pytest.raises(ValueError, match="is not the gradient of its energy"):
        smc.sample(inexact, (2,), LEVELS, **grouped(**unadjusted))
    with pytest.raises(ValueError, match="is not the gradient of its energy"):
        smc.mcmc(inexact, torch.zeros(1, 4, 2), 1.0, smc.ULA(), transitions=1)
    exact = around(wrap(Tilted(GAUSSIAN, reward, 1.0, ramp=None, gradient="exact")))
    assert smc.sample(exact, (2,), LEVELS, **grouped(**unadjusted)).x.isfinite().all()
