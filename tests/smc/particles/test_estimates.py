"""Estimates over populations agree with closed forms, are unbiased, and have correct standard errors."""

import math

import pytest
import torch

from edmfast import smc
from edmfast.smc.particles.estimates import log_mean_estimate, pooled_estimate
from edmfast.targets import Tempered
from tests.grouped import grouped


def jackknife(statistic, populations):
    """Return the standard error and the bias by leaving out one population after the other."""
    whole = torch.arange(populations)
    without = torch.stack([statistic(whole[whole != p]) for p in range(populations)])
    squares = (without - without.mean(0)).square().sum(0)
    bias = (populations - 1) * (without.mean(0) - statistic(whole))
    return ((populations - 1) / populations * squares).sqrt(), bias


def test_log_mean_has_the_error_of_the_jackknife():
    log_z = torch.tensor([-700.0, -701.5, -699.0, -702.0]).double()

    def statistic(index):
        return (log_z[index] + 700).exp().mean().log() - 700

    error, bias = jackknife(statistic, 4)
    value, standard_error = log_mean_estimate(log_z)
    assert float(value) == pytest.approx(float(statistic(torch.arange(4))), rel=1e-14)
    assert float(standard_error) == pytest.approx(float(error), rel=1e-12)
    corrected = log_mean_estimate(log_z, bias_corrected=True)
    assert float(corrected.value) == pytest.approx(float(value - bias), rel=1e-14)
    assert torch.equal(corrected.standard_error, standard_error)


@pytest.mark.parametrize("pooling", ["evidence", "equal"])
def test_pooled_has_the_error_of_the_jackknife(pooling):
    log_z = torch.tensor([3.0, 2.0, 5.0, 4.0, 3.5]).double()
    means = torch.arange(10.0).reshape(5, 2).double().sin()
    z = log_z.exp() if pooling == "evidence" else torch.ones(5).double()

    def statistic(index):
        return (z[index, None] * means[index]).sum(0) / z[index].sum()

    error, _ = jackknife(statistic, 5)
    value, standard_error = pooled_estimate(means, log_z, pooling=pooling)
    torch.testing.assert_close(value, statistic(torch.arange(5)), rtol=1e-13, atol=0)
    torch.testing.assert_close(standard_error, error, rtol=1e-12, atol=0)


def test_collapsed_populations_count_as_zero():
    inf = math.inf
    value, error = log_mean_estimate(torch.tensor([0.0, -inf, math.nan, 0.0]))
    assert float(value) == pytest.approx(-math.log(2))
    assert 0 < float(error) < inf
    means = torch.tensor([1.0, math.nan, 7.0, 3.0])
    for pooling in ("evidence", "equal"):
        pooled = pooled_estimate(means, torch.tensor([0.0, -inf, -inf, 0.0]), pooling=pooling)
        assert float(pooled.value) == 2
        assert float(pooled.standard_error) > 0
    one_left = torch.tensor([-inf, 2.0, -inf])
    assert float(log_mean_estimate(one_left).standard_error) == inf
    assert float(pooled_estimate(means[:3].nan_to_num(), one_left).standard_error) == inf
    nothing = log_mean_estimate(torch.full((3,), -inf))
    assert float(nothing.value) == -inf
    assert math.isnan(float(nothing.standard_error))
    assert math.isnan(float(pooled_estimate(means[[0, 2, 3]], torch.full((3,), -inf)).value))


def test_one_population_has_no_error():
    value, error = log_mean_estimate(torch.tensor([3.0]))
    assert float(value) == 3
    assert math.isnan(float(error))
    value, error = pooled_estimate(torch.tensor([[1.0, 2.0]]), torch.tensor([3.0]))
    assert value.tolist() == [1.0, 2.0]
    assert error.isnan().all()


