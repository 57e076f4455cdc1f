"""Test the rivals of controlled sampling on the two-dimensional mixture, whose power has exact masses."""

import math

import pytest
import torch

from bench.rivals.control import (
    Terms,
    drift_control,
    feynman_kac_corrector,
    path_ratios,
    replica_exchange,
    scaled_scores,
    superdiff,
)
from edmfast import Tempered, smc
from edmfast.analytic import GaussianMixture
from edmfast.sampling import get_sigmas_karras

STDS, SIGMA_MIN, SIGMA_MAX = torch.tensor([0.9, 0.3], dtype=torch.float64), 0.02, 10.0
MODES = GaussianMixture(means=[[-3.0, 0.0], [3.0, 0.0]], stds=STDS)
"""The squared mixture has log Z of `_log_z`, and the masses 1/v_k of its modes, with v_k = std_k² + sigma²."""
FILTERED = {
    "fkc": (feynman_kac_corrector, {}),
    "fkc tempered": (feynman_kac_corrector, {"tempered_noise": True}),
    "rne": (path_ratios, {"reference_std": 3.0}),
    "driftlite": (drift_control, {"probes": 1}),
}


def _levels(steps):
    return get_sigmas_karras(steps + 1, SIGMA_MIN, SIGMA_MAX)[:-1].tolist()


def _narrow_mass():
    inverse = 1 / (STDS.square() + SIGMA_MIN**2)
    return float(inverse[1] / inverse.sum())


def _log_z(sigma):
    """Return the log of the integral of p², a sum over pairs of modes."""
    variances = STDS.square() + sigma**2
    total = (variances[:, None] + variances).flatten()
    squares = torch.tensor([0.0, 36.0, 36.0, 0.0], dtype=torch.float64)
    return float((0.25 * torch.exp(-squares / (2 * total)) / (2 * math.pi * total)).sum().log())


def _run(
    law, steps, *, particles=1000, populations=8, models=(MODES,), exponents=(2.0,), **options
):
    terms = Terms(models, exponents)
    size = {"particles": particles, "populations": populations, "seed": 3}
    return law(terms, (2,), _levels(steps), **size, **options)


def _masses(outcome):
    """Return the mass of the narrow mode in every population."""
    weights = outcome.log_weights.softmax(1)
    return (weights * (outcome.x[:, :, 0] > 0)).sum(1)


def test_scaled_scores_miss_the_masses_of_the_power_and_have_those_of_the_mixture():
    assert float(_masses(_run(scaled_scores, 40)).mean()) < 0.6
    one = _run(scaled_scores, 100, exponents=(1.0,))
    assert float(_masses(one).mean()) == pytest.approx(0.5, abs=0.02)
    assert (one.forwards, one.vjps, one.log_z) == (100, 0, None)


@pytest.mark.parametrize("name", FILTERED)
def test_filter_tends_to_the_masses_and_log_z_of_the_power(name):
    law, options = FILTERED[name]
    outcome = _run(law, 100 if name == "driftlite" else 200, **options)
    # the laws are of first order in the steps
    masses, log_z = _masses(outcome), outcome.log_z
    error = float(masses.std() / math.sqrt(len(masses)))
    assert abs(float(masses.mean()) - _narrow_mass()) < 0.015 + 3 * error
    truth = _log_z(SIGMA_MIN)
    error = float(log_z.std() / math.sqrt(len(log_z)))
    # the start takes the mixture at sigma_max as one Gaussian, which costs 0.05 nats
    assert abs(float(log_z.mean()) - truth) < 0.3 + 3 * error
    assert outcome.x.shape == (8, 1000, 2)
    assert (outcome.variance > 0).all()
    assert ((outcome.ancestors > 0) & (outcome.ancestors <= 1)).all()


@pytest.mark.parametrize("name", ["rne", "driftlite"])
def test_error_falls_with_the_steps(name):
    law, options = FILTERED[name]
    few, many = (_masses(_run(law, steps, **options)).mean() for steps in (25, 100))
    assert abs(float(many) - _narrow_mass()) < 0.5 * abs(float(few) - _narrow_mass())