def test_estimates_of_a_run_agree_with_the_truth_within_their_errors(
    cold, levels, start_log_normaliser
):
    sigmas = levels(16)
    runs, populations = 60, 20
    result = smc.sample(
        cold,
        (2,),
        sigmas,
        particles=16,
        populations=runs * populations,
        options=smc.RunOptions(dtype=torch.float64),
    )
    line = torch.linspace(-4, 4, 801, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    density = (-cold.energy_and_score(grid, float(sigmas[-1]))[0]).exp()
    mass = float(density[grid[:, 0] < 0].sum() / density.sum())
    log_z = math.log(float(density.sum()) * 1e-4) - start_log_normaliser(20.0, 2.0, 2)

    def narrow(x):
        return (x[..., :1] < 0).double()

    scores: dict[str, list[float]] = {"log_z": [], "evidence": [], "equal": []}
    for run in range(runs):
        part = slice(run * populations, (run + 1) * populations)
        sub = pick(result, part)
        value, error = sub.log_z_estimate()
        scores["log_z"].append(float((value - log_z) / error))
        for pooling in ("evidence", "equal"):
            estimate = sub.expectation_estimate(narrow, pooling=pooling)
            assert estimate.value.shape == estimate.standard_error.shape == (1,)
            scores[pooling].append(float((estimate.value - mass) / estimate.standard_error))
    for name in ("log_z", "evidence"):
        errors = torch.tensor(scores[name])
        # a Student variable of 19 degrees has variance 1.12; 60 of them estimate it to 20 %
        assert 0.5 < float(errors.var()) < 2.2, name
        assert abs(float(errors.mean())) < 3 * math.sqrt(1.12 / runs) + 0.3, name
    # 16 particles see too little of the narrow mode; equal pooling keeps this bias, evidence does not
    assert float(torch.tensor(scores["equal"]).mean()) < -0.8
    assert (result.log_z_estimate().value - log_z).abs() < 3 * result.log_z_estimate()[1]


def pick(result, part):
    return smc.Particles(
        x=result.x[part],
        log_weights=result.log_weights[part],
        log_z=result.log_z[part],
        ess=result.ess[:, part],
        resampled=result.resampled[:, part],
        log_weight_sd=result.log_weight_sd[:, part],
        unique_ancestors=result.unique_ancestors[part],
        degenerate=result.degenerate[part],
        sigmas=result.sigmas,
        nfe=result.nfe,
        seed=result.seed,
    )


class Walled:
    """A Gaussian with infinite energy for all particles of a population whose first particle is at x > 0."""

    exponent = 1.0

    def energy_and_score(self, x, sigma):
        energy = x.square().sum(1) / (2 * (1 + sigma**2))
        doomed = x.reshape(-1, 8, 1)[:, :1, 0] > 0
        energy = torch.where(doomed.expand(-1, 8).flatten() & (sigma < 1), torch.inf, energy)
        return energy, -x / (1 + sigma**2)


def test_a_collapsed_population_of_a_run_does_not_count(levels):
    options = {"particles": 8, "populations": 12, "proposal": "ancestral", "batch_size": 96}
    with pytest.warns(smc.DegenerateWeightsWarning, match="all weights zero"):
        result = smc.sample(Walled(), (1,), levels(12), **grouped(**options))
    alive = (result.degenerate & 2) == 0
    assert 0 < int(alive.sum()) < 12
    value, _ = result.log_z_estimate()
    expected = torch.logsumexp(result.log_z[alive], 0) - math.log(12)
    assert float(value) == pytest.approx(float(expected), rel=1e-12)
    kept = result.expectation_estimate(lambda x: x[..., 0], pooling="equal").value
    mean = result.expectation(lambda x: x[..., 0])[alive].mean()
    assert float(kept) == pytest.approx(float(mean), rel=1e-12)


def test_unknown_pooling(cold, levels):
    result = smc.sample(Tempered(cold, 1.0), (2,), levels(2), particles=4)
    with pytest.raises(ValueError, match=r"pooling must be 'evidence' or 'equal', got 'median'"):
        result.expectation_estimate(lambda x: x, pooling="median")


def test_values_without_weight_do_not_count(two_modes, levels):
    """The mean energy of a run with walls is finite, though an energy is infinite there."""
    result = smc.sample(two_modes, (2,), levels(4), particles=6, populations=3)
    result.log_weights[:, 0] = -math.inf
    for value in (math.inf, math.nan):
        values = torch.ones(3, 6).index_fill(1, torch.tensor([0]), value)
        means = result.expectation(lambda x, values=values: values)
        torch.testing.assert_close(means, torch.ones(3).double())
        pooled = result.expectation_estimate(lambda x, values=values: values)
        assert float(pooled.value) == pytest.approx(1.0)