def test_corrector_has_the_weights_and_moves_of_its_paper():
    """One step of p^beta, with the formulas of Skreta et al. 2025: the states come from the callback."""
    beta, levels, seen = 2.5, [2.0, 1.2], []
    tau2 = levels[0] ** 2 - levels[1] ** 2
    for a, eta in ((0.0, 1.0), (0.5, 1 / beta)):
        seen.clear()
        run = smc.sample(
            Tempered(MODES, beta),
            (2,),
            levels,
            particles=4000,
            weights="score",
            proposal=smc.FeynmanKacProposal(eta),
            ess_threshold=0,
            callback=seen.append,
            options=smc.RunOptions(dtype=torch.float64),
        )
        start = seen[0]["x"][0]
        score = MODES.energy_and_score(start, levels[0])[1]
        weights = 0.5 * beta * (beta - 1) * tau2 * score.square().sum(1)
        torch.testing.assert_close(run.log_weights[0], weights, rtol=1e-10, atol=1e-10)
        noise = run.x[0] - start - (beta + (1 - beta) * a) * tau2 * score
        variance = (beta + (1 - beta) * 2 * a) / beta * tau2
        assert float(noise.mean()) == pytest.approx(0, abs=4 * math.sqrt(variance / 8000))
        assert float(noise.var()) == pytest.approx(variance, rel=0.07)


def test_laws_of_one_gaussian_have_constant_weights():
    """RNE with that Gaussian as reference, DriftLite, and CREPE with the right width are exact there."""
    gaussian = GaussianMixture(means=[[0.0, 0.0]], stds=[0.7])
    for law, options in (
        (path_ratios, {"reference_std": 0.7}),
        (drift_control, {"probes": 1}),
        (replica_exchange, {"data_std": 0.7}),
    ):
        outcome = _run(law, 20, particles=100, models=(gaussian,), **options)
        # the least-squares problem of DriftLite has a ridge
        assert float(outcome.variance.max()) < 1e-7


def test_one_particle_filter_of_the_plain_model_keeps_its_masses():
    """For exponent 1 the ratios along paths weigh little, and the modes keep equal masses."""
    outcome = _run(path_ratios, 100, exponents=(1.0,), reference_std=3.0)
    assert float(_masses(outcome).mean()) == pytest.approx(0.5, abs=0.02)
    assert float(outcome.log_z.mean()) == pytest.approx(0.0, abs=0.02)


def test_path_ratios_refuse_a_step_beyond_their_reference():
    with pytest.raises(ValueError, match=r"the step from 10 to 0\.02 is too long"):
        _run(path_ratios, 1, reference_std=0.1)


def test_replica_exchange_follows_the_power():
    """The chain is exact, so that only its start and the number of its sweeps leave an error."""
    outcome = _run(replica_exchange, 16, particles=1500, populations=48, data_std=3.0)
    assert outcome.forwards == outcome.vjps == 17
    kept = outcome.log_weights > -math.inf
    assert (kept.sum(1) == 1500 - 2 * 17).all()
    late = outcome.x[:, 300:]
    narrow = late[..., 0] > 0
    masses = narrow.double().mean(1)
    error = float(masses.std() / math.sqrt(len(masses)))
    assert error < 0.005
    assert abs(float(masses.mean()) - _narrow_mass()) < 3 * error
    # a mode of p² is half as wide as that of p
    half = (0.3**2 + SIGMA_MIN**2) / 2
    assert float(late[narrow][:, 1].var()) == pytest.approx(half, rel=0.05)
    assert float(late[narrow][:, 0].mean()) == pytest.approx(3.0, abs=0.01)
    truth = _log_z(SIGMA_MIN)
    assert float(outcome.log_z.mean()) == pytest.approx(truth, abs=0.1)


def test_replica_exchange_needs_energies():
    with pytest.raises(TypeError, match="needs energies, but function has none"):
        _run(replica_exchange, 4, models=(lambda x, sigma: x,), data_std=1.0)


def test_superdiff_has_no_weights():
    outcome = _run(superdiff, 20, particles=50, models=(MODES, MODES), exponents=(1.0, 1.0))
    assert outcome.log_z is None
    assert not outcome.log_weights.any()
    # these models are energies, whose scores take a forward and a vjp
    assert (outcome.forwards, outcome.vjps) == (42, 42)
